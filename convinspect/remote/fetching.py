"""The bytes of a file that lies elsewhere, by offset: what was fetched is kept for a while.

All that opens the same address within a while shares what is known of it and what was fetched.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count, pairwise
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

from convinspect.errors import ChangedMeanwhile
from convinspect.remote import failures
from convinspect.remote.cache import Cache
from convinspect.remote.stores import Holder, holder_of

if TYPE_CHECKING:
    from pathlib import Path

    from convinspect.remote.addresses import Address
    from convinspect.remote.facts import Version

T = TypeVar("T")

_FLOORS, _LONG = {".safetensors": 4096, ".json": 1 << 20}, 1 << 16
"""Bytes that are fetched at least: of safetensors, whose header says how long it is; of an index, which is read as a
whole; and of all else, where headers of one file lie close together."""
_MOST_AHEAD = 1 << 19
"""Bytes that are fetched at once where small pieces are read one after the other."""
_LARGE, _PART, _PARTS = 1 << 18, 1 << 22, 4
"""Bytes from which on a piece is fetched without what follows; bytes and number of parts that are fetched at a time."""
_TRUSTED = 5.0
"""Seconds for which a server's answer says what version of a file there is."""
_KEPT = 30.0
"""Seconds for which what was fetched of a file is kept, when nobody has asked for it."""
_AT_ONCE = 32
"""Files that are fetched from at the same time."""

_numbers = count()


class RemoteFile:
    """What is known of one file, and what was fetched of it. Threads share it.

    Attributes:
        size: In bytes.
        version: As the first answer told.
    """

    def __init__(self, path: Address, cache: Cache) -> None:
        self._path, self._cache, self._number = path, cache, next(_numbers)
        self._holder: Holder | None = None
        self._lock = Lock()
        self._asked = self.used = time.monotonic()
        self.floor = _FLOORS.get(path.suffix, _LONG)
        self.size = -1
        self.version: Version = ()

    def begin(self, size: int = 0) -> None:
        """Ask for the first bytes, if nobody has: that tells how many there are.

        Args:
            size: How many are likely to be needed; 0 where nothing is known of it.
        """
        with self._lock:
            if self._holder is not None:
                return
            holder = holder_of(self._path)
            facts, data = self._saying(lambda: holder.first(size or self.floor))
            self.size, self.version = facts
            self._cache.keep(self._number, 0, data)
            self._holder, self._asked = holder, time.monotonic()

    def read(self, offset: int, size: int, ahead: int) -> bytes:
        """Up to `size` bytes, at least one unless the file ends there.

        Args:
            offset: Of the first of them.
            size: How many are wanted.
            ahead: How many are fetched at least, if any are.
        """
        self.used = time.monotonic()
        size = min(size, self.size - offset)
        if size <= 0:
            return b""
        found = self._cache.get(self._number, offset, size)
        if found:
            return found
        end = self._cache.next_kept(self._number, offset, min(max(offset + size, offset + ahead), self.size))
        piece = self._fetched(offset, min(end - offset, _PART * _PARTS))
        self._cache.keep(self._number, offset, piece)
        return piece[:size]

    def _fetched(self, offset: int, size: int) -> bytes:
        holder = self._holder
        assert holder is not None, "it was begun"
        if size <= _PART:
            data = self._saying(lambda: holder.fetch(offset, size))
        else:
            ends = [*range(offset, offset + size, _PART), offset + size]
            ranges = [(start, end - start) for start, end in pairwise(ends)]
            data = b"".join(self._saying(lambda: holder.fetch_all(ranges)))
        self._asked = time.monotonic()
        return data

    def _saying(self, work: Callable[[], T]) -> T:
        """What the work returns; what a library raises becomes an error that says what to do."""
        try:
            return work()
        except ChangedMeanwhile:
            _FILES.forget(self._path)
            raise
        except Exception as error:
            raise failures.of_exception(error, self._path) from None

    def version_now(self) -> Version:
        """The version that the server has now, as it said a moment ago or is asked again."""
        if time.monotonic() - self._asked < _TRUSTED:
            return self.version
        holder = holder_of(self._path)
        facts, _ = self._saying(lambda: holder.first(1))
        self._asked = time.monotonic()
        if facts.version != self.version:
            _FILES.forget(self._path)
        return facts.version

    def drop(self) -> None:
        """Forget what was fetched."""
        self._cache.forget(self._number)


class _Files:
    """The files that were asked for in the last while, by their addresses."""

    def __init__(self) -> None:
        self._cache = Cache()
        self._files: dict[Address, RemoteFile] = {}
        self._process = os.getpid()
        self._lock = Lock()

    def at(self, path: Address) -> RemoteFile:
        """The file at an address, of which nothing may be known yet."""
        with self._lock:
            if self._process != os.getpid():
                # Connections of another process are not for this one.
                self._files, self._process, self._cache = {}, os.getpid(), Cache()
            now = time.monotonic()
            for old in [old for old, file in self._files.items() if now - file.used > _KEPT]:
                self._files.pop(old).drop()
            file = self._files.get(path)
            if file is None:
                file = self._files[path] = RemoteFile(path, self._cache)
            file.used = now
            return file

    def forget(self, path: Address) -> None:
        """Ask anew the next time."""
        with self._lock:
            file = self._files.pop(path, None)
        if file is not None:
            file.drop()


_FILES = _Files()


class RemoteSource:
    """What one reader reads of a file. Where it reads small pieces one after the other, more and more come along.

    Args:
        path: The file.
        everything: All of it is going to be read.

    Raises:
        ConvInspectError: It cannot be read.
    """

    def __init__(self, path: Address, everything: bool = False) -> None:
        # Then all that is fetched is used, in whatever order headers and bytes are looked at.
        self._least = 2 * _PART if everything else 0
        self._file = _FILES.at(path)
        self._file.begin()
        if self._file.version_now() != self._file.version:
            # What was fetched of another version is of no use to who opens it anew.
            self._file = _FILES.at(path)
            self._file.begin()
        self.size, self.version, self.within = self._file.size, self._file.version, ""
        self._next, self._ahead = -1, self._file.floor

    def read(self, offset: int, size: int) -> bytes:
        if size < _LARGE:
            self._ahead = min(2 * self._ahead, _MOST_AHEAD) if offset == self._next else self._file.floor
        data = self._file.read(offset, size, max(self._least, self._ahead if size < _LARGE else 0))
        self._next = offset + len(data)
        return data

    def read_into(self, offset: int, into: memoryview) -> int:
        data = self.read(offset, len(into))
        into[: len(data)] = data
        return len(data)

    def range_of(self) -> tuple[int, int] | None:
        return None

    def close(self) -> None:
        pass


def version_at(path: Address) -> Version:
    """The version of a file as it is now.

    Raises:
        ConvInspectError: Its server does not say.
    """
    file = _FILES.at(path)
    file.begin()
    return file.version_now()


def all_at_once(paths: Sequence[Address], read: Callable[[Path], T], sizes: Sequence[int]) -> list[Callable[[], T]]:
    """Read several files at the same time.

    Args:
        paths: The files.
        read: Reads one.
        sizes: How many of the first bytes of each are likely to be needed; 0 where nothing is known of it.

    Returns:
        What gives the result for each file, or raises what reading it raised.
    """

    def read_one(path: Address, size: int) -> T:
        _FILES.at(path).begin(size)
        return read(path)

    with ThreadPoolExecutor(min(_AT_ONCE, len(paths) or 1)) as pool:
        return [pool.submit(read_one, path, size).result for path, size in zip(paths, sizes, strict=True)]
