"""Sums of squares by output channel and by cell of a picture, taken while a weight's numbers pass by."""

from __future__ import annotations

import numpy as np

from convinspect.arrays.cells import add_rows, lengths, runs
from convinspect.arrays.read import Array
from convinspect.reporting.shapes import Grid, View


class Squares:
    """Sums over rows of a weight.

    Attributes:
        channels: (out,) sums of squares; of what has no channels, nothing.
        alive: (out,) whether any number is not 0, which is exact; likewise.
        cells: (rows, columns) sums of squares.
        exponent: The power of 2 that numbers were divided by.
    """

    def __init__(self, view: View, grid: Grid, exponent: int = 0) -> None:
        self.view, self.grid, self.exponent = view, grid, exponent
        self.channels = np.zeros(view.out if view.channels else 0)
        self.alive = np.zeros(view.out if view.channels else 0, bool)
        self.cells = np.zeros((grid.rows, grid.columns))
        self._at = 0

    def add(self, block: Array) -> None:
        """Take whole rows, or whole parts of `before`, that follow the last ones."""
        numbers = self._wide(block)
        if self.view.before == 1:
            self._add_rows(numbers.reshape(-1, self.view.after))
        else:
            self._add_slices(numbers.reshape(-1, self.view.out, self.view.after))

    def _wide(self, block: Array) -> Array:
        if block.dtype.kind == "c":
            block = np.abs(block)
        if self.exponent:
            return np.ldexp(block.astype(np.float64), -self.exponent)
        return block.astype(np.float64 if block.itemsize == 8 else np.float32, copy=False)

    def _add_rows(self, x: Array) -> None:
        first, self._at = self._at, self._at + len(x)
        by_row = add_rows(self.cells, x, first, self.grid.high, self.grid.wide, squared=True)
        if not self.view.channels:
            return
        self.channels[first : self._at] = by_row
        alive = self.alive[first : self._at]
        np.not_equal(by_row, 0, out=alive)
        if not alive.all():
            # A square may be 0 where the number is not.
            quiet = np.flatnonzero(~alive)
            alive[quiet] = x[quiet].any(axis=1)

    def _add_slices(self, x: Array) -> None:
        first, self._at = self._at, self._at + len(x)
        sums = np.square(x[:, :, 0]) if x.shape[2] == 1 else np.einsum("noa,noa->no", x, x)
        if self.view.channels:
            self._add_channels(x, sums.sum(axis=0, dtype=np.float64))
        starts, cells = runs(first, len(x), self.grid.wide)
        by_cell = np.add.reduceat(sums, starts, axis=0, dtype=np.float64)
        by_cell = np.add.reduceat(by_cell, np.arange(0, self.view.out, self.grid.high), axis=1)
        self.cells[:, cells] += by_cell.T

    def _add_channels(self, x: Array, by_channel: Array) -> None:
        self.channels += by_channel
        self.alive |= by_channel != 0
        if not self.alive.all():
            quiet = np.flatnonzero(~self.alive)
            self.alive[quiet] = x[:, quiet].any(axis=(0, 2))

    def root_mean_squares(self) -> Array:
        """(rows, columns), in the numbers' own scale."""
        grid, view = self.grid, self.view
        per = 1 if view.before == 1 else view.after
        high = lengths(view.out, grid.high)[:, None]
        wide = lengths(view.columns, grid.wide)[None, :]
        found: Array = np.ldexp(np.sqrt(self.cells / (high * wide * per)), self.exponent)
        return found

    def norms(self) -> Array:
        """(out,), in the numbers' own scale."""
        found: Array = np.ldexp(np.sqrt(self.channels), self.exponent)
        return found
