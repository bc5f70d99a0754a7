"""Folders in archives: unpacked files of `torch.save`, and distributed checkpoints, read where they lie."""

from __future__ import annotations

import shlex
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp

import convinspect
from convinspect.errors import ConvInspectError, NotACheckpoint
from convinspect.formats.sources import LocalFile
from support.archives import tar_of, zip_of
from support.in_process import call_main

MODEL = torch.nn.Sequential(torch.nn.Conv1d(3, 6, 1), torch.nn.Linear(6, 2))
STATE = {key: value.detach().clone() for key, value in MODEL.state_dict().items()}
TITLES = {"plain": "torch.save (unpacked)", "script": "TorchScript (unpacked)", "dcp": "distributed checkpoint"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """What lies in the folder of each kind, by name."""
    place = tmp_path_factory.mktemp("folders")
    torch.save(STATE, place / "plain.pt")
    torch.jit.save(torch.jit.script(MODEL), place / "script.pt")
    for name in ("plain", "script"):
        with zipfile.ZipFile(place / f"{name}.pt") as archive:
            archive.extractall(place)
    dcp.state_dict_saver.save({"model": STATE}, checkpoint_id=place / "dcp", no_dist=True)
    return {
        kind: {str(p.relative_to(place / kind)): p.read_bytes() for p in (place / kind).rglob("*") if p.is_file()}
        for kind in TITLES
    }


def packed(files: dict[str, bytes], holder: str, top: str) -> bytes:
    named = {
        "readme.txt": b"hello",
        "doc/readme.txt": b"hello",
        **{f"{top}{name}": data for name, data in files.items()},
    }
    if holder.endswith(".tar.zip"):
        return zip_of({"a.txt": b"", "in.tar": tar_of(named)})
    if holder.endswith(".zip"):
        return zip_of(named, zipfile.ZIP_DEFLATED if "deflated" in holder else zipfile.ZIP_STORED)
    return tar_of(named, "w:gz" if holder.endswith(".gz") else "w")


@pytest.mark.parametrize(
    ("holder", "top"),
    [
        ("x.tar", "exp/step/"),
        ("x.tar", "./"),
        ("x.tar.gz", "exp/"),
        ("x.zip", "exp/"),
        ("deflated.zip", "exp/"),
        ("x.tar.zip", "./"),
        ("x.tar.zip", "exp/"),
    ],
)
@pytest.mark.parametrize("kind", TITLES)
def test_read_as_in_a_folder(
    files: dict[str, dict[str, bytes]], tmp_path: Path, kind: str, holder: str, top: str
) -> None:
    path = tmp_path / holder
    path.write_bytes(packed(files[kind], holder, top))
    checkpoint = convinspect.open(path)
    assert checkpoint.format.startswith(f"{TITLES[kind]}, in a")
    assert checkpoint.format.endswith("tar archive in a zip archive") == (holder == "x.tar.zip")
    prefix = "model." if kind == "dcp" else ""
    assert sorted(checkpoint) == sorted(prefix + key for key in STATE)
    for key, tensor in STATE.items():
        assert np.array_equal(checkpoint.read(prefix + key), tensor.numpy())
    ended = call_main("check", path)
    assert (ended.code, ended.err) == (0, "")
    assert "looked at" in ended.out


def test_stored_numbers_are_read_in_place(
    files: dict[str, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(packed(files["plain"], "x.tar", "exp/"))
    read: list[int] = []
    whole = LocalFile.read

    def noted(self: LocalFile, offset: int, size: int) -> bytes:
        read.append(offset)
        return whole(self, offset, size)

    monkeypatch.setattr(LocalFile, "read", noted)
    convinspect.open(path)
    with tarfile.open(path) as archive:
        places = [(one.offset_data, one.offset_data + one.size) for one in archive if "/data/" in one.name]
    assert read
    assert not [at for at in read if any(start <= at < end for start, end in places)]


@pytest.mark.parametrize("kind", TITLES)
def test_converted_to_one_file(files: dict[str, dict[str, bytes]], tmp_path: Path, kind: str) -> None:
    path, target = tmp_path / "x.tar", tmp_path / "new.pt"
    path.write_bytes(packed(files[kind], "x.tar", "./"))
    assert call_main("convert", path, "-o", target, "--to", "linear").code == 0
    assert call_main("verify", path, target).code == 0
    for given in (tmp_path / "new", tmp_path / "new.tar"):
        ended = call_main("convert", path, "-o", given, "--to", "linear")
        assert (ended.code, ended.err.count("\n"), given.exists()) == (2, 1, False)
        assert ".safetensors or .pt" in ended.err


@pytest.mark.parametrize("top", ["ck/", ""])
def test_the_command_of_diff_works(files: dict[str, dict[str, bytes]], tmp_path: Path, top: str) -> None:
    path, other = tmp_path / "x.tar", tmp_path / "o.pt"
    path.write_bytes(packed(files["dcp"], "x.tar", top))
    torch.save({"model." + key: v.squeeze(-1) for key, v in STATE.items()}, other)
    said = call_main("diff", path, other).out
    command = next(line for line in said.splitlines() if line.strip().startswith("convinspect convert"))
    words = shlex.split(command)[1:]
    assert call_main(*words).code == 0
    assert call_main("diff", words[words.index("-o") + 1], other).code == 0


def test_several_are_listed_and_one_is_given(files: dict[str, dict[str, bytes]], tmp_path: Path) -> None:
    steps = {f"step_{n}/{name}": data for n in (1, 2) for name, data in files["dcp"].items()}
    path = tmp_path / "x.tar"
    path.write_bytes(tar_of({**steps, **{f"un/{name}": data for name, data in files["plain"].items()}}))
    with pytest.raises(NotACheckpoint, match=r"holds 3 checkpoints.*x.tar!step_1.*x.tar!step_2.*x.tar!un"):
        convinspect.open(path)
    for given in ("step_2", "step_2/.metadata", "./step_2"):
        assert len(convinspect.open(f"{path}!{given}")) == len(STATE)
    for given in ("un", "un/data.pkl"):
        assert convinspect.open(f"{path}!{given}").format == "torch.save (unpacked), in a tar archive"


@pytest.mark.parametrize("command", ["shapes", "check"])
def test_other_folders_are_named(files: dict[str, dict[str, bytes]], tmp_path: Path, command: str) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(tar_of({f"exp/un/{name}": data for name, data in files["plain"].items()}))
    ended = call_main(command, f"{path}!exp")
    assert ended.code == 2
    assert "its 'exp' is a folder of other files; give one: " in ended.err
    ended = call_main(command, f"{path}!nope/.metadata")
    assert ended.code == 2
    assert "it holds no 'nope/.metadata'" in ended.err


@pytest.mark.parametrize("kind", ["plain", "dcp"])
def test_what_is_missing_is_named(files: dict[str, dict[str, bytes]], tmp_path: Path, kind: str) -> None:
    lost = "data/0" if kind == "plain" else "__0_0.distcp"
    left = {name: data for name, data in files[kind].items() if name != lost}
    path = tmp_path / "x.tar"
    path.write_bytes(tar_of({f"un/{name}": data for name, data in left.items()}))
    place = f"{path}!un"
    ended = call_main("check", place)
    assert ended.code != 0
    try:
        checkpoint = convinspect.open(place)
    except ConvInspectError:
        return
    assert checkpoint.problems or "shapes only" in " ".join(checkpoint.notes)
