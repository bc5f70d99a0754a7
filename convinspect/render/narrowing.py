"""How narrow a table's columns may be, which of them stay, and the table of those. See `fitting`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple

from convinspect.render.cells import cell_width, elide, longest_number, widest
from convinspect.render.table import (
    Cell,
    Cells,
    Column,
    Styled,
    Table,
    by_column,
    mapped,
    pieces,
    plain,
    texts,
    total,
    wrapped_cell,
)

COMFORT = 24
"""Elided columns keep this many cells for as long as wrapped columns can give way."""

_MOST_COMPARED = 1000
"""Names that are compared with each other, of those that a table begins with."""


class LeftOut(NamedTuple):
    """Columns that are left out.

    Attributes:
        full: What the whole table needs, in cells.
        titles: Of the columns.
    """

    full: int
    titles: tuple[str, ...] = ()


def kept(table: Table, keep: Iterable[int]) -> Table:
    """The table with only these columns."""
    places = list(keep)
    columns = by_column(table)
    return table._replace(
        columns=tuple(table.columns[i] for i in places),
        rows=rows_of([columns[i] for i in places]),
    )


def rows_of(columns: Sequence[Cells]) -> Sequence[tuple[Cell, ...]]:
    return list(zip(*columns, strict=True))


def distinct(names: Iterable[Cell]) -> int:
    """How many different names there are."""
    return len(set(map(plain, islice(names, _MOST_COMPARED))))


def narrowed_to(table: Table, needed: list[int], floors: list[int], width: int, left: LeftOut) -> Table:
    """The table without the columns that do not fit, and the others as narrow as they must be.

    Args:
        table: The table.
        needed: What its columns need.
        floors: The least width of each.
        width: What there is room for.
        left: What is left out already, for the note on hidden columns.
    """
    keep = surviving(table.columns, floors, width)
    # Of one row, what would become a note in a longer table is one instead of hidden.
    said = [i for i, column in enumerate(table.columns) if i not in keep and column.foldable and len(table.rows) == 1]
    hidden = [column for i, column in enumerate(table.columns) if i not in (*keep, *said)]
    if facts := facts_of(table, said):
        table = table._replace(notes=(facts, *table.notes))
    table = _squeezed(kept(table, keep), [needed[i] for i in keep], [floors[i] for i in keep], width)
    return without_columns(table, hidden, left)


def facts_of(table: Table, said: Iterable[int]) -> str:
    """What the first row has in some columns, with their titles."""
    columns = by_column(table)
    return ", ".join(f"{table.columns[i].title} {text}" for i in sorted(said) if (text := plain(columns[i][0])))


def without_columns(table: Table, hidden: Sequence[Column], left: LeftOut) -> Table:
    """The table, whose notes say that these columns are left out too, and no more what their words mean."""
    gone = {line for column in hidden for line in column.legend}
    table = table._replace(notes=tuple(note for note in table.notes if note not in gone))
    return with_hidden_note(table, left._replace(titles=(*left.titles, *(column.title for column in hidden))))


def with_hidden_note(table: Table, left: LeftOut) -> Table:
    """The table with a note on the columns that are left out, if any are."""
    if not left.titles:
        return table
    them = "column hidden" if len(left.titles) == 1 else "columns hidden"
    it = "it" if len(left.titles) == 1 else "them"
    note = f"{len(left.titles)} {them}: {', '.join(left.titles)}; --width {left.full} or a pipe shows {it}"
    return table._replace(notes=(*table.notes, note))


def least_first(columns: Sequence[Column]) -> list[int]:
    return sorted(range(len(columns)), key=lambda i: (columns[i].priority, -i))


def floors_of(table: Table, needed: list[int]) -> list[int]:
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


def surviving(columns: Sequence[Column], floors: list[int], width: int) -> list[int]:
    """The columns that remain once enough are dropped for the rest to fit; at least one."""
    keep = list(range(len(columns)))
    for i in least_first(columns):
        if len(keep) == 1 or total([floors[j] for j in keep]) <= width:
            break
        keep.remove(i)
    return keep


def shrunk(columns: Sequence[Column], needed: list[int], floors: list[int], width: int) -> list[int]:
    """Widths that fit: names down to a comfortable width, then notes, then names down to their floor."""
    sizes = list(needed)
    names = [i for i, column in enumerate(columns) if column.elide and not column.wrap]
    notes = [i for i, column in enumerate(columns) if column.wrap]
    for group, least in ((names, COMFORT), (notes, 0), (names, 0)):
        while total(sizes) > width:
            wide = [i for i in group if sizes[i] > max(floors[i], least)]
            if not wide:
                break
            sizes[max(wide, key=lambda i: sizes[i])] -= 1
    return sizes


def _squeezed(table: Table, needed: list[int], floors: list[int], width: int) -> Table:
    """The table with its names and notes shortened to fit."""
    columns = table.columns
    cells = by_column(table)
    aim = shrunk(columns, needed, floors, width)
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
            cells[i] = mapped(partial(elided_cell, width=aim[i] + gain), cells[i])
    return table._replace(rows=rows_of(cells))


def elided_cell(cell: Cell, width: int) -> Cell:
    if isinstance(cell, str):
        return elide(cell, width)
    text = plain(cell)
    if cell_width(text) <= width:
        return cell
    return Styled(elide(text, width), pieces(cell)[0].style)
