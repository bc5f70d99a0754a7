"""`explain --step` and `--animate`: one cell of the result after another, on a terminal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import typer

from convinspect.explaining.words import Words
from convinspect.render.plain_table import block_cells
from convinspect.render.table import Block, pieces
from convinspect.showing.explain import cell_focus
from convinspect.showing.explain_steps import cell_at, cell_count

if TYPE_CHECKING:
    from rich.console import RenderableType

    from convinspect.explaining.example import Example
    from convinspect.showing.explain_steps import DrawStep

MOST_PICTURES = 100
"""Most steps of an animation."""

_SECONDS = 0.6
_KEYS = "→ next · ← back · a row's number goes to that row · q leaves"


def play(example: Example, draw: DrawStep, by_keys: bool, first: tuple[int, int], height: int) -> None:
    """Show cells until the user leaves, or all have been played.

    Args:
        example: The layer and its data.
        draw: What draws a step.
        by_keys: Wait for a key after each step, instead of a fixed time.
        first: Row and kernel of the first step.
        height: Lines of the terminal.

    Raises:
        CannotShow: There is no such row or kernel.
    """
    from rich.console import Console
    from rich.live import Live

    from convinspect.explaining.example import sum_of

    sum_of(example, *first)
    keys = (Words(example.lang)(_KEYS),) if by_keys else ()
    index, typed = first[0] * len(example.w) + first[1], ""
    last = min(index + MOST_PICTURES, cell_count(example)) - 1
    with Live(console=Console(), auto_refresh=False, screen=by_keys) as live:
        while index >= 0:
            row, kernel = cell_at(example, index)
            live.update(_rendered(_fitted(draw(cell_focus(row, kernel), [kernel]), keys, height)), refresh=True)
            if by_keys:
                index, typed = moved(typer.getchar(), index, (len(example.f), len(example.w)), typed)
            else:
                time.sleep(_SECONDS)
                index = index + 1 if index < last else -1


def _rendered(block: Block) -> RenderableType:
    """A block's lines for Rich, which shows them unchanged: nothing in them is parsed as markup."""
    from rich.console import Group
    from rich.text import Text

    lines = []
    for cell in block_cells(block):
        line = Text(no_wrap=True, overflow="crop")
        for piece in pieces(cell):
            line.append(piece.text, piece.style or None)
        lines.append(line)
    return Group(*lines)


def _fitted(block: Block, keys: tuple[str, ...], height: int) -> Block:
    """A step shortened to the terminal's height; the last line, with the result, is always kept."""
    # A title and a blank line above, the help on keys below.
    most = height - 3
    lines = block.lines if len(block.lines) <= most else (*block.lines[: most - 2], "…", block.lines[-1])
    return block._replace(lines=lines, notes=keys)


def moved(key: str, index: int, size: tuple[int, int], typed: str = "") -> tuple[int, str]:
    """Where a key moves to.

    Args:
        key: As the terminal sends it.
        index: Index of the shown cell of the result, from 0, row after row.
        size: Rows and columns of the result.
        typed: Digits of a row's number typed so far.

    Returns:
        The index to go to, or -1 to leave; and the digits so far.
    """
    rows, outs = size
    if key in ("q", "Q", "\x1b", "\x03", "\x04"):
        return -1, ""
    if key.isdigit():
        number = next((digits for digits in (typed + key, key) if int(digits) < rows), "")
        return (int(number) * outs if number else index), number
    if key in ("\x1b[D", "\x1bOD", "\xe0K", "h", "p", "b", "\x7f"):
        return max(0, index - 1), ""
    return min(rows * outs - 1, index + 1), ""
