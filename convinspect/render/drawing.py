"""Tables and blocks as lines of styled text and grids of cells, from top to bottom: what SVG, PNG and GIF draw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import NamedTuple, TypeAlias

from convinspect.render.cells import cell_width
from convinspect.render.fitting import fit
from convinspect.render.plain_table import RULE, block_cells
from convinspect.render.style import HEAD, QUIET
from convinspect.render.table import (
    GAP,
    Block,
    Cell,
    Column,
    Grid,
    Styled,
    Table,
    above_and_below,
    cell_lines,
    pieces,
    plain,
    total,
    widths,
)

Line: TypeAlias = tuple[Styled, ...]
Part: TypeAlias = Line | Grid

_LEAST_WIDTH = 40


class Drawing(NamedTuple):
    """Parts from top to bottom, and the width of the widest line in terminal cells."""

    parts: list[Part]
    columns: int


def drawing(shown: Sequence[Table | Block], width: int | None) -> Drawing:
    """Tables and blocks one below the other, a blank line between two.

    Args:
        shown: Any.
        width: In cells; None for what they need, and 40 at least.
    """
    parts: list[Part] = []
    for n, thing in enumerate(shown):
        if n:
            parts.append(())
        parts += _table(fit(thing, width)) if isinstance(thing, Table) else _block(thing)
    needed = max((cell_width("".join(p.text for p in part)) for part in parts if not isinstance(part, Grid)), default=0)
    return Drawing(parts, max(needed, _LEAST_WIDTH if width is None else width))


def _block(block: Block) -> Iterator[Part]:
    cells = block_cells(block)
    head = 2 if block.title else 0
    yield from (pieces(line) for line in cells[:head])
    if block.grid is not None:
        yield block.grid
    yield from (pieces(line) for line in cells[head:])


def _table(table: Table) -> Iterator[Line]:
    above, below = above_and_below(table)
    yield from _loose(above)
    if table.columns:
        sizes = widths(table)
        titles = tuple(Styled(column.title, HEAD) for column in table.columns)
        plain_columns = [column._replace(style="") for column in table.columns]
        yield from _row(titles, plain_columns, sizes)
        yield (Styled(RULE * total(sizes), QUIET),)
        for row in table.rows:
            yield from _row(row, table.columns, sizes)
    yield from _loose(below)


def _loose(cells: Sequence[Cell]) -> Iterator[Line]:
    return (pieces(line) for cell in cells for line in cell_lines(cell))


def _row(cells: Sequence[Cell], columns: Sequence[Column], sizes: Sequence[int]) -> Iterator[Line]:
    for lines in zip_longest(*map(cell_lines, cells), fillvalue=""):
        line: list[Styled] = []
        for cell, column, size in zip(lines, columns, sizes, strict=True):
            blank = Styled(" " * (size - cell_width(plain(cell))))
            text = pieces(cell, column.style)
            line += [*((blank, *text) if column.justify == "right" else (*text, blank)), Styled(" " * GAP)]
        yield tuple(line[:-1])
