"""Files made of pieces: bytes, ranges of the source that the kernel copies, and bytes generated while writing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from convinspect.errors import ChangedMeanwhile, unreadable
from convinspect.formats.files import read_at

BLOCK = 4096
"""Bytes of a block in most file systems. Payloads move by whole ones, where a header no longer fits its room."""
_READ_AT_ONCE = 1 << 22


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes `start:end` of the source, copied unchanged."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Made:
    """Bytes that are generated while writing, block by block, such as a transposed tensor.

    Attributes:
        nbytes: Their number.
        blocks: Returns them in order.
    """

    nbytes: int
    blocks: Callable[[], Iterable[bytes]]


Piece: TypeAlias = bytes | Range | Made


def size_of(piece: Piece) -> int:
    """Bytes of a piece."""
    if isinstance(piece, Range):
        return piece.end - piece.start
    return piece.nbytes if isinstance(piece, Made) else len(piece)


def write_pieces(source: Path, pieces: Iterable[Piece], target: Path, progress: Callable[[int], None]) -> None:
    """Write the pieces one after another to `target`, which is overwritten.

    Args:
        source: The file that ranges refer to.
        pieces: What to write.
        target: The new file; if it does not exist yet, its mode follows the umask.
        progress: Called now and then with the number of bytes that were written since the last call.

    Raises:
        ChangedMeanwhile: The source is shorter than its ranges.
        BrokenFile: The source cannot be read.
        OSError: The target cannot be written.
    """
    with _source(source) as reader, open(target, "wb", buffering=0) as writer:
        for piece in pieces:
            if isinstance(piece, Range):
                _copy(reader, writer.fileno(), piece, source, progress)
            elif isinstance(piece, Made):
                for block in piece.blocks():
                    _write_all(writer.fileno(), block)
                    progress(len(block))
            else:
                _write_all(writer.fileno(), piece)


@contextmanager
def _source(path: Path) -> Iterator[int]:
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise unreadable(error, path) from None
    try:
        yield handle
    finally:
        os.close(handle)


def _write_all(handle: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def _copy(reader: int, writer: int, piece: Range, source: Path, progress: Callable[[int], None]) -> None:
    """Copy in the kernel if it can, else through a buffer.

    Some file systems then share whole blocks between the two files: those that begin at a block in both.
    """
    at = piece.start
    by_kernel = hasattr(os, "copy_file_range")
    while at < piece.end:
        size = -at % BLOCK or 1 << 30
        done = _copied_by_kernel(reader, writer, min(piece.end - at, size), at) if by_kernel else 0
        if not done:
            by_kernel = False
            data = _read(reader, min(piece.end - at, _READ_AT_ONCE), at, source)
            _write_all(writer, data)
            done = len(data)
        at += done
        progress(done)


def _copied_by_kernel(reader: int, writer: int, size: int, at: int) -> int:
    """Number of bytes copied; 0 if the kernel cannot, as across file systems.

    Any other error appears again when the bytes are copied through a buffer.
    """
    try:
        return os.copy_file_range(reader, writer, size, at)
    except OSError:
        return 0


def _read(reader: int, size: int, at: int, source: Path) -> bytes:
    try:
        data = read_at(reader, size, at)
    except OSError as error:
        raise unreadable(error, source) from None
    if not data:
        raise ChangedMeanwhile("it became shorter while it was copied", "try again", source)
    return data


def copy_whole(source: Path, target: Path, progress: Callable[[int], None]) -> None:
    """Copy a file exactly, by `write_pieces`; its mode follows the umask."""
    write_pieces(source, [Range(0, os.stat(source).st_size)], target, progress)
