"""NaN and infinities in tensors, counted by their bit patterns in bounded memory. No torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import ml_dtypes
import numpy as np

from convinspect.arrays.read import Array, dense, read_blocks, read_tensor
from convinspect.checking.findings import Looked, Progress, Scan, finding
from convinspect.dtypes import COMPLEX, FLOATING
from convinspect.errors import ConvInspectError
from convinspect.records import Contents, Tensor, bytes_of

_PARTS = {"complex32": "float32", "complex64": "float32", "complex128": "float64"}
"""What the parts of a complex number are read as."""
_MASKS = {"float64": 0x7FF << 52, "float32": 0xFF << 23, "float16": 0x1F << 10, "bfloat16": 0xFF << 7}
"""The bits of the exponent, all set in what is not finite (IEEE 754-2019, section 3.4)."""
_MOST_AT_ONCE = 1 << 26
_CAN = frozenset(name for name in FLOATING | COMPLEX if not name.startswith(("float4_", "float6_")))
"""Types that have a NaN or an infinity; those of 4 and 6 bits have neither."""


class Odd(NamedTuple):
    """Elements of a tensor that are not finite.

    Attributes:
        nan: Number of NaNs; for complex numbers, with NaN in either part.
        inf: Number of infinite elements that are not NaN.
        first_nan: Index of the first NaN in the order of the tensor's storage; None if there is none.
        first_inf: The same for infinite elements.
    """

    nan: int = 0
    inf: int = 0
    first_nan: tuple[int, ...] | None = None
    first_inf: tuple[int, ...] | None = None


def scan_values(contents: Contents, name: str = "") -> Scan[None]:
    """Find NaN and infinities in every tensor of floating or complex numbers; ties are scanned once.

    Args:
        contents: The opened file.
        name: Name of the only tensor, if the contents have none.
    """
    seen: set[object] = set()
    for root in contents.roots:
        for tensor in root.tensors:
            identity = bytes_of(tensor) or id(tensor)
            if tensor.dtype not in _CAN or identity in seen or not tensor.numel:
                continue
            seen.add(identity)
            if tensor.storage is None and tensor.layout == "meta":
                continue
            key = name or (f"{root.path}.{tensor.key}" if root.path else tensor.key)
            path = tensor.storage.file if tensor.storage is not None else contents.path
            if tensor.layout in ("conjugated", "negated"):
                # Kept as what it is the conjugate or negative of, which is as finite.
                tensor = tensor._replace(layout="strided")
            try:
                odd = yield from _scan_tensor(tensor)
            except ConvInspectError as error:
                yield finding("values-not-read", path, f"{key}: {error.problem}", subject=key)
                continue
            yield Looked("tensors")
            for code, what, number, first in (
                ("nan", "NaN", odd.nan, odd.first_nan),
                ("inf", "infinite", odd.inf, odd.first_inf),
            ):
                if number:
                    at = f", the first at {list(first)}" if first else ""
                    are = "is" if number == 1 else "are"
                    message = f"{key}: {number:,} of {tensor.numel:,} {are} {what}{at}"
                    yield finding(code, path, message, subject=key)


def _scan_tensor(tensor: Tensor) -> Scan[Odd]:
    """The elements of a tensor that are not finite.

    Raises:
        What `read_tensor` raises.
    """
    counts, firsts, done = [0, 0], [-1, -1], 0
    for block in read_blocks(tensor):
        for kind, hits in enumerate(_odd_in(block, tensor.dtype)):
            if firsts[kind] < 0 and hits.any():
                firsts[kind] = done + int(hits.argmax())
            counts[kind] += int(np.count_nonzero(hits))
        done += block.size
        yield Progress(block.nbytes)
    nan, inf = (_index(tensor, first, test) for first, test in zip(firsts, (np.isnan, np.isinf), strict=True))
    return Odd(counts[0], counts[1], nan, inf)


def _odd_in(block: Array, dtype: str) -> tuple[Array, ...]:
    """Which elements are NaN and which infinite; nothing where all are finite."""
    if not _suspects(block, _PARTS.get(dtype, dtype)).any():
        return ()
    # NumPy warns of a signalling NaN when it widens it, which is what is looked for.
    with np.errstate(invalid="ignore"):
        values = block if block.dtype.kind == "c" else block.astype(np.float64)
        nan = np.isnan(values)
        return nan, np.isinf(values) & ~nan


def _suspects(block: Array, dtype: str) -> Array:
    """Which numbers are not finite, with the two parts of a complex number separate."""
    mask = _MASKS.get(dtype)
    if mask is not None:
        # Complex numbers can be viewed as two parts only if they are contiguous.
        block = np.ascontiguousarray(block) if block.dtype.kind == "c" else block
        bits = block.view(f"u{2 if '16' in dtype else 4 if dtype == 'float32' else 8}")
        kind = bits.dtype.type
        masked: Array = (bits & kind(mask)) == kind(mask)
        return masked
    hits: Array = _table(dtype)[block.view(np.uint8)]
    return hits


@lru_cache(maxsize=8)
def _table(dtype: str) -> Array:
    """Which of the 256 values of an 8-bit type are not finite."""
    values = np.arange(256).astype(np.uint8).view(getattr(ml_dtypes, dtype)).astype(np.float64)
    odd: Array = ~np.isfinite(values)
    return odd


def _index(tensor: Tensor, place: int, test: Callable[[Array], Array]) -> tuple[int, ...] | None:
    """The index of the element at a place in the order that `read_blocks` gives them; None without a place."""
    if place < 0 or not tensor.shape:
        return None
    if dense(tensor):
        index = [0] * len(tensor.shape)
        for axis in sorted(range(len(tensor.shape)), key=lambda axis: -tensor.stride[axis]):
            if tensor.shape[axis] > 1:
                index[axis], place = divmod(place, tensor.stride[axis])
        return tuple(index)
    if tensor.numel > _MOST_AT_ONCE:
        return None
    with np.errstate(invalid="ignore"):
        return tuple(int(index) for index in np.argwhere(test(read_tensor(tensor)))[0])
