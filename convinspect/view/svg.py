"""Drawn lines as a self-contained SVG: no fonts to fetch, exact columns in any monospace font.

Rich's own export loads a font from the network, hides the last line in some viewers and squeezes wide characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, NamedTuple

from convinspect.view.text import cell_width, elide

if TYPE_CHECKING:
    from rich.segment import Segment
    from rich.style import Style
    from rich.terminal_theme import TerminalTheme

FONTS = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace"

_FONT_SIZE = 14.0
_CELL = 8.43
_LINE = 19.0
_BASELINE = 14.0
_MARGIN = 20.0
_BAR = 40.0

# Drawn as boxes, from and to these shares of the line's height, so that neighbours touch in every font.
_BOXES = {"▀": (0.0, 0.5), **{c: (1 - i / 8, 1.0) for i, c in enumerate("▁▂▃▄▅▆▇█", start=1)}}
_RULE = "─"

_RUN = re.compile(rf"(?P<rule>{_RULE}+)|(?P<box>[▀▁-█])(?P=box)*|(?P<blank> +)|[^ {_RULE}▀▁-█]+")


class _Pen(NamedTuple):
    """How a run of characters is drawn; colours as "#rrggbb"."""

    ink: str
    paper: str | None
    bold: bool
    italic: bool
    underline: bool


_DOTS = 16
"""Cells beside the title that the three dots take, on both sides so that it stays in the middle."""


def svg(lines: Sequence[Iterable[Segment]], columns: int, title: str, theme: TerminalTheme) -> Iterator[str]:
    """The SVG of lines of Rich segments.

    Args:
        lines: From top to bottom, without line ends.
        columns: Width in cells.
        title: In the bar at the top; also the picture's accessible name.
        theme: Colours for foreground, background and the sixteen named ones.
    """
    width = columns * _CELL + 2 * _MARGIN
    height = _BAR + len(lines) * _LINE + _MARGIN
    ink, paper = theme.foreground_color.hex, theme.background_color.hex
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img">\n'
    yield f"<title>{escape(title)}</title>\n"
    yield f"<style>text {{ font-family: {FONTS}; font-size: {_FONT_SIZE:g}px; white-space: pre; }}</style>\n"
    yield f'<rect x="0.5" y="0.5" width="{width - 1:.0f}" height="{height - 1:.0f}" rx="8"'
    yield f' fill="{paper}" stroke="{ink}" stroke-opacity="0.25"/>\n'
    yield from (f'<circle cx="{x}" cy="20" r="5" fill="{ink}" fill-opacity="0.25"/>\n' for x in (24, 42, 60))
    yield f'<text x="{width / 2:.1f}" y="25" text-anchor="middle" fill="{ink}" fill-opacity="0.6">'
    yield f"{escape(elide(title, max(columns - _DOTS, 8)))}</text>\n"
    for i, line in enumerate(lines):
        yield from _line(line, _BAR + i * _LINE, theme)
    yield "</svg>\n"


def _line(segments: Iterable[Segment], top: float, theme: TerminalTheme) -> Iterator[str]:
    column = 0
    for segment in segments:
        pen = _pen(segment.style, theme)
        for run in _RUN.finditer(segment.text):
            text = run[0]
            cells = cell_width(text)
            left, width = _MARGIN + column * _CELL, cells * _CELL
            column += cells
            if pen.paper:
                yield _rect(left, top, width, _LINE, pen.paper)
            if run["rule"]:
                yield _rect(left, top + _LINE / 2, width, 1, pen.ink)
            elif run["box"]:
                start, end = _BOXES[text[0]]
                yield _rect(left, top + start * _LINE, width, (end - start) * _LINE, pen.ink)
            elif not run["blank"]:
                yield _text(text, left, top, width, pen)


def _rect(left: float, top: float, width: float, height: float, ink: str) -> str:
    place = f'x="{left:.2f}" y="{top:.2f}" width="{width:.2f}" height="{height:.2f}"'
    return f'<rect {place} fill="{ink}" shape-rendering="crispEdges"/>\n'


def _text(text: str, left: float, top: float, width: float, pen: _Pen) -> str:
    looks = [
        name
        for name, on in (
            (' font-weight="bold"', pen.bold),
            (' font-style="italic"', pen.italic),
            (' text-decoration="underline"', pen.underline),
        )
        if on
    ]
    place = f'x="{left:.2f}" y="{top + _BASELINE:.2f}" textLength="{width:.2f}"'
    return f'<text {place} fill="{pen.ink}"{"".join(looks)}>{escape(text)}</text>\n'


def _pen(style: Style | None, theme: TerminalTheme) -> _Pen:
    ink, paper = theme.foreground_color, theme.background_color
    if style is None:
        return _Pen(ink.hex, None, False, False, False)
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
    return _Pen(ink.hex, paper.hex if has_paper else None, bool(style.bold), bool(style.italic), bool(style.underline))
