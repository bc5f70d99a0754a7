"""A drawing as a self-contained SVG: no fonts to fetch, exact columns in any monospace font, and the reader's colours.

Each thing drawn has its colour's name as its class, and the style sheet gives each name that appears its colour, in
both schemes. Colours are written out and not CSS variables, which viewers other than browsers do not know; those that
know no schemes either show the light one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape

from convinspect.render.cells import elide
from convinspect.render.drawing import Drawing, Line
from convinspect.render.grids import cells, names_of, size_of
from convinspect.render.marks import BOXES, marks, strokes
from convinspect.render.style import TYPEFACE, Look, colour_of
from convinspect.render.table import Grid

_FONT_SIZE = 14.0
_CELL = 8.43
_LINE = 19.0
_BASELINE = 14.0
_MARGIN = 20.0
_BAR = 40.0

DOTS = 16
"""Cells beside the title that the three dots take, on both sides so that it stays in the middle."""


def svg(drawn: Drawing, title: str) -> Iterator[str]:
    """The SVG of a drawing.

    Args:
        drawn: What to draw.
        title: In the bar at the top; also the picture's accessible name.
    """
    columns, names = drawn.columns, {"paper", "ink", "quiet", "rule"}
    body: list[str] = []
    top, wide = _BAR, columns * _CELL
    for part in drawn.parts:
        if isinstance(part, Grid):
            body += _grid(part, top, columns * _CELL)
            size = size_of(part, columns * _CELL)
            names |= names_of(part)
            top, wide = top + size.rows * size.side, max(wide, size.columns * size.side)
        else:
            body += _line(part, top, names)
            top += _LINE
    width, height = wide + 2 * _MARGIN, top + _MARGIN
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" class="drawn" role="img"'
    yield f' stroke-width="0" style="max-width: {width:.0f}px">\n'
    yield f"<title>{escape(title)}</title>\n"
    yield f"<style>\n{_sheet(names)}</style>\n"
    yield f'<rect class="frame" x="0.5" y="0.5" width="{width - 1:.0f}" height="{height - 1:.0f}" rx="8"/>\n'
    yield from (f'<circle class="rule" cx="{x}" cy="20" r="5"/>\n' for x in (24, 42, 60))
    yield f'<text class="quiet" x="{width / 2:.1f}" y="25" text-anchor="middle">'
    yield f"{escape(elide(title, max(columns - DOTS, 8)))}</text>\n"
    yield from body
    yield "</svg>\n"


def _sheet(names: Iterable[str]) -> str:
    common = (
        f".drawn text {{ font-family: {TYPEFACE}; font-size: {_FONT_SIZE:g}px; white-space: pre; }}\n"
        ".drawn .b { font-weight: bold; } .drawn .i { font-style: italic; } .drawn .u { text-decoration: underline; }\n"
    )
    named = sorted(name for name in names if not name.startswith("#"))
    light, dark = (" ".join(_rule(name, which) for name in named) for which in (0, 1))
    light, dark = f"{light} {_frame(0)}", f"{dark} {_frame(1)}"
    return f"{common}{light}\n@media (prefers-color-scheme: dark) {{ {dark} }}\n"


def _rule(name: str, which: int) -> str:
    colour = colour_of(name)[which]
    # Cells are rectangles or the lines through them.
    stroke = f" stroke: {colour};" if name.startswith("cell-") or name in ("paper", "strange") else ""
    return f".drawn .{name} {{ fill: {colour};{stroke} }}"


def _frame(which: int) -> str:
    return (
        f".drawn .frame {{ fill: {colour_of('paper')[which]}; stroke: {colour_of('rule')[which]}; stroke-width: 1; }}"
    )


def _grid(grid: Grid, top: float, width: float) -> Iterator[str]:
    rows, columns, side = size_of(grid, width)
    place = f'x="{_MARGIN - 0.5:g}" y="{top - 0.5:g}" width="{columns * side + 1}" height="{rows * side + 1}"'
    yield f'<rect class="frame" {place}/>\n'
    yield f'<g transform="translate({_MARGIN:g} {top:g}) scale({side})">\n'
    yield from cells(grid, 'class="@"')
    yield "</g>\n"


def _line(line: Line, top: float, names: set[str]) -> Iterator[str]:
    for mark in marks(line):
        look, left, width = mark.look, _MARGIN + mark.column * _CELL, mark.cells * _CELL
        names |= {look.ink, *([look.paper] if look.paper else [])}
        if look.paper:
            yield _rect(left, top, width, _LINE, look.paper)
        if mark.kind == "rule":
            yield _thin(left, top + _LINE // 2, width, 1, look.ink)
        elif mark.kind == "box":
            start, end = BOXES[mark.text[0]]
            yield _rect(left, top + start * _LINE, width, (end - start) * _LINE, look.ink)
        elif mark.kind == "line":
            for stroke in strokes(mark, left, left + width, top, top + _LINE, 1):
                yield _thin(*stroke, look.ink)
        elif mark.kind == "text":
            yield _text(mark.text, left, top, width, look)


def _ink(name: str, more: str = "") -> str:
    """The attributes that give a colour; one that is no name of the palette is written as it is."""
    if name.startswith("#"):
        return f'fill="{name}"' + (f' class="{more}"' if more else "")
    return f'class="{" ".join(filter(None, (name, more)))}"'


def _rect(left: float, top: float, width: float, height: float, ink: str) -> str:
    place = f'x="{left:.2f}" y="{top:.2f}" width="{width:.2f}" height="{height:.2f}"'
    return f'<rect {place} {_ink(ink)} shape-rendering="crispEdges"/>\n'


def _thin(left: float, top: float, width: float, height: float, ink: str) -> str:
    """A line: where the picture is shown smaller, it becomes fainter, while one with crisp edges would be left out."""
    place = f'x="{left:.2f}" y="{top:.2f}" width="{width:.2f}" height="{height:.2f}"'
    return f"<rect {place} {_ink(ink)}/>\n"


def _text(text: str, left: float, top: float, width: float, look: Look) -> str:
    looks = " ".join(name for name, on in (("b", look.bold), ("i", look.italic), ("u", look.underline)) if on)
    place = f'x="{left:.2f}" y="{top + _BASELINE:.2f}" textLength="{width:.2f}"'
    return f"<text {place} {_ink(look.ink, looks)}>{escape(text)}</text>\n"
