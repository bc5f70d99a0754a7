"""Bytes of a file by offset."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from convinspect.errors import CutShort, NotThere, unreadable
from convinspect.formats.pickle.machine import Read
from convinspect.records import Version

# Opening a pipe without a writer must not wait for one.
_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)


class File:
    """An open file read by offset only, so that a cut or changing file gives short reads and never a fault.

    Args:
        path: A file.
        start: Offset in bytes of the part to show, for a file inside another.
        size: Length of that part in bytes; to the end when None.

    Raises:
        NotThere: No such file, or it may not be read.

    Attributes:
        version: Which version of the file this is.
    """

    def __init__(self, path: Path, start: int = 0, size: int | None = None) -> None:
        self.path = path
        try:
            self._handle = os.open(path, _FLAGS)
        except FileNotFoundError:
            raise NotThere("there is no such file", path=path) from None
        except IsADirectoryError:
            raise NotThere("it is a folder, not a file", path=path) from None
        except PermissionError:
            raise NotThere("it may not be read", "ask its owner, or copy it elsewhere", path) from None
        except (OSError, ValueError) as error:
            raise NotThere(f"it cannot be opened ({_reason(error)})", path=path) from None
        found = os.fstat(self._handle)
        if not stat.S_ISREG(found.st_mode):
            os.close(self._handle)
            kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or device"
            raise NotThere(f"it is {kind}, not a file", "save it as a file first", path)
        self.start = start
        self.version = version_of(found)
        self.size = found.st_size - start if size is None else size

    def __enter__(self) -> File:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; fewer only where the file ends.

        Raises:
            BrokenFile: The system does not give them.
        """
        size = min(size, self.size - offset)
        if size <= 0 or offset < 0:
            return b""
        pieces = []
        while size > 0:
            try:
                piece = read_at(self._handle, size, self.start + offset)
            except OSError as error:
                raise unreadable(error, self.path) from None
            if not piece:
                break
            pieces.append(piece)
            offset, size = offset + len(piece), size - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def part(self, offset: int) -> Read:
        """A `Read` whose offset 0 is `offset` of this file."""
        return lambda at, size: self.read(offset + at, size)


def version_of(found: os.stat_result) -> Version:
    """What tells one version of a file from the next, from its status."""
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def read_at(handle: int, size: int, offset: int) -> bytes:
    """Up to `size` bytes from `offset` of an open file."""
    if hasattr(os, "pread"):
        return os.pread(handle, size, offset)
    # Windows has no pread; nothing here shares a handle between threads.
    os.lseek(handle, offset, os.SEEK_SET)
    return os.read(handle, size)


def _reason(error: OSError | ValueError) -> str:
    return error.strerror or "unknown" if isinstance(error, OSError) else "its name is no file name here"


def cut_short(there: int, expected: int | None, what: str = "") -> CutShort:
    """The error for a file that ends too early.

    Args:
        there: Bytes that are there.
        expected: Bytes that a whole file would have, or None when that cannot be told.
        what: Which part is missing, when known.
    """
    missing = ""
    if expected is not None and expected > there:
        missing = f" of {expected:,} expected ({expected - there:,} are missing)"
    return CutShort(f"it is truncated: {there:,} bytes{missing}{what}", "download or copy it again")
