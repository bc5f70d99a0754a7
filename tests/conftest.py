"""Tests run in several processes; each keeps to one thread, since the processes share the cores."""

from __future__ import annotations

import os

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before PyTorch is imported, and for every program that the tests start.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def unmeasured() -> dict[str, str]:
    """The environment of a program that is held to account for each file it opens or writes: without coverage, which
    keeps files of its own.
    """
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_PROCESS_")}
