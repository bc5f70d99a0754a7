"""Files made of pieces: bytes, ranges of the source that the kernel shares or copies, and bytes generated while
writing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from convinspect.errors import ChangedMeanwhile
from convinspect.formats.files import File
from convinspect.formats.sources import is_plain
from convinspect.writing.clones import block_size, clone, shares_blocks, whole_blocks

BLOCK = 4096
"""Bytes of a block in most file systems. Payloads move by whole ones, where a header no longer fits its room."""
_AT_ONCE, _READ_AT_ONCE, _FETCHED_AT_ONCE = 1 << 30, 1 << 22, 1 << 24
"""Bytes that are copied by the kernel, through a buffer, and from elsewhere, where parts of them come together."""


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes `start:end` of the source, unchanged."""

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


def to_be_written(source: Path, folder: Path, pieces: Iterable[Piece]) -> int:
    """Bytes of room that a new file of these pieces in a folder needs: all, or those that it does not share."""
    shares = hasattr(os, "statvfs") and is_plain(source) and shares_blocks(source, folder)
    block = os.statvfs(folder).f_bsize if shares else 0
    at = needed = 0
    for piece in pieces:
        size = size_of(piece)
        first, last = whole_blocks(piece.start, piece.end, at, block) if isinstance(piece, Range) else (0, 0)
        needed += size - (last - first)
        at += size
    return needed


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
    with File(source) as file, open(target, "wb", buffering=0) as writer:
        reader = file.range_of()
        by_kernel = reader is not None and hasattr(os, "copy_file_range")
        shared = block_size(writer.fileno()) if reader is not None else 0
        between = _Between(file, *(reader or (-1, 0)), writer.fileno(), progress, shared, by_kernel)
        for piece in pieces:
            if isinstance(piece, Range):
                _copy(between, piece)
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


@dataclass(slots=True)
class _Between:
    """The two files between which ranges are copied, and by which means.

    Attributes:
        source: The file that they are of.
        reader: The handle of a file that holds its bytes.
        base: Offset of the first of them in that file.
        writer: The new file's handle.
        progress: As of `write_pieces`.
        block: Bytes of a block that both files can share; 0 once the file system has refused.
        by_kernel: Whether the kernel copies; no longer once it has refused.
    """

    source: File
    reader: int
    base: int
    writer: int
    progress: Callable[[int], None]
    block: int
    by_kernel: bool


def _copy(between: _Between, piece: Range) -> None:
    """Add a range to the end of the new file: share whole blocks if both files can, and copy the rest."""
    to = os.lseek(between.writer, 0, os.SEEK_CUR)
    base = between.base
    at, last = (place - base for place in whole_blocks(piece.start + base, piece.end + base, to, between.block))
    _copy_bytes(between, piece.start, at)
    while at < last:
        size = min(last - at, _AT_ONCE)
        if not clone(between.reader, between.writer, at + base, size, at - piece.start + to):
            between.block = 0
            break
        at += size
        os.lseek(between.writer, size, os.SEEK_CUR)
        between.progress(size)
    _copy_bytes(between, at, piece.end)


def _copy_bytes(between: _Between, at: int, end: int) -> None:
    """Copy in the kernel if it can, else through a buffer.

    Some file systems then share whole blocks, too: those that begin at a block in both files.
    """
    while at < end:
        place = at + between.base
        size = min(end - at, -place % BLOCK or _AT_ONCE)
        done = _copied_by_kernel(between.reader, between.writer, size, place) if between.by_kernel else 0
        if not done:
            between.by_kernel = False
            most = _READ_AT_ONCE if between.reader >= 0 else _FETCHED_AT_ONCE
            data = _read(between.source, min(end - at, most), at)
            _write_all(between.writer, data)
            done = len(data)
        at += done
        between.progress(done)


def _copied_by_kernel(reader: int, writer: int, size: int, at: int) -> int:
    """Number of bytes copied; 0 if the kernel cannot, as across file systems.

    Any other error appears again when the bytes are copied through a buffer.
    """
    try:
        return os.copy_file_range(reader, writer, size, at)
    except OSError:
        return 0


def _read(source: File, size: int, at: int) -> bytes:
    data = source.read(at, size)
    if not data:
        raise ChangedMeanwhile("it became shorter while it was copied", "try again", source.path)
    return data


def copy_whole(source: Path, target: Path, progress: Callable[[int], None]) -> None:
    """Copy a file exactly, by `write_pieces`; its mode follows the umask."""
    with File(source) as file:
        size = file.size
    write_pieces(source, [Range(0, size)], target, progress)
