"""A table as Rich draws it: the oracle for our own layout."""

from __future__ import annotations

import io
import re

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.style import Style
from rich.table import Table as RichTable
from rich.text import Text

from convinspect.render.fitting import fit
from convinspect.render.style import HEAD, QUIET
from convinspect.render.table import Cell, Styled, Table, above_and_below, pieces, plain, total, widths

QUIET_BOX = box.Box("    \n    \n ── \n    \n    \n    \n    \n    \n")
"""One thin rule under the titles, and nothing else."""
_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


def by_rich(table: Table, width: int | None) -> list[str]:
    """What Rich prints, without styles and blanks at the ends of lines."""
    fitted = fit(table, width)
    text_lines = [line for cell in (*fitted.summary, *fitted.notes, fitted.title) for line in plain(cell).split("\n")]
    enough = max(total(widths(fitted)), *map(cell_len, text_lines), width or 1)
    console = Console(
        file=io.StringIO(), width=enough, force_terminal=True, color_system="truecolor", legacy_windows=False
    )
    with console.capture() as capture:
        console.print(_rendered(fitted))
    return [line.rstrip(" ") for line in _ESCAPE.sub("", capture.get()).split("\n")[:-1]]


def _rendered(table: Table) -> RenderableType:
    above, below = above_and_below(table)
    body = [_body(table)] if table.columns else []
    return Group(*map(_as_text, above), *body, *map(_as_text, below))


def _as_text(cell: Cell, style: str = "") -> Text:
    # Never as markup.
    text = Text(no_wrap=True, overflow="crop")
    for piece in pieces(cell, style):
        text.append(piece.text, piece.style or None)
    return text


def _body(table: Table) -> RichTable:
    drawn = RichTable(
        box=QUIET_BOX,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        border_style=Style.parse(QUIET),
    )
    # Rich before 15 adds padding to a last column of fixed width; left to itself, it is as wide as its cells.
    fixed: list[int | None] = [*widths(table)[:-1], None]
    for column, width in zip(table.columns, fixed, strict=True):
        title = _as_text(Styled(column.title, HEAD))
        drawn.add_column(title, justify=column.justify, width=width, no_wrap=True, overflow="crop")
    for row in table.rows:
        drawn.add_row(*(_as_text(cell, column.style) for cell, column in zip(row, table.columns, strict=True)))
    return drawn
