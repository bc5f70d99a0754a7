"""Folders of safetensors of which each file holds a part of each tensor: PyTorch writes and takes them."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint._consolidate_hf_safetensors import consolidate_safetensors_files
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict_loader import load

from convinspect.checkpoint import open_checkpoint
from convinspect.diffing.checkpoints import diff
from convinspect.formats.pieces import SHARDING
from support.in_process import run
from support.paths import FIXTURES
from support.program import assert_one_line

PIECES = FIXTURES / "parallel" / "pieces"
FIRST, SECOND = (f"shard-0000{at}-model-00001-of-00001.safetensors" for at in (1, 2))


pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(PIECES, tmp_path / "pieces")
    return tmp_path / "pieces"


def consolidated(folder: Path, into: Path) -> dict[str, torch.Tensor]:
    into.mkdir()
    consolidate_safetensors_files(str(folder), str(into), dict.fromkeys(open_checkpoint(folder), 1))
    state: dict[str, torch.Tensor] = {}
    for path in into.glob("*.safetensors"):
        state |= load_file(path)
    # PyTorch 2.13 leaves a scalar's bytes out when it consolidates; the file holds 0 for it.
    return state | {"scale": torch.tensor(2.0)}


def loaded(folder: Path, like: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    state = {name: torch.zeros_like(one) for name, one in like.items()}
    load(state, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    return state


def rewritten(path: Path, change: Any) -> None:
    """The file with another header, whose metadata `change` was given."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    info = json.loads(header["__metadata__"][SHARDING])
    change(info)
    header["__metadata__"][SHARDING] = json.dumps(info)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


def test_the_whole_tensors_are_those_that_torch_puts_together(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(PIECES)
    expected = consolidated(PIECES, tmp_path / "whole")
    assert set(checkpoint) == set(expected)
    for name, one in expected.items():
        assert checkpoint[name].shape == tuple(one.shape)
        assert torch.equal(torch.from_numpy(checkpoint.read(name)), one)


def test_a_converted_folder_is_taken_by_torch(tmp_path: Path) -> None:
    before = consolidated(PIECES, tmp_path / "before")
    expected = {name: one.squeeze(-1) if one.shape[2:] == (1,) else one for name, one in before.items()}
    done = run("convert", PIECES, "-o", tmp_path / "linear", "--to", "linear")
    assert done.returncode == 0, done.stderr
    for found in (consolidated(tmp_path / "linear", tmp_path / "after"), loaded(tmp_path / "linear", expected)):
        assert set(found) == set(expected)
        assert all(torch.equal(found[name], one) for name, one in expected.items())
    verified = run("verify", PIECES, tmp_path / "linear", "--format", "json")
    assert (verified.returncode, json.loads(verified.stdout)["strength"]) == (0, "layer")
    words = ["convert", tmp_path / "linear", "-o", tmp_path / "back", "--to", "conv1d"]
    assert run(*words, "--layer", "0", "--layer", "2", "--layer", "3").returncode == 0
    for name in (FIRST, SECOND):
        assert (tmp_path / "back" / name).read_bytes() == (PIECES / name).read_bytes()


def test_new_names_reach_where_pieces_begin(tmp_path: Path) -> None:
    assert run("convert", PIECES, "-o", tmp_path / "named", "--rename", "0=first").returncode == 0
    found = consolidated(tmp_path / "named", tmp_path / "after")
    assert torch.equal(found["first.weight"], consolidated(PIECES, tmp_path / "before")["0.weight"])


def test_whole_tensors_are_written_as_one_file(tmp_path: Path) -> None:
    done = run("convert", PIECES, "-o", tmp_path / "one.safetensors", "--to", "linear", "--state-dict")
    assert done.returncode == 0, done.stderr
    before, after = consolidated(PIECES, tmp_path / "before"), load_file(tmp_path / "one.safetensors")
    assert all(torch.equal(after[name], one.reshape(after[name].shape)) for name, one in before.items())
    assert run("diff", PIECES, PIECES).returncode == 0


@pytest.mark.parametrize("name", [FIRST, SECOND])
def test_one_shard_is_a_piece(tmp_path: Path, name: str) -> None:
    target = tmp_path / "b.safetensors"
    done = run("convert", PIECES / name, "-o", target, "--to", "linear", "--layer", "0")
    assert_one_line(done, "it holds parts of tensors", "open the folder with all shards")
    assert not target.exists()
    assert "it holds parts of tensors" in run("shapes", PIECES / name).stderr
    found = json.loads(run("check", PIECES / name, "--format", "json").stdout)
    assert "piece" in json.dumps(found)


def test_the_folder_is_whole(folder: Path) -> None:
    assert run("check", folder).returncode == 0
    assert not open_checkpoint(folder).problems


def overlapping(info: dict[str, Any]) -> None:
    info["0.weight"]["saved_offsets"] = [1, 0, 0]


def with_a_hole(info: dict[str, Any]) -> None:
    info["0.weight"]["saved_offsets"] = [3, 0, 0]


def of_other_rank(info: dict[str, Any]) -> None:
    info["0.weight"]["saved_offsets"] = [2]


@pytest.mark.parametrize(
    ("change", "said"),
    [(overlapping, "overlap"), (with_a_hole, "leave 6 of its numbers out"), (of_other_rank, "begins at [2]")],
)
def test_pieces_that_make_no_whole_are_named(folder: Path, change: Any, said: str) -> None:
    rewritten(folder / SECOND, change)
    problems = " ".join(open_checkpoint(folder).problems)
    assert said in problems
    assert "0.weight" in problems
    assert_one_line(run("convert", folder, "-o", folder.parent / "b", "--to", "linear"), "0.weight")
    done = run("check", folder, "--format", "json")
    assert (done.returncode, "piece-missing" in done.stdout) == (1, True)


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / FIRST).unlink()
    assert any("shard 1 is not there" in problem for problem in open_checkpoint(folder).problems)
    assert_one_line(run("convert", folder, "-o", folder.parent / "b", "--to", "linear"))


@pytest.mark.parametrize("text", ["[]", "{", '{"0.weight": 3}', '{"0.weight": {"saved_offsets": [-1]}}'])
def test_malformed_metadata_are_refused_in_one_line(folder: Path, text: str) -> None:
    raw = (folder / SECOND).read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    header["__metadata__"][SHARDING] = text
    new = json.dumps(header).encode()
    (folder / SECOND).write_bytes(struct.pack("<Q", len(new)) + new + raw[8 + length :])
    for path in (folder, folder / SECOND):
        assert_one_line(run("shapes", path))
        assert run("check", path).returncode == 2


def test_a_consolidated_folder_with_its_index_is_ordinary(tmp_path: Path) -> None:
    consolidated(PIECES, tmp_path / "whole")
    checkpoint = open_checkpoint(tmp_path / "whole")
    assert not checkpoint.problems
    assert checkpoint["0.weight"].shape == (4, 6, 1)


def test_a_first_shard_without_its_siblings_may_be_a_piece(tmp_path: Path) -> None:
    def all_at_zero(info: dict[str, dict[str, list[int]]]) -> None:
        for entry in info.values():
            entry["saved_offsets"] = [0] * len(entry["saved_offsets"])

    shutil.copy(PIECES / FIRST, tmp_path / FIRST)
    rewritten(tmp_path / FIRST, all_at_zero)
    done = run("shapes", tmp_path / FIRST)
    assert (done.returncode, "if several processes wrote it" in " ".join(done.stdout.split())) == (0, True)


def test_diff_compares_the_folder_with_whole_tensors(tmp_path: Path, folder: Path) -> None:
    state = consolidated(folder, tmp_path / "one")
    torch.save(state, tmp_path / "whole.pt")
    name = next(name for name, tensor in state.items() if tensor.dim() > 1)
    state[name].view(-1)[-1] += 1
    torch.save(state, tmp_path / "other.pt")
    for values, other, odd in ((False, "whole", 0), (True, "whole", 0), (True, "other", 1)):
        report = diff(open_checkpoint(folder), open_checkpoint(tmp_path / f"{other}.pt"), values=values)
        kinds = {difference.a.key: str(difference.kind) for difference in report.tensors if difference.a is not None}
        assert len(kinds) == len(state)
        assert sum(kind != "same" for kind in kinds.values()) == odd, kinds
        assert kinds[name] == ("same" if not odd else "values differ")
