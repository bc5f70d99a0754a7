"""A table drawn by Rich. Text is passed to Rich as `Text` only, so that nothing in it is parsed as markup."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.style import Style
from rich.table import Table as RichTable
from rich.text import Text

from convinspect.render.fitting import fit
from convinspect.render.plain_table import block_cells
from convinspect.render.style import HEAD, QUIET
from convinspect.render.table import Block, Cell, Styled, Table, above_and_below, pieces, total, widths

QUIET_BOX = box.Box("    \n    \n ── \n    \n    \n    \n    \n    \n")
"""One thin rule under the titles, and nothing else."""


def render(table: Table, width: int | None = None) -> RenderableType:
    """A Rich renderable of the table, title, summary and notes included.

    Args:
        table: Any table.
        width: In cells, or None for what the table needs. The console must offer `needed(table)` at least, or
            Rich cuts it.
    """
    table = fit(table, width)
    above, below = above_and_below(table)
    body = [_body(table)] if table.columns else []
    return Group(*map(as_text, above), *body, *map(as_text, below))


def render_block(block: Block) -> RenderableType:
    """A Rich renderable of a block's lines."""
    return Group(*map(as_text, block_cells(block)))


def needed(table: Table) -> int:
    """Total width of a fitted table in cells."""
    return total(widths(table))


def as_text(cell: Cell, style: str = "") -> Text:
    """A cell as Rich text, which is shown unchanged."""
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
        title = as_text(Styled(column.title, HEAD))
        drawn.add_column(title, justify=column.justify, width=width, no_wrap=True, overflow="crop")
    for row in table.rows:
        drawn.add_row(*(as_text(cell, column.style) for cell, column in zip(row, table.columns, strict=True)))
    return drawn
