"""Tables as plain data, and fitting them to a width. Independent of Rich and of what the tables show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Literal, NamedTuple, TypeAlias, TypeVar, cast

from convinspect.render.cells import cell_width, elide, longest_number, safe, widest, wrap
from convinspect.render.style import HEAD, QUIET

GAP = 2
"""Blank cells between two columns."""

COMFORT = 24
"""Elided columns keep this many cells for as long as wrapped columns can give way."""


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
        fitted: Made by `fit`: all text is safe, and a line end in a cell starts a new line.
        lead: Lines between the title and the columns: what the table comes to, where that is to be read first.
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


class Block(NamedTuple):
    """Lines to be shown unchanged (a heatmap), with a title above and dimmed notes below."""

    lines: tuple[Cell, ...]
    title: str = ""
    notes: tuple[Cell, ...] = ()


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
        max(widest(texts(cells)), cell_width(column.title), 1)
        for column, cells in zip(table.columns, by_column(table), strict=True)
    ]


def total(column_widths: Sequence[int]) -> int:
    """Width in cells of a whole row."""
    return sum(column_widths) + GAP * max(len(column_widths) - 1, 0)


def fit(table: Table, width: int | None) -> Table:
    """The same table with all text made safe, in no more than `width` cells.

    In this order, and only as far as needed: columns marked `foldable` whose rows all agree become a note;
    columns marked `elide` are shortened, then those marked `wrap` narrowed; the columns of lowest priority
    are left out, with a note that says so. Other cells are never cut: a single column of long numbers stays
    wider than `width`.

    Args:
        table: Any table; one that is fitted already is returned unchanged.
        width: In cells, or None for what the table needs.
    """
    if table.fitted:
        return table
    table = _clean(table)
    if width is None:
        return table._replace(raw=(), fitted=True)
    needed = widths(table)
    if total(needed) > width:
        table = _narrowed(table, needed, width)
    return table._replace(
        title=wrapped(table.title, width),
        lead=tuple(wrapped_cell(line, width) for line in table.lead),
        summary=tuple(wrapped_cell(line, width) for line in table.summary),
        notes=tuple(wrapped_cell(line, width) for line in table.notes),
        raw=(),
        fitted=True,
    )


def above_and_below(table: Table) -> tuple[tuple[Cell, ...], tuple[Cell, ...]]:
    """The lines over and under the columns of a fitted table, in their styles, blank lines included."""
    above: tuple[Cell, ...] = (Styled(table.title, HEAD), "") if table.title else ()
    above += (*table.lead, "") if table.lead and (table.columns or table.summary or table.notes) else table.lead
    quiet = tuple(pieces(line, QUIET) for line in table.notes)
    below = (*table.summary, *quiet)
    return above, ("", *below) if below and table.columns else below


def _clean(table: Table) -> Table:
    columns = tuple(
        column._replace(title=_clean_title(column), legend=tuple(map(safe, column.legend))) for column in table.columns
    )
    cells = [_clean_cells(c, column) for column, c in zip(columns, by_column(table), strict=True)]
    return table._replace(
        columns=columns,
        rows=_rows(cells),
        title=safe(table.title),
        lead=tuple(map(clean_cell, table.lead)),
        summary=tuple(map(clean_cell, table.summary)),
        notes=tuple(map(clean_cell, table.notes)),
    )


def _clean_title(column: Column) -> str:
    title = safe(column.title)
    return title.rstrip(" ") if column.justify == "right" else title


def clean_cell(cell: Cell) -> Cell:
    """A cell whose text is `safe`."""
    if isinstance(cell, str):
        return safe(cell)
    if isinstance(cell, Styled):
        return Styled(safe(cell.text), cell.style)
    return tuple(Styled(safe(piece.text), piece.style) for piece in cell)


def _clean_cells(cells: Cells, column: Column) -> Cells:
    bare = only_text(cells)
    if bare is not None:
        joined = "".join(bare)
        if joined.isprintable() and not (column.justify == "right" and " " in joined):
            return cells
    cleaned = mapped(clean_cell, cells)
    if column.justify == "left":
        return cleaned
    return mapped(_flush_right, cleaned)


def _flush_right(cell: Cell) -> Cell:
    """The cell without trailing blanks, which Rich strips from right-aligned cells; so both layouts do."""
    if isinstance(cell, str):
        return cell.rstrip(" ")
    end = len(plain(cell).rstrip(" "))
    return tuple(_cut(pieces(cell), 0, end))


def _rows(columns: Sequence[Cells]) -> Sequence[tuple[Cell, ...]]:
    return list(zip(*columns, strict=True))


def _kept(table: Table, keep: Iterable[int]) -> Table:
    """The table with only these columns."""
    chosen = list(keep)
    columns = by_column(table)
    return table._replace(
        columns=tuple(table.columns[i] for i in chosen),
        rows=_rows([columns[i] for i in chosen]),
    )


def _narrowed(table: Table, needed: list[int], width: int) -> Table:
    full = total(needed)
    table, needed = _folded(table, needed, width)
    if total(needed) > width:
        floors = _floors(table, needed)
        keep = _surviving(table.columns, floors, width)
        hidden = [column for i, column in enumerate(table.columns) if i not in keep]
        table = _kept(table, keep)
        needed = [needed[i] for i in keep]
        table = _squeezed(table, needed, [floors[i] for i in keep], width)
        if hidden:
            gone = {line for column in hidden for line in column.legend}
            notes = (note for note in table.notes if note not in gone)
            table = table._replace(notes=(*notes, _hidden_note([column.title for column in hidden], full)))
    return table


def _hidden_note(titles: list[str], full: int) -> str:
    them = "column hidden" if len(titles) == 1 else "columns hidden"
    it = "it" if len(titles) == 1 else "them"
    return f"{len(titles)} {them}: {', '.join(titles)}; --width {full} or a pipe shows {it}"


def _folded(table: Table, needed: list[int], width: int) -> tuple[Table, list[int]]:
    """Turn columns with the same text in every row into a note, until the rest fits."""
    if len(table.rows) < 2:
        return table, needed
    keep = list(range(len(table.columns)))
    said: list[int] = []
    columns = by_column(table)
    for i in _least_first(table.columns):
        if total([needed[j] for j in keep]) <= width or len(keep) == 1:
            break
        if table.columns[i].foldable and len(set(texts(columns[i]))) == 1:
            keep.remove(i)
            said.append(i)
    facts = [f"{table.columns[i].title} {plain(columns[i][0])}" for i in sorted(said) if plain(columns[i][0])]
    notes = (f"{', '.join(facts)} in all rows", *table.notes) if facts else table.notes
    return _kept(table, keep)._replace(notes=notes), [needed[i] for i in keep]


def _least_first(columns: Sequence[Column]) -> list[int]:
    return sorted(range(len(columns)), key=lambda i: (columns[i].priority, -i))


def _floors(table: Table, needed: list[int]) -> list[int]:
    """The least width of each column."""
    floors = []
    for column, cells, natural in zip(table.columns, by_column(table), needed, strict=True):
        floor = natural
        if column.wrap:
            floor = max(column.min_width, cell_width(column.title), longest_number(texts(cells)))
        elif column.elide:
            floor = max(column.min_width, cell_width(column.title))
        floors.append(min(floor, natural))
    return floors


def _surviving(columns: Sequence[Column], floors: list[int], width: int) -> list[int]:
    """The columns that remain once enough are dropped for the rest to fit; at least one."""
    keep = list(range(len(columns)))
    for i in _least_first(columns):
        if len(keep) == 1 or total([floors[j] for j in keep]) <= width:
            break
        keep.remove(i)
    return keep


def _shrunk(columns: Sequence[Column], needed: list[int], floors: list[int], width: int) -> list[int]:
    """Widths that fit: names down to a comfortable width, then notes, then names down to their floor."""
    shrunk = list(needed)
    names = [i for i, column in enumerate(columns) if column.elide and not column.wrap]
    notes = [i for i, column in enumerate(columns) if column.wrap]
    for group, least in ((names, COMFORT), (notes, 0), (names, 0)):
        while total(shrunk) > width:
            wide = [i for i in group if shrunk[i] > max(floors[i], least)]
            if not wide:
                break
            shrunk[max(wide, key=lambda i: shrunk[i])] -= 1
    return shrunk


def _squeezed(table: Table, needed: list[int], floors: list[int], width: int) -> Table:
    """The table with its names and notes shortened to fit."""
    columns = table.columns
    cells = by_column(table)
    aim = _shrunk(columns, needed, floors, width)
    for i, column in enumerate(columns):
        if column.wrap and aim[i] < needed[i]:
            cells[i] = mapped(partial(wrapped_cell, width=aim[i]), cells[i])
            aim[i] = max(widest(texts(cells[i])), cell_width(column.title))
    # Wrapped lines rarely use the full width; the remaining cells are given to the names.
    spare = width - total(aim)
    for i, column in enumerate(columns):
        if column.elide and not column.wrap and aim[i] < needed[i]:
            gain = min(max(spare, 0), needed[i] - aim[i])
            spare -= gain
            cells[i] = mapped(partial(_elided_cell, width=aim[i] + gain), cells[i])
    return table._replace(rows=_rows(cells))


def _elided_cell(cell: Cell, width: int) -> Cell:
    if isinstance(cell, str):
        return elide(cell, width)
    text = plain(cell)
    if cell_width(text) <= width:
        return cell
    return Styled(elide(text, width), pieces(cell)[0].style)


def wrapped(text: str, width: int) -> str:
    """`text` with line ends inserted so that each line takes at most `width` cells."""
    return "\n".join(text[start:end] for start, end in wrap(text, width))


def wrapped_cell(cell: Cell, width: int) -> Cell:
    """The same for a cell, which keeps its styles."""
    if isinstance(cell, str):
        return wrapped(cell, width)
    if isinstance(cell, Styled):
        return Styled(wrapped(cell.text, width), cell.style)
    lines = [_cut(cell, start, end) for start, end in wrap(plain(cell), width)]
    out = list(lines[0])
    for line in lines[1:]:
        out += [Styled("\n"), *line]
    return tuple(out)


def _cut(cell: tuple[Styled, ...], start: int, end: int) -> list[Styled]:
    """The styled pieces of characters `start:end`."""
    out = []
    offset = 0
    for piece in cell:
        part = piece.text[max(start - offset, 0) : max(end - offset, 0)]
        if part:
            out.append(Styled(part, piece.style))
        offset += len(piece.text)
    return out
