"""No test waits until its files are on the disk, where they need not outlive a power cut."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from support.sampling import EVERY_CASE

if TYPE_CHECKING:
    from _typeshed import HasFileno


def leave_unsynced() -> None:
    """In this process `os.fsync` only looks whether there is such a file; with `EVERY_CASE=1` it writes it out, too.

    Each wait takes milliseconds, and every conversion has two or more. What is left undone is seen by nobody but who
    has the power cut; that it is called, on which file and when, tests see as before.
    """
    if not EVERY_CASE:
        os.fsync = _fsync


def _fsync(fd: int | HasFileno) -> None:
    os.fstat(fd if isinstance(fd, int) else fd.fileno())
