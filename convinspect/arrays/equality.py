"""Two stored tensors compared bit for bit, and where and how they differ.

Bits, not values: NaN payloads and the sign of zero count. Tensors are compared as matrices in the order that a Linear
keeps, (out, in), so that a convolution, a Linear and transformers' `Conv1D` can be seen to hold the same numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from convinspect.arrays.read import Array, dense, read_tensor
from convinspect.arrays.storage import Fetch, Files, check_range
from convinspect.dtypes import ITEMSIZE, nbytes_of
from convinspect.errors import CannotShow, ConvInspectError
from convinspect.formats.pieces import LAYOUT
from convinspect.records import Tensor

_PIECE = 1 << 18
"""Bytes of each file in memory at once: pieces of both, and what comes of comparing them, stay in the cache."""
_SMALL = 1 << 12


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two tensors of one shape and dtype differ.

    Attributes:
        count: How many elements.
        total: Of how many.
        where: Index of the first.
        before: Its value in the first tensor, as text.
        after: Its value in the second.
    """

    count: int
    total: int
    where: tuple[int, ...]
    before: str
    after: str


class Related(NamedTuple):
    """How one tensor's numbers are related to another's. Neither field set: one is the transpose of the other.

    Attributes:
        rows: The same rows, in another order.
        factor: The same numbers, multiplied by this factor.
    """

    rows: bool = False
    factor: float | None = None


def as_matrix(tensor: Tensor, transposed: bool) -> Tensor:
    """A pointwise or Linear weight as (out, in): the same numbers under other strides.

    Args:
        tensor: Shape (out, in, 1, …), or (in, out) when `transposed`.
        transposed: It is stored as transformers' `Conv1D` stores it.
    """
    shape, stride = tensor.shape[:2], tensor.stride[:2]
    if transposed:
        shape, stride = shape[::-1], stride[::-1]
    parts = tuple(as_matrix(part, transposed) for part in tensor.parts) if tensor.layout == LAYOUT else tensor.parts
    return tensor._replace(shape=shape, stride=stride, parts=parts)


def same_bits(before: Tensor, after: Tensor, files: Files | None = None) -> bool:
    """Whether two tensors have one dtype, one shape, and the same bits at each index.

    Args:
        before: A tensor.
        after: Another.
        files: Where many tensors are compared: the files they are read from stay open in it.

    Raises:
        ConvInspectError: Numbers of one of them are missing or damaged.
        CannotShow: They have no plain numbers (sparse, shapes only).
    """
    if before.dtype != after.dtype or before.shape != after.shape:
        return False
    if LAYOUT in (before.layout, after.layout):
        return _equal(_raw(read_tensor(before)), _raw(read_tensor(after)))
    if before.storage is None or after.storage is None or {before.layout, after.layout} != {"strided"}:
        raise CannotShow("its numbers are not in the file, only its shape")
    if not before.numel or _same_place(before, after):
        return True
    if _same_layout(before, after):
        if files is not None:
            return _same_stored(before, after, files)
        with Files() as opened:
            return _same_stored(before, after, opened)
    a, b = read_tensor(before), read_tensor(after)
    return _equal(_raw(a), _raw(b))


def _same_place(before: Tensor, after: Tensor) -> bool:
    return (before.storage, before.offset, before.stride) == (after.storage, after.offset, after.stride)


def in_one_order(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one dtype have their elements in one order in files, so that blocks of both can be
    compared as they are read.
    """
    plain = a.dtype == b.dtype and a.shape == b.shape and a.layout == b.layout == "strided" and a.numel > 0
    if not plain or a.storage is None or b.storage is None or isinstance(ITEMSIZE.get(a.dtype, 0.5), float):
        return False
    return a.dtype not in ("bool", "complex32") and dense(a) and dense(b) and _same_layout(a, b)


def same_elements(x: Array, y: Array) -> bool:
    """Whether two 1-D arrays of one dtype and length have the same bits."""
    return _equal(_raw(x), _raw(y))


def _same_layout(before: Tensor, after: Tensor) -> bool:
    """Whether comparing the stored bytes in order compares the elements in order."""
    assert before.storage is not None
    assert after.storage is not None
    steps = [[s for s, n in zip(tensor.stride, tensor.shape, strict=True) if n > 1] for tensor in (before, after)]
    swapped = before.storage.byteorder != after.storage.byteorder
    size = ITEMSIZE.get(before.dtype, 0)
    # Dtypes below one byte: compared as bytes only where the tensor begins and ends at a whole byte.
    shared = before.offset == after.offset == 0 and float(size * before.numel).is_integer()
    whole = isinstance(size, int) or shared
    return steps[0] == steps[1] and not swapped and whole and dense(before)


def _same_stored(before: Tensor, after: Tensor, files: Files) -> bool:
    """Compare the bytes as stored. CRCs are not checked: bytes that equal the other file's are not damaged."""
    size = before.nbytes
    begins, fetches = zip(
        *(_run(tensor, size, files, side) for side, tensor in enumerate((before, after))), strict=True
    )
    if size <= _SMALL:
        # Making and viewing arrays takes longer than comparing so few bytes.
        contents = [bytearray(size) for _ in fetches]
        for begin, fetch, content in zip(begins, fetches, contents, strict=True):
            fetch(begin, memoryview(content))
        return contents[0] == contents[1]
    buffers = [np.empty(min(size, _PIECE), np.uint8) for _ in fetches]
    for done in range(0, size, _PIECE):
        pieces = [buffer[: size - done] for buffer in buffers]
        for begin, fetch, piece in zip(begins, fetches, pieces, strict=True):
            fetch(begin + done, piece.data)
        if not _equal(*pieces):
            return False
    return True


def _run(tensor: Tensor, size: int, files: Files, side: int) -> tuple[int, Fetch]:
    """Where a tensor's bytes begin in its storage, and what reads them."""
    storage = tensor.storage
    assert storage is not None
    begin = nbytes_of(tensor.dtype, tensor.offset)
    check_range(storage, f"tensor {tensor.key}", begin, size)
    return begin, files.fetch(storage, size, side)


def _equal(a: Array, b: Array) -> bool:
    """Compare two runs of bytes, as 64-bit words where the length is a multiple of 8."""
    if len(a) % 8 == 0:
        return bool((a.view(np.uint64) == b.view(np.uint64)).all())
    return bool((a == b).all())


def _raw(values: Array) -> Array:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)


def difference(before: Tensor, after: Tensor) -> Difference | None:
    """Which elements differ between two tensors of one shape and dtype; None when all are equal.

    Raises:
        As `same_bits`; and BrokenFile when a record's CRC-32 says that it is damaged.
    """
    a, b = read_tensor(before), read_tensor(after)
    itemsize = a.dtype.itemsize
    unequal = (_raw(a).reshape(-1, itemsize) != _raw(b).reshape(-1, itemsize)).any(axis=1)
    places = np.flatnonzero(unequal)
    if not len(places):
        return None
    where = tuple(int(i) for i in np.unravel_index(places[0], before.shape))
    return Difference(len(places), a.size, where, *_distinct_texts(a[where], b[where]))


def _distinct_texts(a: Any, b: Any) -> tuple[str, str]:
    """Two values as text, with enough digits to tell them apart; with their bits where digits do not."""
    exact = a.dtype.kind in "iub"
    texts = (str(a.item()), str(b.item())) if exact else _shortest(a, b)
    if texts[0] != texts[1]:
        return texts
    return f"{texts[0]} (bits {_hex(a)})", f"{texts[1]} (bits {_hex(b)})"


def _shortest(a: Any, b: Any) -> tuple[str, str]:
    def text(value: Any, digits: int) -> str:
        return f"{complex(value):.{digits}g}" if a.dtype.kind == "c" else f"{float(value):.{digits}g}"

    texts = ("", "")
    for digits in (6, 9, 17):
        texts = (text(a, digits), text(b, digits))
        if texts[0] != texts[1]:
            break
    return texts


def _hex(value: Any) -> str:
    raw: bytes = value.tobytes()
    return "0x" + (raw[::-1] if sys.byteorder == "little" else raw).hex()


def owner_of(tensor: Tensor, others: Iterable[tuple[str, Tensor]]) -> str | None:
    """Name of the first other tensor with the same bits as `tensor`; None for constants, which many tensors hold."""
    elements = _raw(read_tensor(tensor)).reshape(tensor.numel, -1)
    if (elements == elements[0]).all():
        return None
    for name, candidate in others:
        try:
            if same_bits(tensor, candidate):
                return name
        except ConvInspectError:
            continue
    return None


def relation(before: Tensor, after: Tensor) -> Related | None:
    """How the numbers of two tensors of one shape and dtype are related: transposed, with rows in another order, or
    multiplied by one factor; None when no such relation holds.
    """
    a, b = (read_tensor(tensor) for tensor in (before, after))
    if a.ndim == 2 and a.shape[0] == a.shape[1] and _equal(_raw(a.T), _raw(b)):
        return Related()
    if a.ndim == 2 and a.shape[0] > 1 and _same_rows(a, b):
        return Related(rows=True)
    if a.dtype.kind == "f" or str(a.dtype).startswith(("bfloat", "float")):
        rounding = 2.0 ** -_MANTISSA.get(str(a.dtype), 23)
        factor = _common_factor(a.astype(np.float64), b.astype(np.float64), rounding)
        return None if factor is None else Related(factor=factor)
    return None


def _same_rows(a: Array, b: Array) -> bool:
    rows = [sorted(row.tobytes() for row in np.ascontiguousarray(matrix)) for matrix in (a, b)]
    return rows[0] == rows[1]


_MANTISSA = {"float64": 45, "float32": 22, "float16": 10, "bfloat16": 7}
"""Bits of a product that are certainly correct after rounding to a dtype."""


def _common_factor(a: Array, b: Array, rounding: float) -> float | None:
    """The factor that `a` was multiplied by to give `b`, up to rounding; None where it is 1 or there is none."""
    with np.errstate(all="ignore"):
        ratios = (b / a)[(a != 0) & np.isfinite(a)]
    if not len(ratios) or not np.isfinite(ratios).all():
        return None
    factor = float(np.median(ratios))
    with np.errstate(all="ignore"):
        spread = float(np.max(np.abs(ratios / factor - 1))) if factor else 1.0
    return factor if abs(factor - 1) > 4 * rounding and spread < 2 * rounding else None
