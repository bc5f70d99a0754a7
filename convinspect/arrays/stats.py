"""Summary statistics of tensors, streamed in bounded memory.

Two passes: the first finds the range and counts what is not a number, the second, once the range is known, takes
the moments and the histogram. Types of at most 16 bits have so few values that counting each of them once is
enough for everything.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, cast

import numpy as np

from convinspect.arrays.effective import effective_weight
from convinspect.arrays.quantized import dequantized, is_quantized
from convinspect.arrays.read import Array, numpy_dtype, read_blocks, read_tensor
from convinspect.arrays.threads import map_threads
from convinspect.errors import ConvInspectError
from convinspect.records import Layer, Tensor

BINS = 16
RUN = 1 << 17
"""Elements taken at once. Shorter runs fit the caches better but leave two threads waiting for each other."""
AT_ONCE = 1 << 24
"""Bytes up to which a tensor is kept in memory, so that the file is read once and not for each pass."""
PAIRED = BINS * 257 + 1
"""Two bin indices of 0 to 16 in one 16-bit number stay below this."""

Source = Tensor | Array | Collection[Array]


@dataclass(frozen=True, slots=True)
class Stats:
    """A tensor's elements in numbers.

    All but the counts are over the finite elements, and None when there are none. Of complex numbers the absolute
    value is taken. Counts, minimum and maximum are exact; the rest is accumulated in float64.

    Attributes:
        numel: Elements.
        minimum: An int for integers and bool.
        maximum: An int for integers and bool.
        mean: Arithmetic mean.
        std: Standard deviation as `torch.std` has it by default: the squares' sum divided by n - 1. None for one
            element.
        l2: Square root of the sum of squares.
        zeros: Elements equal to 0 (or -0).
        nan: Elements that are not a number.
        inf: Elements of infinite magnitude, of either sign.
        histogram: Finite elements in each of 16 equal bins from minimum to maximum, each bin without its right
            edge but the last. When all are equal they are in the middle one, as `numpy.histogram` puts them. () when
            there are none.
    """

    numel: int
    minimum: float | None
    maximum: float | None
    mean: float | None
    std: float | None
    l2: float | None
    zeros: int
    nan: int
    inf: int
    histogram: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Range:
    numel: int = 0
    low: float = math.inf
    high: float = -math.inf
    zeros: int = 0
    nan: int = 0
    inf: int = 0

    @property
    def finite(self) -> int:
        return self.numel - self.nan - self.inf


@dataclass(frozen=True, slots=True)
class _Sums:
    """Of `count` numbers x, each taken as (x - origin) / 2**exponent."""

    count: int = 0
    total: float = 0.0
    m2: float = 0.0
    """Sum of the squared distances from the mean."""
    origin: int = 0
    exponent: int = 0


def of(source: Source, dtype: np.dtype[Any] | None = None) -> Stats:
    """The statistics of one tensor.

    Args:
        source: A tensor of a file, an array, or 1-D arrays of one dtype that are its blocks. They are read
            twice, so they must be in a list or the like.
        dtype: Of the blocks, where the first of them is not to be asked for it.

    Raises:
        What `read_tensor` raises.
    """
    with np.errstate(all="ignore"):
        passing = Passing(_dtype(source) if dtype is None else dtype)
        if passing.twice and isinstance(source, Tensor) and source.nbytes <= AT_ONCE:
            source = read_tensor(source)
        for run in _runs(source):
            passing.add(run)
        return passing.stats(source)


class Passing:
    """Statistics that are taken while a tensor's blocks pass by.

    Args:
        dtype: Of the blocks.

    Attributes:
        twice: They must pass by once more, for `stats`: numbers have more than 16 bits.
    """

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._dtype, self.twice, self._seen = dtype, dtype.itemsize > 2, _Range()
        self._counts = np.zeros(0 if self.twice else 256**dtype.itemsize, np.int64)

    def add(self, block: Array) -> None:
        """Take the next block."""
        with np.errstate(all="ignore"):
            for run in _runs(block):
                if self.twice:
                    self._seen = _widened(self._seen, _magnitudes(run))
                else:
                    found = np.bincount(run.view(f"u{self._dtype.itemsize}"), minlength=self._counts.size)
                    self._counts += found

    def stats(self, again: Source) -> Stats:
        """The statistics of all that passed by.

        Args:
            again: The same blocks, which are asked for only if they are needed `twice`.
        """
        with np.errstate(all="ignore"):
            if self.twice:
                return _streamed(again, self._seen, self._dtype.kind)
            return _counted(self._counts, self._dtype)


def of_layers(layers: Iterable[Layer], threads: int = 2) -> Iterator[Stats | ConvInspectError]:
    """The statistics of each layer's effective weight, in order; an error for a layer whose weight cannot be read.

    Layers are taken `threads` at a time: numpy lets other threads run while it computes.
    """
    return map_threads(_of_layer, layers, threads)


def _of_layer(layer: Layer) -> Stats | ConvInspectError:
    try:
        if layer.norm:
            return of(effective_weight(layer))
        return of(dequantized(layer.weight) if is_quantized(layer.weight) else layer.weight)
    except ConvInspectError as error:
        return error


def _dtype(source: Source) -> np.dtype[Any]:
    if isinstance(source, Tensor):
        return numpy_dtype(source.dtype, sys.byteorder)
    if isinstance(source, np.ndarray):
        return source.dtype
    return next((block.dtype for block in source), np.dtype(np.float64))


def _runs(source: Source) -> Iterator[Array]:
    """1-D contiguous pieces of at most `RUN` elements."""
    parts: Iterable[Array]
    if isinstance(source, Tensor):
        parts = read_blocks(source)
    elif isinstance(source, np.ndarray):
        parts = [source]
    else:
        # A Tensor is a tuple, and so a collection too, which mypy does not rule out here.
        parts = cast("Collection[Array]", source)
    for block in parts:
        flat = np.ascontiguousarray(block).reshape(-1)
        for start in range(0, flat.size, RUN):
            yield flat[start : start + RUN]


def _streamed(source: Source, seen: _Range, kind: str) -> Stats:
    """Statistics of a type with more than 16 bits, whose range is known."""
    if not seen.finite:
        return _stats(seen, _Sums(), ())
    origin, exponent = (seen.low, 0) if kind in "iu" else (0, _exponent(seen))
    sums, pairs = _Sums(origin=int(origin), exponent=exponent), np.zeros(PAIRED, np.int64)
    low, high = (float(np.ldexp(float(x - origin), -exponent)) for x in (seen.low, seen.high))
    scratch = np.empty(RUN), np.empty(RUN), np.empty(RUN + 1, np.uint8)
    for run in _runs(source):
        values = _magnitudes(run)
        if seen.finite < seen.numel:
            values = values[np.isfinite(values)]
        wide, spare = scratch[0][: values.size], scratch[1][: values.size]
        _widen(values, sums, wide)
        sums = _added(sums, wide, spare)
        if high > low:
            bins = _bins(wide, low, (high - low) / BINS, scratch[2])
            pairs += np.bincount(bins, minlength=PAIRED)
    return _stats(seen, sums, _unpaired(pairs, seen.finite) if high > low else _single(seen.finite))


def _magnitudes(run: Array) -> Array:
    return np.abs(run.astype(np.complex128)) if run.dtype.kind == "c" else run


def _widened(seen: _Range, run: Array) -> _Range:
    """The range and counts so far, extended by one more run."""
    zeros, nan, inf, size = run.size - int(np.count_nonzero(run != 0)), 0, 0, run.size
    low, high = run.min(), run.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        finite = run[np.isfinite(run)]
        nan = int(np.count_nonzero(np.isnan(run)))
        inf = size - finite.size - nan
        low, high = finite.min(initial=math.inf), finite.max(initial=-math.inf)
    return _Range(
        seen.numel + size,
        min(seen.low, low.item()),
        max(seen.high, high.item()),
        seen.zeros + zeros,
        seen.nan + nan,
        seen.inf + inf,
    )


def _exponent(seen: _Range) -> int:
    """The power of 2 to divide by so that no square leaves the range of float64."""
    exponent = math.frexp(max(abs(seen.low), abs(seen.high)))[1]
    return exponent if abs(exponent) > 400 else 0


def _widen(values: Array, sums: _Sums, out: Array) -> None:
    """Values → float64, as `sums` takes them."""
    if values.dtype.kind in "iu":
        # Wrapping around is right here: the true difference is known to fit 64 bits.
        shifted = values.astype(np.int64).view(np.uint64) - np.uint64(sums.origin % (1 << 64))
        np.copyto(out, shifted)
        return
    np.copyto(out, values)
    if sums.exponent:
        np.ldexp(out, -sums.exponent, out=out)


def _added(sums: _Sums, wide: Array, spare: Array) -> _Sums:
    """The sums with one more run, by the pairwise formula of Chan, Golub & LeVeque 1983.

    "Algorithms for Computing the Sample Variance: Analysis and Recommendations", The American Statistician 37(3),
    equations 2.1.
    """
    count, total = wide.size, float(wide.sum())
    if not count:
        return sums
    np.subtract(wide, total / count, out=spare)
    np.square(spare, out=spare)
    m2 = float(spare.sum())
    if sums.count:
        shift = total / count - sums.total / sums.count
        m2 += sums.m2 + shift * shift * (sums.count * count / (sums.count + count))
    return _Sums(sums.count + count, sums.total + total, m2, sums.origin, sums.exponent)


def _bins(wide: Array, low: float, width: float, out: Array) -> Array:
    """The bin of each number, 0 to 16, two of them in one 16-bit number. Overwrites `wide`.

    Divides, and does not multiply by 1 / width: a multiple of the width must come out exact.
    """
    np.subtract(wide, low, out=wide)
    np.divide(wide, width, out=wide)
    np.copyto(out[: wide.size], wide, casting="unsafe")
    out[wide.size : wide.size + wide.size % 2] = 0
    return out[: wide.size + wide.size % 2].view(np.uint16)


def _unpaired(pairs: Array, count: int) -> tuple[int, ...]:
    """Counts of pairs of bins → counts of bins."""
    square = np.zeros((BINS + 1, 256), np.int64)
    square.reshape(-1)[:PAIRED] = pairs[: square.size]
    bins = square.sum(axis=1) + square.sum(axis=0)[: BINS + 1]
    # Subtract the zeros that padded runs of odd length.
    bins[0] -= bins.sum() - count
    bins[BINS - 1] += bins[BINS]
    return tuple(bins[:BINS].tolist())


def _single(count: int) -> tuple[int, ...]:
    """The histogram of `count` equal numbers."""
    return tuple(count if index == BINS // 2 else 0 for index in range(BINS))


@lru_cache(maxsize=16)
def _patterns(dtype: np.dtype[Any]) -> Array:
    """The values of all bit patterns of a dtype of at most 16 bits, as float64."""
    bits = np.arange(256**dtype.itemsize).astype(f"u{dtype.itemsize}")
    return (bits != 0 if dtype == np.bool_ else bits.view(dtype)).astype(np.float64)


def _counted(counts: Array, dtype: np.dtype[Any]) -> Stats:
    """Statistics of a type with at most 16 bits, computed from the number of times each bit pattern occurs."""
    present = np.flatnonzero(counts)
    values, counts = _patterns(dtype)[present], counts[present]
    nan, inf = (int(counts[odd(values)].sum()) for odd in (np.isnan, np.isinf))
    numel, zeros, finite = int(counts.sum()), int(counts[values == 0].sum()), np.isfinite(values)
    values, counts = values[finite], counts[finite]
    low, high = float(values.min(initial=math.inf)), float(values.max(initial=-math.inf))
    seen = _Range(numel, low, high, zeros, nan, inf)
    if not seen.finite:
        return _stats(seen, _Sums(), ())
    if dtype.kind in "iub":
        seen = replace(seen, low=int(seen.low), high=int(seen.high))
    total = float(np.sum(values * counts))
    m2 = float(np.sum(np.square(values - total / seen.finite) * counts))
    if seen.low == seen.high:
        return _stats(seen, _Sums(seen.finite, total, m2), _single(seen.finite))
    bins = np.minimum((values - seen.low) / ((seen.high - seen.low) / BINS), BINS - 1).astype(np.intp)
    histogram = np.bincount(bins, weights=counts, minlength=BINS)
    return _stats(seen, _Sums(seen.finite, total, m2), tuple(histogram.astype(np.int64).tolist()))


def _stats(seen: _Range, sums: _Sums, histogram: tuple[int, ...]) -> Stats:
    n = sums.count
    if not n:
        return Stats(seen.numel, None, None, None, None, None, seen.zeros, seen.nan, seen.inf, ())
    # Dividing integers last keeps their mean exact.
    mean = (sums.origin * n + int(sums.total)) / n if sums.origin else sums.total / n
    m2 = sums.m2 if seen.high > seen.low else 0.0
    std = _scaled(math.sqrt(m2 / (n - 1)), sums) if n > 1 else None
    return Stats(
        numel=seen.numel,
        minimum=seen.low,
        maximum=seen.high,
        mean=_scaled(mean, sums),
        std=std,
        l2=_scaled(math.sqrt(m2 + n * mean * mean), sums),
        zeros=seen.zeros,
        nan=seen.nan,
        inf=seen.inf,
        histogram=histogram,
    )


def _scaled(number: float, sums: _Sums) -> float:
    return float(np.ldexp(number, sums.exponent))
