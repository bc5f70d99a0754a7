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


@pytest.fixture
def unmeasured() -> dict[str, str]:
    """The environment of a program that is held to account for each file it opens or writes: without coverage, which
    keeps files of its own.
    """
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_PROCESS_")}
