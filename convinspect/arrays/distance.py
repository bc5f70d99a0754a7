"""How much the numbers of two stored tensors differ, of any dtypes, in bounded memory.

As numbers, not as bits: NaN equals NaN and 0 equals -0, which `equality` distinguishes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from convinspect.arrays.read import Array, dense, read_blocks, read_tensor
from convinspect.formats.pieces import LAYOUT
from convinspect.records import Tensor

_RUN = 1 << 16
"""Elements that are compared at once."""


@dataclass(frozen=True, slots=True)
class Deviation:
    """How two tensors of one shape differ.

    Attributes:
        count: Elements that differ.
        total: Of how many.
        absolute: Largest |a - b| where neither is NaN; for complex numbers the modulus of the difference.
        relative: Largest |a - b| / max(|a|, |b|); infinite where one is.
        nan: Elements that are NaN on one side only.
    """

    count: int
    total: int
    absolute: float = 0.0
    relative: float = 0.0
    nan: int = 0


def deviation(a: Tensor, b: Tensor) -> Deviation | None:
    """How two tensors of one shape differ; None when no number does.

    Raises:
        CannotShow: The file holds no numbers for one of them, or its dtype has no reading as one number per element.
        ConvInspectError: Its bytes are missing or damaged.
    """
    found = Deviation(0, a.numel)
    for x, y in _runs(a, b):
        found = with_run(found, x, y)
    return found if found.count else None


def with_run(found: Deviation, x: Array, y: Array) -> Deviation:
    """How two tensors differ, extended by elements of both.

    Args:
        found: By the elements before.
        x: 1-D, of the first tensor.
        y: Those of the second at the same places.
    """
    with np.errstate(all="ignore"):
        for start in range(0, x.size, _RUN):
            run = _deviation(x[start : start + _RUN], y[start : start + _RUN])
            found = Deviation(
                found.count + run.count,
                found.total,
                max(found.absolute, run.absolute),
                max(found.relative, run.relative),
                found.nan + run.nan,
            )
    return found


def _runs(a: Tensor, b: Tensor) -> Iterator[tuple[Array, Array]]:
    """The elements of both, 1-D, in runs; streamed where both are stored in the same order, else read whole."""
    if LAYOUT not in (a.layout, b.layout) and dense(a) and _order(a) == _order(b):
        yield from zip(read_blocks(a, _RUN), read_blocks(b, _RUN), strict=True)
        return
    x, y = (values if values.ndim else values.reshape(1) for values in (read_tensor(a), read_tensor(b)))
    rows = max(1, _RUN // max(1, x.size // max(1, len(x))))
    for start in range(0, len(x), rows):
        yield x[start : start + rows].reshape(-1), y[start : start + rows].reshape(-1)


def _order(tensor: Tensor) -> list[int]:
    """Strides of the axes longer than 1."""
    return [step for step, size in zip(tensor.stride, tensor.shape, strict=True) if size > 1]


def _deviation(x: Array, y: Array) -> Deviation:
    """How two runs of elements differ."""
    x, y = _comparable(x, y)
    nans = np.isnan(x), np.isnan(y)
    unequal = (x != y) & ~(nans[0] & nans[1])
    measurable = unequal & ~(nans[0] | nans[1])
    counts = Deviation(int(np.count_nonzero(unequal)), unequal.size, nan=int(np.count_nonzero(nans[0] != nans[1])))
    x, y = x[measurable], y[measurable]
    if not x.size:
        return counts
    sizes = _distances(x, y)
    ratios = sizes / np.maximum(_size(x), _size(y))
    # Inf / Inf and Inf - Inf are NaN here, and count as an infinite difference.
    largest = [float(np.where(np.isnan(values), np.inf, values).max()) for values in (sizes, ratios)]
    return replace(counts, absolute=largest[0], relative=largest[1])


def _distances(x: Array, y: Array) -> Array:
    if x.dtype.kind not in "iu":
        distances: Array = np.abs(x - y)
        return distances
    # Two's complement: the distance of any two fits the unsigned type, whichever way the subtraction wraps.
    wrapped: Array = np.maximum(x, y).view(np.uint64) - np.minimum(x, y).view(np.uint64)
    return wrapped.astype(np.float64)


def _size(x: Array) -> Array:
    # The smallest integer has no absolute value of its own type.
    size: Array = np.abs(x.astype(np.float64) if x.dtype.kind in "iu" else x)
    return size


def _comparable(x: Array, y: Array) -> tuple[Array, Array]:
    """Both converted to one type that holds either: int64, uint64, float64 or complex128."""
    kinds = {x.dtype.kind, y.dtype.kind}
    wide: Any = np.float64
    if "c" in kinds:
        wide = np.complex128
    elif kinds <= {"b", "u"}:
        wide = np.uint64
    elif kinds <= {"b", "i", "u"} and np.dtype(np.uint64) not in (x.dtype, y.dtype):
        wide = np.int64
    return x.astype(wide), y.astype(wide)
