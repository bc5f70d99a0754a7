"""A layer's numbers for the screen: read when they are asked for, in bounded memory, and given up on moving on."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from convinspect.arrays import kernels, stats
from convinspect.arrays.cells import add_rows, lengths
from convinspect.arrays.quantized import is_quantized
from convinspect.arrays.read import Array, numpy_dtype, read_blocks, read_tensor
from convinspect.arrays.stats import Passing, Stats
from convinspect.checkpoint import Checkpoint
from convinspect.errors import CannotShow, ConvInspectError, Option, Wording
from convinspect.formats import pieces
from convinspect.formats.files import check_unchanged
from convinspect.kinds import QUANTIZED
from convinspect.records import Layer, Tensor, contiguous

MOST_IN_MEMORY = 1 << 23
"""Elements of a layer up to which all its numbers are kept; of a larger one only means are, of at most `FINEST`."""
FINEST = (512, 1024)
"""Rows and columns of means."""
_BAND, _LONGEST = 1 << 20, 1 << 24
"""Elements that are read at once of a large tensor, where its rows are shorter, and of the longest row."""


class Stopped(Exception):
    """Nobody waits for these numbers any more."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """One matrix.

    Attributes:
        title: What it is, beyond the layer's name; "" where there is only one.
        values: (rows × columns): the numbers, or sums of those that each cell covers.
        shape: Rows and columns of the matrix itself.
        counts: How many numbers each row and each column of `values` stands for; None where these are the numbers.
        row_names: Of the numbers; () for means.
        column_names: Of the numbers; () for means.
    """

    title: str
    values: Array
    shape: tuple[int, int]
    counts: tuple[Array, Array] | None = None
    row_names: tuple[str, ...] = ()
    column_names: tuple[str, ...] = ()

    def means(self, rows: int, columns: int) -> Array:
        """The matrix averaged down to at most so many rows and columns, each mean exact but for rounding.

        Returns:
            (rows × columns) in float64; not finite where one of the numbers is not.
        """
        down, across = self.values.shape
        tops, lefts = _starts(down, min(rows, down)), _starts(across, min(columns, across))
        heights, widths = self.counts or (np.ones(down), np.ones(across))
        values = np.abs(self.values) if self.values.dtype.kind == "c" else self.values
        with np.errstate(all="ignore"):
            sums = np.add.reduceat(np.add.reduceat(values, tops, axis=0, dtype=np.float64), lefts, axis=1)
            result: Array = sums / np.outer(np.add.reduceat(heights, tops), np.add.reduceat(widths, lefts))
        return result


@dataclass(frozen=True, slots=True)
class Numbers:
    """What is shown of a layer's numbers.

    Attributes:
        sheets: One for each tap of a kernel; of other layers one for each tensor.
        stats: Of the weight that a forward pass would use.
        notes: How they were come by.
    """

    sheets: tuple[Sheet, ...]
    stats: Stats
    notes: tuple[str, ...]


def read_numbers(checkpoint: Checkpoint, layer: Layer, stopped: Callable[[], bool]) -> Numbers:
    """Read one layer's numbers.

    Args:
        checkpoint: The file it is of.
        layer: Any layer.
        stopped: Asked between blocks; True gives up.

    Raises:
        Stopped: It gave up.
        ChangedMeanwhile: The file is not the one that was opened.
        ConvInspectError: The numbers are not in the file, or cannot be read or shown.
    """
    files = {tensor.storage.file for tensor in layer.tensors.values() if tensor.storage is not None}
    try:
        check_unchanged({file: checkpoint.versions[file] for file in files if file in checkpoint.versions})
        if layer.numel <= MOST_IN_MEMORY:
            return _whole(layer, stopped)
        return _large(layer, stopped)
    except ConvInspectError as error:
        raise error.at(checkpoint.path) from None


def _whole(layer: Layer, stopped: Callable[[], bool]) -> Numbers:
    notes: tuple[str, ...] = ()
    if kernels.is_kernel(layer) and (layer.kind not in QUANTIZED or is_quantized(layer.weight)):
        kernel = kernels.load_kernel(layer)
        found, notes, weight = list(kernels.matrices(kernel, kernels.Choice())), kernel.notes, kernel.weight
    else:
        found = list(kernels.other_tensors(layer, kernels.Choice()))
        weight = read_tensor(layer.weight)
    _check(stopped)
    sheets = [
        Sheet(each.title, each.values, _two(each.values), None, tuple(each.row_names), tuple(each.column_names))
        for each in found
    ]
    if any(sheet.values.dtype.kind == "c" for sheet in sheets):
        notes = (*notes, "the picture shows absolute values: these numbers are complex")
    return Numbers(tuple(sheets), stats.of(weight), notes)


def _two(values: Array) -> tuple[int, int]:
    rows, columns = values.shape
    return rows, columns


def _large(layer: Layer, stopped: Callable[[], bool]) -> Numbers:
    """Means and statistics of a layer that is not kept in memory."""
    weight = layer.weight
    too_long = math.prod(weight.shape[1:]) > _LONGEST
    if layer.norm is not None or weight.layout == pieces.LAYOUT or not weight.shape or too_long:
        problem = f"layer {layer.name}: its {layer.numel:,} numbers are too many for a screen"
        remedy = Wording("convinspect weights FILE LAYER ", Option("stats"), " reads them all")
        raise CannotShow(problem, remedy)
    rows, columns = weight.shape[0], math.prod(weight.shape[1:])
    high, wide = -(-rows // FINEST[0]), -(-columns // FINEST[1])
    counts = lengths(rows, high), lengths(columns, wide)
    sums, passing, start = (
        np.zeros((len(counts[0]), len(counts[1]))),
        Passing(numpy_dtype(weight.dtype, sys.byteorder)),
        0,
    )
    for band in _bands(weight):
        _check(stopped)
        passing.add(band)
        with np.errstate(all="ignore"):
            real = np.abs(band) if band.dtype.kind == "c" else band
            add_rows(sums, real.astype(np.float64, copy=False), start, high, wide, squared=False)
        start += len(band)
    notes = (f"rows as stored, first of {weight.shape}; too large to keep, so that there is no table of numbers",)
    sheet = Sheet("", sums, (rows, columns), counts)
    return Numbers((sheet,), passing.stats(_Bands(weight, stopped)), notes)


class _Bands(Collection[Array]):
    """A tensor's bands, as statistics take them once more."""

    def __init__(self, tensor: Tensor, stopped: Callable[[], bool]) -> None:
        self._tensor, self._stopped = tensor, stopped

    def __iter__(self) -> Iterator[Array]:
        for band in _bands(self._tensor):
            _check(self._stopped)
            yield band

    def __len__(self) -> int:
        return self._tensor.numel

    def __contains__(self, block: Any) -> bool:
        return False


def _bands(tensor: Tensor) -> Iterator[Array]:
    """Some rows of a tensor after the others, as a matrix."""
    rows, columns = tensor.shape[0], math.prod(tensor.shape[1:])
    step = max(_BAND // max(columns, 1), 1)
    if tensor.layout == "strided" and tensor.stride == contiguous(tensor.shape):
        # What is compressed is unpacked once, from its beginning on.
        yield from (block.reshape(-1, columns) for block in read_blocks(tensor, step * columns))
        return
    for start in range(0, rows, step):
        shape = (min(step, rows - start), *tensor.shape[1:])
        part = tensor._replace(shape=shape, offset=tensor.offset + start * tensor.stride[0])
        yield read_tensor(part).reshape(shape[0], columns)


def _check(stopped: Callable[[], bool]) -> None:
    if stopped():
        raise Stopped


def _starts(count: int, parts: int) -> Array:
    """Where each of so many nearly equal parts starts."""
    starts: Array = np.arange(parts) * count // max(parts, 1)
    return starts
