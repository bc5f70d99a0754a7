"""The end of the process: at once where nothing is left to do, and as Python ends everywhere else."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from convinspect.cli.ending import leave, spare_pytorch
from support.paths import FIXTURES, ROOT

STNKD = FIXTURES / "pointnet_stnkd.pt"
TOLD = """
import atexit, sys

class Last:
    def __del__(self, write=sys.__stderr__.write):
        write("taken apart\\n")

sys.last_of_all = Last()
atexit.register(print, "registered", file=sys.stderr)
"""
"""Python runs this at its start."""


class _Ended(BaseException):
    pass


class _Full(io.StringIO):
    def flush(self) -> None:
        raise OSError(28, "No space left on device")


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> Callable[[object], int | None]:
    """The exit code that the process would end with at once; None where Python is to end it."""
    monkeypatch.setattr(sys, "argv", ["/bin/convinspect", "verify", "a.pt"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "/bin/convinspect", "verify", "a.pt"])
    monkeypatch.setattr("atexit._run_exitfuncs", lambda: None)
    # Threads of other tests do not count.
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    assert torch.__name__ in sys.modules

    def leave_at_once(code: int) -> None:
        raise _Ended(code)

    monkeypatch.setattr(os, "_exit", leave_at_once)

    def found(code: object) -> int | None:
        try:
            leave(code)
        except _Ended as end:
            return int(end.args[0])
        return None

    return found


@pytest.mark.parametrize(("code", "given"), [(None, 0), (0, 0), (1, 1), (2, 2), (True, 1), ("a text", None)])
def test_its_code_is_that_of_python(ended: Callable[[object], int | None], code: object, given: int | None) -> None:
    assert ended(code) == given


@pytest.mark.parametrize(
    "started",
    [
        ["python", "-m", "cProfile", "/bin/convinspect", "verify", "a.pt"],
        ["python", "-u", "-m", "convinspect", "verify", "a.pt"],
        ["python", "-c", "import convinspect", "verify", "a.pt"],
        ["python", "-m", "pdb", "-m", "convinspect", "verify", "a.pt"],
    ],
    ids=" ".join,
)
def test_what_runs_the_program_has_the_last_word(
    ended: Callable[[object], int | None], monkeypatch: pytest.MonkeyPatch, started: list[str]
) -> None:
    assert ended(0) == 0
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "convinspect", "verify", "a.pt"])
    assert ended(0) == 0
    monkeypatch.setattr(sys, "orig_argv", started)
    assert ended(0) is None


def test_threads_and_output_that_cannot_be_written_are_left_to_python(
    ended: Callable[[object], int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(threading, "active_count", lambda: 2)
        assert ended(0) is None
        assert ended(1) is None
        assert ended(130) == 130
        assert ended(143) == 143
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", None)
        assert ended(0) == 0
    monkeypatch.setattr(sys, "stdout", _Full())
    assert ended(0) is None


def test_finalizers_of_pytorch_alone_do_not_run_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weakref.finalize._registry", {})

    class Thing:
        pass

    thing = Thing()
    ours, theirs = weakref.finalize(thing, print), weakref.finalize(thing, torch.nn.functional.relu, torch.zeros(1))
    spare_pytorch()
    assert (ours.atexit, theirs.atexit) == (True, False)


@pytest.mark.parametrize(
    ("words", "code", "last"),
    [
        (["verify", STNKD, FIXTURES / "pointnet_stnkd_module.pt", "--layer", "conv1"], 0, "registered"),
        (["shapes", STNKD], 0, "taken apart"),
    ],
    ids=["with PyTorch", "without"],
)
def test_what_is_registered_runs_and_all_output_is_written(
    tmp_path: Path, words: list[str | Path], code: int, last: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(TOLD)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-m", "convinspect", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == code, done.stderr
    assert done.stdout.count("\n") > 3
    told = done.stderr.splitlines()
    assert told.count("registered") == 1
    assert told[-1] == last


@pytest.mark.skipif(sys.platform != "linux", reason="waits for a forked child")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_interrupts_it_does_not_wait_for_pytorch(tmp_path: Path, number: signal.Signals) -> None:
    """While its first thread waits for the child that compares, and the second one imports."""
    (tmp_path / "torch").mkdir()
    begun = "import pathlib, time\npathlib.Path('begun').touch()\ntime.sleep(600)\n"
    (tmp_path / "torch" / "__init__.py").write_text(begun)
    slow = "import time\nfrom convinspect.verifying import by_child\nby_child._serve = lambda *_: time.sleep(600)\n"
    (tmp_path / "sitecustomize.py").write_text(slow)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-m", "convinspect", "verify", str(STNKD), str(FIXTURES / "pointnet_stnkd.safetensors")]
    with subprocess.Popen(
        command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    ) as run:
        until = time.monotonic() + 60
        while not (tmp_path / "begun").exists() and time.monotonic() < until:
            time.sleep(0.05)
        assert (tmp_path / "begun").exists()
        # As a terminal does: the child has it too.
        os.killpg(run.pid, number)
        try:
            out, _ = run.communicate(timeout=30)
        finally:
            run.kill()
    assert run.returncode == 128 + number, out
    assert b"Traceback" not in out


def test_where_pytorch_was_not_loaded_this_module_is_not_either() -> None:
    """It would take its part of a short command's time."""
    command = [sys.executable, "-X", "importtime", "-m", "convinspect", "shapes", str(STNKD)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert "convinspect.cli.main" in done.stderr
    assert "convinspect.cli.ending" not in done.stderr
