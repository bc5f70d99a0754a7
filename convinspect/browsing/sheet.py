"""A matrix in a pane: as a picture that fits into it, or as numbers that scroll."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

from rich.segment import Segment
from textual.binding import BindingType
from textual.events import Resize
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from convinspect.browsing.views import Line, strip_of, style_of
from convinspect.render.cells import wrap
from convinspect.render.style import QUIET, Depth, cell, cell_index, step_of
from convinspect.render.table import Styled, pieces

if TYPE_CHECKING:
    from convinspect.browsing.numbers import Sheet

_LEAST = 4
"""Lines and cells of the smallest picture."""
_CHROME = 9
"""Lines that a heatmap leaves free around the picture itself, and more do no harm."""
_SAMPLE = 64
"""Rows and columns whose numbers tell how many digits are needed; figures of a larger magnitude take more room."""


class SheetView(ScrollView, can_focus=True):
    """The picture or the numbers of one matrix.

    Args:
        name: Its id.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        ("j", "scroll_down", "down"),
        ("k", "scroll_up", "up"),
        ("l", "scroll_right", "right"),
        ("h", "scroll_left", "left"),
    ]

    def __init__(self, name: str) -> None:
        super().__init__(id=name)
        self._sheet: Sheet | None = None
        self.is_table = False
        self._picture: list[Line] = []
        self._cell = 8

    def clear(self) -> None:
        """Show nothing."""
        self._sheet, self._picture = None, []
        self._lay_out()

    def show(self, sheet: Sheet) -> None:
        """Show a matrix, in the form that was chosen last."""
        self._sheet = sheet
        self.scroll_to(0, 0, animate=False)
        self._lay_out()

    def toggle(self) -> None:
        """The other form; means have no table."""
        self.is_table = not self.is_table
        self.scroll_to(0, 0, animate=False)
        self._lay_out()

    @property
    def text(self) -> str:
        """What is on the screen, without styles."""
        return "\n".join(self.render_line(y).text for y in range(self.size.height))

    @property
    def _has_table(self) -> bool:
        return self.is_table and self._sheet is not None and bool(self._sheet.row_names)

    def on_resize(self, event: Resize) -> None:
        self._lay_out()

    def _lay_out(self) -> None:
        sheet = self._sheet
        if sheet is None or not self.size.height:
            self._picture = []
            self.virtual_size = Size(0, 0)
        elif self._has_table:
            self._measure(sheet)
            columns = len(sheet.column_names)
            # Columns are whole at the left, so the last ones need room for one more at the right.
            width = self._names + (columns + 1) * self._cell if self._exceeds(columns) else 0
            self.virtual_size = Size(width, len(sheet.row_names) + 1)
        else:
            self._picture = picture_lines(sheet, self.size.width - 2, self.size.height, self._depth)
            self.virtual_size = Size(self.size.width - 2, len(self._picture))
        self.refresh()

    @property
    def _depth(self) -> Depth | None:
        """How many colours the terminal has; None where none are wanted."""
        system = self.app.console.color_system
        if self.app.no_color or system is None:
            return None
        return {"truecolor": Depth.TRUE, "256": Depth.INDEXED}.get(system, Depth.BASIC)

    # ------------------------------------------------------------------------------------------------- numbers

    def _measure(self, sheet: Sheet) -> None:
        """How wide numbers and names are, by the first of them."""
        from convinspect.render.matrix import number, scale

        few = sheet.values[:_SAMPLE, :_SAMPLE].tolist()
        self._scale = scale([value for row in few for value in row])
        texts = [number(value, self._scale) for row in few for value in row]
        names = (*sheet.column_names[:1], *sheet.column_names[-1:])
        self._cell = max(map(len, (*texts, *names))) + 2
        self._names = max(map(len, (*sheet.row_names[:1], *sheet.row_names[-1:])))

    def _exceeds(self, columns: int) -> bool:
        """Whether so many columns are more than there is room for."""
        return self._names + columns * self._cell > self.size.width

    def _table_line(self, sheet: Sheet, y: int) -> list[Segment]:
        """The name of a row and its numbers from the first column on the screen."""
        from convinspect.render.matrix import number, number_style

        first = self.scroll_offset.x // self._cell
        count = max((self.size.width - self._names) // self._cell, 1)
        columns = range(first, min(first + count, len(sheet.column_names)))
        row = self.scroll_offset.y + y - 1
        if y == 0:
            texts = [(sheet.column_names[column], QUIET) for column in columns]
            return self._row_segments("", texts)
        if row >= len(sheet.row_names):
            return []
        values = sheet.values[row, columns.start : columns.stop].tolist()
        texts = [(number(value, self._scale), number_style(value, self._scale.largest)) for value in values]
        return self._row_segments(sheet.row_names[row], texts)

    def _row_segments(self, name: str, texts: list[tuple[str, str]]) -> list[Segment]:
        segments = [Segment(name.rjust(self._names), style_of(QUIET))]
        return segments + [Segment(text.rjust(self._cell), style_of(style)) for text, style in texts]

    def render_line(self, y: int) -> Strip:
        """A line of the picture or of the table, whose head stays."""
        width = self.size.width
        sheet = self._sheet
        if sheet is not None and self._has_table:
            return Strip(self._table_line(sheet, y)).crop_extend(0, width, None)
        y += self.scroll_offset.y
        if y >= len(self._picture):
            return Strip.blank(width)
        return strip_of(self._picture[y]).crop_extend(0, width, None)


def picture_lines(sheet: Sheet, width: int, height: int, depth: Depth | None) -> list[Line]:
    """The matrix as a picture that fits into so many cells and lines, with its scale.

    Args:
        sheet: The matrix.
        width: Cells.
        height: Lines.
        depth: How many colours there are; None for none.
    """
    from convinspect.render.heatmap import heatmap

    width, height = max(width, _LEAST), max(height, _LEAST)
    rows, columns = sheet.shape
    if not rows or not columns:
        return [(Styled("no values", QUIET),)]
    cells_a_line = 1 if depth in (None, Depth.BASIC) else 2
    room = height
    while True:
        room -= 1
        means = sheet.means(max(room, 1) * cells_a_line, width)
        notes = _mean_note(sheet, means.shape, width)
        # All lines are for the picture: its title and the prompt after it are elsewhere here.
        lines = max(room, 1) + _CHROME
        block = heatmap(
            means, width, lines, depth is not None, depth=depth or Depth.TRUE, averaged=means.shape != sheet.shape
        )
        if len(block.lines) + len(notes) <= height or room <= 1:
            return [*(for_rich(pieces(line), depth) for line in block.lines), *notes]


def for_rich(line: Line, depth: Depth | None) -> Line:
    """A line whose colours of cells are spelled as Rich knows them."""
    return tuple(Styled(text, _rich_style(style, depth is Depth.INDEXED)) for text, style in line)


@lru_cache(maxsize=4096)
def _rich_style(style: str, indexed: bool) -> str:
    words = style.split()
    steps = [step_of(word) for word in words]
    return " ".join(
        word if step is None else f"color({cell_index(step)})" if indexed else cell(step).dark
        for word, step in zip(words, steps, strict=True)
    )


def _mean_note(sheet: Sheet, shape: tuple[int, ...], width: int) -> list[Line]:
    """What a cell is, where it is no single number."""
    (rows, columns), (down, across) = sheet.shape, shape
    if (rows, columns) == (down, across):
        return []
    text = f"each cell is the mean of about {rows / down:.3g} × {columns / across:.3g} numbers"
    return [(Styled(text[start:end], QUIET),) for start, end in wrap(text, width)]
