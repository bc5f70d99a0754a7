"""Ranks that share a command: the same bytes, the same report, and one line when one of them fails or dies.

`KILLS=200 pytest -n 0 tests/ranks -k killed` kills a rank before each of its calls of the system.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("ranks are forked", allow_module_level=True)

import torch
from safetensors.torch import save_file

from convinspect.ranks.place import Place, place_of_process
from convinspect.ranks.shares import run_of_rank, shared_out
from support.faults import NOBODY, Ended, Program
from support.in_process import run
from support.program import without_wrote
from support.ranks import complaints, run_ranks, torchrun

KILLS = int(os.environ.get("KILLS", "12"))
IMPATIENT = {"faults": (("patience", 3.0),)}


@pytest.fixture(scope="module")
def program() -> Iterator[Program]:
    started = Program(with_torch=True)
    yield started
    started.close()


def make_folder(folder: Path, suffix: str = ".safetensors", shards: int = 3) -> Path:
    """A sharded model, its optimizer, and a file beside them."""
    torch.manual_seed(0)
    folder.mkdir()
    index: dict[str, str] = {}
    parameters = []
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    for shard in range(shards):
        name = f"{stem}-{shard + 1:05d}-of-{shards:05d}{suffix}"
        tensors = {
            f"blocks.{shard}.conv.weight": torch.randn(6 + shard, 5, 1),
            f"blocks.{shard}.conv.bias": torch.randn(6 + shard),
        }
        if suffix == ".safetensors":
            save_file(tensors, folder / name, {"format": "pt"})
        else:
            torch.save(tensors, folder / name)
        index |= dict.fromkeys(tensors, name)
        parameters += [torch.nn.Parameter(tensor) for tensor in tensors.values()]
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}, indent=2))
    (folder / "config.json").write_text("{}")
    (folder / "more").mkdir()
    (folder / "more" / "vocabulary.txt").write_text("a b c")
    if suffix == ".bin":
        optimizer = torch.optim.Adam(parameters)
        sum(parameter.sum() for parameter in parameters).backward()  # type: ignore[union-attr]
        optimizer.step()
        torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    return folder


def all_bytes(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all that only read it."""
    return make_folder(tmp_path_factory.mktemp("source") / "model")


def assert_done(ended: list[Ended]) -> None:
    """All have done their part, and the first alone says what was written."""
    assert [(rank.code, without_wrote(rank.stderr)) for rank in ended] == [(0, "")] * len(ended)
    assert not any(rank.stderr for rank in ended[1:])


def assert_given_up(ended: list[Ended], where: Path, *words: str) -> None:
    """One line of one rank, exit code 2, and nothing is written or left."""
    lines = [rank.stderr for rank in ended if rank.stderr]
    assert len(lines) == 1, ended
    assert lines[0].startswith("error: ")
    assert lines[0].count("\n") == 1, lines
    for word in words:
        assert word in lines[0]
    assert not any(rank.stdout for rank in ended)
    assert {rank.code for rank in ended} <= {2, -9}
    assert not list(where.iterdir()), "something was written"


@pytest.mark.parametrize(("suffix", "ranks"), [(".safetensors", 2), (".bin", 3)])
def test_a_folder_there_and_back(program: Program, tmp_path: Path, suffix: str, ranks: int) -> None:
    first = make_folder(tmp_path / "first", suffix)
    there, back = tmp_path / "there", tmp_path / "back"
    done = run_ranks(program, "convert", first, "-o", there, "--to", "linear", "--format", "json", ranks=ranks)
    assert_done(done)
    assert len(json.loads(done[0].stdout)["converted"]) == 3
    assert not any(rank.stdout for rank in done[1:])
    assert run("convert", first, "-o", tmp_path / "alone", "--to", "linear").returncode == 0
    assert all_bytes(there) == all_bytes(tmp_path / "alone")
    assert all_bytes(there) != all_bytes(first)
    verified = run_ranks(program, "verify", first, there, "--format", "json", ranks=ranks)
    alone = run("verify", first, there, "--format", "json")
    assert [rank.code for rank in verified] == [0] * ranks
    assert json.loads(verified[0].stdout) == json.loads(alone.stdout)
    turned = run_ranks(program, "convert", there, "-o", back, "--to", "conv1d", "--layer", "blocks.*", ranks=ranks)
    assert [rank.code for rank in turned] == [0] * ranks
    assert all_bytes(back) == all_bytes(first)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("one_file", [True, False])
def test_a_distributed_checkpoint(program: Program, tmp_path: Path, one_file: bool) -> None:
    """Saved by one process; `dcp.load` gives the right numbers, and there and back the bytes are the same."""
    # No other test here needs it, and importing it takes a second.
    dcp: Any = pytest.importorskip("torch.distributed.checkpoint")

    torch.manual_seed(0)
    # Small ones keep no padding in which a longer header would find room.
    state = {f"blocks.{n}.conv.weight": torch.randn(6 + n, 5, 1) for n in range(5)}
    state |= {f"blocks.{n}.conv.bias": torch.randn(6 + n) for n in range(5)}
    first, there, back = tmp_path / "first", tmp_path / "there", tmp_path / "back"
    dcp.save(state, storage_writer=dcp.FileSystemWriter(first, single_file_per_rank=one_file), no_dist=True)
    (first / "config.json").write_text("{}")
    done = run_ranks(program, "convert", first, "-o", there, "--to", "linear", ranks=3)
    assert_done(done)
    assert run("convert", first, "-o", tmp_path / "alone", "--to", "linear").returncode == 0
    assert all_bytes(there) == all_bytes(tmp_path / "alone")
    verified = run_ranks(program, "verify", first, there, "--format", "json")
    assert [rank.code for rank in verified] == [0, 0]
    assert json.loads(verified[0].stdout) == json.loads(run("verify", first, there, "--format", "json").stdout)
    loaded = {name: torch.zeros(tensor.shape[:2]) for name, tensor in state.items()}
    dcp.load(loaded, checkpoint_id=there, no_dist=True)
    for name, tensor in state.items():
        assert torch.equal(loaded[name], tensor.reshape(loaded[name].shape))
    turned = run_ranks(program, "convert", there, "-o", back, "--to", "conv1d", "--layer", "blocks.*")
    assert_done(turned)
    assert all_bytes(back) == all_bytes(first)


def test_differences_are_those_of_one_process(program: Program, source: Path, tmp_path: Path) -> None:
    other = shutil.copytree(source, tmp_path / "other")
    for name in ("model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors"):
        data = bytearray((other / name).read_bytes())
        data[-6] ^= 0x40
        (other / name).write_bytes(data)
    alone = run("verify", source, other, "--format", "json")
    done = run_ranks(program, "verify", source, other, "--format", "json")
    assert (alone.returncode, done[0].code) == (1, 1)
    assert json.loads(done[0].stdout) == json.loads(alone.stdout)
    assert len(json.loads(alone.stdout)["layers"]) == 2
    assert not done[1].stdout


def test_what_rank_0_does_alone(program: Program, source: Path, tmp_path: Path) -> None:
    shard = source / "model-00001-of-00003.safetensors"
    expected = run("convert", shard, "-o", tmp_path / "alone.safetensors", "--to", "linear")
    assert expected.returncode == 0
    whole = (tmp_path / "alone.safetensors").read_bytes()
    for words in (
        ("convert", shard, "-o", tmp_path / "new.safetensors", "--to", "linear"),
        ("convert", shutil.copy(shard, tmp_path / "own.safetensors"), "--in-place", "--to", "linear"),
        ("convert", source, "-o", tmp_path / "new.pt", "--to", "linear", "--state-dict"),
        ("convert", source, "-o", tmp_path / "nowhere", "--to", "linear", "--dry-run"),
        ("shapes", source),
        ("--version",),
    ):
        done = run_ranks(program, *words)
        assert [rank.code for rank in done] == [0, 0], words
        assert "error" not in done[0].stderr
        assert done[0].stdout
        assert not done[1].stderr
        assert not done[1].stdout
    assert (tmp_path / "new.safetensors").read_bytes() == (tmp_path / "own.safetensors").read_bytes() == whole
    assert not (tmp_path / "nowhere").exists()


FAULTS: dict[str, tuple[dict[int, dict[str, Any]], tuple[str, ...]]] = {
    "full": ({1: {"faults": (("refuse", "write", "ENOSPC"),)}}, ("rank 1 of 2", "make room on the disk")),
    "full for rank 0": ({0: {"faults": (("refuse", "write", "ENOSPC"),)}}, ("No space left", "make room")),
    "not allowed": ({1: {"user": NOBODY}}, ("rank 1 of 2",)),
    "elsewhere": ({1: {"faults": (("elsewhere",),)}}, ("rank 1 of 2", "a file system that all machines share")),
    "unreadable": ({1: {"faults": (("refuse", "pread", "EIO", 3),)}}, ("rank 1 of 2", "Input/output error")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_rank_that_fails(program: Program, source: Path, tmp_path: Path, fault: str) -> None:
    of_rank, words = FAULTS[fault]
    if "user" in of_rank.get(1, {}) and os.getuid():
        pytest.skip("only root can be somebody else")
    done = run_ranks(program, "convert", source, "-o", tmp_path / "new", "--to", "linear", of_rank=of_rank)
    assert_given_up(done, tmp_path, *words)


def test_what_every_rank_finds_is_said_as_ever(program: Program, source: Path, tmp_path: Path) -> None:
    for words in (
        ("convert", tmp_path / "nothing", "-o", tmp_path / "new", "--to", "linear"),
        ("convert", source, "-o", source, "--to", "linear"),
        ("convert", source, "-o", source.parent, "--to", "linear"),
        ("verify", source, tmp_path / "nothing"),
        ("convert", source, "--form"),
    ):
        alone = run(*words)
        done = run_ranks(program, *words)
        assert_given_up(done, tmp_path)
        assert done[0].stderr == alone.stderr


def test_machines_with_other_files(program: Program, source: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    make_folder(other, shards=2)
    (tmp_path / "here").mkdir()
    words = ("convert", other, "-o", tmp_path / "here" / "new", "--to", "linear")
    arguments = tuple(map(str, ("convert", source, "-o", tmp_path / "here" / "new", "--to", "linear")))
    done = run_ranks(program, *words, of_rank={1: {"arguments": arguments}})
    assert_given_up(done, tmp_path / "here", "rank 1 of 2", "not what rank 0 sees")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_is_killed(program: Program, source: Path, tmp_path: Path, rank: int) -> None:
    """Before some of its calls of the system: the target is whole or absent, the other rank ends, nothing is left."""
    target = tmp_path / "new"
    words = ("convert", source, "-o", target, "--to", "linear")
    counting = {"faults": (("kill at step", -1, True),)}
    steps = run_ranks(program, *words, of_rank={rank: counting})[rank].steps
    right = all_bytes(target)
    assert steps > 20
    # The first ones come before the ranks are connected, which takes the patience of the other one.
    few = {0, steps - 1, *random.Random(rank).sample(range(steps // 2, steps), KILLS // 6)}
    for step in sorted(few) if KILLS < 200 else range(steps):
        shutil.rmtree(target, ignore_errors=True)
        done = run_ranks(
            program, *words, of_rank={rank: {"faults": (("kill at step", step, True),)}, 1 - rank: IMPATIENT}
        )
        # Their number differs by a few, as they wait for each other.
        assert done[rank].code == -9 or step > steps - 10
        if target.exists():
            assert all_bytes(target) == right
            assert [path.name for path in tmp_path.iterdir()] == ["new"]
        else:
            assert_given_up(done, tmp_path, "a rank has ended before the others")


def test_under_torchrun_itself(source: Path, tmp_path: Path) -> None:
    done = torchrun(2, "convert", source, "-o", "new", "--to", "linear", "--format", "json", folder=tmp_path)
    assert (done.returncode, complaints(done.stderr)) == (0, [])
    assert json.loads(done.stdout)["output"] == "new"
    assert run("convert", source, "-o", tmp_path / "alone", "--to", "linear").returncode == 0
    assert all_bytes(tmp_path / "new") == all_bytes(tmp_path / "alone")


# ---------------------------------------------------------------------------------------------- whose work is what


def test_files_are_shared_out_by_size() -> None:
    assert shared_out({"a": 5, "b": 9, "c": 4, "d": 1}, 2) == [["b", "d"], ["a", "c"]]
    assert shared_out({"a": 1}, 3) == [["a"], [], []]
    assert shared_out({"b": 0, "a": 0}, 2) == [["a"], ["b"]]


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_every_thing_is_one_ranks(ranks: int) -> None:
    sizes = [random.Random(ranks).randrange(100) for _ in range(50)]
    things = list(enumerate(sizes))
    runs = [run_of_rank(things, rank, ranks) for rank in range(ranks)]
    assert [thing for run in runs for thing in run] == list(range(50))
    assert max(sum(sizes[thing] for thing in run) for run in runs) <= sum(sizes) / ranks + 100


def test_only_what_torchrun_started_is_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "GROUP_RANK": "0", "MASTER_ADDR": "x"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setattr("os.getsid", lambda process: os.getpid())
    assert place_of_process() is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert place_of_process() == Place(1, 4, 1, 0)
    for name, value in (("RANK", "4"), ("RANK", "one"), ("WORLD_SIZE", "1")):
        with monkeypatch.context() as changed:
            changed.setenv(name, value)
            assert place_of_process() is None
    # A program that a rank runs has its variables, and is not the process that torchrun started.
    monkeypatch.setattr("os.getsid", lambda process: os.getpid() - 1)
    assert place_of_process() is None
