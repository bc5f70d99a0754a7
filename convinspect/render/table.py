"""Tables as plain data. Independent of Rich and of what the tables show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeAlias, TypeVar, cast

from convinspect.render.cells import safe, widest, wrap
from convinspect.render.style import HEAD, QUIET

GAP = 2
"""Blank cells between two columns."""

WHOLE = 2**31
"""As `Column.min_width`: cells are never shortened."""


class Styled(NamedTuple):
    """Text in one style, in Rich's spelling ("bold cyan"); never parsed as markup."""

    text: str
    style: str = ""


Cell: TypeAlias = str | Styled | tuple[Styled, ...]
"""What stands at one place: text in its column's style, in its own, or in several, one after another."""


class Column(NamedTuple):
    """How a column is titled, drawn and narrowed.

    Attributes:
        title: Shown above it.
        justify: Alignment of cells and title; numbers are aligned right.
        style: Style of cells that have none.
        priority: If columns must be dropped, the lowest goes first; of equals, the rightmost.
        wrap: Cells may be wrapped to several lines (notes).
        elide: Cells may be shortened in the middle (names).
        foldable: May become a line under the table if all rows agree.
        key: Machine name for CSV, Markdown and JSON; if "", the title.
        min_width: Least width in cells after wrapping or shortening.
        legend: Notes of the table that explain the column's words, and are dropped with it.
        never_hidden: Where it does not fit, rows get a line for the name and another for the rest; such columns that
            may be wrapped go on lines of their own below that, and all of them do where there is no room still. The
            name is not shortened either.
        repeats: Says what can be read from other columns, and is left out before anything else gives way.
    """

    title: str
    justify: Literal["left", "right"] = "left"
    style: str = ""
    priority: int = 0
    wrap: bool = False
    elide: bool = False
    foldable: bool = False
    key: str = ""
    min_width: int = 16
    legend: tuple[str, ...] = ()
    never_hidden: bool = False
    repeats: bool = False

    @property
    def machine_name(self) -> str:
        """Its name in CSV, Markdown and JSON."""
        return self.key or self.title


class Table(NamedTuple):
    """Rows and columns, with a title above and notes below.

    Attributes:
        columns: From left to right.
        rows: As many cells each as there are columns.
        title: A line above, or "".
        summary: Lines under the table: totals.
        notes: Dimmed lines under the summary.
        raw: The rows' machine values for CSV, Markdown and JSON, or () to use the cells' text.
        more: Machine names of further values in `raw`, after those of the columns.
        fitted: Made by `fitting.fit`: all text is safe, and a line end in a cell or a column's title starts a new line.
        lead: Lines between the title and the columns: what the table comes to, where that is to be read first.
        under: Of a tree, whose names stand behind its lines: what of these lines goes on below each row, or () of any
            other table.
    """

    columns: tuple[Column, ...]
    rows: Sequence[tuple[Cell, ...]]
    title: str = ""
    summary: tuple[Cell, ...] = ()
    notes: tuple[Cell, ...] = ()
    raw: Sequence[Sequence[object]] = ()
    more: tuple[str, ...] = ()
    fitted: bool = False
    lead: tuple[Cell, ...] = ()
    under: Sequence[str] = ()


class Grid(NamedTuple):
    """Cells of a heatmap, which pictures draw as rectangles, between a block's title and its lines.

    Attributes:
        steps: Rows of colours, as `style.cell` numbers them; None is a value that is not finite.
        titles: What each cell says under the pointer, or ().
    """

    steps: Sequence[Sequence[int | None]]
    titles: Sequence[Sequence[str]] = ()


MOST_TITLES = 4096
"""Cells of a grid that may have titles: 64 × 64 of them are 300 kB."""


class Block(NamedTuple):
    """Lines to be shown unchanged, with a title above and dimmed notes below.

    A heatmap that is made for a picture has its cells in `grid`, and no lines in their place.

    Attributes:
        flows: Its lines are sentences, which a narrow terminal wraps.
    """

    lines: tuple[Cell, ...]
    title: str = ""
    notes: tuple[Cell, ...] = ()
    grid: Grid | None = None
    flows: bool = False


Cells: TypeAlias = Sequence[Cell]

T = TypeVar("T")


def plain(cell: Cell) -> str:
    """A cell's text without its styles."""
    if isinstance(cell, str):
        return cell
    return cell.text if isinstance(cell, Styled) else "".join(piece.text for piece in cell)


def pieces(cell: Cell, style: str = "") -> tuple[Styled, ...]:
    """A cell as styled pieces; `style` is for those without one."""
    if isinstance(cell, str):
        return (Styled(cell, style),)
    if isinstance(cell, Styled):
        return (cell if cell.style else Styled(cell.text, style),)
    return tuple(piece if piece.style else Styled(piece.text, style) for piece in cell)


def only_text(cells: Cells) -> Sequence[str] | None:
    """The cells themselves if none of them has a style, else None."""
    return cast("Sequence[str]", cells) if set(map(type, cells)) <= {str} else None


def texts(cells: Cells) -> Sequence[str]:
    """The plain text of many cells."""
    bare = only_text(cells)
    return mapped(plain, cells) if bare is None else bare


def mapped(function: Callable[[Cell], T], cells: Cells) -> list[T]:
    """`function` of each cell, computed once for equal cells: a column of notes has few different ones."""
    made = {cell: function(cell) for cell in set(cells)}
    return [made[cell] for cell in cells]


def by_column(table: Table) -> list[Cells]:
    """The table's cells, column by column."""
    if not table.rows:
        return [() for _ in table.columns]
    return list(zip(*table.rows, strict=True))


def widths(table: Table) -> list[int]:
    """Width in cells of each column of a fitted table, including its title; at least one, as in Rich."""
    return [
        max(widest(texts(cells)), widest([column.title]), 1)
        for column, cells in zip(table.columns, by_column(table), strict=True)
    ]


def total(column_widths: Sequence[int]) -> int:
    """Width in cells of a whole row."""
    return sum(column_widths) + GAP * max(len(column_widths) - 1, 0)


def above_and_below(table: Table) -> tuple[tuple[Cell, ...], tuple[Cell, ...]]:
    """The lines over and under the columns of a fitted table, in their styles, blank lines included."""
    above: tuple[Cell, ...] = (Styled(table.title, HEAD), "") if table.title else ()
    above += (*table.lead, "") if table.lead and (table.columns or table.summary or table.notes) else table.lead
    quiet = tuple(pieces(line, QUIET) for line in table.notes)
    below = (*table.summary, *quiet)
    return above, ("", *below) if below and table.columns else below


def clean_cell(cell: Cell) -> Cell:
    """A cell whose text is `safe`."""
    if isinstance(cell, str):
        return safe(cell)
    if isinstance(cell, Styled):
        return Styled(safe(cell.text), cell.style)
    return tuple(Styled(safe(piece.text), piece.style) for piece in cell)


def wrapped(text: str, width: int) -> str:
    """`text` with line ends inserted so that each line takes at most `width` cells."""
    return "\n".join(text[start:end] for start, end in wrap(text, width))


def wrapped_cell(cell: Cell, width: int) -> Cell:
    """The same for a cell, which keeps its styles."""
    if isinstance(cell, str):
        return wrapped(cell, width)
    if isinstance(cell, Styled):
        return Styled(wrapped(cell.text, width), cell.style)
    lines = [cut(cell, start, end) for start, end in wrap(plain(cell), width)]
    out = list(lines[0])
    for line in lines[1:]:
        out += [Styled("\n"), *line]
    return tuple(out)


def cut(cell: tuple[Styled, ...], start: int, end: int) -> list[Styled]:
    """The styled pieces of characters `start:end`."""
    out = []
    offset = 0
    for piece in cell:
        part = piece.text[max(start - offset, 0) : max(end - offset, 0)]
        if part:
            out.append(Styled(part, piece.style))
        offset += len(piece.text)
    return out


def cell_lines(cell: Cell) -> list[Cell]:
    """A cell of a fitted table, line by line."""
    if isinstance(cell, str):
        return list(cell.split("\n"))
    if isinstance(cell, Styled):
        return [Styled(line, cell.style) for line in cell.text.split("\n")]
    lines: list[list[Styled]] = [[]]
    for piece in cell:
        first, *rest = piece.text.split("\n")
        lines[-1].append(Styled(first, piece.style))
        lines += [[Styled(part, piece.style)] for part in rest]
    return [tuple(line) for line in lines]
