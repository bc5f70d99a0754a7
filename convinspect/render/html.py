"""Tables and blocks as an HTML fragment for a notebook's cell."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape

from convinspect.render.fitting import fit
from convinspect.render.plain_table import block_cells
from convinspect.render.style import HEAD
from convinspect.render.svg import FONTS
from convinspect.render.table import Block, Cell, Column, Styled, Table, above_and_below, pieces

MOST_ROWS = 500
"""Most rows of a table in a notebook, which stores what it shows in its file."""

_ATTRIBUTES = {"bold": "font-weight: bold", "dim": "opacity: 0.65", "italic": "font-style: italic",
               "underline": "text-decoration: underline"}  # fmt: skip
# Readable on white and on black, since a notebook may be either.
_COLOURS = {"red": "#d64545", "green": "#2e8b57", "yellow": "#b07d10", "blue": "#4080d0", "magenta": "#b050b0",
            "cyan": "#1c8ca8", "black": "#000000", "white": "#ffffff"}  # fmt: skip


def html_of(things: Iterable[Table | Block]) -> str:
    """Tables and blocks, one below the other. Text is escaped, and needs no style sheet."""
    parts = (part for thing in things for part in _part(thing))
    return f'<div style="font-family: {escape(FONTS)}">\n{"".join(parts)}</div>\n'


def _part(thing: Table | Block) -> Iterator[str]:
    if isinstance(thing, Block):
        # Blanks place drawings side by side, so a narrow cell must not wrap the lines.
        yield f"{_lines(block_cells(thing), 'pre; overflow-x: auto')}\n"
        return
    left = len(thing.rows) - MOST_ROWS
    if left > 0:
        thing = thing._replace(rows=thing.rows[:MOST_ROWS], raw=(), notes=(*thing.notes, f"and {left:,} more rows"))
    table = fit(thing, None)
    above, below = above_and_below(table)
    yield f"{_lines(above)}\n" if above else ""
    yield from _table(table) if table.columns else ()
    yield f"{_lines(below)}\n" if below else ""


def _table(table: Table) -> Iterator[str]:
    titles = (_cell("th", Styled(column.title, HEAD), column) for column in table.columns)
    yield f"<table>\n<thead><tr>{''.join(titles)}</tr></thead>\n<tbody>\n"
    for row in table.rows:
        cells = (_cell("td", cell, column) for cell, column in zip(row, table.columns, strict=True))
        yield f"<tr>{''.join(cells)}</tr>\n"
    yield "</tbody>\n</table>\n"


def _cell(tag: str, cell: Cell, column: Column) -> str:
    style = "" if tag == "th" else column.style
    return f'<{tag} style="text-align: {column.justify}; white-space: pre">{_text(cell, style)}</{tag}>'


def _lines(cells: Iterable[Cell], space: str = "pre-wrap") -> str:
    text = "\n".join(map(_text, cells))
    return f'<pre style="font-family: inherit; white-space: {space}">{text}</pre>'


def _text(cell: Cell, style: str = "") -> str:
    return "".join(_piece(piece) for piece in pieces(cell, style))


def _piece(piece: Styled) -> str:
    css = _css(piece.style)
    return f'<span style="{css}">{escape(piece.text)}</span>' if css else escape(piece.text)


def _css(style: str) -> str:
    """A style in Rich's spelling as CSS; what CSS has no plain word for (reverse) is left out."""
    rules = []
    what = "color"
    for word in style.split():
        colour = word if word.startswith("#") else _COLOURS.get(word.removeprefix("bright_"))
        if word == "on":
            what = "background-color"
        elif word in _ATTRIBUTES:
            rules.append(_ATTRIBUTES[word])
        elif colour:
            rules.append(f"{what}: {colour}")
            what = "color"
    return "; ".join(rules)
