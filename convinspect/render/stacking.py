"""Tables of two lines a row, for where the columns do not fit beside the names. See `fitting`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from convinspect.render.cells import cell_width, widest
from convinspect.render.narrowing import (
    LeftOut,
    distinct,
    elided_cell,
    floors_of,
    kept,
    least_first,
    narrowed_to,
    shrunk,
    surviving,
    without_columns,
)
from convinspect.render.style import QUIET
from convinspect.render.table import (
    GAP,
    Cell,
    Column,
    Styled,
    Table,
    by_column,
    cell_lines,
    mapped,
    pieces,
    plain,
    texts,
    total,
    widths,
    wrapped_cell,
)

INDENT = 2
"""Blank cells before that second line."""

_LEAST_ROOM = 17
"""Cells that it keeps beside the lines of a deep tree, of which the inner ones then end above it."""

_LEAST_NAME = 8
"""Cells of a name that is wrapped beside them."""


def name_column(columns: Sequence[Column]) -> int | None:
    """The column that gets a line of its own: the first that is elided, beside two others at least."""
    names = [i for i, column in enumerate(columns) if column.elide and not column.wrap]
    return names[0] if names and len(columns) > 2 else None


def crowded(columns: Sequence[Column], name: int, needed: list[int], floors: list[int], width: int) -> bool:
    """Whether on one line a column would be left out or the name shortened."""
    return total(floors) > width or shrunk(columns, needed, floors, width)[name] < needed[name]


def left_out(columns: Sequence[Column], floors: list[int], width: int) -> list[int]:
    """Columns that would be left out and must not be."""
    kept = surviving(columns, floors, width)
    return [i for i, column in enumerate(columns) if column.never_hidden and i not in kept]


def stacked(table: Table, name: int, width: int, left: LeftOut) -> Table:
    """The table as one column: each name, and what stands beside it on the next line; below that, what must not be
    left out and has no room there. A note that nothing stands beside has that line to itself.
    """
    if table.under:
        return _stacked_tree(table, name, width, left)
    others = [i for i in range(len(table.columns)) if i != name]
    room = width - INDENT
    notes = _lone_notes(table.columns, table.rows, name)
    among = [row for row, note in zip(table.rows, notes, strict=True) if note is None]
    beside, titles, below = _under_names(kept(table._replace(rows=among), others), room, left)
    lines = [next(below) if note is None else cell_lines(wrapped_cell(note, room)) for note in notes]
    column = table.columns[name]
    names = by_column(table)[name]
    short = mapped(partial(elided_cell, width=width), names)
    if column.never_hidden or distinct(short) < distinct(names):
        # Two that differ where they are cut short would look the same.
        short = mapped(partial(wrapped_cell, width=width), names)
    blank = Styled(f"\n{' ' * INDENT}")
    cells = [_joined(first, rest, column.style, blank) for first, rest in zip(short, lines, strict=True)]
    return _one_column(beside, column, (column.title, *titles), cells)


def _one_column(table: Table, column: Column, titles: Sequence[str], cells: Sequence[Cell]) -> Table:
    """The table with these cells alone, below titles of which the first is the names'."""
    title = f"\n{' ' * INDENT}".join(titles)
    return table._replace(
        columns=(column._replace(title=title, justify="left", style=""),), rows=[(cell,) for cell in cells]
    )


def _stacked_tree(table: Table, name: int, width: int, left: LeftOut) -> Table:
    """The same of a tree, whose lines go on beside all that stands below a name. What may be left out is, but for the
    figure that is missed most, where each line of a name has room for it.
    """
    columns, by_place = table.columns, by_column(table)
    needed = [i for i, column in enumerate(columns) if column.never_hidden and i != name]
    figure = _figure(table, name, width)
    hidden = [column for i, column in enumerate(columns) if i not in (name, figure, *needed)]
    figures = [""] * len(table.rows) if figure is None else [*map(plain, by_place[figure])]
    cells = []
    for row, under, end in zip(table.rows, table.under, figures, strict=True):
        first = _hanging(row[name], under, width)
        if end:
            first = (*pieces(first), Styled(end.rjust(width - cell_width(plain(first)))))
        facts = [pieces(row[i], columns[i].style) for i in needed if plain(row[i])]
        lead = under if len(under) <= width - _LEAST_ROOM else f"{under[: width - _LEAST_ROOM - 1]} "
        lines = _flowing(facts, width - cell_width(lead))
        cells.append(_joined(first, lines, columns[name].style, Styled(f"\n{lead}", QUIET)))
    title = columns[name].title
    if figure is not None:
        title += columns[figure].title.rjust(width - cell_width(title))
    titles = (title, (" " * GAP).join(columns[i].title for i in needed))
    return without_columns(_one_column(table, columns[name], titles, cells), hidden, left)


def _figure(table: Table, name: int, width: int) -> int | None:
    """The column of figures that fits at the end of each name's line, of those the one that is missed most."""
    cells = by_column(table)
    for i in reversed(least_first(table.columns)):
        if table.columns[i].justify == "right" and not table.columns[i].never_hidden:
            needed = max(widest(texts(cells[i])), cell_width(table.columns[i].title))
            return i if widest(texts(cells[name])) + GAP + needed <= width else None
    return None


def _flowing(cells: Sequence[tuple[Styled, ...]], room: int) -> list[Cell]:
    """Cells one after another, on as many lines as they need; one that is wider than a line is wrapped."""
    lines: list[tuple[Styled, ...]] = []
    for cell in cells:
        if lines and cell_width(plain(lines[-1])) + GAP + cell_width(plain(cell)) <= room:
            lines[-1] = (*lines[-1], Styled(" " * GAP), *cell)
        else:
            lines += [pieces(line) for line in cell_lines(wrapped_cell(cell, room))]
    return list(lines)


def _hanging(cell: Cell, under: str, width: int) -> Cell:
    """A name behind the lines of a tree, wrapped beside them."""
    lead, *rest = pieces(cell)
    room = width - cell_width(lead.text)
    if cell_width(plain(cell)) <= width or room < _LEAST_NAME:
        return cell
    first, *more = cell_lines(wrapped_cell(tuple(rest), room))
    before = Styled(f"\n{under[: cell_width(lead.text)].ljust(cell_width(lead.text))}", lead.style)
    return (lead, *pieces(first), *(piece for line in more for piece in (before, *pieces(line))))


def _lone_notes(columns: Sequence[Column], rows: Sequence[tuple[Cell, ...]], name: int) -> list[Cell | None]:
    """Of each row the only cell beside its name that says something, if it is one that may be wrapped; else None."""
    said = [[i for i, cell in enumerate(row) if i != name and plain(cell)] for row in rows]
    notes = [row[i[0]] if len(i) == 1 and columns[i[0]].wrap else None for row, i in zip(rows, said, strict=True)]
    return notes if None in notes else [None] * len(notes)


def _under_names(beside: Table, room: int, left: LeftOut) -> tuple[Table, list[str], Iterator[list[Cell]]]:
    """The columns beside the names, fitted; what stands over them, and the lines of each row."""
    wanted = widths(beside)
    alone = _spilled(beside.columns, _stacked_floors(beside, wanted, room), room)
    spilled = [
        [wrapped_cell(pieces(cell, beside.columns[i].style), room) for cell in by_column(beside)[i]] for i in alone
    ]
    titles = [beside.columns[i].title for i in alone]
    wanted = [natural for i, natural in enumerate(wanted) if i not in alone]
    beside = kept(beside, [i for i in range(len(beside.columns)) if i not in alone])
    beside = narrowed_to(beside, wanted, _stacked_floors(beside, wanted, room), room, left)
    shown = next(_row_lines(beside.columns, tuple(each.title for each in beside.columns), widths(beside)))
    rows = (_row_lines(beside.columns, row, widths(beside)) for row in beside.rows)
    below = zip(rows, *spilled, strict=True)
    lines = ([line for line in (*row, *(line for cell in more for line in cell_lines(cell))) if plain(line).strip()]
             for row, *more in below)  # fmt: skip
    return beside, [plain(shown).rstrip(" "), *titles], lines


def _spilled(columns: Sequence[Column], floors: list[int], room: int) -> list[int]:
    """Columns that get lines of their own: where one that must not be left out would be, those of notes, and where
    there is no room still, all that must not be left out.
    """
    if not left_out(columns, floors, room):
        return []
    notes = [i for i, column in enumerate(columns) if column.never_hidden and column.wrap]
    notes = notes[len(notes) == len(columns) :]
    rest = [i for i in range(len(columns)) if i not in notes]
    if not left_out([columns[i] for i in rest], [floors[i] for i in rest], room):
        return notes
    needed = [i for i in rest if columns[i].never_hidden]
    return sorted([*notes, *needed[len(needed) == len(rest) :]])


def _stacked_floors(table: Table, needed: list[int], width: int) -> list[int]:
    """Floors under which notes keep half of the line, as long as they are not left out for that."""
    floors = floors_of(table, needed)
    roomy = [
        min(natural, max(floor, width // 2)) if column.wrap else floor
        for column, floor, natural in zip(table.columns, floors, needed, strict=True)
    ]
    notes = {i for i, column in enumerate(table.columns) if column.wrap or column.never_hidden}
    return roomy if notes <= set(surviving(table.columns, roomy, width)) else floors


def _row_lines(columns: Sequence[Column], row: Sequence[Cell], column_widths: list[int]) -> Iterator[Cell]:
    """The lines of one row, each as one cell, padded like the columns."""
    split = [cell_lines(cell) for cell in row]
    for place in range(max(map(len, split))):
        line: list[Styled] = []
        for column, cells, width in zip(columns, split, column_widths, strict=True):
            cell = cells[place] if place < len(cells) else ""
            blank = Styled(" " * (width - cell_width(plain(cell))))
            shown = pieces(cell, column.style)
            line += [Styled(" " * GAP)] if line else []
            line += (blank, *shown) if column.justify == "right" else (*shown, blank)
        yield tuple(line)


def _joined(name: Cell, lines: Sequence[Cell], style: str, lead: Styled) -> Cell:
    """A name over its lines, each behind `lead`, which begins a line; only the name has its column's style."""
    joined = list(pieces(name, style))
    for line in lines:
        joined += [lead, *pieces(line)]
    return tuple(joined)
