"""The bytes of tensors whose numbers change places, made a few kernels at a time."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import TypeAlias

from convinspect.formats.pieces import LAYOUT
from convinspect.records import Edit, Moved, Storage, Tensor, contiguous
from convinspect.writing.pieces import Made, Piece, Range

_BAND = 1 << 22
"""Bytes of a tensor that are in memory at a time while its numbers change places."""

Place: TypeAlias = tuple[Path, str]
"""A storage's file, and its key there."""


def made(edit: Edit) -> Made:
    """The bytes of an edited tensor whose numbers change places."""
    if edit.moved is None:
        return Made(edit.tensor.nbytes, _transposed(edit.tensor))
    return Made(edit.tensor.nbytes, _permuted(edit.tensor, edit.moved))


def _transposed(tensor: Tensor) -> Callable[[], Iterator[bytes]]:
    """The bytes of a matrix (rows, columns) as (columns, rows), one band of columns at a time."""

    def blocks() -> Iterator[bytes]:
        from convinspect.arrays.read import read_tensor

        rows, columns = tensor.shape[:2]
        step = max(1, _BAND * columns // max(tensor.nbytes, 1))
        for first in range(0, columns, step):
            width = min(step, columns - first)
            band = tensor._replace(shape=(rows, width), stride=tensor.stride[:2], offset=tensor.offset + first)
            yield read_tensor(band).T.copy().tobytes()

    return blocks


def _permuted(tensor: Tensor, moved: Moved) -> Callable[[], Iterator[bytes]]:
    """The bytes of a tensor that lies row by row, its axes permuted, a few of the first at a time."""

    def blocks() -> Iterator[bytes]:
        from convinspect.arrays.read import read_tensor

        count, *inner = moved.seen
        size = prod(inner)
        step = max(1, _BAND * count // max(tensor.nbytes, 1))
        unit = _as_integers(tensor)
        for first in range(0, count, step):
            shape = (min(step, count - first), *inner, *unit.shape[len(tensor.shape) :])
            at = (tensor.offset + first * size) * (tensor.nbytes // max(tensor.numel, 1)) // _SIZES[unit.dtype]
            band = read_tensor(unit._replace(shape=shape, stride=contiguous(shape), offset=at))
            axes = (*moved.order, *range(len(moved.order), len(shape)))
            yield band.transpose(axes).copy().tobytes()

    return blocks


_SIZES = {"uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8}
_BY_SIZE = {size: dtype for dtype, size in _SIZES.items()}


def _as_integers(tensor: Tensor) -> Tensor:
    """The tensor's bytes as integers of its elements' size, two of 8 bytes for one of 16, whatever they mean.

    They are taken as being in the machine's order, so that they are written as they are read.
    """
    assert tensor.storage is not None
    size = tensor.nbytes // max(tensor.numel, 1)
    dtype = _BY_SIZE[min(size, 8)]
    more = (size // 8,) if size > 8 else ()
    storage = tensor.storage._replace(byteorder=sys.byteorder)
    return tensor._replace(dtype=dtype, shape=(*tensor.shape, *more), storage=storage)


def moves_in(edits: Iterable[Edit]) -> dict[Place, list[Edit]]:
    """The edits that move bytes, by storage, in the order of their places; one for several names of the same bytes."""
    found: dict[Place, dict[int, Edit]] = {}
    for edit in edits:
        tensor = edit.tensor
        if edit.moves_bytes and tensor.numel and tensor.layout != LAYOUT and tensor.storage is not None:
            storage = tensor.storage
            if storage.start is not None:
                found.setdefault((storage.file, storage.key), {}).setdefault(tensor.offset, edit)
    return {place: [one for _, one in sorted(every.items())] for place, every in found.items()}


def moved_pieces(start: int, storage: Storage, edits: Iterable[Edit]) -> list[Piece]:
    """The bytes of a storage that begins at `start` of its file, with the numbers of some tensors in new places."""
    pieces: list[Piece] = []
    at = 0
    for edit in edits:
        tensor = edit.tensor
        begin = tensor.offset * (tensor.nbytes // tensor.numel)
        pieces += [Range(start + at, start + begin), made(edit)]
        at = begin + tensor.nbytes
    return [*pieces, Range(start + at, start + storage.available)]


def new_sums(edits: Iterable[Edit]) -> Mapping[Place, int]:
    """The CRC-32 of each storage in whose bytes numbers change places; 0 where the file keeps none."""
    sums = {}
    for place, moves in moves_in(edits).items():
        storage = moves[0].tensor.storage
        assert storage is not None
        if storage.crc is not None:
            sums[place] = _sum(storage, moves) if storage.crc else 0
    return sums


def _sum(storage: Storage, edits: list[Edit]) -> int:
    from convinspect.arrays.storage import data_start, opened

    start = data_start(storage)
    crc = 0
    with opened(storage) as fetch:
        for piece in moved_pieces(start, storage, edits):
            if isinstance(piece, Range):
                for begin in range(piece.start, piece.end, _BAND):
                    block = bytearray(min(_BAND, piece.end - begin))
                    fetch(begin - start, memoryview(block))
                    crc = zlib.crc32(block, crc)
            elif isinstance(piece, Made):
                for made_block in piece.blocks():
                    crc = zlib.crc32(made_block, crc)
    return crc


def start_of(tensor: Tensor) -> int:
    """Where in its file the storage of a tensor begins that is stored as it is."""
    assert tensor.storage is not None
    assert tensor.storage.start is not None
    return tensor.storage.start
