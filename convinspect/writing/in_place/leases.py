"""Whether another program has a file open: Linux's leases, `fcntl(2)`, tell, and make who opens it then wait."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_F_SETSIG = 10
"""Of `fcntl`, for which Python has no name: which signal tells that somebody waits."""


@contextmanager
def leased(handle: int, folder: Path) -> Iterator[bool | None]:
    """Keep other programs from a file, if nobody has it open or mapped.

    Who opens it meanwhile waits until the end, or for as long as `/proc/sys/fs/lease-break-time` says. That goes for
    this process too.

    Args:
        handle: The file, open for writing.
        folder: Where a file can be made that is sure to be open nowhere else.

    Yields:
        True while it is so; False if somebody has it open; None if the system or the file system does not tell.
    """
    told = _take(handle)
    if told is False:
        # Some network file systems refuse every lease in the same words.
        with suppress(OSError), tempfile.TemporaryFile(dir=folder) as own:
            told = False if _take(own.fileno()) else None
    try:
        yield told
    finally:
        if told:
            _end(handle)


def _take(handle: int) -> bool | None:
    """Take a lease; False if it is refused as if somebody had the file open, None if there are none."""
    try:
        import fcntl

        # One that ends nobody who does not expect it.
        fcntl.fcntl(handle, _F_SETSIG, signal.SIGURG)
        fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except BlockingIOError:
        return False
    except (ImportError, AttributeError, OSError):
        return None
    return True


def _end(handle: int) -> None:
    import fcntl

    with suppress(OSError):
        fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_UNLCK)
