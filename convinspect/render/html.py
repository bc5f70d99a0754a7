"""Tables and blocks as HTML: a fragment for a notebook's cell, or a page of its own. Both look alike, in the colours
that the reader asks for, and load nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from convinspect.render.cells import cell_width, count, is_narrow, safe
from convinspect.render.fitting import fit
from convinspect.render.grids import cells, size_of
from convinspect.render.plain_table import block_cells
from convinspect.render.style import HEAD, PALETTE, css, look, tables_css
from convinspect.render.table import (
    Block,
    Cell,
    Column,
    Grid,
    Styled,
    Table,
    above_and_below,
    cell_lines,
    pieces,
    plain,
    widths,
)
from convinspect.text import more_are

MOST_ROWS = 500
"""Most rows of a table in a notebook, which stores what it shows in its file."""
FIRST_ROWS = 50
"""Rows that a notebook shows before it is asked for more."""

# Said twice, it goes before what a notebook says of all tables.
_SCOPE = ".convinspect.convinspect"
_WIDTH = 840
"""Pixels that a heatmap may take, if its cells are not 2 already."""

_PAGE = """\
<!doctype html>
<html lang="@LANG@">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>@TITLE@</title>
<style>
@CSS@body { margin: 0; background: var(--paper); }
.convinspect { padding: 1.5em; }
@STYLES@</style>
<body>
<main class="convinspect">
"""


def html_of(things: Iterable[Table | Block]) -> str:
    """Tables and blocks, one below the other, for a notebook's cell, with their style sheet. Text is escaped.

    Of a table 50 rows are shown, more when asked for, and 500 at most.
    """
    things = list(things)
    drawn = any(isinstance(thing, Block) and thing.grid is not None for thing in things)
    parts = (part for thing in things for part in (_block(thing) if isinstance(thing, Block) else _folded(thing)))
    sheet = css(_SCOPE, cells=drawn) + tables_css(_SCOPE) + f"{_SCOPE} {{ padding: .4em .8em; }}\n"
    return f'<div class="convinspect">\n<style>\n{sheet}</style>\n{"".join(parts)}</div>\n'


def html_page(things: Sequence[Table | Block], title: str, width: int | None) -> Iterator[str]:
    """A page of tables and blocks, in parts.

    Args:
        things: One below the other.
        title: Of the page.
        width: Cells to fit tables in; None for all that they hold.
    """
    yield from page_head(title)
    for thing in things:
        yield from _block(thing) if isinstance(thing, Block) else _whole(fit(thing, width))
    yield "</main>\n</body>\n</html>\n"


def page_head(title: str, *, lang: str = "en", cells: bool = True, styles: str = "") -> Iterator[str]:
    """A page from its beginning to where its content starts, in `main`, with the style sheets.

    Args:
        title: Of the page.
        lang: The language of its text, as HTML calls it.
        cells: Whether a heatmap's colours may be needed.
        styles: What the page has beside them.
    """
    sheets = css(cells=cells) + tables_css(".convinspect")
    # What comes from a file is put in last, so that nothing is looked for in it.
    head = _PAGE.replace("@LANG@", lang).replace("@CSS@", sheets).replace("@STYLES@", styles)
    yield head.replace("@TITLE@", escape(safe(title)))


def _block(block: Block) -> Iterator[str]:
    lines = block_cells(block)
    if block.grid is None:
        # Blanks place drawings side by side, so a narrow page must not wrap the lines.
        yield f"{_lines(lines, drawn_class(lines))}\n"
        return
    head = 2 if block.title else 0
    yield f"{_lines(lines[: head - 1])}\n" if head else ""
    yield from _grid(block.grid, block.title)
    yield f"{_lines(lines[head + 1 :])}\n"


def drawn_class(lines: Iterable[Cell]) -> str:
    """The class of lines that are drawn: those of letters meet only where these stand close together."""
    return "drawn tight" if any("│" in plain(line) for line in lines) else "drawn"


def _grid(grid: Grid, title: str) -> Iterator[str]:
    rows, columns, side = size_of(grid, _WIDTH)
    label = escape(f"heatmap of {title}" if title else "heatmap", quote=True)
    yield f'<svg viewBox="-.05 -.05 {columns + 0.1:g} {rows + 0.1:g}" role="img" aria-label="{label}"'
    yield f' style="display: block; width: {columns * side}px; max-width: 100%; outline: 1px solid var(--rule)">\n'
    yield from cells(grid, 'style="fill: var(--@); stroke: var(--@)"')
    yield "</svg>\n"


def _folded(table: Table) -> Iterator[str]:
    """The first rows, and the others when they are asked for."""
    left = len(table.rows) - MOST_ROWS
    if left > 0:
        # Beside what the table says itself of its rows.
        notes = (*table.notes, f"… {more_are(left, 'row')} left out here")
        table = table._replace(rows=table.rows[:MOST_ROWS], raw=(), notes=notes)
    yield from _whole(fit(table, None), FIRST_ROWS)


def _whole(table: Table, first: int | None = None) -> Iterator[str]:
    above, below = above_and_below(table)
    yield f"{_lines(above)}\n" if above else ""
    if table.columns:
        sizes = widths(table)
        # To fold a few would take as much room as they do.
        split = len(table.rows) if first is None or len(table.rows) <= first * 1.2 else first
        yield from _rows(table, table.rows[:split], sizes)
        if split < len(table.rows):
            yield f"<details><summary>… {count(len(table.rows) - split)} more</summary>\n"
            yield from _rows(table, table.rows[split:], sizes)
            yield "</details>\n"
    yield f"{_lines(below)}\n" if below else ""


def _rows(table: Table, rows: Sequence[tuple[Cell, ...]], sizes: Sequence[int]) -> Iterator[str]:
    titles = (
        f'<th scope="col"{_class(column)} style="min-width: {size}ch">{_text(Styled(column.title, HEAD))}</th>'
        for column, size in zip(table.columns, sizes, strict=True)
    )
    yield f'<div class="wide"><table>\n<thead><tr>{"".join(titles)}</tr></thead>\n<tbody>\n'
    for row in rows:
        filled = (_cell(cell, column) for cell, column in zip(row, table.columns, strict=True))
        yield f"<tr>{''.join(filled)}</tr>\n"
    yield "</tbody>\n</table></div>\n"


def _cell(cell: Cell, column: Column) -> str:
    """Text of one style alone has its colour on the cell: notebooks keep what they show, so less is better."""
    only = pieces(cell, column.style)
    classes = ["right"] if column.justify == "right" else []
    if len(only) == 1 and only[0].style and not look(only[0].style).paper:
        names, rules = _attributes(only[0].style)
        if not rules:
            return f'<td class="{" ".join([*classes, *names])}">{escape(only[0].text)}</td>'
    return f"<td{_class(column)}>{_text(cell, column.style)}</td>"


def _class(column: Column) -> str:
    return ' class="right"' if column.justify == "right" else ""


def _lines(lines: Iterable[Cell], kind: str = "") -> str:
    text = "\n".join("".join(map(_piece, pieces(line))).rstrip(" ") for cell in lines for line in cell_lines(cell))
    return f"<pre{f' class={kind!r}' if kind else ''}>{text.strip(chr(10))}</pre>"


def _text(cell: Cell, style: str = "") -> str:
    return "".join(_piece(piece) for piece in pieces(cell, style))


def _piece(piece: Styled) -> str:
    return span(piece.text, piece.style)


def span(text: str, style: str) -> str:
    """Text in a style, escaped; needs the sheets of `css` and `tables_css`."""
    block = bool(text) and not text.strip("█") and not look(style).paper
    classes, rules = _attributes(style, block)
    named = f' class="{" ".join(classes)}"' if classes else ""
    attributes = named + (f' style="{"; ".join(rules)}"' if rules else "")
    # Blocks are not letters, between which some fonts leave gaps.
    shown = " " * len(text) if block else _in_cells(text)
    return f"<span{attributes}>{shown}</span>" if attributes else shown


def _in_cells(text: str) -> str:
    """Text, escaped; what takes two cells on a terminal takes two here, whatever the font: columns stand below it."""
    if is_narrow(text):
        return escape(text)
    return "".join(
        f'<span class="two">{escape(letter)}</span>' if cell_width(letter) == 2 else escape(letter) for letter in text
    )


def _attributes(style: str, block: bool = False) -> tuple[list[str], list[str]]:
    """Classes and CSS rules of a style; of a block, whose ink is its background."""
    seen = look(style)
    ink, paper = ("ink", seen.ink) if block else (seen.ink, seen.paper)
    classes = [name for name in ("bold", "italic", "underline") if getattr(seen, name)]
    rules = []
    if ink in PALETTE and ink != "paper":
        classes += [ink] if ink != "ink" else []
    else:
        rules.append(f"color: {_value(ink)}")
    if paper:
        rules.append(f"background: {_value(paper)}")
    return classes, rules


def _value(name: str) -> str:
    return name if name.startswith("#") else f"var(--{name})"
