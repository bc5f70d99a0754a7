"""Blocks that two files share, where the file system can: xfs, btrfs and others on Linux (FICLONERANGE).

A clone takes the time of a note in the file system's books, whatever its size, and no room; each file stays what it
is when the other is changed.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from pathlib import Path

from convinspect.records import Version

_FICLONERANGE = 0x4020940D
"""linux/fs.h: `_IOW(0x94, 13, struct file_clone_range)`. Where it has another number, nothing is shared."""
CLONE = struct.Struct("=qQQQ")
"""`struct file_clone_range`: source's handle, its offset, length, target's offset."""


def block_size(handle: int) -> int:
    """Bytes of a block of the file system in which an open file lies; 0 where the system cannot share blocks."""
    try:
        # Windows has neither; imported here, since only writing needs it.
        import fcntl  # noqa: F401

        return os.fstatvfs(handle).f_bsize
    except (ImportError, AttributeError, OSError):
        return 0


def whole_blocks(start: int, end: int, to: int, block: int) -> tuple[int, int]:
    """The part of a range that can be shared: from a block of both files to the last whole one.

    Args:
        start: Offset of the range's first byte in the source.
        end: Offset behind its last byte.
        to: Offset of its first byte in the target.
        block: Bytes of a block; 0 if none is shared.

    Returns:
        First offset in the source and the one behind the last; both `end` if there is no such part.
    """
    if not block or (start - to) % block:
        return end, end
    first, last = start + -start % block, end - end % block
    return (first, last) if first < last else (end, end)


def clone(reader: int, writer: int, start: int, size: int, to: int) -> bool:
    """Make two open files share blocks.

    Args:
        reader: The source's handle.
        writer: The target's handle.
        start: Offset in the source, at a block.
        size: Bytes, of whole blocks.
        to: Offset in the target, at a block.

    Returns:
        Whether they do. Why not is not told: it appears again when the bytes are copied.
    """
    import fcntl

    try:
        fcntl.ioctl(writer, _FICLONERANGE, CLONE.pack(reader, start, size, to))
    except OSError:
        return False
    return True


def shares_blocks(source: Path, folder: Path) -> bool:
    """Whether a new file in a folder can share blocks with `source`.

    Found by trying: one block is shared with a file without a name. False for a source of less than a block.
    """
    # Imported here, since it is rarely asked: where the disk has no room for a copy.
    import tempfile

    try:
        with open(source, "rb", buffering=0) as reader, tempfile.TemporaryFile(dir=folder, buffering=0) as writer:
            block = block_size(writer.fileno())
            return block > 0 and clone(reader.fileno(), writer.fileno(), 0, block, 0)
    except OSError:
        return False


def nbytes_shared(versions: Mapping[Path, Version], folder: Path) -> int:
    """Bytes of those files whose blocks their copies in a new folder's place can share.

    Args:
        versions: The files; a version holds its file system and its size.
        folder: An existing folder of the copies' file system.
    """
    by_disk: dict[object, list[tuple[int, Path]]] = {}
    for path, (disk, _, size, _) in versions.items():
        by_disk.setdefault(disk, []).append((size, path))
    return sum(size for files in by_disk.values() if shares_blocks(max(files)[1], folder) for size, _ in files)
