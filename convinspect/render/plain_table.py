"""Lay out a table as plain text: the same text as from Rich, in a hundredth of the time per row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import NamedTuple

from convinspect.render.cells import cell_width, is_narrow
from convinspect.render.fitting import fit
from convinspect.render.style import HEAD, QUIET, Depth, paint, sgr
from convinspect.render.table import (
    GAP,
    Block,
    Cell,
    Cells,
    Column,
    Styled,
    Table,
    above_and_below,
    by_column,
    cell_lines,
    clean_cell,
    cut,
    mapped,
    only_text,
    pieces,
    plain,
    texts,
    total,
    widths,
    wrapped_cell,
)

RULE = "─"


class ColorSupport(NamedTuple):
    """What the output can show.

    Attributes:
        color: Whether to write escape sequences.
        depth: How many colours there are; others become the nearest of these.
    """

    color: bool = False
    depth: Depth = Depth.TRUE


def lines(table: Table, width: int | None = None, color: bool = False, depth: Depth = Depth.TRUE) -> Iterator[str]:
    """The table as lines of text without line ends, the same text as Rich's tables have, except for trailing
    blanks. Widths are computed before the first line; the lines are made on demand.

    Args:
        table: Any table.
        width: In cells; None for what the table needs.
        color: Add escape sequences.
        depth: See `ColorSupport`.
    """
    support = ColorSupport(color, depth)
    table = fit(table, width)
    above, below = above_and_below(table)
    yield from _loose(above, support)
    if table.columns:
        column_widths = widths(table)
        yield from _header(table.columns, column_widths, support)
        yield draw(Styled(RULE * total(column_widths), QUIET), support)
        yield from _body(table, column_widths, support)
    yield from _loose(below, support)


def block_lines(
    block: Block, color: bool = False, depth: Depth = Depth.TRUE, width: int | None = None
) -> Iterator[str]:
    """A block as lines of text; sentences, as notes are, in no more than `width` cells."""
    support = ColorSupport(color, depth)
    cells = block_cells(block)
    fixed = 0 if block.flows else len(cells) - len(block.notes)
    for place, line in enumerate(cells):
        if width is None or place < fixed or cell_width(plain(line)) <= width:
            yield draw(line, support)
        else:
            yield from _loose(_wrapped_beside_its_indent(line, width), support)


def _wrapped_beside_its_indent(line: Cell, width: int) -> Iterator[Cell]:
    """A sentence as lines that are indented as its first is."""
    text = plain(line)
    indent = len(text) - len(text.lstrip(" "))
    rest = wrapped_cell(tuple(cut(pieces(line), indent, len(text))), width - indent)
    return ((Styled(" " * indent), *pieces(part)) for part in cell_lines(rest))


def block_cells(block: Block) -> tuple[Cell, ...]:
    """All lines of a block in their styles, made safe."""
    title: tuple[Cell, ...] = (Styled(block.title, HEAD), "") if block.title else ()
    notes = tuple(pieces(note, QUIET) for note in block.notes)
    return tuple(map(clean_cell, (*title, *block.lines, *notes)))


def draw(cell: Cell, support: ColorSupport, style: str = "") -> str:
    """One line of a cell as text, with escape sequences if they are wanted."""
    if not support.color:
        return plain(cell)
    return "".join(paint(piece.text, piece.style, support.depth) for piece in pieces(cell, style))


def _loose(cells: Iterable[Cell], support: ColorSupport) -> Iterator[str]:
    for cell in cells:
        for line in cell_lines(cell):
            yield draw(line, support).rstrip(" ")


def _header(columns: Sequence[Column], column_widths: list[int], support: ColorSupport) -> Iterator[str]:
    split = [cell_lines(Styled(column.title, HEAD)) for column in columns]
    for place in range(max(map(len, split))):
        titles = [
            _padded(lines[place] if place < len(lines) else "", column, width, support)
            for column, width, lines in zip(columns, column_widths, split, strict=True)
        ]
        yield (" " * GAP).join(titles).rstrip(" ")


def _body(table: Table, column_widths: list[int], support: ColorSupport) -> Iterator[str]:
    drawn = []
    formats = []
    for column, cells, width in zip(table.columns, _one_line_each(table), column_widths, strict=True):
        form = _format(column, width, support)
        simple = _simple(cells)
        formats.append(form if simple else "%s")
        pad = partial(_padded, column=column, width=width, support=support)
        drawn.append(cells if simple else mapped(pad, cells))
    row_format = (" " * GAP).join(formats)
    return (line.rstrip(" ") for line in map(row_format.__mod__, zip(*drawn, strict=True)))


def _simple(cells: Cells) -> bool:
    """Whether `%` can pad all cells: plain text, one terminal cell to a character."""
    bare = only_text(cells)
    return bare is not None and is_narrow("".join(bare))


def _format(column: Column, width: int, support: ColorSupport) -> str:
    """The `%` format for one cell of a column."""
    field = f"%{'' if column.justify == 'right' else '-'}{width}s"
    code = sgr(column.style, support.depth) if support.color else ""
    return f"{code}{field}\x1b[0m" if code else field


def _padded(cell: Cell, column: Column, width: int, support: ColorSupport) -> str:
    text = plain(cell)
    blank = " " * (width - cell_width(text))
    drawn = draw(cell, support, column.style)
    return blank + drawn if column.justify == "right" else drawn + blank


def _one_line_each(table: Table) -> list[Cells]:
    """The table's columns, with cells of several lines split into several rows."""
    columns = by_column(table)
    if not any("\n" in "".join(texts(cells)) for cells in columns):
        return columns
    split = [mapped(cell_lines, cells) for cells in columns]
    heights = [max(map(len, row)) for row in zip(*split, strict=True)]
    blanks: list[Cell] = [""] * max(heights)
    return [
        list(chain.from_iterable(cell + blanks[len(cell) : h] for cell, h in zip(cells, heights, strict=True)))
        for cells in split
    ]
