"""Files from anywhere: nothing in them runs, and each ends as a listing or as one clear line."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import time
import traceback
import zlib
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from convinspect.checkpoint import open_checkpoint
from convinspect.errors import ConvInspectError, NotACheckpoint, RefusedFile
from convinspect.formats import read_contents
from support.hostile import HONEST, HOSTILE, LARGE, NOT_CHECKPOINTS
from support.in_process import build_commands_once, call_main
from support.memory import peak, reset_peak

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits memory by fork and setrlimit, which are POSIX")

_SECONDS = 20.0
"""A guard against what grows beyond all bounds, not a measurement: the machine that tests may be several times slower
than the one of the docs' figures, and share its cores."""

_MEGABYTES = 200
"""Resident memory that opening one may take, beyond what the process has."""

_CEILING = 3_000_000_000
"""More is refused by the system; well above what is allowed, since a handler of ours may hide the refusal."""


COMMANDS = (["shapes", "--all"], ["weights", "--stats"], ["check", "--values"])


def commands_for(name: str) -> list[list[str]]:
    """Those that run on the file of that name: one of them. Each opens the file, as the audit does with another."""
    if os.environ.get("EVERY_HOSTILE"):
        return list(COMMANDS)
    return [COMMANDS[zlib.crc32(name.encode()) % len(COMMANDS)]]


def _attempt(paths: list[tuple[str, Path, Path]], pipe: Connection) -> None:
    """In a process of its own: run the commands on every file and send what happened."""
    resource.setrlimit(resource.RLIMIT_DATA, (_CEILING, _CEILING))
    build_commands_once()
    for name, path, marker in paths:
        for options in commands_for(name):
            before = reset_peak()
            pipe.send((name, options, *_one(path, options), marker.exists(), peak() - before))
    pipe.send(None)


def _one(path: Path, options: list[str]) -> tuple[object, str, float]:
    # Processor time, since the machine that tests may be busy.
    started = time.process_time()
    try:
        code, _, err = call_main(options[0], path, *options[1:])
    except BaseException:
        code, err = "escaped", traceback.format_exc()
    return code, err, time.process_time() - started


def _builders() -> list[tuple[str, Callable[[Path, Path], Path]]]:
    return sorted(HOSTILE.items())


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


_PARTS = 6


@pytest.mark.parametrize("part", [*range(_PARTS), *sorted(LARGE)])
def test_hostile_files_end_as_promised(tmp_path: Path, part: int | str) -> None:
    """Many files to a process; a large one has its own, since Python keeps what it once had of the system."""
    built = []
    for index, (name, build) in enumerate(_builders()):
        if part == (name if name in LARGE else index % _PARTS):
            folder = tmp_path / str(index)
            folder.mkdir()
            marker = tmp_path / f"marker {index}"
            built.append((name, build(folder, marker), marker))
    # What lies in a file by gigabytes, if only as a hole, may take a share of them.
    allowed = {name: _MEGABYTES * 1_000_000 + _size(path) // 5 for name, path, _ in built}
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_attempt, args=(built, theirs))
    process.start()
    seen = 0
    try:
        while True:
            assert ours.poll(60), f"no answer after {seen} attempts"
            answer = ours.recv()
            if answer is None:
                break
            name, options, code, stderr, seconds, marked, taken = answer
            where = f"{name} {options}: {code} {stderr[-2000:]}"
            assert not marked, f"something in the file ran: {where}"
            assert code in (None, 0, 2) or (options[0] == "check" and code == 1), where
            assert "Traceback" not in stderr, where
            assert code != 2 or stderr.startswith("error: "), where
            assert all(char.isprintable() or char == "\n" for char in stderr), where
            assert seconds < _SECONDS, where
            assert taken < allowed[name], f"{taken:,} bytes of memory: {where}"
            seen += 1
    finally:
        process.kill()
        process.join()
    assert seen == sum(len(commands_for(name)) for name, _, _ in built)


@pytest.mark.parametrize("name", sorted(LARGE.keys() - HONEST))
def test_what_only_costs_is_refused(tmp_path: Path, name: str) -> None:
    path = LARGE[name](tmp_path, tmp_path / "marker")
    with pytest.raises(RefusedFile):
        open_checkpoint(path)


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
    names = [f"layers.{index}.weight" for index in range(8_000)]
    state = {
        index: {"step": torch.zeros(()), "exp_avg": torch.zeros(1, 1), "exp_avg_sq": torch.zeros(1, 1)}
        for index in range(8_000)
    }
    optimizer = {"state": state, "param_groups": [{"lr": 0.1, "params": list(range(8_000))}]}
    model = {name: torch.zeros(1, 1) for name in names}
    for old in (False, True):
        path = tmp_path / f"many {old}.pt"
        torch.save({"model": model, "optimizer": optimizer}, path, _use_new_zipfile_serialization=not old)
        assert len(open_checkpoint(path).tensors) == 8_000


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
