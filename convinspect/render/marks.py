"""Lines of Rich segments as marks to draw: runs of one kind and style, with their columns. All pictures are drawn from
these.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

from convinspect.render.cells import cell_width

if TYPE_CHECKING:
    from rich.segment import Segment
    from rich.style import Style
    from rich.terminal_theme import TerminalTheme

# Drawn as boxes, from and to these shares of the line's height, so that neighbours touch in every font.
BOXES = {"▀": (0.0, 0.5), **{c: (1 - i / 8, 1.0) for i, c in enumerate("▁▂▃▄▅▆▇█", start=1)}}
_RULE = "─"
_RUN = re.compile(rf"(?P<rule>{_RULE}+)|(?P<box>[▀▁-█])(?P=box)*|(?P<blank> +)|[^ {_RULE}▀▁-█]+")

Rgb = tuple[int, int, int]


class Pen(NamedTuple):
    """The style of a run; `paper` is None for the picture's own background."""

    ink: Rgb
    paper: Rgb | None
    bold: bool
    italic: bool
    underline: bool


class Mark(NamedTuple):
    """A run of characters.

    Attributes:
        kind: "rule" (a line through the middle), "box" (see BOXES), "blank" or "text".
        text: The characters.
        column: Where it starts, in cells.
        cells: How wide it is.
        pen: Its style.
    """

    kind: Literal["rule", "box", "blank", "text"]
    text: str
    column: int
    cells: int
    pen: Pen


def marks(segments: Iterable[Segment], theme: TerminalTheme) -> Iterator[Mark]:
    """One line's marks, from left to right."""
    column = 0
    for segment in segments:
        pen = _pen(segment.style, theme)
        for run in _RUN.finditer(segment.text):
            kind: Literal["rule", "box", "blank", "text"] = (
                "rule" if run["rule"] else "box" if run["box"] else "blank" if run["blank"] else "text"
            )
            cells = cell_width(run[0])
            yield Mark(kind, run[0], column, cells, pen)
            column += cells


def _pen(style: Style | None, theme: TerminalTheme) -> Pen:
    ink, paper = theme.foreground_color, theme.background_color
    if style is None:
        return Pen(ink, None, False, False, False)
    if style.color is not None:
        ink = style.color.get_truecolor(theme)
    has_paper = style.bgcolor is not None and not style.bgcolor.is_default
    if has_paper and style.bgcolor is not None:
        paper = style.bgcolor.get_truecolor(theme, foreground=False)
    if style.reverse:
        ink, paper, has_paper = paper, ink, True
    if style.dim:
        from rich.color import blend_rgb

        ink = blend_rgb(ink, paper, 0.4)
    return Pen(ink, paper if has_paper else None, bool(style.bold), bool(style.italic), bool(style.underline))
