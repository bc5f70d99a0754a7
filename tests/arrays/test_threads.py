"""Work on several threads, and where the system refuses them."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from convinspect.arrays.threads import map_threads
from convinspect.cli.output import reading_progress
from support.in_process import run_in_process
from support.paths import FIXTURES


def refuse_threads(monkeypatch: pytest.MonkeyPatch, after: int = 0) -> None:
    """Let `after` threads start, and no more."""
    start = threading.Thread.start
    begun: list[threading.Thread] = []

    def limited(self: threading.Thread) -> None:
        if len(begun) >= after:
            raise RuntimeError("can't start new thread")
        begun.append(self)
        start(self)

    monkeypatch.setattr(threading.Thread, "start", limited)


@pytest.mark.parametrize("after", [0, 1, 2, 9])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_all_is_done_in_order_with_as_many_threads_as_there_are(
    monkeypatch: pytest.MonkeyPatch, after: int, workers: int
) -> None:
    refuse_threads(monkeypatch, after)
    assert list(map_threads(lambda n: n * n, range(50), workers)) == [n * n for n in range(50)]


def test_an_error_is_raised_where_its_result_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    for refused in (False, True):
        if refused:
            refuse_threads(monkeypatch)
        found = map_threads(lambda n: 1 // n, (1, 1, 0, 1), 2)
        assert [next(found), next(found)] == [1, 1]
        with pytest.raises(ZeroDivisionError):
            next(found)


def test_work_that_nobody_waits_for_is_not_begun() -> None:
    done: list[int] = []
    gate = threading.Event()

    def work(n: int) -> int:
        done.append(n)
        if n:
            gate.wait(5)
        return n

    found = map_threads(work, range(1000), 2)
    assert next(found) == 0
    threading.Timer(0.1, gate.set).start()
    found.close()  # type: ignore[attr-defined]
    assert len(done) < 10


@pytest.mark.parametrize(
    "command",
    [
        ["weights", FIXTURES / "pointnet_stnkd.pt", "--stats"],
        ["verify", FIXTURES / "pointnet_stnkd.pt", FIXTURES / "pointnet_stnkd.safetensors"],
    ],
)
def test_commands_that_use_threads_do_without(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[Any]
) -> None:
    first = run_in_process(monkeypatch, capsys, *command)
    refuse_threads(monkeypatch)
    assert run_in_process(monkeypatch, capsys, *command) == first


def test_progress_that_cannot_be_drawn_stops_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    refuse_threads(monkeypatch)
    with reading_progress(10**9, "reading") as advance:
        advance(5)
