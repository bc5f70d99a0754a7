"""Tests run in several processes; each keeps to one thread, since the processes share the cores."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before PyTorch is imported, and for every program that the tests start.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
