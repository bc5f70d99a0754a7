"""A matrix's rows, as they pass by, added up in the cells of a picture."""

from __future__ import annotations

import numpy as np

from convinspect.arrays.read import Array

_NARROW = 16
"""Columns of a cell below which rows are added up first: numpy is slow on short inner axes."""


def add_rows(cells: Array, rows: Array, first: int, high: int, wide: int, squared: bool) -> Array:
    """Add numbers, or their squares, to the cells that they lie in.

    Args:
        cells: (⌈all rows / high⌉, ⌈columns / wide⌉) in float64; changed.
        rows: (n, columns): some rows of the matrix, float32 or float64. Sums along a row are taken in its dtype.
        first: The number of the first of them.
        high: Rows of a cell; the last has what is left.
        wide: Columns of a cell, likewise.
        squared: Add the squares.

    Returns:
        (n,) the sum of each row.
    """
    starts, here = runs(first, len(rows), high)
    if wide < _NARROW and high > 1:
        values = np.square(rows) if squared else rows
        by_column = np.add.reduceat(values, starts, axis=0, dtype=np.float64)
        cells[here] += np.add.reduceat(by_column, np.arange(0, rows.shape[1], wide), axis=1)
        return _sums(rows, squared)
    whole = rows.shape[1] // wide * wide
    sums = _sums(rows[:, :whole].reshape(len(rows), -1, wide), squared)
    if whole < rows.shape[1]:
        sums = np.column_stack([sums, _sums(rows[:, whole:], squared)])
    cells[here] += np.add.reduceat(sums, starts, axis=0, dtype=np.float64)
    total: Array = sums.sum(axis=1, dtype=np.float64)
    return total


def _sums(numbers: Array, squared: bool) -> Array:
    """Sums over the last axis, or sums of squares."""
    if numbers.shape[-1] == 1:
        each: Array = np.square(numbers[..., 0]) if squared else numbers[..., 0]
        return each
    found: Array = np.einsum("...w,...w->...", numbers, numbers) if squared else numbers.sum(axis=-1)
    return found


def runs(first: int, count: int, each: int) -> tuple[Array, slice]:
    """Of `count` rows from `first`: where each cell's rows begin among them, and which cells these are."""
    low, high = first // each, (first + count - 1) // each
    starts = np.maximum(np.arange(low, high + 1) * each - first, 0)
    return starts, slice(low, high + 1)


def lengths(size: int, each: int) -> Array:
    """How many of `size` rows each cell has."""
    count = -(-size // each)
    found: Array = np.full(count, each)
    found[-1] = size - (count - 1) * each
    return found
