"""`convert` writes whole or not at all: shards, modes, links, full disks, kills, and sources that change."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from convinspect.checkpoint import open_checkpoint
from convinspect.errors import CannotWrite, ConvInspectError
from convinspect.writing.target import check_target
from support.conversions import converted
from support.paths import FIXTURES


def test_sharded_checkpoints_are_written_whole(tmp_path: Path) -> None:
    for folder in ("sharded", "sharded_bin"):
        source, target = FIXTURES / folder, tmp_path / folder
        planned = converted(source, target)
        assert planned.conversions
        before, after = open_checkpoint(source), open_checkpoint(target)
        assert list(before.tensors) == list(after.tensors)
        assert not after.problems
        for name in before.tensors:
            assert (before.read(name).reshape(-1) == after.read(name).reshape(-1)).all()


@pytest.mark.parametrize("total", [None, 4 * 24, 5, "many"])
def test_shards_in_folders_and_the_index_total(tmp_path: Path, total: object) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    (source / "w" / "x").mkdir(parents=True)
    save_file({"c.weight": torch.randn(3, 4, 1)}, source / "w" / "one.safetensors")
    save_file({"d.weight": torch.randn(3, 4)}, source / "w" / "x" / "two.safetensors")
    names = {"c.weight": "w/one.safetensors", "d.weight": "w/x/two.safetensors"}
    metadata = {"kept": [1]} if total is None else {"kept": [1], "total_size": total}
    text = json.dumps({"metadata": metadata, "weight_map": names}, indent=2) + "\n"
    index = source / "model.safetensors.index.json"
    index.write_text(text)
    converted(index, target)
    right = text if total is None else text.replace(json.dumps(total), "96")
    assert (target / index.name).read_text() == right
    assert open_checkpoint(target).tensors["c.weight"].shape == (3, 4)
    assert (target / "w" / "x" / "two.safetensors").read_bytes() == (source / "w/x/two.safetensors").read_bytes()


def test_targets_are_protected(tmp_path: Path) -> None:
    source = tmp_path / "a.pt"
    torch.save({"c.weight": torch.randn(4, 6, 1)}, source)
    other = tmp_path / "b.pt"
    other.write_bytes(b"mine")
    link = tmp_path / "link.pt"
    link.symlink_to(source)
    for target in (source, link, other, tmp_path, tmp_path / "none" / "b.pt"):
        with pytest.raises(CannotWrite):
            check_target(source, target, in_place=False, force=False)
    check_target(source, other, in_place=False, force=True)
    check_target(source, source, in_place=True, force=False)
    assert other.read_bytes() == b"mine"


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_is_no_target_for_a_file(tmp_path: Path, force: bool) -> None:
    torch.save({"c.weight": torch.randn(4, 6, 1)}, tmp_path / "a.pt")
    with pytest.raises(CannotWrite, match="folder"):
        check_target(tmp_path / "a.pt", tmp_path, in_place=False, force=force)


def test_the_mode_follows_the_umask(tmp_path: Path) -> None:
    torch.save({"c.weight": torch.randn(4, 6, 1)}, tmp_path / "a.pt")
    old = os.umask(0o027)
    try:
        converted(tmp_path / "a.pt", tmp_path / "b.pt")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "b.pt").stat().st_mode) == 0o640


@pytest.mark.parametrize("what", ["script", "trace", "module", "legacy_module"])
def test_whole_models_are_refused_with_a_way_out(tmp_path: Path, what: str) -> None:
    from support.in_process import run
    from support.program import assert_one_line

    source = FIXTURES / f"pointnet_stnkd_{what}.pt"
    assert_one_line(run("convert", source, "-o", tmp_path / "b.pt", "--to", "linear"), "state_dict")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("sharded", [False, True])
def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sharded: bool) -> None:
    import errno

    from convinspect.writing import pieces

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    torch.save({"c.weight": torch.randn(4, 6, 1)}, tmp_path / "a.pt")
    monkeypatch.setattr(pieces, "_write_all", full)
    source = FIXTURES / "sharded" if sharded else tmp_path / "a.pt"
    with pytest.raises(CannotWrite, match="No space left") as caught:
        converted(source, tmp_path / ("b" if sharded else "b.pt"))
    assert "make room" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("sharded", [False, True])
def test_what_was_written_is_on_the_disk_before_it_is_checked_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sharded: bool
) -> None:
    from convinspect.writing import atomic as writing
    from convinspect.writing import same_format as saving

    done: list[str] = []

    def noting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any) -> Any:
            done.append(name)
            return function(*arguments)

        return noted

    monkeypatch.setattr(writing, "sync", noting("sync", writing.sync))
    monkeypatch.setattr(saving, "_compare", noting("check", saving._compare))
    monkeypatch.setattr(os, "replace", noting("name", os.replace))
    monkeypatch.setattr(os, "link", noting("name", os.link))
    source = FIXTURES / ("sharded" if sharded else "convs.pt")
    converted(source, tmp_path / source.name)
    files = len(list((tmp_path / source.name).iterdir())) if sharded else 0
    assert done == ["sync"] * (files + 1) + ["check", "name", "sync"]


@pytest.mark.parametrize(
    ("layers", "protocol", "zipped"),
    [(1, 4, True), (1, 4, False), (1, 5, True), (1, 5, False), (500, 4, True), (500, 5, False)],
)
def test_framed_pickles_get_the_right_lengths(tmp_path: Path, layers: int, protocol: int, zipped: bool) -> None:
    """Python's own unpickler holds that a frame is as long as it says; many layers need many frames."""
    torch.manual_seed(0)
    numbers = torch.randn(400, 600, 1)
    state: dict[str, Any] = {f"l{i}.weight": numbers[i % 7 : i % 7 + 40 + i % 300] for i in range(layers)}
    state["text"] = "x" * 100_000
    paths = [tmp_path / f"{name}.pt" for name in "abc"]
    torch.save(state, paths[0], pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    converted(paths[0], paths[1])
    after = torch.load(paths[1], weights_only=False, pickle_module=_pure_python())
    assert list(after) == list(state)
    assert all(torch.equal(after[f"l{i}.weight"], state[f"l{i}.weight"].squeeze(2)) for i in range(layers))
    converted(paths[1], paths[2], "Conv1d", names=tuple(f"l{i}" for i in range(layers)))
    after = torch.load(paths[2], weights_only=False, pickle_module=_pure_python())
    assert all(torch.equal(after[f"l{i}.weight"], state[f"l{i}.weight"]) for i in range(layers))
    if layers == 1:
        assert paths[2].read_bytes() == paths[0].read_bytes()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("size", range(20, 60, 3))
def test_frames_may_end_anywhere(tmp_path: Path, zipped: bool, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Picklers in Python (dill's too) end a frame wherever it is full, also inside the tuples that change."""
    import pickle

    monkeypatch.setattr(pickle._Framer, "_FRAME_SIZE_TARGET", size)  # type: ignore[attr-defined]
    state = {f"l{i}.weight": torch.randn(40 + i, 300, 1) for i in range(9)}
    state |= {f"l{i}.bias": torch.randn(40 + i) for i in range(9)}
    names = [tmp_path / f"{name}.pt" for name in "abc"]
    torch.save(state, names[0], pickle_module=_pure_python(), pickle_protocol=4, _use_new_zipfile_serialization=zipped)
    converted(names[0], names[1])
    converted(names[1], names[2], "Conv1d", names=("l*",))
    for path, dims in ((names[1], 2), (names[2], 3)):
        found = torch.load(path, weights_only=False, pickle_module=_pure_python())
        assert list(found) == list(state)
        assert all(torch.equal(found[key].reshape(-1), state[key].reshape(-1)) for key in state)
        assert {value.dim() for key, value in found.items() if key.endswith("weight")} == {dims}


def _pure_python() -> Any:
    """The standard library's pickle without its C part, which is the stricter of the two about frames."""
    import pickle
    import types

    module = types.ModuleType("pure")
    module.__dict__.update(vars(pickle))
    module.Pickler = pickle._Pickler  # type: ignore[attr-defined]
    module.Unpickler = pickle._Unpickler  # type: ignore[attr-defined]
    module.dump = pickle._dump  # type: ignore[attr-defined]
    module.load = pickle._load  # type: ignore[attr-defined]
    return module


def test_a_source_that_changes_meanwhile_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from convinspect.writing import pieces
    from convinspect.writing import rewrite as saving

    source = tmp_path / "a.pt"
    torch.save({"c.weight": torch.randn(4, 6, 1)}, source)
    original = pieces.write_pieces

    def touching(*arguments: Any) -> None:
        original(*arguments)
        with open(source, "ab") as file:
            file.write(b"x")

    monkeypatch.setattr(saving, "write_pieces", touching)
    with pytest.raises(ConvInspectError, match="changed while"):
        converted(source, tmp_path / "b.pt")
    assert not (tmp_path / "b.pt").exists()


def test_a_wrong_result_is_thrown_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check after writing can fail: an edit that the header does not get is noticed."""
    from convinspect.writing import torch_save

    torch.save({"c.weight": torch.randn(4, 6, 1), "d.weight": torch.randn(4, 6, 1)}, tmp_path / "a.pt")
    original = torch_save._tuples
    monkeypatch.setattr(torch_save, "_tuples", lambda *given: original(*given)[:-2])
    with pytest.raises(ConvInspectError, match="discarded"):
        converted(tmp_path / "a.pt", tmp_path / "b.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]
