"""A kernel as a table of numbers, and counts as a sparkline."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import NamedTuple, TypeAlias

from convinspect.render.cells import cell_width, safe
from convinspect.render.style import NOT_FINITE, QUIET
from convinspect.render.table import GAP, Cell, Column, Styled, Table

NEGATIVE = ("", "color(67)", "color(68)", "color(69)", "bold color(33)")
POSITIVE = ("", "color(138)", "color(167)", "color(203)", "bold color(196)")
"""From none to the largest magnitude shown. Indexed colours that read on dark and on light backgrounds."""

_LEVELS = (0.1, 0.3, 0.5, 0.75)

_CHROME = 7
"""Lines around the rows: title, its blank, header, rule, blank, one note, and the next prompt."""

_BARS = "▁▂▃▄▅▆▇"
"""Not the full block, which would touch the row above."""

Values: TypeAlias = Callable[[int, int], float] | Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class MatrixView:
    """A matrix to be shown.

    Attributes:
        values: Rows of numbers (a list of lists, a 2-D numpy array), or a function of row and column that is
            called only for what is shown.
        row_names: One for each row.
        column_names: One for each column.
        bias: One number for each row, shown as a last column, or None.
        precision: Significant digits of the largest magnitude shown; None is 4.
        title: Above the matrix.
        notes: Quiet lines below.
        corner: Title of the column of row names.
    """

    values: Values
    row_names: Sequence[str]
    column_names: Sequence[str]
    bias: Sequence[float] | None = None
    precision: int | None = None
    title: str = ""
    notes: tuple[str, ...] = ()
    corner: str = ""


class Numbers(NamedTuple):
    """How the numbers of one matrix are written.

    Attributes:
        decimals: Digits after the point.
        scientific: With an exponent.
        largest: The largest finite magnitude, where the colour scale ends; 0.0 when there is none.
    """

    decimals: int
    scientific: bool
    largest: float


class _Shown(NamedTuple):
    """Which of `n` rows or columns are shown: the first `head` and the last `tail`."""

    n: int
    head: int
    tail: int

    @property
    def hidden(self) -> int:
        return self.n - self.head - self.tail

    @property
    def indices(self) -> list[int]:
        return [*range(self.head), *range(self.n - self.tail, self.n)]


def matrix_table(view: MatrixView, width: int | None = None, height: int | None = None, color: bool = True) -> Table:
    """The matrix as a table, elided in the middle so that it fits.

    Columns left out become a column titled "⋯ 58", rows left out a row named "⋮ 1018". All numbers have the same
    number of decimals and are never cut; exact zeros are a dimmed "0", so that small values are not mistaken for
    zero. Its cells are aligned already and its `raw` is empty: `machine_table` is for CSV and Markdown.

    Args:
        view: What to show.
        width: Cells to fit in, or None for all columns.
        height: Terminal lines to fit in, title and notes included, or None for all rows.
        color: False leaves the colours out: a third of the time and memory for a whole kernel written to a pipe.
    """
    rows = _chosen(len(view.row_names), None if height is None else height - _CHROME - len(view.notes))
    candidates = _chosen(len(view.column_names), None if width is None else max(width // 3, 2))
    value = _getter(view.values)
    grid = [[value(i, j) for i in rows.indices] for j in candidates.indices]
    numbers = scale([v for cells in grid for v in cells], view.precision)
    layouts = {
        j: _lane(view.column_names[j], cells, numbers, color) for j, cells in zip(candidates.indices, grid, strict=True)
    }
    names = _name_lane(view, rows)
    last = [_bias_lane(view, rows, color)] if view.bias is not None else []
    spent = sum(layout.width + GAP for layout in (names, *last))
    columns = _fitting(candidates, layouts, None if width is None else width - spent)
    middle = [layouts[j] for j in columns.indices]
    if columns.hidden:
        middle.insert(columns.head, _gap_lane(columns.hidden, len(rows.indices)))
    return _assembled(view, rows, columns, [names, *middle, *last])


def machine_table(view: MatrixView) -> Table:
    """The whole matrix for CSV and Markdown: no cells, only `raw`, whose rows are made on demand."""
    columns = [Column(view.corner or "row")]
    columns += [Column(name, justify="right") for name in view.column_names]
    if view.bias is not None:
        columns.append(Column("bias", justify="right"))
    return Table(tuple(columns), (), title=view.title, notes=view.notes, raw=_RawRows(view))


class _RawRows(Sequence[Sequence[object]]):
    """Rows of machine values, made on demand, so that a kernel of millions of numbers is not copied first."""

    def __init__(self, view: MatrixView) -> None:
        self._view = view
        self._value = _getter(view.values)

    def __len__(self) -> int:
        return len(self._view.row_names)

    def __getitem__(self, i):  # type: ignore[no-untyped-def]
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        if not 0 <= i < len(self):
            raise IndexError(i)
        view = self._view
        bias = () if view.bias is None else (view.bias[i],)
        return (view.row_names[i], *(self._value(i, j) for j in range(len(view.column_names))), *bias)


def scale(values: Sequence[float], precision: int | None = None) -> Numbers:
    """Decimals that give the largest finite magnitude `precision` (4) significant digits; scientific when that
    is below 0.001, or 100000 and more. Whole numbers (of integer type) have no decimals.
    """
    digits = max(precision or 4, 1)
    sizes = [abs(v) for v in values if math.isfinite(abs(v))]
    largest = float(max(sizes, default=0.0))
    if all(isinstance(v, Integral) for v in values):
        return Numbers(0, False, largest)
    if largest == 0:
        return Numbers(digits - 1, False, largest)
    if largest < 1e-3 or largest >= 1e5:
        return Numbers(digits - 1, True, largest)
    return Numbers(max(digits - 1 - math.floor(math.log10(largest)), 0), False, largest)


def number(value: float, numbers: Numbers) -> str:
    """The text of a number; an exact zero is "0" with blanks in place of decimals."""
    if value == 0:
        sign = "-" if isinstance(value, float) and math.copysign(1, value) < 0 else ""
        blank = numbers.decimals + 1 if numbers.decimals and not numbers.scientific else 0
        return f"{sign}0{' ' * blank}"
    return f"{value:.{numbers.decimals}{'e' if numbers.scientific else 'f'}}"


def number_style(value: float, largest: float) -> str:
    """Blue below zero, red above, stronger towards `largest`; highlighted if not finite, dimmed if exactly zero."""
    if isinstance(value, complex):
        return ""
    if not math.isfinite(value):
        return NOT_FINITE
    if value == 0 or largest == 0:
        return QUIET
    level = sum(abs(value) >= step * largest for step in _LEVELS)
    return (NEGATIVE if value < 0 else POSITIVE)[level]


def sparkline(counts: Sequence[float]) -> str:
    """Counts as bars, one character each: " " for none, "▁" to "▇" for the rest.

    Heights are proportional to the square root of the count, so that the tails of a bell curve stay visible next to
    its peak: a bar half as high means a quarter of the count.
    """
    top = max(counts, default=0)
    if top <= 0:
        return " " * len(counts)
    return "".join(
        _BARS[min(math.ceil(math.sqrt(n / top) * len(_BARS)), len(_BARS)) - 1] if n > 0 else " " for n in counts
    )


class ColumnLayout(NamedTuple):
    """A column whose title and cells all have the same width."""

    column: Column
    cells: list[Cell]
    width: int
    mark: str
    """Stands for its hidden rows."""


def _getter(values: Values) -> Callable[[int, int], float]:
    if callable(values):
        return values
    rows = values
    return lambda i, j: rows[i][j]


def _chosen(n: int, limit: int | None) -> _Shown:
    """All of `n`, or the first and last so many that one place is left for the mark between them."""
    if limit is None or n <= max(limit, 3):
        return _Shown(n, n, 0)
    kept = max(limit - 1, 2)
    return _Shown(n, kept - kept // 2, kept // 2)


def _lane(
    title: str, values: Sequence[float], numbers: Numbers, color: bool, lead: str = "", priority: int = 2
) -> ColumnLayout:
    """A column of numbers; `lead` separates it from the columns to its left."""
    texts = [number(v, numbers) for v in values]
    title = safe(title)
    # Padded here: right alignment would strip the blanks after a zero that keep the points aligned.
    width = len(lead) + max([cell_width(title), *map(len, texts)])
    column = Column(" " * (width - cell_width(title)) + title, priority=priority, key=title)
    cells: list[Cell] = [text.rjust(width) for text in texts]
    if color:
        styles = [number_style(v, numbers.largest) for v in values]
        cells = [_number_cell(text, width, style) for text, style in zip(texts, styles, strict=True)]
    return ColumnLayout(column, cells, width, "⋮".rjust(width))


def _number_cell(text: str, width: int, style: str) -> Cell:
    if style == NOT_FINITE:
        return (Styled(" " * (width - len(text))), Styled(text, style))
    return Styled(text.rjust(width), style) if style else text.rjust(width)


def _bias_lane(view: MatrixView, rows: _Shown, color: bool) -> ColumnLayout:
    bias = view.bias if view.bias is not None else ()
    values = [bias[i] for i in rows.indices]
    return _lane("bias", values, scale(values, view.precision), color, lead="  ", priority=1)


def _name_lane(view: MatrixView, rows: _Shown) -> ColumnLayout:
    names = [safe(view.row_names[i]) for i in rows.indices]
    mark = f"⋮ {rows.hidden}" if rows.hidden else ""
    width = max(map(cell_width, (*names, mark, safe(view.corner))))
    return ColumnLayout(Column(view.corner, style=QUIET, priority=3), list(names), width, mark)


def _gap_lane(hidden: int, n_rows: int) -> ColumnLayout:
    title = f"⋯ {hidden}"
    return ColumnLayout(Column(title, style=QUIET, priority=2), ["⋯"] * n_rows, len(title), "⋮")


def _fitting(candidates: _Shown, layouts: dict[int, ColumnLayout], width: int | None) -> _Shown:
    """As many of the candidate columns as fit in `width`, at least one."""
    if width is None or (not candidates.hidden and _spent(candidates, layouts) <= width):
        return candidates
    n = candidates.n
    most = candidates.head + candidates.tail - (0 if candidates.hidden else 1)
    for kept in range(most, 1, -1):
        shown = _Shown(n, kept - kept // 2, kept // 2)
        if _spent(shown, layouts) <= width:
            return shown
    return _Shown(n, min(n, 1), 0)


def _spent(shown: _Shown, layouts: dict[int, ColumnLayout]) -> int:
    """Width in cells of these columns, with gaps."""
    widths = [layouts[j].width for j in shown.indices]
    if shown.hidden:
        widths.append(_gap_lane(shown.hidden, 0).width)
    return sum(widths) + GAP * (len(widths) - 1)


def _assembled(view: MatrixView, rows: _Shown, columns: _Shown, layouts: list[ColumnLayout]) -> Table:
    body: list[tuple[Cell, ...]] = list(zip(*(layout.cells for layout in layouts), strict=True))
    if rows.hidden:
        body.insert(rows.head, tuple(Styled(layout.mark, QUIET) for layout in layouts))
    return Table(
        columns=tuple(layout.column for layout in layouts),
        rows=body,
        title=view.title,
        notes=(*_elision_note(rows, columns), *view.notes),
    )


def _elision_note(rows: _Shown, columns: _Shown) -> tuple[str, ...]:
    parts = [
        f"{part.n - part.hidden} of {part.n} {word}"
        for part, word in ((rows, "rows"), (columns, "columns"))
        if part.hidden
    ]
    return (f"{' and '.join(parts)} shown",) if parts else ()
