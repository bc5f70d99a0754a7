"""Repositories of the Hub, read through huggingface_hub from a server that answers as the Hub does."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import convinspect
from convinspect.errors import ConvInspectError, NotThere
from support.in_process import call_main
from support.paths import FIXTURES
from support.servers import COMMIT, Handler, Server

pytest.importorskip("aiohttp")
huggingface_hub = pytest.importorskip("huggingface_hub")


def repository(hub: Server, name: str, *files: Path) -> None:
    """A repository of these files."""
    folder = hub.folder / name
    folder.mkdir(parents=True)
    for path in files:
        shutil.copy(path, folder / path.name)
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text("# A model")


def test_a_repository_alone_names_its_checkpoint(hub: Server) -> None:
    repository(hub, "org/one", FIXTURES / "pointnet_stnkd.safetensors", FIXTURES / "pointnet_stnkd.pt")
    repository(hub, "org/sharded", *(FIXTURES / "sharded").iterdir())
    repository(hub, "org/bin", FIXTURES / "pointnet_stnkd.pt")
    for name, here in (
        ("one", "pointnet_stnkd.safetensors"),
        ("sharded", "sharded/model.safetensors.index.json"),
        ("bin", "pointnet_stnkd.pt"),
    ):
        a, b = convinspect.open(f"hf://org/{name}"), convinspect.open(FIXTURES / here)
        assert [*a] == [*b]
        assert a.shards == b.shards
        key = next(key for key in b if b[key].numel > 1)
        assert np.array_equal(a.read(key), b.read(key))


def test_the_header_is_what_the_hubs_own_library_reads(hub: Server) -> None:
    repository(hub, "org/model", *(FIXTURES / "sharded").iterdir())
    theirs = huggingface_hub.get_safetensors_metadata("org/model")
    ours = convinspect.open("hf://org/model")
    told = {key: tuple(one.tensors[key].shape) for one in theirs.files_metadata.values() for key in one.tensors}
    assert told == {key: tensor.shape for key, tensor in ours.items()}
    assert theirs.weight_map.keys() == {*ours}


def test_one_file_of_a_repository(hub: Server) -> None:
    repository(hub, "org/model", FIXTURES / "pointnet_stnkd.safetensors", FIXTURES / "pointnet_stnkd.pt")
    assert len(convinspect.open("hf://org/model/pointnet_stnkd.pt")) == 37
    assert len(convinspect.open("hf://org/model@main/pointnet_stnkd.pt")) == 37
    # Bytes come from where the Hub redirects to, which is asked but once.
    assert [one.path.split("/")[1] for one in hub.asked if one.range] == ["org", "cdn"] * 2


def test_a_token_is_sent_to_the_hub_alone(hub: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    repository(hub, "org/model", FIXTURES / "pointnet_stnkd.pt")
    monkeypatch.setenv("HF_TOKEN", "hf_geheim")
    ended = call_main("weights", "hf://org/model/pointnet_stnkd.pt", "conv1", "--format", "json")
    assert ended.code == 0
    assert "geheim" not in ended.out + ended.err
    said = {one.path.split("/")[1]: one.authorization for one in hub.asked}
    assert said["org"] == said["api"] == "Bearer hf_geheim"


def test_what_is_not_there(hub: Server) -> None:
    repository(hub, "org/model", FIXTURES / "README.md")
    for address, problem in (
        ("hf://org/none", "there is no such repository, or it is private"),
        ("hf://org/none/model.safetensors", "there is no such repository, or it is private"),
        ("hf://org/model/model.safetensors", "there is no such file (404)"),
    ):
        with pytest.raises(NotThere) as raised:
            convinspect.open(address)
        assert (raised.value.problem, str(raised.value.path)) == (problem, address)
    with pytest.raises(ConvInspectError, match=r"hf://org/model: ") as raised_of_folder:
        convinspect.open("hf://org/model")
    assert "\n" not in str(raised_of_folder.value)
    for address in ("hf://org", "hf://", "hf://org/model/nowhere"):
        with pytest.raises(ConvInspectError) as raised_of_none:
            convinspect.open(address)
        assert "\n" not in str(raised_of_none.value)
    for address in ("hf://org", "hf://"):
        with pytest.raises(NotThere, match="names no repository of the Hub; give hf://OWNER/NAME"):
            convinspect.open(address)


@pytest.mark.parametrize("status", [401, 403, 429, 500])
def test_a_hub_that_refuses(hub: Server, status: int) -> None:
    repository(hub, "org/model", FIXTURES / "pointnet_stnkd.pt")

    def refuse(handler: object) -> bool:
        if "/resolve/" not in handler.path:  # type: ignore[attr-defined]
            return False
        handler.send_bytes(status, b"no")  # type: ignore[attr-defined]
        return True

    hub.fault = refuse
    ended = call_main("shapes", "hf://org/model/pointnet_stnkd.pt")
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert f"({status})" in ended.err
    assert ("HF_TOKEN" in ended.err) == (status in (401, 403))


def test_a_repository_is_converted_into_a_folder_here(hub: Server, tmp_path: Path) -> None:
    repository(hub, "org/model", *(FIXTURES / "sharded").iterdir())
    here, there = tmp_path / "here", tmp_path / "there"
    convinspect.convert(FIXTURES / "sharded", here, to="linear")
    ended = call_main("convert", "hf://org/model", "--to", "linear", "-o", there)
    assert ended.code == 0, ended.err
    assert "only the weights were fetched" in ended.err
    for path in there.iterdir():
        assert path.read_bytes() == (here / path.name).read_bytes()
    assert {path.name for path in there.iterdir()} <= {path.name for path in (FIXTURES / "sharded").iterdir()}
    assert call_main("verify", "hf://org/model", there).code == 0
    assert call_main("check", "hf://org/model").code == 0


def test_a_push_in_between_mixes_no_versions(hub: Server, tmp_path: Path) -> None:
    """The index names the commit, and the shards are asked of it; whoever asks later sees what was pushed."""
    from safetensors.torch import load_file, save_file

    from convinspect.remote import fetching, folders, stores

    repository(hub, "org/pushed", *(FIXTURES / "sharded").iterdir())
    before = {key: one for path in (FIXTURES / "sharded").glob("*.safetensors") for key, one in load_file(path).items()}
    folder, first = hub.folder / "org/pushed", hub.folder / "org/first"
    shutil.copytree(folder, first)

    def push(handler: Handler) -> bool:
        """Once the index was sent, `main` is another commit, whose shards have other numbers."""
        revision, name = handler.path.partition("/resolve/")[2].partition("/")[::2]
        if revision == "main" and name.endswith("index.json"):
            handler.send_path(folder / name, more={"X-Repo-Commit": later if pushed else COMMIT})
            if not pushed:
                for path in folder.glob("*.safetensors"):
                    save_file({key: one + 1 for key, one in load_file(path).items()}, path)
            pushed.append(name)
            return True
        if revision in (COMMIT, later):
            handler.path = handler.path.replace("org/pushed", "org/first" if revision == COMMIT else "org/pushed")
        return False

    later, pushed = "f" * 40, list[str]()
    hub.fault = push
    for added in range(2):
        found = convinspect.open("hf://org/pushed/model.safetensors.index.json")
        for key, one in before.items():
            assert np.array_equal(found.read(key), one.numpy() + added), key
        # As after half a minute.
        stores._COMMITS._known.clear()
        fetching._FILES._files.clear()
        folders._listed.clear()
