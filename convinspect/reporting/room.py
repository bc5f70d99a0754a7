"""How much of a model fits in a page of a few megabytes: which layers get numbers, and pictures of how many cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from convinspect.records import Layer

PAGE = 4_200_000
"""Bytes of the rows of a page, with their numbers and pictures; texts, the tree and scripts come on top of it."""
LONGEST_NAME = 300
"""Characters of a name that are kept."""
_ROW, _NUMBERS = 112, 330
"""Bytes of a row besides its name, and of a layer's statistics, histogram and norms."""
_ENCODED = 1.36
"""Bytes of JSON for each cell, as base64."""
MOST_CELLS, FEWEST_CELLS = 64 * 96, 96
"""Cells of a picture."""


class Room(NamedTuple):
    """What fits.

    Attributes:
        rows: How many layers get a row: the first ones.
        numbers: Places of the layers whose numbers are read: where not all fit, the largest.
        cells: The most cells of one picture.
    """

    rows: int
    numbers: frozenset[int]
    cells: int

    def all_rows(self, layers: Sequence[Layer]) -> bool:
        return self.rows >= len(layers)


def room_for(layers: Sequence[Layer], nbytes: int = PAGE, numbers: bool = True) -> Room:
    """Divide a page among layers.

    Args:
        layers: In the order of their rows.
        nbytes: Bytes for all of them.
        numbers: Whether numbers are wanted.
    """
    half, taken, rows = nbytes // 2, 0, 0
    for layer in layers:
        taken += _ROW + min(len(layer.name.encode("utf-8", "replace")), 4 * LONGEST_NAME)
        if taken > half:
            break
        rows += 1
    rest = nbytes - min(taken, half)
    if not numbers:
        return Room(rows, frozenset(), 0)
    most = int(rest / (_NUMBERS + FEWEST_CELLS * _ENCODED))
    places = sorted(range(rows), key=lambda place: -layers[place].weight.numel)[:most]
    wanted = sorted(min(layers[place].weight.numel, MOST_CELLS) for place in places)
    return Room(rows, frozenset(places), _level(wanted, int((rest - _NUMBERS * len(places)) / _ENCODED)))


def _level(wanted: Sequence[int], cells: int) -> int:
    """The most that each may have so that all together have no more than `cells`; `wanted` is sorted."""
    for place, size in enumerate(wanted):
        each = cells // (len(wanted) - place)
        if size > each:
            return max(each, FEWEST_CELLS)
        cells -= size
    return MOST_CELLS
