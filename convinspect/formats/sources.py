"""Where bytes come from: a file of this machine, bytes in memory, or a file inside another one.

A path may also name what is no file of this machine: `model.nemo!weights.ckpt`, a member of an archive, or an address
such as `https://…`. `File` reads all of them alike, by offset; here is what it reads from.
"""

from __future__ import annotations

import os
import stat
from _thread import allocate_lock
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from convinspect.errors import NotThere, unreadable
from convinspect.remote.addresses import Address, path_of

if TYPE_CHECKING:
    from convinspect.records import Version

T = TypeVar("T")

INSIDE = "!"
"""Stands between an archive's path and the name of its member."""
UNNAMED = ".unpacked"
"""Ends the name of what a compressed file holds whose own name does not say how it is compressed."""

# Opening a pipe without a writer must not wait for one.
_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)

_SEEKING = allocate_lock()


class Source(Protocol):
    """Bytes by offset. Threads may read one source at the same time.

    Attributes:
        size: Their number.
        version: Differs between versions of the file that they come from.
        within: What holds them, with its article ("a tar archive"); "" if they are a file of their own.
    """

    size: int
    version: Version
    within: str

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`, at least one unless the source ends there.

        Raises:
            ConvInspectError: They cannot be read.
        """

    def read_into(self, offset: int, into: memoryview) -> int:
        """As `read`, into a buffer; returns how many bytes were read."""

    def range_of(self) -> tuple[int, int] | None:
        """A handle of the operating system, and the offset in its file at which these bytes begin; None without one.

        They lie there one after the other, so that the kernel can copy them.
        """

    def close(self) -> None:
        """Release what it holds."""


def _unwatched(nbytes: int, what: str) -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda done: None)


watching: Callable[[int, str], AbstractContextManager[Callable[[int], None]]] = _unwatched
"""Called before much is read at once, with the number of bytes and a word; what it yields is told of each step. A
command line shows a bar here."""


class LocalFile:
    """A regular file of this machine.

    Raises:
        NotThere: No such file, or it may not be read.
    """

    within = ""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.handle = _opened(path)
        status = os.fstat(self.handle)
        if not stat.S_ISREG(status.st_mode):
            os.close(self.handle)
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or device"
            raise NotThere(f"it is {kind}, not a file", "save it as a file first", path)
        self.size, self.version = status.st_size, version_of(status)

    def read(self, offset: int, size: int) -> bytes:
        try:
            return read_at(self.handle, size, offset)
        except OSError as error:
            raise unreadable(error, self._path) from None

    def read_into(self, offset: int, into: memoryview) -> int:
        try:
            return read_at_into(self.handle, into, offset)
        except OSError as error:
            raise unreadable(error, self._path) from None

    def range_of(self) -> tuple[int, int] | None:
        return self.handle, 0

    def close(self) -> None:
        os.close(self.handle)


class InMemory:
    """Bytes that are held in memory.

    Args:
        data: The bytes.
        version: Of the file that they come from.
    """

    within = ""

    def __init__(self, data: bytes, version: Version) -> None:
        self._data = memoryview(data)
        self.size, self.version = len(data), version

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self._data[offset : offset + size])

    def read_into(self, offset: int, into: memoryview) -> int:
        piece = self._data[offset : offset + len(into)]
        into[: len(piece)] = piece
        return len(piece)

    def range_of(self) -> tuple[int, int] | None:
        return None

    def close(self) -> None:
        pass


class Within:
    """Some bytes of another source, such as a member of an uncompressed archive. It closes the other with itself.

    Args:
        outer: The other source.
        start: Offset in it of the first byte.
        size: Number of bytes; fewer where the other ends.
        within: As of `Source`.
    """

    def __init__(self, outer: Source, start: int, size: int, within: str) -> None:
        self._outer, self._start, self.within = outer, start, within
        self.size, self.version = max(0, min(size, outer.size - start)), outer.version

    def read(self, offset: int, size: int) -> bytes:
        return self._outer.read(self._start + offset, max(0, min(size, self.size - offset)))

    def read_into(self, offset: int, into: memoryview) -> int:
        return self._outer.read_into(self._start + offset, into[: max(0, self.size - offset)])

    def range_of(self) -> tuple[int, int] | None:
        outer = self._outer.range_of()
        return None if outer is None else (outer[0], outer[1] + self._start)

    def close(self) -> None:
        self._outer.close()


def open_source(path: Path) -> Source:
    """Open what a path names: a file of this machine, or else a member of an archive.

    Raises:
        ConvInspectError: There is no such file, or it may not be read.
    """
    if not is_plain(path):
        if open_within is not None and outermost(path) != path:
            return open_within(path)
        if isinstance(path, Address):
            # Imported here, as all that only addresses need.
            from convinspect.remote.fetching import RemoteSource

            return RemoteSource(path, _ALL.get())
        if open_within is not None:
            return open_within(path)
    return LocalFile(path)


open_within: Callable[[Path], Source] | None = None
"""Opens a member of an archive. Who reads archives reads files, so that it cannot be imported here."""


_ALL: ContextVar[bool] = ContextVar("fetch all", default=False)


@contextmanager
def fetching(everything: bool) -> Iterator[None]:
    """Fetch all that can be compared of files that lie elsewhere, or no more than what describes them."""
    token = _ALL.set(everything)
    try:
        yield
    finally:
        _ALL.reset(token)


def is_spared(path: Path) -> bool:
    """Whether of this file no more is to be fetched than what describes its tensors."""
    return isinstance(path, Address) and not _ALL.get()


def is_plain(path: Path) -> bool:
    """Whether a path can only name a file of this machine, one that exists included."""
    return not isinstance(path, Address) and (INSIDE not in os.fspath(path) or os.path.lexists(path))


def version_at(path: Path) -> Version:
    """The version of what a path names, as it is now.

    Raises:
        FileNotFoundError: It is no longer there.
        OSError: It cannot be looked at.
        ConvInspectError: Nor can what lies at an address.
    """
    if isinstance(path, Address):
        from convinspect.remote.fetching import version_at as version_there

        return version_there(path.outermost(INSIDE))
    return version_of(os.stat(path if is_plain(path) else outermost(path)))


def outermost(path: Path) -> Path:
    """The file that a path leads into, of this machine or at an address; the path itself if there is none."""
    if isinstance(path, Address):
        return path.outermost(INSIDE)
    text = os.fspath(path)
    at = text.find(INSIDE)
    while at > 0:
        if os.path.lexists(text[:at]):
            return Path(text[:at])
        at = text.find(INSIDE, at + 1)
    return path


def member_of(path: Path) -> str:
    """The name of what a path into an archive names, and of the archives between; "" of any other path."""
    return os.fspath(path)[len(os.fspath(outermost(path))) + 1 :]


def short_name(path: Path) -> str:
    """The name of what a path names, without its folder: `model.nemo!weights.ckpt`.

    What a compressed file holds goes by that file's name, where it has none of its own.
    """
    outer = path if is_plain(path) else outermost(path)
    name = outer.name + os.fspath(path)[len(os.fspath(outer)) :]
    head, _, last = name.removesuffix(UNNAMED).rpartition(INSIDE)
    return head if outer != path and name.endswith(UNNAMED) and head.endswith(last) else name


def folder_of(path: Path) -> Path:
    """The folder that a file lies in, within the same archive where it lies in one."""
    text = os.fspath(path)
    outer, inside, name = text.rpartition(INSIDE)
    at_top = inside and "/" not in name and not is_plain(path)
    return path_of(outer + INSIDE) if at_top else path.parent


def statuses_in(folder: Path) -> dict[Path, os.stat_result]:
    """The files of a folder with their statuses.

    Raises:
        OSError: It cannot be listed.
        ConvInspectError: Nor can one that lies elsewhere.
    """
    if isinstance(folder, Address):
        return {path: path.stat() for path in folder.iterdir() if path.is_file()}
    return {Path(entry.path): entry.stat() for entry in os.scandir(folder) if entry.is_file()}


def read_each(paths: Sequence[Path], read: Callable[[Path], T], sizes: Sequence[int]) -> list[Callable[[], T]]:
    """Read several files: those of this machine as each is asked for, those at addresses all at the same time.

    Args:
        paths: The files.
        read: Reads one.
        sizes: How many of the first bytes of each are likely to be needed; 0 where nothing is known of it.

    Returns:
        What gives the result for each file, or raises what reading it raised.
    """
    addresses = [path for path in paths if isinstance(path, Address) and outermost(path) == path]
    if len(addresses) < len(paths) or not paths:
        return [partial(read, path) for path in paths]
    from convinspect.remote.fetching import all_at_once

    return all_at_once(addresses, read, sizes)


def version_of(status: os.stat_result) -> Version:
    """Values of a file's status that differ between versions of the file."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def read_at(handle: int, size: int, offset: int) -> bytes:
    """Up to `size` bytes from `offset` of an open file."""
    if hasattr(os, "pread"):
        return os.pread(handle, size, offset)
    # Windows has no pread, and a handle that threads share has one position.
    with _SEEKING:
        os.lseek(handle, offset, os.SEEK_SET)
        return os.read(handle, size)


def read_at_into(handle: int, into: memoryview, offset: int) -> int:
    """As `read_at`, into a buffer; the number of bytes read."""
    if hasattr(os, "preadv"):
        return os.preadv(handle, [into], offset)
    piece = read_at(handle, len(into), offset)
    into[: len(piece)] = piece
    return len(piece)


def _opened(path: Path) -> int:
    try:
        return os.open(path, _FLAGS)
    except FileNotFoundError:
        raise NotThere("there is no such file", path=path) from None
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
        reason = (error.strerror or "unknown") if isinstance(error, OSError) else "its name is no file name here"
        raise NotThere(f"it cannot be opened ({reason})", path=path) from None


def _a_folder(path: Path) -> NotThere:
    return NotThere("it is a folder, not a file", path=path)
