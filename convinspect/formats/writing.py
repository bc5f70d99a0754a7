"""Writing a new file beside an old one: pieces of it copied by the kernel, whole or not at all.

A new file is described as a list of pieces, each either bytes or a range of the source. It is written under a
temporary name in the target's folder, checked, and only then takes the target's name.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from convinspect.errors import CannotWrite, ChangedMeanwhile
from convinspect.formats.files import read_at

_BLOCK = 1 << 22


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes `start:end` of the source, copied as they are."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Made:
    """Bytes that are made while writing, block by block, such as a transposed tensor.

    Attributes:
        nbytes: How many there will be.
        blocks: Gives them in order.
    """

    nbytes: int
    blocks: Callable[[], Iterable[bytes]]


Piece: TypeAlias = bytes | Range | Made


def size_of(piece: Piece) -> int:
    """Bytes of a piece."""
    if isinstance(piece, Range):
        return piece.end - piece.start
    return piece.nbytes if isinstance(piece, Made) else len(piece)


def _identity(path: Path) -> tuple[int, ...]:
    found = os.stat(path)
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


@contextmanager
def unchanged(path: Path) -> Iterator[None]:
    """Whatever is read of `path` inside must be of one version.

    Raises:
        ChangedMeanwhile: The file changed, or was replaced, while it was read.
    """
    try:
        before = _identity(path)
        yield
        after = _identity(path)
    except FileNotFoundError:
        raise ChangedMeanwhile("it vanished while it was read", "try again", path) from None
    if before != after:
        raise ChangedMeanwhile("it changed while it was read", "wait until it is written, and try again", path)


Check: TypeAlias = Callable[[Path], None]
"""Raises where what was written, and is on the disk, is not what was meant."""


@contextmanager
def new_file(target: Path, check: Check) -> Iterator[Path]:
    """A name to write to; what is there at the end is synced, checked and becomes `target` at once, or nothing does.

    The new file gets the mode that the umask asks for. A symbolic link is followed, so that the link stays.

    Raises:
        CannotWrite: The folder cannot be written to, or the disk is full.
        ConvInspectError: What `check` raises.
    """
    with _beside(Path(os.path.realpath(target)), check, os.unlink) as temporary:
        yield temporary


@contextmanager
def new_folder(target: Path, check: Check) -> Iterator[Path]:
    """The same for a folder of files, which is there to be written into."""
    with _beside(target, check, shutil.rmtree) as temporary:
        temporary.mkdir()
        yield temporary


@contextmanager
def _beside(target: Path, check: Check, remove: Callable[[Path], None]) -> Iterator[Path]:
    temporary = target.with_name(f".{target.name[:100]}.{os.urandom(6).hex()}.partial")
    try:
        yield temporary
        if temporary.is_dir():
            for entry in temporary.rglob("*"):
                _sync(entry)
        _sync(temporary)
        check(temporary)
        os.replace(temporary, target)
        _sync(target.parent)
    except OSError as error:
        raise CannotWrite(f"it cannot be written ({error.strerror})", _remedy(error), target) from None
    finally:
        with suppress(OSError):
            remove(temporary)


def _remedy(error: OSError) -> str:
    import errno

    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room on the disk, or write elsewhere"
    return "choose another place"


def _sync(path: Path) -> None:
    """Have the disk hold what was written before it gets its name; folders cannot be synced everywhere."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        if path.is_dir():
            return
        raise
    try:
        os.fsync(handle)
    except OSError:
        if not stat.S_ISDIR(os.fstat(handle).st_mode):
            raise
    finally:
        os.close(handle)


def write_pieces(source: Path, pieces: Iterable[Piece], target: Path, progress: Callable[[int], None]) -> None:
    """Write the pieces one after another to `target`, which must not exist.

    Args:
        source: Where ranges are taken from.
        pieces: What to write.
        target: The new file; its mode follows the umask.
        progress: Told how many bytes were written, now and then.

    Raises:
        ChangedMeanwhile: The source is shorter than its ranges.
        OSError: The target cannot be written.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    with open(source, "rb", buffering=0) as reader, os.fdopen(os.open(target, flags, 0o666), "wb", 0) as writer:
        for piece in pieces:
            if isinstance(piece, Range):
                _copy(reader.fileno(), writer.fileno(), piece, source, progress)
            elif isinstance(piece, Made):
                for block in piece.blocks():
                    _write_all(writer.fileno(), block)
                    progress(len(block))
            else:
                _write_all(writer.fileno(), piece)


def _write_all(handle: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def _copy(reader: int, writer: int, piece: Range, source: Path, progress: Callable[[int], None]) -> None:
    """By the kernel where it can (which on some file systems shares the blocks), else through a buffer."""
    at = piece.start
    by_kernel = hasattr(os, "copy_file_range")
    while at < piece.end:
        size = min(piece.end - at, 1 << 30)
        if by_kernel:
            try:
                done = os.copy_file_range(reader, writer, size, at)
            except OSError:
                # Across file systems, or on one that has no such call. A full disk shows again below.
                by_kernel = False
                continue
            if done == 0:
                by_kernel = False
                continue
        else:
            data = read_at(reader, min(size, _BLOCK), at)
            if not data:
                raise ChangedMeanwhile("it became shorter while it was copied", "try again", source)
            _write_all(writer, data)
            done = len(data)
        at += done
        progress(done)


def copy_whole(source: Path, target: Path, progress: Callable[[int], None]) -> None:
    """An exact copy under another name, by `write_pieces`; mode by the umask."""
    write_pieces(source, [Range(0, os.stat(source).st_size)], target, progress)


def room_for(folder: Path, nbytes: int) -> None:
    """Notice before hours of writing that a disk is too small.

    Raises:
        CannotWrite: There are fewer than `nbytes` free in `folder`'s file system.
    """
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return
    if free < nbytes:
        raise CannotWrite(
            f"the disk has {free:,} bytes free, {nbytes:,} are needed", "make room, or write elsewhere", folder
        )
