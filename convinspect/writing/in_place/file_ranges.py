"""Room that is made or taken within a file by moving the map of its blocks, not the blocks: Linux, ext4 and xfs.

`fallocate(2)` with `FALLOC_FL_INSERT_RANGE` and `FALLOC_FL_COLLAPSE_RANGE`; `FS_IOC_FIEMAP` tells where the blocks lie.
A power cut may leave such a shift half done: some extents moved, with a gap in front of them. The map from before tells
which ones.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable
from typing import NamedTuple

_COLLAPSE, _INSERT = 0x08, 0x20
_FIEMAP = 0xC020660B
_SYNC = 1
_LAST, _UNPLACED = 0x1, 0x2 | 0x4 | 0x8 | 0x100 | 0x200 | 0x400
"""Flags of an extent: the last one; its place on the disk is unknown, or it holds other bytes than its own blocks."""
_HEADER, _EXTENT = struct.Struct("=QQIIII"), struct.Struct("=QQQ16xI12x")
_AT_ONCE = 512


class Shift(NamedTuple):
    """Room within a file.

    Attributes:
        at: Where it is made or taken, at a block's beginning.
        by: Bytes, whole blocks: inserted at `at` if positive, taken out from there on if negative.
    """

    at: int
    by: int

    @property
    def first(self) -> int:
        """The first byte of the old file that moves."""
        return self.at if self.by > 0 else self.at - self.by

    def new_place(self, old: int) -> int:
        """Where a byte of the old file that stays in it lies in the new one."""
        return old + self.by if old >= self.first else old


class Extent(NamedTuple):
    """A run of bytes of a file that lie together on the disk.

    Attributes:
        start: Its first byte in the file.
        place: Its first byte on the disk.
        size: Bytes.
    """

    start: int
    place: int
    size: int


def shift(handle: int, change: Shift) -> None:
    """Make or take room within an open file.

    Raises:
        OSError: The file system cannot (`cannot_shift` tells), or the disk is full.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    # Only this one takes offsets of 64 bits on every system; where it is missing, `fallocate` does.
    function = getattr(libc, "fallocate64", None) or getattr(libc, "fallocate", None)
    if function is None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    mode = _INSERT if change.by > 0 else _COLLAPSE
    while function(handle, mode, change.at, abs(change.by)):
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


def cannot_shift(error: OSError) -> bool:
    """Whether the file system has no such operation for this file, or counts in larger blocks."""
    return error.errno in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM, errno.ENODEV)


def extents(handle: int) -> list[Extent] | None:
    """Where the bytes of an open file lie on the disk; holes have no entry. None where that is not told."""
    try:
        import fcntl
    except ImportError:
        return None
    found: list[Extent] = []
    at = 0
    while True:
        request = bytearray(_HEADER.size + _AT_ONCE * _EXTENT.size)
        _HEADER.pack_into(request, 0, at, 2**64 - 1 - at, _SYNC, 0, _AT_ONCE, 0)
        try:
            fcntl.ioctl(handle, _FIEMAP, request)
        except OSError:
            return None
        count = _HEADER.unpack_from(request)[3]
        for index in range(count):
            start, place, size, flags = _EXTENT.unpack_from(request, _HEADER.size + index * _EXTENT.size)
            if flags & _UNPLACED:
                return None
            found.append(Extent(start, place, size))
            if flags & _LAST:
                return found
        if not count:
            return found
        at = found[-1].start + found[-1].size


END = 2**63
"""Beyond every byte of a file."""


def moved_from(before: Iterable[Extent], now: Iterable[Extent], change: Shift) -> int | None:
    """How far a shift was carried out, or undone.

    Making room, the kernel moves the last extents first; taking room, the first ones.

    Args:
        before: The extents of the old file.
        now: Its extents after any part of the shift.
        change: The shift.

    Returns:
        The first byte of the old file that lies shifted, if room is made, or the first that does not yet, if room is
        taken; `END` if there is none. None if these are not two states of one file.
    """
    places = sorted((one.place, one.size, one.start) for one in now)
    cut = END
    for old in sorted(before):
        for start, by in _moves(old, places, change.first):
            if by not in (0, change.by):
                return None
            beyond = (by != 0) == (change.by > 0)
            if beyond and cut == END:
                cut = start
            if not beyond and cut != END:
                return None
    return cut


def _moves(old: Extent, places: list[tuple[int, int, int]], first: int) -> list[tuple[int, int | None]]:
    """For each part of an extent from byte `first` of the file on: where it began, and by how much it moved.

    (…, None) if a part of it is not there, or is there twice.
    """
    from bisect import bisect_right

    at, end = max(old.start, first), old.start + old.size
    moves: list[tuple[int, int | None]] = []
    while at < end:
        place = old.place + at - old.start
        index = bisect_right(places, (place, 2**64, 0)) - 1
        if index < 0 or place >= places[index][0] + places[index][1]:
            return [(at, None)]
        begin, size, start = places[index]
        moves.append((at, start + place - begin - at))
        at += begin + size - place
    return moves
