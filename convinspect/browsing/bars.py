"""The one-line parts of a screen: a bar of text, and the bar that shows the keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.segment import Segment
from rich.style import Style
from textual.geometry import Size
from textual.strip import Strip
from textual.widget import Widget

from convinspect.browsing.views import style_of
from convinspect.render.cells import cell_width, elide, safe, wrap
from convinspect.render.style import HEAD, QUIET


class Bar(Widget):
    """One line of text, shortened in the middle where it does not fit.

    Args:
        name: Its id.
        style: Of the text.
    """

    def __init__(self, name: str, style: str = "") -> None:
        super().__init__(id=name)
        self._texts: tuple[str, ...] = ("",)
        self._look = style

    @property
    def text(self) -> str:
        """What it says, in full."""
        return self._texts[0]

    def say(self, *texts: str, style: str | None = None) -> None:
        """Show a text, of several the first that fits; it may be of a file: what does not print is escaped."""
        self._texts = tuple(safe(" ".join(text.split("\n"))) for text in texts)
        self._look = self._look if style is None else style
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """The line."""
        width = self.size.width
        text = next((text for text in self._texts if cell_width(text) <= width), self._texts[-1])
        return Strip([Segment(elide(text, width), style_of(self._look))]).crop_extend(0, width, None)


class Message(Bar):
    """What is to be told, on as many lines as it takes: of a command that is shown no part may be missing."""

    def say(self, *texts: str, style: str | None = None) -> None:
        """Show a text; what does not print is escaped."""
        super().say(*texts, style=style)
        self.refresh(layout=True)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """How many lines it takes."""
        return len(wrap(self.text, max(width, 1)))

    def render_line(self, y: int) -> Strip:
        """One of its lines; the last one that there is room for is shortened."""
        width = self.size.width
        parts = wrap(self.text, max(width, 1))
        start, end = parts[y] if y < len(parts) else (0, 0)
        text = self.text[start:] if y == self.size.height - 1 else self.text[start:end]
        return Strip([Segment(elide(text, width), style_of(self._look))]).crop_extend(0, width, None)


class Key(NamedTuple):
    """A key as the bar shows it.

    Attributes:
        key: What is pressed.
        does: In one or two words.
        action: Of the app or the screen; what a click does.
    """

    key: str
    does: str
    action: str


_GAP = 2
"""Cells between two keys."""


def _width(key: Key) -> int:
    return cell_width(f"{key.key} {key.does}") + _GAP


class Keys(Widget):
    """The keys that work now, the most important ones first; what does not fit is left out, and `?` shows all."""

    def __init__(self, keys: Sequence[Key]) -> None:
        super().__init__(id="keys")
        self._every = keys

    @property
    def shown(self) -> list[Key]:
        """Those that fit; where not all do, each with one word."""
        if sum(map(_width, self._every)) - _GAP <= self.size.width:
            return list(self._every)
        fitting, used = [], -_GAP
        for each in self._every:
            short = each._replace(does=each.does.partition(" ")[0])
            used += _width(short)
            if used > self.size.width:
                break
            fitting.append(short)
        return fitting

    def render_line(self, y: int) -> Strip:
        """The line."""
        segments = []
        for each in self.shown:
            click = Style(meta={"@click": each.action})
            segments += [
                Segment(each.key, style_of(HEAD) + click),
                Segment(f" {each.does}", style_of(QUIET) + click),
                Segment(" " * _GAP),
            ]
        return Strip(segments).crop_extend(0, self.size.width, None)
