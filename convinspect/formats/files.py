"""Bytes of a file by offset."""

from __future__ import annotations

import copy
import os
import stat
from _thread import allocate_lock
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from convinspect.errors import ChangedMeanwhile, CutShort, NotThere, named, unreadable
from convinspect.records import Version

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convinspect.formats.pickle.machine import Read

# Opening a pipe without a writer must not wait for one.
_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)

_SEEKING = allocate_lock()


class File:
    """An open file that is read by offset only. A truncated or changing file gives short reads and never a signal.

    Args:
        path: A file.
        start: Offset in bytes of the part to read, for a file inside another.
        size: Length of that part in bytes; None for all bytes to the end.

    Raises:
        NotThere: No such file, or it may not be read.

    Attributes:
        version: Identifies the version of the file that was opened.
    """

    def __init__(self, path: Path, start: int = 0, size: int | None = None) -> None:
        self.path = path
        try:
            self._handle = os.open(path, _FLAGS)
        except FileNotFoundError:
            raise _not_found(path) from None
        except IsADirectoryError:
            raise _a_folder(path) from None
        except PermissionError:
            # What Windows says of a folder.
            if os.path.isdir(path):
                raise _a_folder(path) from None
            raise NotThere("it may not be read", "ask its owner, or copy it elsewhere", path) from None
        except BlockingIOError:
            # A lease, which an edit in place takes too.
            problem = "another program keeps it from being opened, as an edit in place does"
            raise NotThere(problem, "wait until that has ended", path) from None
        except (OSError, ValueError) as error:
            raise NotThere(f"it cannot be opened ({_reason(error)})", path=path) from None
        status = os.fstat(self._handle)
        if not stat.S_ISREG(status.st_mode):
            os.close(self._handle)
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or device"
            raise NotThere(f"it is {kind}, not a file", "save it as a file first", path)
        self.start = start
        self.version = version_of(status)
        self.size = status.st_size - start if size is None else size

    def __enter__(self) -> File:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; fewer only where the file ends.

        Raises:
            BrokenFile: The operating system reports an error.
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

    def read_into(self, offset: int, into: memoryview) -> int:
        """Fill the buffer with the bytes from `offset`; fewer only where the file ends.

        Returns:
            How many bytes were read.

        Raises:
            BrokenFile: The operating system reports an error.
        """
        done, most = 0, max(0, min(len(into), self.size - offset))
        try:
            while done < most and (count := read_at_into(self._handle, into[done:most], self.start + offset + done)):
                done += count
        except OSError as error:
            raise unreadable(error, self.path) from None
        return done

    def within(self, start: int, size: int) -> File:
        """A file inside this one, read through the same handle, which closes with this one."""
        inner = copy.copy(self)
        inner.start, inner.size = self.start + start, size
        return inner

    def part(self, offset: int) -> Read:
        """A `Read` with its offset 0 at `offset` of this file."""
        return lambda at, size: self.read(offset + at, size)


def version_of(status: os.stat_result) -> Version:
    """Values of a file's status that differ between versions of the file."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def check_unchanged(versions: Mapping[Path, Version]) -> None:
    """Check that files have not changed.

    Raises:
        ChangedMeanwhile: A file was changed, replaced or removed.
    """
    for path, version in versions.items():
        try:
            now = version_of(os.stat(path))
        except FileNotFoundError:
            raise ChangedMeanwhile("it vanished while it was read", "try again", path) from None
        except OSError as error:
            raise unreadable(error, path) from None
        if now != version:
            raise ChangedMeanwhile("it changed while it was read", "wait until it is written, and try again", path)


def read_at(handle: int, size: int, offset: int) -> bytes:
    """Up to `size` bytes from `offset` of an open file."""
    if hasattr(os, "pread"):
        return os.pread(handle, size, offset)
    # Windows has no pread, and a handle that threads share has one position.
    with _SEEKING:
        os.lseek(handle, offset, os.SEEK_SET)
        return os.read(handle, size)


def _a_folder(path: Path) -> NotThere:
    return NotThere("it is a folder, not a file", path=path)


def read_at_into(handle: int, into: memoryview, offset: int) -> int:
    """As `read_at`, into a buffer; the number of bytes read."""
    if hasattr(os, "preadv"):
        return os.preadv(handle, [into], offset)
    piece = read_at(handle, len(into), offset)
    into[: len(piece)] = piece
    return len(piece)


def _not_found(path: Path) -> NotThere:
    address = named(path)
    if "://" not in address:
        return NotThere("there is no such file", path=path)
    how = f": curl -LO {quote(address)}" if address.startswith("http") else ""
    return NotThere("it is an address, and only files on this machine are read", f"fetch it first{how}", path)


def _reason(error: OSError | ValueError) -> str:
    return error.strerror or "unknown" if isinstance(error, OSError) else "its name is no file name here"


def cut_short(size: int, expected: int | None, what: str = "") -> CutShort:
    """The error for a truncated file.

    Args:
        size: Bytes of the file.
        expected: Bytes of the complete file; None if unknown.
        what: The end of the sentence, which says what is missing.
    """
    missing = ""
    if expected is not None and expected > size:
        missing = f" of {expected:,} expected ({expected - size:,} are missing)"
    return CutShort(f"it is truncated: {size:,} bytes{missing}{what}", "download or copy it again")
