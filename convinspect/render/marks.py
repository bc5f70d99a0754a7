"""Lines of styled text as marks to draw: runs of one kind and look, with their columns. All pictures are drawn from
these.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from convinspect.render.cells import cell_width
from convinspect.render.style import Look, look
from convinspect.render.table import Styled

# Drawn as boxes, from and to these shares of the line's height, so that neighbours touch in every font.
BOXES = {"▀": (0.0, 0.5), **{c: (1 - i / 8, 1.0) for i, c in enumerate("▁▂▃▄▅▆▇█", start=1)}}
_RULE = "─"
# Which arms a line has (up, right, down, left), each one light or heavy, so that neighbours meet in every font.
_ARMS = {
    "│": "u d ", "┌": " rd ", "┬": " rdl", "┐": "  dl", "├": "urd ", "┼": "urdl", "┤": "u dl", "└": "ur  ",
    "┴": "ur l", "┘": "u  l", "┃": "U D ", "━": " R L", "┏": " RD ", "┓": "  DL", "┗": "UR  ", "┛": "U  L",
}  # fmt: skip
_CORNERS = "".join(corner for corner in _ARMS if corner != "━")
_RUN = re.compile(
    rf"(?P<rule>{_RULE}+)|(?P<box>[▀▁-█])(?P=box)*|(?P<line>━+|[{_CORNERS}])|(?P<blank> +)|[^ {_RULE}▀▁-█{_CORNERS}━]+"
)

Stroke = tuple[float, float, float, float]


class Mark(NamedTuple):
    """A run of characters.

    Attributes:
        kind: "rule" (a line through the middle), "box" (see BOXES), "line" (see `strokes`), "blank" or "text".
        text: The characters.
        column: Where it starts, in cells.
        cells: How wide it is.
        look: Its style.
    """

    kind: Literal["rule", "box", "line", "blank", "text"]
    text: str
    column: int
    cells: int
    look: Look


def marks(line: Iterable[Styled]) -> Iterator[Mark]:
    """One line's marks, from left to right."""
    column = 0
    for piece in line:
        seen = look(piece.style)
        for run in _RUN.finditer(piece.text):
            kind: Literal["rule", "box", "line", "blank", "text"] = next(
                (name for name in ("rule", "box", "line", "blank") if run[name]), "text"
            )
            cells = cell_width(run[0])
            yield Mark(kind, run[0], column, cells, seen)
            column += cells


def strokes(mark: Mark, left: float, right: float, top: float, bottom: float, thin: int) -> Iterator[Stroke]:
    """The rectangles of a line's arms: up and down, left and right, which meet in the middle.

    Args:
        mark: Of kind "line".
        left: Edge of its cells.
        right: Edge of its cells.
        top: Edge of its cells.
        bottom: Edge of its cells.
        thin: How thick a light line is; a heavy one is three times as thick.

    Yields:
        Left, top, width, height.
    """
    arms = _ARMS[mark.text[0]]
    up, to_right, down, to_left = (arm != " " for arm in arms)
    heavy = arms.isupper()
    start = -thin if heavy else 0
    thick = 3 * thin if heavy else thin
    # A light line begins in the middle, as a rule does.
    x, y = (left + right) // 2 + start, (top + bottom) // 2 + start
    if to_left or to_right:
        begin, end = left if to_left else x, right if to_right else x + thick
        yield begin, y, end - begin, thick
    if up or down:
        begin, end = top if up else y, bottom if down else y + thick
        yield x, begin, thick, end - begin
