"""Files from anywhere: nothing in them runs, and each ends as a listing or as one clear line."""

from __future__ import annotations

import multiprocessing
import sys
import zlib
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch

from convinspect.checkpoint import open_checkpoint
from convinspect.errors import ConvInspectError, NotACheckpoint, RefusedFile
from convinspect.formats import read_contents
from support.hostile import HONEST, HOSTILE, LARGE, NOT_CHECKPOINTS
from support.in_process import build_commands_once
from support.promises import MEGABYTES, SECONDS, Attempt, attempted, broken, confine, size_of
from support.sampling import EVERY_CASE

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits memory by fork and setrlimit, which are POSIX")

COMMANDS = (["shapes", "--all"], ["weights", "--stats"], ["check", "--values"])


def commands_for(name: str) -> list[list[str]]:
    """Those that run on the file of that name: one of them."""
    if EVERY_CASE:
        return list(COMMANDS)
    return [COMMANDS[zlib.crc32(name.encode()) % len(COMMANDS)]]


def _attempt(path: Path, commands: list[list[str]], pipe: Connection) -> None:
    """In a process of its own: run the commands on the file, and send what was wrong, and how often it was refused."""
    confine()
    build_commands_once()
    wrong: list[str] = []
    made, refused = RefusedFile.__init__, 0
    refusals: list[object] = []

    def noted(error: RefusedFile, *arguments: Any, **options: Any) -> None:
        refusals.append(error)
        made(error, *arguments, **options)

    pytest.MonkeyPatch().setattr(RefusedFile, "__init__", noted)
    for words in commands:
        refusals.clear()
        ended = attempted(words[0], path, *words[1:])
        wrong += broken(ended, words[0], size_of(path))
        refused += ended.code == 2 and bool(refusals)
    pipe.send((wrong, refused))


@pytest.mark.parametrize("name", sorted(LARGE))
def test_large_hostile_files_end_as_promised(tmp_path: Path, name: str) -> None:
    """Each in a process of its own, since Python keeps what it once had of the system. All others are held to the same
    where they are watched (`test_hostile_audit`).
    """
    path = HOSTILE[name](tmp_path, tmp_path / "marker")
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_attempt, args=(path, commands_for(name), theirs))
    process.start()
    try:
        assert ours.poll(120), "no answer"
        wrong, refused = ours.recv()
        assert wrong == []
        # What only costs.
        assert name in HONEST or refused == len(commands_for(name))
    finally:
        process.kill()
        process.join()
    assert not (tmp_path / "marker").exists(), "something in the file ran"


@pytest.mark.parametrize(
    ("ended", "promise"),
    [
        (Attempt(3, "error: a bug", 0.1, 0), "exit code 3"),
        (Attempt("escaped", "Traceback (most recent call last):", 0.1, 0), "a traceback"),
        (Attempt(2, "", 0.1, 0), "no error line"),
        (Attempt(2, "error: \x1b[2J", 0.1, 0), "control characters"),
        (Attempt(0, "", SECONDS + 1, 0), "21.0 s"),
        (Attempt(0, "", 0.1, MEGABYTES * 1_000_000 + 1), "200,000,001 bytes of memory"),
    ],
)
def test_a_broken_promise_is_seen(ended: Attempt, promise: str) -> None:
    assert promise in {line.partition(":")[0] for line in broken(ended, "shapes", 0)}


def test_long_lists_beside_the_weights_are_no_reason_to_refuse(tmp_path: Path) -> None:
    """The order of ImageNet's samples, a loss for each step, a large vocabulary: all beside one layer."""
    path = tmp_path / "long.pt"
    content = {
        "model": {"conv.weight": torch.zeros(4, 6, 1)},
        "order": list(range(1_281_167)),
        "losses": [step / 7 for step in range(100_000)],
        "vocabulary": {f"word {index}": index for index in range(32_000)},
        "seen": [True] * 100_000,
    }
    torch.save(content, path)
    assert list(open_checkpoint(path).tensors) == ["conv.weight"]


def test_many_tensors_with_optimizer_state_are_no_reason_to_refuse(tmp_path: Path) -> None:
    names = [f"layers.{index}.weight" for index in range(3_000)]
    state = {
        index: {"step": torch.zeros(()), "exp_avg": torch.zeros(1, 1), "exp_avg_sq": torch.zeros(1, 1)}
        for index in range(3_000)
    }
    optimizer = {"state": state, "param_groups": [{"lr": 0.1, "params": list(range(3_000))}]}
    model = {name: torch.zeros(1, 1) for name in names}
    for old in (False, True):
        path = tmp_path / f"many {old}.pt"
        torch.save({"model": model, "optimizer": optimizer}, path, _use_new_zipfile_serialization=not old)
        assert len(open_checkpoint(path).tensors) == 3_000


@pytest.mark.parametrize("name", sorted(NOT_CHECKPOINTS))
def test_what_is_no_checkpoint_is_named(tmp_path: Path, name: str) -> None:
    build, word = NOT_CHECKPOINTS[name]
    with pytest.raises(NotACheckpoint) as raised:
        open_checkpoint(build(tmp_path))
    assert word.lower() in str(raised.value).lower()
    assert raised.value.remedy


def test_files_of_a_byte_or_two_are_named(tmp_path: Path) -> None:
    for content in [bytes([first]) + rest for first in range(256) for rest in (b"", b"\0", b"\x12")]:
        (tmp_path / "x.pt").write_bytes(content)
        with pytest.raises(ConvInspectError) as raised:
            open_checkpoint(tmp_path / "x.pt")
        assert raised.value.remedy, content


def test_a_vocabulary_beside_its_embedding_is_no_attack(tmp_path: Path) -> None:
    """Honest pickles are large where the payload is: 250,000 words are three instructions each."""
    words = {f"w{n}": n for n in range(250_000)}
    torch.save({"vocab": words, "embedding.weight": torch.zeros(250_000, 32)}, tmp_path / "x.pt")
    (root,) = read_contents(tmp_path / "x.pt").roots
    assert [tensor.shape for tensor in root.tensors] == [(250_000, 32)]
