"""Drawn lines as a self-contained SVG: no fonts to fetch, exact columns in any monospace font.

Rich's own export loads a font from the network, hides the last line in some viewers and squeezes wide characters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

from convinspect.render.cells import elide
from convinspect.render.marks import BOXES, Pen, Rgb, marks, strokes

if TYPE_CHECKING:
    from rich.segment import Segment
    from rich.terminal_theme import TerminalTheme

FONTS = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace"

_FONT_SIZE = 14.0
_CELL = 8.43
_LINE = 19.0
_BASELINE = 14.0
_MARGIN = 20.0
_BAR = 40.0

DOTS = 16
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
    yield f"{escape(elide(title, max(columns - DOTS, 8)))}</text>\n"
    for i, line in enumerate(lines):
        yield from _line(line, _BAR + i * _LINE, theme)
    yield "</svg>\n"


def _line(segments: Iterable[Segment], top: float, theme: TerminalTheme) -> Iterator[str]:
    for mark in marks(segments, theme):
        pen, left, width = mark.pen, _MARGIN + mark.column * _CELL, mark.cells * _CELL
        if pen.paper:
            yield _rect(left, top, width, _LINE, pen.paper)
        if mark.kind == "rule":
            yield _thin(left, top + _LINE // 2, width, 1, pen.ink)
        elif mark.kind == "box":
            start, end = BOXES[mark.text[0]]
            yield _rect(left, top + start * _LINE, width, (end - start) * _LINE, pen.ink)
        elif mark.kind == "line":
            for stroke in strokes(mark, left, left + width, top, top + _LINE, 1):
                yield _thin(*stroke, pen.ink)
        elif mark.kind == "text":
            yield _text(mark.text, left, top, width, pen)


def _hex(color: Rgb) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def _rect(left: float, top: float, width: float, height: float, ink: Rgb) -> str:
    place = f'x="{left:.2f}" y="{top:.2f}" width="{width:.2f}" height="{height:.2f}"'
    return f'<rect {place} fill="{_hex(ink)}" shape-rendering="crispEdges"/>\n'


def _thin(left: float, top: float, width: float, height: float, ink: Rgb) -> str:
    """A line: where the picture is shown smaller, it becomes fainter, while one with crisp edges would be left out."""
    place = f'x="{left:.2f}" y="{top:.2f}" width="{width:.2f}" height="{height:.2f}"'
    return f'<rect {place} fill="{_hex(ink)}"/>\n'


def _text(text: str, left: float, top: float, width: float, pen: Pen) -> str:
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
    return f'<text {place} fill="{_hex(pen.ink)}"{"".join(looks)}>{escape(text)}</text>\n'
