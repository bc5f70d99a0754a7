"""Tests run in several processes; each keeps to one thread, since the processes share the cores."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before PyTorch is imported, and for every program that the tests start.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def _no_fork_server_is_left() -> Iterator[None]:
    """The process that starts the program ends with the tests, in time for its coverage to be counted."""
    yield
    if "support.program" in sys.modules:
        sys.modules["support.program"].end_fork_server()


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--like-windows`: every test runs with what Windows lacks taken away."""
    parser.addoption("--like-windows", action="store_true", help="take away what Windows lacks; needs Linux")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what cannot run so."""
    if config.getoption("--like-windows"):
        items[:] = [item for item in items if item.get_closest_marker("unlike_windows") is None]


@pytest.fixture(autouse=True)
def _as_on_windows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undone before other fixtures end, so that they can clean up."""
    if not request.config.getoption("--like-windows"):
        yield
        return
    from support.like_windows import VARIABLE, like_windows

    monkeypatch.setenv(VARIABLE, "1")
    with like_windows():
        yield


@pytest.fixture
def unmeasured() -> dict[str, str]:
    """The environment of a program that is held to account for each file it opens or writes: without coverage, which
    keeps files of its own.
    """
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_PROCESS_")}
