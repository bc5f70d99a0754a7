"""Widgets that draw lines of styled text: one that is read, and one whose lines are chosen.

They draw each line themselves (Textual's "line API"), so that of ten thousand lines only those on the screen are made,
and no text is parsed as markup.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.binding import BindingType
from textual.events import Click, Resize
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from convinspect.render.cells import cell_width
from convinspect.render.table import Styled

Line = tuple[Styled, ...]


@lru_cache(maxsize=4096)
def style_of(text: str) -> Style:
    """A style by its words; words that are known to `render/style.py` are known here."""
    return Style.parse(text)


def strip_of(line: Line) -> Strip:
    """A line as Textual draws it."""
    return Strip([Segment(text, style_of(style)) for text, style in line if text])


class Page(ScrollView, can_focus=True):
    """Text that is wrapped to the width and may be scrolled.

    Args:
        name: Its id.
    """

    def __init__(self, name: str) -> None:
        super().__init__(id=name)
        self._make: Callable[[int], Sequence[Line]] = lambda width: ()
        self._lines: Sequence[Line] = ()

    def show(self, make: Callable[[int], Sequence[Line]], keep_place: bool = False) -> None:
        """Show the lines that a function gives for a width in cells."""
        self._make = make
        if not keep_place:
            self.scroll_to(0, 0, animate=False)
        self._lay_out()

    @property
    def text(self) -> str:
        """What it shows, without styles."""
        return "\n".join("".join(part.text for part in line) for line in self._lines)

    def on_resize(self, event: Resize) -> None:
        self._lay_out()

    def _lay_out(self) -> None:
        # A cell is left for the scroll bar, so that lines are not wrapped anew when it appears.
        width = max(self.size.width - 2, 1)
        self._lines = self._make(width)
        self.virtual_size = Size(width, len(self._lines))
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """The line at a height of the widget."""
        y += self.scroll_offset.y
        width = self.size.width
        if y >= len(self._lines):
            return Strip.blank(width)
        return strip_of(self._lines[y]).crop_extend(0, width, None)


class Rows(ScrollView, can_focus=True):
    """Lines of which one is chosen, by keys or with the mouse.

    Args:
        name: Its id.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        ("up,k", "move(-1)", "up"),
        ("down,j", "move(1)", "down"),
        ("pageup", "leap(-1)", "page up"),
        ("pagedown", "leap(1)", "page down"),
        ("home,g", "first", "first"),
        ("end,G", "last", "last"),
        ("enter", "choose", "choose"),
    ]

    class Moved(Message):
        """Another row is the current one."""

        def __init__(self, rows: Rows) -> None:
            super().__init__()
            self.rows = rows

        @property
        def control(self) -> Rows:
            """The widget."""
            return self.rows

    class Chosen(Moved):
        """The current row was confirmed, with Enter or a second click."""

    def __init__(self, name: str) -> None:
        super().__init__(id=name)
        self._count = 0
        self._draw: Callable[[int, int], Line] = lambda number, width: ()
        self.cursor = 0

    def show(self, count: int, draw: Callable[[int, int], Line], cursor: int = 0) -> None:
        """Show so many rows.

        Args:
            count: How many.
            draw: Gives the line of a row by its number and the width in cells.
            cursor: The current row.
        """
        self._count, self._draw = count, draw
        self.virtual_size = Size(max(self.size.width - 2, 1), count)
        self.move_to(cursor)
        self.refresh()

    @property
    def text(self) -> str:
        """All rows, without styles, as wide as the widget."""
        lines = [self._draw(number, self._width) for number in range(self._count)]
        return "\n".join("".join(part.text for part in line) for line in lines)

    @property
    def _width(self) -> int:
        return max(self.size.width - 2, 1)

    def move_to(self, number: int) -> None:
        """Make a row the current one, and bring it into sight."""
        number = max(min(number, self._count - 1), 0)
        self.cursor = number
        if self.size.height:
            self.scroll_to_region(Region(0, number, 1, 1), animate=False, force=True, x_axis=False)
        self.refresh()
        self.post_message(self.Moved(self))

    def action_move(self, by: int) -> None:
        """One row up or down."""
        self.move_to(self.cursor + by)

    def action_leap(self, by: int) -> None:
        """A page up or down."""
        self.move_to(self.cursor + by * max(self.size.height - 1, 1))

    def action_first(self) -> None:
        """The first row."""
        self.move_to(0)

    def action_last(self) -> None:
        """The last row."""
        self.move_to(self._count - 1)

    def action_choose(self) -> None:
        """Confirm the current row."""
        if self._count:
            self.post_message(self.Chosen(self))

    def on_click(self, event: Click) -> None:
        number = event.y + self.scroll_offset.y
        if number >= self._count:
            return
        if number == self.cursor:
            self.action_choose()
        else:
            self.move_to(number)

    def on_resize(self, event: Resize) -> None:
        self.virtual_size = Size(self._width, self._count)
        self.scroll_to_region(Region(0, self.cursor, 1, 1), animate=False, force=True, x_axis=False)
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """The row at a height of the widget."""
        number, width = y + self.scroll_offset.y, self.size.width
        if number >= self._count:
            return Strip.blank(width)
        line = self._draw(number, self._width)
        if number == self.cursor:
            # One bar without colours: reversed, each would be a patch of its own.
            text = "".join(part.text for part in line)
            line = (Styled(text + " " * (self._width - cell_width(text)), "reverse"),)
        return strip_of(line).crop_extend(0, width, None)
