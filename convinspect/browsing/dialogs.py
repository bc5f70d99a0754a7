"""Small screens above the tree: a list of choices, and the help."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.screen import ModalScreen

from convinspect.browsing.bars import Bar
from convinspect.browsing.views import Page, Rows
from convinspect.render.cells import elide, safe, wrap
from convinspect.render.style import HEAD, QUIET
from convinspect.render.table import Styled

_FRAME = 4
"""Lines of a dialog that are no choice."""
_KEY = 10
"""Cells of the column of keys."""


class Choice(ModalScreen[int | None]):
    """A list of which one is chosen; the result is its number, None for none.

    Args:
        title: What is chosen.
        choices: A text for each.
        current: The number of the one in use.
    """

    BINDINGS: ClassVar[list[BindingType]] = [("escape,q", "leave", "back")]

    def __init__(self, title: str, choices: Sequence[str], current: int = 0) -> None:
        super().__init__()
        self._title, self._choices, self._current = title, [safe(choice) for choice in choices], current

    def compose(self) -> ComposeResult:
        """A frame with the list in it."""
        yield Bar("title", HEAD)
        yield Rows("choices")

    def on_mount(self) -> None:
        self.query_one("#title", Bar).say(self._title)
        rows = self.query_one("#choices", Rows)
        rows.styles.height = min(len(self._choices), max(self.app.size.height - _FRAME, 1))
        rows.show(len(self._choices), self._line, self._current)
        rows.focus()

    def _line(self, number: int, width: int) -> tuple[Styled, ...]:
        mark = "• " if number == self._current else "  "
        return (Styled(mark), Styled(elide(self._choices[number], max(width - 2, 1))))

    def on_rows_chosen(self, event: Rows.Chosen) -> None:
        event.stop()
        self.dismiss(event.rows.cursor)

    def on_rows_moved(self, event: Rows.Moved) -> None:
        event.stop()

    def action_leave(self) -> None:
        """Nothing is chosen."""
        self.dismiss(None)


class Help(ModalScreen[None]):
    """What each key does.

    Args:
        keys: Keys and what they do; a key without text is a heading.
    """

    BINDINGS: ClassVar[list[BindingType]] = [("escape,q,question_mark,enter", "leave", "back")]

    def __init__(self, keys: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self._keys = keys

    def compose(self) -> ComposeResult:
        """A frame with the lines in it."""
        yield Bar("title", HEAD)
        yield Page("help")

    def on_mount(self) -> None:
        self.query_one("#title", Bar).say("Keys (Esc closes this)")
        page = self.query_one("#help", Page)
        page.show(self._lines)
        page.focus()

    def _lines(self, width: int) -> list[tuple[Styled, ...]]:
        lines: list[tuple[Styled, ...]] = []
        for key, text in self._keys:
            if not text:
                lines.append((Styled(key, QUIET),))
                continue
            parts = [text[start:end] for start, end in wrap(text, max(width - _KEY, 8))]
            labels = [key, *[""] * (len(parts) - 1)]
            lines += [
                (Styled(label.ljust(_KEY), HEAD), Styled(part)) for label, part in zip(labels, parts, strict=True)
            ]
        return lines

    def action_leave(self) -> None:
        """Close it."""
        self.dismiss(None)
