"""Fitting tables to a width. Independent of Rich and of what the tables show."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice

from convinspect.render.cells import cell_width, elide, longest_number, safe, widest
from convinspect.render.table import (
    GAP,
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

COMFORT = 24
"""Elided columns keep this many cells for as long as wrapped columns can give way."""

STACKED_BELOW = 60
"""On fewer cells than this, a row whose columns do not fit beside its name takes a second line for them."""

INDENT = 2
"""Blank cells before that second line."""


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
    if total(needed) <= width:
        return table
    floors = _floors(table, needed)
    name = _name_column(table.columns)
    if name is not None and (
        (width < STACKED_BELOW and _crowded(table.columns, name, needed, floors, width))
        or _left_out(table.columns, floors, width)
    ):
        return _stacked(table, name, width, full)
    chosen = _chosen(table, needed, floors, width, full)
    if name is not None and (column := table.columns[name]) in chosen.columns:
        shown = by_column(chosen)[chosen.columns.index(column)]
        if _distinct(shown) < _distinct(by_column(table)[name]):
            return _stacked(table, name, width, full)
    return chosen


_MOST_COMPARED = 1000
"""Names that are compared with each other, of those that a table begins with."""


def _distinct(names: Iterable[Cell]) -> int:
    """How many different names there are."""
    return len(set(map(plain, islice(names, _MOST_COMPARED))))


def _chosen(table: Table, needed: list[int], floors: list[int], width: int, full: int) -> Table:
    """The table without the columns that do not fit, and the others as narrow as they must be.

    Args:
        table: The table.
        needed: What its columns need.
        floors: The least width of each.
        width: What there is room for.
        full: What the whole table needs, for the note on hidden columns.
    """
    keep = _surviving(table.columns, floors, width)
    # Of one row, what would become a note in a longer table is one instead of hidden.
    said = [i for i, column in enumerate(table.columns) if i not in keep and column.foldable and len(table.rows) == 1]
    hidden = [column for i, column in enumerate(table.columns) if i not in (*keep, *said)]
    if facts := _facts(table, said):
        table = table._replace(notes=(facts, *table.notes))
    table = _squeezed(_kept(table, keep), [needed[i] for i in keep], [floors[i] for i in keep], width)
    if not hidden:
        return table
    gone = {line for column in hidden for line in column.legend}
    notes = (note for note in table.notes if note not in gone)
    return table._replace(notes=(*notes, _hidden_note([column.title for column in hidden], full)))


def _name_column(columns: Sequence[Column]) -> int | None:
    """The column that gets a line of its own: the first that is elided, beside two others at least."""
    names = [i for i, column in enumerate(columns) if column.elide and not column.wrap]
    return names[0] if names and len(columns) > 2 else None


def _crowded(columns: Sequence[Column], name: int, needed: list[int], floors: list[int], width: int) -> bool:
    """Whether on one line a column would be left out or the name shortened."""
    return total(floors) > width or _shrunk(columns, needed, floors, width)[name] < needed[name]


def _left_out(columns: Sequence[Column], floors: list[int], width: int) -> list[int]:
    """Columns that would be left out and must not be."""
    kept = _surviving(columns, floors, width)
    return [i for i, column in enumerate(columns) if column.never_hidden and i not in kept]


def _stacked(table: Table, name: int, width: int, full: int) -> Table:
    """The table as one column: each name, and what stands beside it on the next line; below that, what must not be
    left out and has no room there. A note that nothing stands beside has that line to itself.
    """
    others = [i for i in range(len(table.columns)) if i != name]
    room = width - INDENT
    notes = _lone_notes(table.columns, table.rows, name)
    among = [row for row, note in zip(table.rows, notes, strict=True) if note is None]
    beside, titles, below = _under_names(_kept(table._replace(rows=among), others), room, full)
    lines = [next(below) if note is None else cell_lines(wrapped_cell(note, room)) for note in notes]
    column = table.columns[name]
    names = by_column(table)[name]
    short = mapped(partial(_elided_cell, width=width), names)
    if column.never_hidden or _distinct(short) < _distinct(names):
        # Two that differ where they are cut short would look the same.
        short = mapped(partial(wrapped_cell, width=width), names)
    cells = [_joined(first, rest, column.style) for first, rest in zip(short, lines, strict=True)]
    title = f"\n{' ' * INDENT}".join((column.title, *titles))
    return beside._replace(
        columns=(column._replace(title=title, justify="left", style=""),), rows=[(cell,) for cell in cells]
    )


def _lone_notes(columns: Sequence[Column], rows: Sequence[tuple[Cell, ...]], name: int) -> list[Cell | None]:
    """Of each row the only cell beside its name that says something, if it is one that may be wrapped; else None."""
    said = [[i for i, cell in enumerate(row) if i != name and plain(cell)] for row in rows]
    notes = [row[i[0]] if len(i) == 1 and columns[i[0]].wrap else None for row, i in zip(rows, said, strict=True)]
    return notes if None in notes else [None] * len(notes)


def _under_names(beside: Table, room: int, full: int) -> tuple[Table, list[str], Iterator[list[Cell]]]:
    """The columns beside the names, fitted; what stands over them, and the lines of each row."""
    wanted = widths(beside)
    alone = _spilled(beside.columns, _stacked_floors(beside, wanted, room), room)
    spilled = [
        [wrapped_cell(pieces(cell, beside.columns[i].style), room) for cell in by_column(beside)[i]] for i in alone
    ]
    titles = [beside.columns[i].title for i in alone]
    wanted = [natural for i, natural in enumerate(wanted) if i not in alone]
    beside = _kept(beside, [i for i in range(len(beside.columns)) if i not in alone])
    beside = _chosen(beside, wanted, _stacked_floors(beside, wanted, room), room, full)
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
    if not _left_out(columns, floors, room):
        return []
    notes = [i for i, column in enumerate(columns) if column.never_hidden and column.wrap]
    notes = notes[len(notes) == len(columns) :]
    rest = [i for i in range(len(columns)) if i not in notes]
    if not _left_out([columns[i] for i in rest], [floors[i] for i in rest], room):
        return notes
    needed = [i for i in rest if columns[i].never_hidden]
    return sorted([*notes, *needed[len(needed) == len(rest) :]])


def _stacked_floors(table: Table, needed: list[int], width: int) -> list[int]:
    """Floors under which notes keep half of the line, as long as they are not left out for that."""
    floors = _floors(table, needed)
    roomy = [
        min(natural, max(floor, width // 2)) if column.wrap else floor
        for column, floor, natural in zip(table.columns, floors, needed, strict=True)
    ]
    notes = {i for i, column in enumerate(table.columns) if column.wrap or column.never_hidden}
    return roomy if notes <= set(_surviving(table.columns, roomy, width)) else floors


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


def _joined(name: Cell, lines: Sequence[Cell], style: str) -> Cell:
    """A name over its indented lines; only the name has its column's style."""
    joined = list(pieces(name, style))
    for line in lines:
        joined += [Styled(f"\n{' ' * INDENT}"), *pieces(line)]
    return tuple(joined)


def _hidden_note(titles: list[str], full: int) -> str:
    them = "column hidden" if len(titles) == 1 else "columns hidden"
    it = "it" if len(titles) == 1 else "them"
    return f"{len(titles)} {them}: {', '.join(titles)}; --width {full} or a pipe shows {it}"


def _facts(table: Table, said: Iterable[int]) -> str:
    """What the first row has in some columns, with their titles."""
    columns = by_column(table)
    return ", ".join(f"{table.columns[i].title} {text}" for i in sorted(said) if (text := plain(columns[i][0])))


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
    facts = _facts(table, said)
    notes = (f"{facts} in all rows", *table.notes) if facts else table.notes
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
