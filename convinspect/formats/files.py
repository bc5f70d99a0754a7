"""Bytes of a file by offset."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from io import RawIOBase
from pathlib import Path
from typing import TYPE_CHECKING, cast

from convinspect.errors import ChangedMeanwhile, CutShort, unreadable
from convinspect.formats.sources import Source, open_source, version_at

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from convinspect.formats.pickle.machine import Read
    from convinspect.records import Version


class File:
    """An open file that is read by offset only. A truncated or changing file gives short reads and never a signal.

    Args:
        path: A file of this machine, or a member of an archive (`model.nemo!weights.ckpt`).
        start: Offset in bytes of the part to read, for a file inside another.
        size: Length of that part in bytes; None for all bytes to the end.

    Raises:
        NotThere: No such file, or it may not be read.

    Attributes:
        source: Where its bytes come from.
        version: Identifies the version of the file that was opened.
    """

    def __init__(self, path: Path, start: int = 0, size: int | None = None) -> None:
        self._begin(path, open_source(path), start, size)

    @classmethod
    def over(cls, path: Path, source: Source) -> File:
        """A file of this path whose source is open already."""
        file = cls.__new__(cls)
        file._begin(path, source, 0, None)
        return file

    def _begin(self, path: Path, source: Source, start: int, size: int | None) -> None:
        self.path, self.source, self.start = path, source, start
        self.version: Version = self.source.version
        self.size = self.source.size - start if size is None else size

    def __enter__(self) -> File:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it, and all that is `within` it."""
        self.source.close()

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
            piece = self.source.read(self.start + offset, size)
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
        while done < most and (count := self.source.read_into(self.start + offset + done, into[done:most])):
            done += count
        return done

    def range_of(self) -> tuple[int, int] | None:
        """An open file's handle, and the offset in it at which this one's bytes lie together; None without one."""
        found = self.source.range_of()
        return None if found is None else (found[0], found[1] + self.start)

    def within(self, start: int, size: int) -> File:
        """A file inside this one, read through the same handle, which closes with this one."""
        inner = copy.copy(self)
        inner.start, inner.size = self.start + start, size
        return inner

    def part(self, offset: int) -> Read:
        """A `Read` with its offset 0 at `offset` of this file."""
        return lambda at, size: self.read(offset + at, size)


class Stream(RawIOBase):
    """A `File` as what `io` reads from, with a position; closing it closes the file."""

    def __init__(self, file: File) -> None:
        super().__init__()
        self._file, self._at = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        at = offset + (0, self._at, self._file.size)[whence]
        if at < 0:
            raise ValueError("negative seek position")
        self._at = at
        return at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        count = self._file.read_into(self._at, cast(memoryview, memoryview(buffer)))
        self._at += count
        return count

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def check_unchanged(versions: Mapping[Path, Version]) -> None:
    """Check that files have not changed.

    Raises:
        ChangedMeanwhile: A file was changed, replaced or removed.
    """
    for path, version in versions.items():
        try:
            now = version_at(path)
        except FileNotFoundError:
            raise ChangedMeanwhile("it vanished while it was read", "try again", path) from None
        except OSError as error:
            raise unreadable(error, path) from None
        if now != version:
            raise ChangedMeanwhile("it changed while it was read", "wait until it is written, and try again", path)


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
