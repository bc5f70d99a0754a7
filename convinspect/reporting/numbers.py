"""A layer's numbers in one pass: statistics, norms of its output channels, dead ones, and a picture of few cells."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from convinspect.arrays import stats
from convinspect.arrays.effective import effective_weight
from convinspect.arrays.read import Array, numpy_dtype, read_blocks, read_tensor
from convinspect.arrays.stats import Stats
from convinspect.arrays.threads import map_threads
from convinspect.errors import ConvInspectError
from convinspect.kinds import QUANTIZED
from convinspect.layers.packing import is_packed
from convinspect.records import Layer, Tensor
from convinspect.reporting.shapes import Grid, View, grid_of, view_of
from convinspect.reporting.squares import Squares

_WHOLE = 32 << 20
"""Bytes up to which a weight with gaps, or in pieces, is read whole; a longer one has no picture."""
_LONGEST = 4 << 20
"""Elements of a row up to which there is a picture, and output channels up to which each has a norm."""
_SMALL, _LARGE = 1e-15, 1e15
"""Largest magnitudes between which squares stay within float32 as far as it matters."""


class Picture(NamedTuple):
    """A weight as a matrix of cells, output channels from top to bottom.

    Attributes:
        values: (rows, columns). The numbers themselves where each cell is one; else the root of the mean of the
            squares in each cell.
        high: Rows of the weight in each cell.
        wide: Columns of the weight in each cell.
        out: Rows of the weight.
        across: Its columns.
        taps: Neighbouring columns that belong to one kernel; 1 where there is one.
        exact: Each cell is a number.
    """

    values: Array
    high: int
    wide: int
    out: int
    across: int
    taps: int
    exact: bool


class Numbers(NamedTuple):
    """What one pass over a layer's weight leaves.

    Attributes:
        stats: Statistics and histogram.
        norms: (out,), the Euclidean norm of the kernel of each output channel; None where there are none.
        dead: Output channels, or rows, whose numbers are all 0, in order.
        picture: None where the weight has none.
        notes: What the numbers are, where they are not those of the file.
    """

    stats: Stats
    norms: Array | None = None
    dead: tuple[int, ...] = ()
    picture: Picture | None = None
    notes: tuple[str, ...] = ()


def numbers_of_layers(layers: Iterable[tuple[Layer, int]], threads: int = 2) -> Iterator[Numbers | ConvInspectError]:
    """The numbers of each layer's effective weight, in order; an error for a layer whose weight cannot be read.

    Args:
        layers: Each with the most cells that its picture may have.
        threads: How many are read at a time.
    """
    return map_threads(_of_layer, layers, threads)


def _of_layer(wanted: tuple[Layer, int]) -> Numbers | ConvInspectError:
    try:
        with np.errstate(all="ignore"):
            return numbers_of(*wanted)
    except ConvInspectError as error:
        return error


def numbers_of(layer: Layer, cells: int) -> Numbers:
    """The numbers of one layer's effective weight.

    Raises:
        ConvInspectError: They cannot be read.
    """
    weight = layer.weight
    notes = notes_of(layer)
    if layer.norm:
        array = np.ascontiguousarray(effective_weight(layer))
        return _summed(layer, array.reshape(-1), view_of(layer, stored=False), cells, notes)
    view = view_of(layer, stored=True)
    if view is None and weight.nbytes <= _WHOLE:
        array = np.ascontiguousarray(read_tensor(weight))
        return _summed(layer, array.reshape(-1), view_of(layer, stored=False), cells, notes)
    if weight.nbytes <= stats.AT_ONCE and view is not None:
        array = read_tensor(weight).transpose(view.order)
        return _summed(layer, array.reshape(-1), view, cells, notes)
    return _summed(layer, weight, view, cells, notes)


def notes_of(layer: Layer) -> tuple[str, ...]:
    """What the numbers of a layer are, where they are not those of the file."""
    if layer.norm:
        return ("of the effective kernel, which a forward pass uses",)
    if layer.kind in QUANTIZED or is_packed(layer):
        return ("of the integers as they are stored: their scales are kept apart",)
    return ()


def _summed(layer: Layer, source: Tensor | Array, view: View | None, cells: int, notes: tuple[str, ...]) -> Numbers:
    """The numbers of a source in the order of `view`."""
    dtype = numpy_dtype(source.dtype, sys.byteorder) if isinstance(source, Tensor) else source.dtype
    taking = Taking(layer, view, cells, dtype, notes)
    for block in blocks_of(source, taking.step):
        taking.add(block)
    return taking.numbers(source)


def blocks_of(source: Tensor | Array, step: int) -> Iterable[Array]:
    """The numbers of a tensor in the order of the file, or of an array of one dimension, so many at a time."""
    if isinstance(source, Tensor):
        return read_blocks(source, step)
    return (source[start : start + step] for start in range(0, source.size, step))


class Taking:
    """The numbers of one layer, which are taken while its weight passes by in the order of `view`.

    Args:
        layer: Any.
        view: How its weight lies; None to take statistics alone.
        cells: The most cells of its picture.
        dtype: Of the blocks.
        notes: What the numbers are.

    Attributes:
        step: How many elements a block has, but for the last.
    """

    def __init__(
        self, layer: Layer, view: View | None, cells: int, dtype: np.dtype[Any], notes: tuple[str, ...] = ()
    ) -> None:
        self._stats, self._notes, self._squares = stats.Passing(dtype), notes, None
        self.step = stats.RUN
        if view is not None and layer.weight.numel and cells and view.unit <= _LONGEST:
            view = view._replace(channels=view.channels and view.out <= _LONGEST)
            self._squares = Squares(view, grid_of(view, cells))
            self.step = max(1, stats.RUN // max(view.unit, 1)) * view.unit

    def add(self, block: Array) -> None:
        """Take the next block."""
        if self._squares is not None:
            with np.errstate(all="ignore"):
                self._squares.add(block)
        self._stats.add(block)

    def numbers(self, source: Tensor | Array) -> Numbers:
        """What was taken.

        Args:
            source: The weight itself, which is read again where that is needed.
        """
        squares = self._squares
        if squares is None:
            return Numbers(self._stats.stats(source), notes=self._notes)
        found, view = self._stats.stats(source), squares.view
        if found.minimum is not None and found.maximum is not None:
            most = max(abs(float(found.minimum)), abs(float(found.maximum)))
            if most and not _SMALL < most < _LARGE:
                squares = Squares(view, squares.grid, int(np.frexp(most)[1]))
                for block in blocks_of(source, self.step):
                    squares.add(block)
        return Numbers(
            found,
            squares.norms() if view.channels else None,
            tuple(np.flatnonzero(~squares.alive).tolist()) if view.channels else (),
            _picture(source, view, squares.grid, squares),
            self._notes,
        )


def _picture(source: Tensor | Array, view: View, grid: Grid, squares: Squares) -> Picture:
    """The picture: the numbers themselves where there are no more than cells."""
    exact = (grid.high, grid.wide) == (1, 1) and (view.before == 1 or view.after == 1)
    if exact:
        array = source if isinstance(source, np.ndarray) else read_tensor(source).reshape(-1)
        values = array.reshape(view.before, view.out, view.after)[0] if view.before == 1 else array.reshape(
            view.before, view.out
        ).T  # fmt: skip
        values = np.abs(values) if values.dtype.kind == "c" else values
        shown = values.astype(np.float64)
    else:
        shown = squares.root_mean_squares()
    strip = not view.channels and view.before == view.after == 1
    if strip:
        return Picture(shown.reshape(1, -1), 1, grid.high, 1, view.out, 1, exact)
    return Picture(shown, grid.high, grid.wide, view.out, view.columns, view.taps, exact)
