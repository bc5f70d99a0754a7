"""How a weight lies in its storage, seen from its output channels, and into how many cells its picture is cut."""

from __future__ import annotations

import math
from typing import NamedTuple

from convinspect.arrays.read import dense
from convinspect.kinds import CONV_TRANSPOSES, CONVOLUTIONS, TRANSFORMERS_CONV1D, is_in_out
from convinspect.layouts import axis_names
from convinspect.records import Layer, Tensor

_MATRICES = ("Linear", TRANSFORMERS_CONV1D, *CONVOLUTIONS, *CONV_TRANSPOSES)
_WIDEST = 3.0
"""How many times wider than high a picture may be; twice as high as wide it may be too."""


class View(NamedTuple):
    """A weight in the order of its storage: (before, out, after).

    Attributes:
        before: Numbers of the axes before that of the output channels.
        out: Output channels; of what has none the first axis.
        after: Numbers of the axes after it.
        order: The axes in the order of the storage.
        taps: Positions of a kernel, where these are the last axes in that order; else 1.
        channels: What `out` counts is output channels.
    """

    before: int
    out: int
    after: int
    order: tuple[int, ...]
    taps: int = 1
    channels: bool = True

    @property
    def unit(self) -> int:
        """The fewest elements that are taken at once: a row, or all that belongs to one index of `before`."""
        return self.after if self.before == 1 else self.out * self.after

    @property
    def columns(self) -> int:
        """Columns of the picture: its rows are those of `out`."""
        return self.after if self.before == 1 else self.before


def view_of(layer: Layer, stored: bool) -> View | None:
    """How a layer's weight lies.

    Args:
        layer: Any.
        stored: In the file; else in memory, row by row.

    Returns:
        None where its elements do not fill one run of the storage.
    """
    weight = layer.weight
    if stored and (weight.layout != "strided" or len(weight.shape) != len(weight.stride) or not dense(weight)):
        return None
    order = _order(weight, stored)
    axis, channels = _out_axis(layer)
    shape = weight.shape
    if len(shape) < 2:
        # One row, however long: a strip.
        return View(1, weight.numel, 1, order, channels=False)
    at = order.index(axis)
    before = math.prod(shape[a] for a in order[:at])
    after = math.prod(shape[a] for a in order[at + 1 :])
    if before == 1 or shape[axis] == 1:
        before, after = 1, before * after
    in_order = layer.layout is None and order == tuple(range(len(shape))) and before == 1
    taps = math.prod(layer.kernel_size) if in_order and layer.kernel_size else 1
    return View(before, shape[axis], after, order, taps if after % max(taps, 1) == 0 else 1, channels)


def _order(weight: Tensor, stored: bool) -> tuple[int, ...]:
    axes = range(len(weight.shape))
    if not stored:
        return tuple(axes)
    # An axis of size 1 lies anywhere: it stays between its neighbours.
    strides = list(weight.stride)
    for axis in reversed(axes):
        if weight.shape[axis] == 1:
            strides[axis] = strides[axis + 1] if axis + 1 < len(strides) else 1
    return tuple(sorted(axes, key=lambda axis: (-strides[axis], axis)))


def _out_axis(layer: Layer) -> tuple[int, bool]:
    """The axis of the output channels, and whether there is one; else the first."""
    if layer.kind not in _MATRICES or len(layer.weight.shape) < 2:
        return 0, False
    if layer.layout is not None:
        return axis_names(layer).index("out"), True
    return (1 if is_in_out(layer.kind) else 0), True


class Grid(NamedTuple):
    """Cells of a picture.

    Attributes:
        rows: Cells from top to bottom.
        columns: Cells from left to right.
        high: Rows of the weight in each cell; the last may have fewer.
        wide: Columns of the weight in each cell.
    """

    rows: int
    columns: int
    high: int
    wide: int


def grid_of(view: View, cells: int) -> Grid:
    """The cells of a picture of at most `cells`."""
    out, columns = view.out, view.columns
    if not view.channels and view.after == 1 and view.before == 1:
        # A vector is a strip from left to right, kept as a column.
        high = -(-out // max(1, min(cells, 512)))
        return Grid(-(-out // high), 1, high, 1)
    ratio = min(max(columns / out, 1 / 2), _WIDEST)
    across = max(1, min(columns, int(math.sqrt(cells * ratio))))
    down = max(1, min(out, cells // across))
    across = max(1, min(columns, cells // down))
    high, wide = -(-out // down), -(-columns // across)
    if wide > 1 and view.before == 1:
        wide = _whole_kernels(wide, view.taps)
    return Grid(-(-out // high), -(-columns // wide), high, wide)


def _whole_kernels(wide: int, taps: int) -> int:
    """Columns of a cell, so that no cell has parts of two kernels: at least `wide`."""
    if wide >= taps:
        return -(-wide // taps) * taps
    return next(part for part in range(wide, taps + 1) if taps % part == 0)
