"""Many plain tensors of one shape and dtype, kept as columns: a tenth of what their records take."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path

from convinspect.arrays.read import ML_DTYPES, NUMPY
from convinspect.dtypes import FLOATING, nbytes_of
from convinspect.records import Storage, Tensor, contiguous

_READABLE = FLOATING & (NUMPY | ML_DTYPES)
ROWS = 1 << 17
"""Weights of small layers that are run at once: 1 MB in float64, so that all passes over them stay in the cache."""
_LARGEST = 2**63 - 1
_NONE = -1
"""Where a column has no number."""


def is_plain(tensor: Tensor) -> bool:
    """Whether the elements lie one after the other, uncompressed, in floating-point numbers of this machine."""
    storage = tensor.storage
    if storage is None or storage.start is None or storage.packed_nbytes is not None or tensor.layout != "strided":
        return False
    if storage.pieces is not None or storage.runs:
        # They lie in several places, and the start is none of theirs.
        return False
    if tensor.dtype not in _READABLE or storage.byteorder != sys.byteorder or not tensor.numel:
        return False
    if tensor.stride != contiguous(tensor.shape) or tensor.offset < 0 or min(tensor.shape) < 1:
        return False
    if not 0 <= storage.start <= _LARGEST or storage.nbytes > _LARGEST:
        return False
    return nbytes_of(tensor.dtype, tensor.offset + tensor.numel) <= min(storage.nbytes, storage.available)


def together(weight: Tensor) -> int:
    """How many layers with such a weight are run at once."""
    return max(1, ROWS // weight.numel)


class Alike(Sequence[Tensor]):
    """Tensors of one shape and dtype, for all of which `is_plain`; their records are made when they are asked for.

    Of their records they keep what reading needs.

    Args:
        tensors: At least one.
        summed: Whether reading one as a whole checks its record's CRC-32.
    """

    def __init__(self, tensors: Sequence[Tensor], summed: bool = True) -> None:
        storages = [tensor.storage for tensor in tensors if tensor.storage is not None]
        first = tensors[0]
        self._shape, self._dtype, self._stride = first.shape, first.dtype, first.stride
        self._files, self._of = _numbered([storage.file for storage in storages])
        self._headed = bytes(storage.local_header for storage in storages)
        # Their keys as one text: small strings would lie scattered among what is freed, and hold on to its memory.
        self._keys = "".join(storage.key for storage in storages)
        self._ends = array("Q", accumulate(len(storage.key) for storage in storages))
        self._offsets = array("Q", (tensor.offset for tensor in tensors))
        self._sizes = array("Q", (storage.nbytes for storage in storages))
        self._starts = array("Q", (storage.start or 0 for storage in storages))
        sums = (storage.crc if summed else None for storage in storages)
        self._sums = array("q", (_NONE if crc is None else crc for crc in sums))

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[Tensor]:
        return map(self._made, range(len(self)))

    def __getitem__(self, number: int) -> Tensor:  # type: ignore[override]
        return self._made(range(len(self))[number])

    def _made(self, number: int) -> Tensor:
        key = self._keys[self._ends[number - 1] if number else 0 : self._ends[number]]
        nbytes, crc = self._sizes[number], self._sums[number]
        storage = Storage(
            self._files[self._of[number]],
            key,
            nbytes,
            nbytes,
            self._starts[number],
            bool(self._headed[number]),
            None,
            None if crc == _NONE else crc,
            sys.byteorder,
        )
        return Tensor(key, self._dtype, self._shape, self._stride, self._offsets[number], storage)


def _numbered(files: Sequence[Path]) -> tuple[list[Path], array[int]]:
    """Each file once, and which of them each is."""
    numbers: dict[Path, int] = {}
    last, number, of = None, 0, array("L")
    for file in files:
        # Hashing a path takes longer than all else here.
        if file is not last:
            last, number = file, numbers.setdefault(file, len(numbers))
        of.append(number)
    return list(numbers), of
