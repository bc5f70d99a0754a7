"""Work in a child of its own: what it gives or raises arrives, and whatever ends the child is one error."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convinspect.errors import (
    BrokenFile,
    CannotConvert,
    ConvInspectError,
    CutShort,
    NotThere,
    Option,
    Wording,
    as_argument,
)
from convinspect.showing.flags import as_flag
from convinspect.writing.child_process import _ended, _packed, _unpacked, run_in_child

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a child is forked on Linux alone")

_SCRIPT = """
import json, mmap, os, signal, sys, time
from pathlib import Path
from convinspect.writing.child_process import can_fork, run_in_child
from convinspect.errors import CannotConvert, CutShort
assert can_fork()
place = Path(sys.argv[1])

def cut_file():
    (place / "mapped").write_bytes(bytes(1 << 16))
    with open(place / "mapped", "rb") as file:
        held = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    os.truncate(place / "mapped", 0)
    return sum(held)

def waiting():
    (place / "child").write_text(str(os.getpid()))
    time.sleep(60)

def raising(error):
    raise error

def interrupt(*_):
    raise KeyboardInterrupt

WORKS = {
    "value": lambda: {"a": ["float32", [2, 3]], "pid": os.getpid()},
    "ours": lambda: raising(CutShort("it ends", "copy it", place / "caf\\udce9.pt")),
    "without a file": lambda: raising(CannotConvert("it cannot")),
    "system": lambda: raising(OSError(28, "No space left on device")),
    "memory": lambda: raising(MemoryError()),
    "bug": lambda: 1 // 0,
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "cut": cut_file,
    "left": lambda: os._exit(5),
    "interrupted": waiting,
}

def outcome(name, work):
    if name == "interrupted":
        signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 1)
    try:
        return ["done", run_in_child(work, place / "source.pt")]
    except BaseException as error:
        told = [type(error).__name__, str(error)]
        return [*told, os.fspath(getattr(error, "path", None) or "")]

if sys.argv[2:] == ["wait"]:
    run_in_child(waiting, place)
found = {name: outcome(name, work) for name, work in WORKS.items()}
print(json.dumps({"pid": os.getpid(), **found}))
"""


def is_gone(process: int) -> bool:
    """Ended, be it that nobody has asked for its status yet."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_for(what: Callable[[], bool]) -> bool:
    until = time.monotonic() + 20
    while not what() and time.monotonic() < until:
        time.sleep(0.02)
    return what()


def test_whatever_becomes_of_the_child_is_told(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT, tmp_path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    source = str(tmp_path / "source.pt")
    assert found["value"][1]["a"] == ["float32", [2, 3]]
    assert found["value"][1]["pid"] != found["pid"], "it is done in a child"
    assert found["ours"] == ["CutShort", f"{tmp_path}/caf\udce9.pt: it ends; copy it", f"{tmp_path}/caf\udce9.pt"]
    assert found["without a file"] == ["CannotConvert", "it cannot", ""]
    assert found["system"][:2] == ["OSError", "[Errno 28] No space left on device"]
    assert found["memory"][0] == found["killed"][0] == "MemoryError"
    assert found["bug"][0] == "RuntimeError"
    assert "ZeroDivisionError" in found["bug"][1]
    assert found["cut"][0] == "BrokenFile"
    assert found["cut"][2] == source
    assert "went away while it was read" in found["cut"][1]
    assert found["left"][:2] == ["RuntimeError", "the child process ended with 5"]
    assert found["interrupted"][0] == "KeyboardInterrupt"
    assert is_gone(int((tmp_path / "child").read_text())), "who stops waiting stops the child"


def test_a_child_does_not_outlive_its_parent(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _SCRIPT, tmp_path, "wait"]) as parent:
        named = tmp_path / "child"
        assert wait_for(lambda: named.exists() and named.read_text() != "")
        parent.send_signal(signal.SIGKILL)
    assert wait_for(lambda: is_gone(int(named.read_text())))


def test_where_threads_or_pytorch_are_it_is_done_at_once(tmp_path: Path) -> None:
    import torch

    assert run_in_child(lambda: [os.getpid(), torch.__version__], tmp_path) == [os.getpid(), torch.__version__]
    with pytest.raises(NotThere):
        run_in_child(lambda: _raise(NotThere("gone")), tmp_path)


def _raise(error: Exception) -> None:
    raise error


def through_the_pipe(work: Callable[[], Any]) -> Any:
    return _unpacked(json.loads(json.dumps(_packed(work))))


@pytest.mark.parametrize("path", [None, Path("a.pt"), Path("caf\udce9.pt")])
def test_errors_of_ours_arrive_as_they_were(path: Path | None) -> None:
    with pytest.raises(CutShort) as caught:
        through_the_pipe(lambda: _raise(CutShort("it ends", "copy it", path)))
    assert (caught.value.problem, caught.value.remedy, caught.value.path) == ("it ends", "copy it", path)


def test_every_kind_of_error_arrives() -> None:
    kinds = [ConvInspectError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    # Ranks have one more, which never writes a file in a child.
    kinds = [kind for kind in kinds if kind.__module__ == "convinspect.errors"]
    assert len(kinds) > 8
    for kind in kinds:
        # Some make their own text of what they are given.
        error = kind.__new__(kind)
        ConvInspectError.__init__(error, "wrong", "repair it")
        with pytest.raises(ConvInspectError) as caught:
            through_the_pipe(lambda error=error: _raise(error))  # type: ignore[misc]
        assert type(caught.value) is kind
        assert (caught.value.problem, caught.value.remedy) == ("wrong", "repair it")


def test_the_options_in_an_error_arrive_as_data() -> None:
    problem = Wording("no ", Option("layer", "a b"), " for ", Option("to", None))
    with pytest.raises(CannotConvert) as caught:
        through_the_pipe(lambda: _raise(CannotConvert(problem, Wording("give ", Option("fuse")))))
    assert caught.value.line(as_flag) == "no --layer 'a b' for --to; give --fuse"
    assert caught.value.line(as_argument) == "no layer='a b' for to; give fuse=True"


def test_errors_of_the_system_arrive_with_their_reason() -> None:
    with pytest.raises(PermissionError, match="denied") as caught:
        through_the_pipe(lambda: _raise(PermissionError(13, "denied")))
    assert caught.value.errno == 13
    with pytest.raises(OSError, match="no number"):
        through_the_pipe(lambda: _raise(OSError("no number")))
    with pytest.raises(MemoryError):
        through_the_pipe(lambda: _raise(MemoryError()))
    with pytest.raises(RuntimeError, match="KeyError: 'a bug'"):
        through_the_pipe(lambda: _raise(KeyError("a bug")))
    assert through_the_pipe(lambda: [1, None, "a"]) == [1, None, "a"]


def test_a_signal_says_what_happened() -> None:
    source = Path("a.pt")
    assert isinstance(_ended(-signal.SIGKILL, source), MemoryError)
    cut = _ended(-signal.SIGBUS, source)
    assert isinstance(cut, BrokenFile)
    assert cut.path == source
    assert "11" in str(_ended(-signal.SIGSEGV, source))
