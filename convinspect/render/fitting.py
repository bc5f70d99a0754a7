"""Fitting tables to a width. Independent of Rich and of what the tables show."""

from __future__ import annotations

from operator import ne

from convinspect.render.cells import safe
from convinspect.render.narrowing import (
    LeftOut,
    distinct,
    facts_of,
    floors_of,
    kept,
    least_first,
    narrowed_to,
    rows_of,
    with_hidden_note,
)
from convinspect.render.stacking import crowded, left_out, name_column, stacked
from convinspect.render.style import QUIET
from convinspect.render.table import (
    Cell,
    Cells,
    Column,
    Styled,
    Table,
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
    wrapped,
    wrapped_cell,
)

STACKED_BELOW = 60
"""On fewer cells than this, a row whose columns do not fit beside its name takes a second line for them."""


def fit(table: Table, width: int | None) -> Table:
    """The same table with all text made safe, in no more than `width` cells.

    In this order, and only as far as needed: columns that repeat what others say are left out; columns marked
    `foldable` whose rows all agree become a note;
    columns marked `elide` are shortened, then those marked `wrap` narrowed; the columns of lowest priority
    are left out, with a note that says so. Where names are marked `never_hidden` too, or would look the same once they
    are shortened, they get a line of their own instead. Other cells are never cut: a single column of long numbers
    stays wider than `width`.

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


def _clean(table: Table) -> Table:
    columns = tuple(
        column._replace(title=_clean_title(column), legend=tuple(map(safe, column.legend))) for column in table.columns
    )
    cells = [_clean_cells(c, column) for column, c in zip(columns, by_column(table), strict=True)]
    return table._replace(
        columns=columns,
        rows=rows_of(cells),
        title=safe(table.title),
        lead=tuple(map(clean_cell, table.lead)),
        summary=tuple(map(clean_cell, table.summary)),
        notes=tuple(map(clean_cell, table.notes)),
    )


def _clean_title(column: Column) -> str:
    title = safe(column.title)
    return title.rstrip(" ") if column.justify == "right" else title


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
    return tuple(cut(pieces(cell), 0, end))


def _narrowed(table: Table, needed: list[int], width: int) -> Table:
    left = LeftOut(total(needed))
    table, needed, left = _without_repeats(table, needed, width, left)
    table, needed = _folded(table, needed, width)
    if total(needed) <= width:
        return with_hidden_note(table, left)
    floors = floors_of(table, needed)
    name = name_column(table.columns)
    if name is not None and (
        (width < STACKED_BELOW and crowded(table.columns, name, needed, floors, width))
        or left_out(table.columns, floors, width)
    ):
        return stacked(table, name, width, left)
    narrowed = narrowed_to(table, needed, floors, width, left)
    if name is not None and (column := table.columns[name]) in narrowed.columns:
        shown = by_column(narrowed)[narrowed.columns.index(column)]
        names = by_column(table)[name]
        shortened = column.never_hidden and any(map(ne, texts(shown), texts(names)))
        if shortened or distinct(shown) < distinct(names):
            return stacked(table, name, width, left)
        if table.under:
            return _continued(narrowed, narrowed.columns.index(column))
    return narrowed


def _continued(table: Table, name: int) -> Table:
    """The table with a tree's lines beside whatever takes more than one line."""
    rows = []
    for row, under in zip(table.rows, table.under, strict=True):
        more = max(len(cell_lines(cell)) for cell in row) - len(cell_lines(row[name]))
        lines = [Styled(f"\n{under.rstrip()}", QUIET)] * max(more, 0)
        rows.append((*row[:name], (*pieces(row[name]), *lines), *row[name + 1 :]) if lines else row)
    return table._replace(rows=rows)


def _without_repeats(table: Table, needed: list[int], width: int, left: LeftOut) -> tuple[Table, list[int], LeftOut]:
    """The table without columns that repeat what others say, until the rest fits."""
    keep = list(range(len(table.columns)))
    for i in least_first(table.columns):
        if table.columns[i].repeats and total([needed[j] for j in keep]) > width:
            keep.remove(i)
            left = left._replace(titles=(*left.titles, table.columns[i].title))
    return kept(table, keep), [needed[i] for i in keep], left


def _folded(table: Table, needed: list[int], width: int) -> tuple[Table, list[int]]:
    """Turn columns with the same text in every row into a note, until the rest fits."""
    if len(table.rows) < 2:
        return table, needed
    keep = list(range(len(table.columns)))
    said: list[int] = []
    columns = by_column(table)
    for i in least_first(table.columns):
        if total([needed[j] for j in keep]) <= width or len(keep) == 1:
            break
        if table.columns[i].foldable and len(set(texts(columns[i]))) == 1:
            keep.remove(i)
            said.append(i)
    facts = facts_of(table, said)
    notes = (f"{facts} in all rows", *table.notes) if facts else table.notes
    return kept(table, keep)._replace(notes=notes), [needed[i] for i in keep]
