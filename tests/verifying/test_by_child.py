"""What a child compares: it says the same only of what is the same, and whatever becomes of it, the outcome stays."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a child is forked on Linux alone")

# Prints what the child found the same, whether the work meanwhile was begun once, and whether the report and the bytes
# told are those without a child; and the report. No child is left.
_SCRIPT = """
import json, os, signal, sys, time
from pathlib import Path
from convinspect.checkpoint import open_checkpoint
from convinspect.errors import ConvInspectError
from convinspect.verifying import by_child, tensors
from convinspect.verifying.options import VerifyOptions
from convinspect.verifying.checkpoints import compare_stored
from convinspect.writing.child_process import can_fork

place, way = Path(sys.argv[1]), sys.argv[2]
assert can_fork()
found, begun, told = [], [], []
real, serve, numbers = by_child.same_by_child, by_child._serve, by_child._numbers

def watched(common, *given):
    same = real(common, *given)
    found.extend(sorted(same))
    return same

def refuse():
    raise BlockingIOError(11, "Resource temporarily unavailable")

def after_two(answer):
    for count, number in enumerate(numbers(answer)):
        if count == 2:
            raise KeyboardInterrupt
        yield number

def dying(pairs, workers, answer):
    serve(pairs[:3], workers, answer)
    answer.write(b"half")
    answer.flush()
    os.kill(os.getpid(), signal.SIGKILL)

def lingering(pairs, workers, answer):
    serve(pairs, workers, answer)
    time.sleep(600)

tensors.same_by_child = watched
by_child.TURN = 1
if way == "killed":
    by_child._serve = dying
elif way == "interrupted":
    by_child._serve, by_child._numbers = lingering, after_two
elif way == "no fork":
    by_child.can_fork = lambda: False
elif way == "fork refused":
    os.fork = lambda: refuse()
elif way == "pipes refused":
    os.pipe = lambda: refuse()
elif way == "nice refused":
    os.nice = lambda more: refuse()
elif way == "no output":
    sys.stdout = sys.stderr = None
elif way == "no statuses":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
elif way == "interrupted while it forks":
    # What raises here is swallowed, and leaves Python's locks taken.
    os.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), signal.SIGINT))

def outcome(meanwhile):
    try:
        done = compare_stored(*(open_checkpoint(place / name) for name in sys.argv[3:]), VerifyOptions(),
                              lambda nbytes, what: told.append, meanwhile=meanwhile)
        return repr(done)
    except ConvInspectError as error:
        return f"{type(error).__name__}: {error}"

handles = len(os.listdir("/proc/self/fd"))
try:
    first = outcome(lambda: begun.append(os.getpid()))
except KeyboardInterrupt:
    first = "interrupted"
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    pass
else:
    raise SystemExit("a child is left")
assert len(os.listdir("/proc/self/fd")) == handles
once, told[:] = sum(told), []
sys.stdout = sys.__stdout__
print(json.dumps([found, begun == [os.getpid()], first == outcome(None), once == sum(told), first]))
"""


def ran(place: Path, way: str, *names: str) -> list[Any]:
    command = [sys.executable, "-c", _SCRIPT, str(place), way, *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout)
    return found


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    made = {f"{number}.weight": torch.randn(8, 5, 1) for number in range(6)}
    made["norm.weight"] = torch.randn(4)
    made["complex"] = torch.randn(3, dtype=torch.complex64)
    made["turned"] = torch.randn(5, 8).T
    made["empty"] = torch.empty(0, 3)
    return made


def converted(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value.squeeze(-1) if value.dim() == 3 else value for key, value in tensors.items()}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A checkpoint, its conversion, and one in which four tensors have other numbers, dtypes and shapes."""
    before = state()
    after = converted(before)
    torch.save(before, tmp_path / "before.pt")
    torch.save(after, tmp_path / "after.pt")
    wrong = {key: value.clone() for key, value in after.items()}
    wrong["1.weight"][7, 4] += 1
    wrong["2.weight"] = wrong["2.weight"].double()
    wrong["3.weight"] = wrong["3.weight"].T.contiguous()
    wrong["norm.weight"] = wrong["norm.weight"].reshape(2, 2)
    torch.save(wrong, tmp_path / "wrong.pt")
    return tmp_path


def test_a_child_finds_what_is_the_same(files: Path) -> None:
    found, begun, alike, told, _ = ran(files, "as ever", "before.pt", "after.pt")
    assert len(found) == 10, "all of them: those that were converted, too"
    assert begun
    assert alike
    assert told


def test_and_nothing_else(files: Path) -> None:
    found, begun, alike, told, _ = ran(files, "as ever", "before.pt", "wrong.pt")
    assert len(found) == 6
    assert begun
    assert alike
    assert told


def test_one_changed_bit_is_seen_wherever_it_is(tmp_path: Path) -> None:
    before = {f"t{number}": torch.zeros(300 + number, dtype=torch.uint8) for number in range(8)}
    save_file(before, tmp_path / "before.safetensors")
    after = {key: value.clone() for key, value in before.items()}
    for number, value in enumerate(after.values()):
        value[(number * 41) % len(value)] ^= 1 << number
    save_file(after, tmp_path / "after.safetensors")
    found, _, alike, told, report = ran(tmp_path, "as ever", "before.safetensors", "after.safetensors")
    assert found == []
    assert alike
    assert told
    assert report.count("t7") > 0


def test_a_child_that_dies_leaves_the_rest_to_its_parent(files: Path) -> None:
    found, begun, alike, told, _ = ran(files, "killed", "before.pt", "after.pt")
    assert found == ["0.weight", "1.weight", "2.weight"]
    assert begun
    assert alike
    assert told


@pytest.mark.parametrize("way", ["nice refused", "no output", "no statuses"])
def test_little_that_a_child_needs_may_be_missing(files: Path, way: str) -> None:
    found, begun, alike, told, _ = ran(files, way, "before.pt", "after.pt")
    assert len(found) == 10
    assert begun
    assert alike
    assert told


@pytest.mark.parametrize("way", ["no fork", "fork refused", "pipes refused"])
def test_without_a_child_all_is_as_ever(files: Path, way: str) -> None:
    found, begun, alike, told, _ = ran(files, way, "before.pt", "after.pt")
    assert found == []
    assert begun
    assert alike
    assert told


@pytest.mark.parametrize("way", ["interrupted", "interrupted while it forks"])
def test_who_stops_waiting_stops_the_child(files: Path, way: str) -> None:
    assert ran(files, way, "before.pt", "after.pt")[-1] == "interrupted"


def test_what_cannot_be_read_is_told_by_the_parent(files: Path) -> None:
    cut = files / "after.pt"
    content = bytearray(cut.read_bytes())
    start = content.index(state()["5.weight"].numpy().tobytes())
    content[start] ^= 1
    cut.write_bytes(content)
    _, _, alike, _, report = ran(files, "as ever", "before.pt", "after.pt")
    assert alike
    assert report.startswith("BrokenFile"), "the record's CRC-32 tells that it is damaged"
