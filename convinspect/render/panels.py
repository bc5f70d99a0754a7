"""Panels of a drawing: small tables of numbers, side by side if they fit, with active cells in one colour."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from textwrap import wrap

from convinspect.render.cells import cell_width, is_narrow
from convinspect.render.style import HEAD, NAME, QUIET
from convinspect.render.table import Cell, Styled, pieces

ACTIVE = "bold #000000 on #ffd84d"
LEFT_OUT = -1
"""Stands among indices for some that are left out."""
_GAP = 3

Panel = list[tuple[Styled, ...]]


def some(count: int, most: int, wanted: Iterable[int] = ()) -> list[int]:
    """About `most` of `count` indices, from 0: both ends and the wanted ones, with `LEFT_OUT` in gaps."""
    if count <= most:
        return list(range(count))
    kept = {
        *range(most // 2),
        *range(count - (most - 1) // 2, count),
        *(i for i in wanted if i < count),
    }
    indices: list[int] = []
    for index in sorted(kept):
        if indices and index != indices[-1] + 1:
            indices.append(LEFT_OUT)
        indices.append(index)
    return indices


def fixed(value: float, digits: int) -> str:
    """A number with so many decimals; zero has no sign."""
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def value_text(value: float) -> str:
    """A number of the data: one decimal if that is exact, else four significant digits."""
    return fixed(value, 1) if round(value, 1) == value else f"{value:.4g}"


def weight_text(value: float) -> str:
    """A number of a kernel: one decimal if that is exact, else three; with a power of ten beyond 10⁵."""
    if abs(value) >= 1e5:
        return f"{value:.2e}"
    return fixed(value, 1) if round(value, 1) == value else f"{value:.3f}" if abs(value) >= 0.001 else f"{value:.1e}"


def panel(
    title: str,
    names: Sequence[str],
    columns: Sequence[str],
    grid: Sequence[Sequence[str]],
    style: Callable[[int, int], str],
    gap: int = 2,
) -> Panel:
    """Lines of equal width: title, column names, rows; with `gap` cells between columns."""
    head = max(map(cell_width, names))
    widths = [max([cell_width(name), *(cell_width(line[n]) for line in grid)]) for n, name in enumerate(columns)]
    lines: Panel = [(Styled(title, HEAD),)]
    lines.append(
        (
            Styled(" " * head),
            *(
                Styled(" " * (gap + wide - cell_width(name)) + name, QUIET)
                for name, wide in zip(columns, widths, strict=True)
            ),
        )
    )
    for i, (name, line) in enumerate(zip(names, grid, strict=True)):
        cells = [Styled(name + " " * (head - cell_width(name)), NAME)]
        for n, (text, wide) in enumerate(zip(line, widths, strict=True)):
            cells += [Styled(" " * gap), Styled(f"{text:>{wide}}", style(i, n))]
        lines.append(tuple(cells))
    return even(lines)


def even(lines: Iterable[Cell]) -> Panel:
    """Lines of equal width, filled up with blanks."""
    split = [pieces(line) for line in lines]
    widths = [sum(cell_width(piece.text) for piece in line) for line in split]
    most = max(widths)
    return [(*line, Styled(" " * (most - wide))) for line, wide in zip(split, widths, strict=True)]


def matrix_panel(
    title: str,
    rows: Sequence[int],
    columns: Sequence[int],
    names: tuple[Callable[[int], str], Callable[[int], str]],
    number: Callable[[int, int], str],
    style: Callable[[int, int], str],
    gap: int = 2,
) -> Panel:
    """A panel of a matrix, some of whose rows and columns are left out.

    Args:
        title: Above it.
        rows: From 0, as `some` gives them.
        columns: The same of columns.
        names: Names of rows and columns, by number.
        number: The text of the cell at a row and column.
        style: The style of the cell at a row and column, of what is left out too.
        gap: Cells between two columns.
    """
    row_name, column_name = names
    return panel(
        title,
        ["⋮" if i == LEFT_OUT else row_name(i) for i in rows],
        ["…" if j == LEFT_OUT else column_name(j) for j in columns],
        [["…" if LEFT_OUT in (i, j) else number(i, j) for j in columns] for i in rows],
        lambda i, j: style(rows[i], columns[j]),
        gap,
    )


def active_where(active: Callable[[int, int], bool]) -> Callable[[int, int], str]:
    """The function for the style of a matrix's cells, which marks active ones."""
    return lambda i, j: ACTIVE if active(i, j) else ""


def stripped(line: Cell) -> Cell:
    """Lines without the trailing blanks that align the next panel."""
    kept = list(pieces(line))
    while kept and not kept[-1].text.strip():
        kept.pop()
    return (*kept[:-1], Styled(kept[-1].text.rstrip(), kept[-1].style)) if kept else ""


def wide(panel: Panel) -> int:
    """Width of a panel in cells."""
    return sum(cell_width(piece.text) for piece in panel[0])


def beside(panels: Sequence[Panel]) -> list[Cell]:
    """Panels side by side."""
    lines: list[Cell] = []
    for n in range(max(map(len, panels))):
        cells: list[Styled] = []
        for panel in panels:
            gap = [Styled(" " * _GAP)] if cells else []
            cells += gap + list(panel[n] if n < len(panel) else (Styled(" " * wide(panel)),))
        lines.append(tuple(cells))
    return lines


def prose(text: str, width: int) -> list[str]:
    """A sentence wrapped to lines of at most `width` cells."""
    width = max(width, 20)
    if is_narrow(text) or cell_width(text) == len(text):
        return wrap(text, width, break_on_hyphens=False)
    lines, line = [], ""
    for word in _WORDS.findall(text):
        if line and cell_width(line + word.rstrip()) > width:
            lines.append(line.rstrip())
            line = ""
        line += word
    return [*lines, line.rstrip()]


_WORDS = re.compile(r"[（“]*(?:[!-\u2fff]+|[^（“])[，。：；、）”]* *|[（“]+$")
"""Text in Chinese has no blanks: a line may end anywhere, but not before a closing mark or after an opening one."""


def flowing(panels: Sequence[Panel], width: int) -> list[Cell]:
    """Panels side by side as far as they fit, the others below."""
    lines: list[Cell] = []
    row: list[Panel] = []
    for panel in panels:
        if row and sum(map(wide, [*row, panel])) + _GAP * len(row) > width:
            lines += [*beside(row), ""]
            row = []
        row.append(panel)
    return lines + beside(row)
