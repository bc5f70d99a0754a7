"""A heatmap's cells as SVG: one path for all cells of a colour, or a square for each where they have titles."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from html import escape
from itertools import groupby
from typing import NamedTuple

from convinspect.render.cells import safe
from convinspect.render.style import cell_name
from convinspect.render.table import Grid

STRANGE = "strange"
"""The palette's colour of a cell that is not finite, which is crossed out, too."""

_LARGEST = 24
_SMALLEST = 2
_HEIGHT = 560


class Size(NamedTuple):
    """Rows, columns, and the side of a cell in pixels."""

    rows: int
    columns: int
    side: int


def size_of(grid: Grid, width: float) -> Size:
    """How large a grid is drawn: square cells of whole pixels, up to 24, in this width if 2 pixels each allow it."""
    rows, columns = len(grid.steps), len(grid.steps[0])
    return Size(rows, columns, max(min(int(width / columns), _HEIGHT // rows, _LARGEST), _SMALLEST))


def name_of(step: int | None) -> str:
    """The name of a cell's colour, as `style.colour_of` reads it."""
    return STRANGE if step is None else cell_name(step)


def names_of(grid: Grid) -> set[str]:
    """All that appear."""
    return {name_of(step) for row in grid.steps for step in set(row)}


def cells(grid: Grid, attribute: str) -> Iterator[str]:
    """The cells, each 1 × 1, as SVG.

    Args:
        grid: What to draw.
        attribute: That gives a shape its colour, with "@" for the colour's name: both fill and stroke.
    """
    if grid.titles:
        yield from _titled(grid, attribute)
    else:
        yield '<g stroke-width="1" fill="none" shape-rendering="crispEdges">\n'
        for name, path in _paths(grid):
            yield f'<path {attribute.replace("@", name)} d="{path}"/>\n'
        yield "</g>\n"
    crossed = "".join(
        f"M{x} {y}l1 1m-1 0l1-1" for y, row in enumerate(grid.steps) for x, step in enumerate(row) if step is None
    )
    if crossed:
        yield f'<path {attribute.replace("@", "paper")} stroke-width=".14" d="{crossed}"/>\n'


def _paths(grid: Grid) -> Iterator[tuple[str, str]]:
    """For each colour its lines: a line through the middle of each run of cells in a row."""
    moves: dict[int | None, list[str]] = defaultdict(list)
    for y, row in enumerate(grid.steps):
        x = 0
        ends: dict[int | None, int] = {}
        for step, run in groupby(row):
            long = len(list(run))
            start = f"m{x - ends[step]} 0" if step in ends else f"M{x} {y}.5"
            moves[step].append(f"{start}h{long}")
            x += long
            ends[step] = x
    return ((name_of(step), "".join(path)) for step, path in moves.items())


def _titled(grid: Grid, attribute: str) -> Iterator[str]:
    squares: dict[int | None, list[str]] = defaultdict(list)
    for y, (row, titles) in enumerate(zip(grid.steps, grid.titles, strict=True)):
        for x, (step, title) in enumerate(zip(row, titles, strict=True)):
            squares[step].append(f'<path d="M{x} {y}h1v1h-1z"><title>{escape(safe(title))}</title></path>\n')
    yield '<g shape-rendering="crispEdges" stroke-width="0">\n'
    for step, paths in squares.items():
        yield f"<g {attribute.replace('@', name_of(step))}>\n{''.join(paths)}</g>\n"
    yield "</g>\n"
