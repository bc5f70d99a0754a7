"""Panels of numbers with lines between them: a plane that is cut into boxes, and rows in groups of columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

from convinspect.render.cells import cell_width
from convinspect.render.panels import LEFT_OUT, Panel, even
from convinspect.render.style import HEAD, NAME, QUIET
from convinspect.render.table import Styled

Groups: TypeAlias = Sequence[Sequence[int]]
"""Indices from 0, group after group, with `LEFT_OUT` for some."""
Numbers: TypeAlias = Callable[[int, int], Styled]


class Window(NamedTuple):
    """What is laid over one box: a heavy frame, and a style for all within it.

    Attributes:
        place: Which box, counted from 0 down and across.
        style: Of its numbers.
    """

    place: tuple[int, int]
    style: str


class Group(NamedTuple):
    """Neighbouring columns under one name.

    Attributes:
        name: Above them, or "".
        columns: The name of each.
    """

    name: str
    columns: Sequence[str]


class Row(NamedTuple):
    """One row of numbers.

    Attributes:
        name: Before it.
        parts: The texts of each group.
        styles: The style of each group.
    """

    name: str
    parts: Sequence[Sequence[str]]
    styles: Sequence[str]


GAP = "…"
"""Stands for what is left out."""

_LIGHT = ("┌┬┐", "├┼┤", "└┴┘")


def boxed(
    title: str,
    groups: tuple[Groups, Groups],
    cell: Numbers,
    window: Window | None = None,
    named: Literal["both", "columns", "none"] = "none",
) -> Panel:
    """A plane of numbers, cut into boxes.

    Args:
        title: Above it.
        groups: Of each row of boxes the rows, and of each column of boxes the columns.
        cell: The number at a row and column, with its style; of what is left out, where either is `LEFT_OUT`, too.
        window: What is laid over one of the boxes.
        named: Whether rows and columns have their indices beside them; numbers that have none have blanks of their own.
    """
    rows, columns = groups
    down, along = ([index for group in groups for index in group] for groups in (rows, columns))
    cells = {(i, j): cell(i, j) for i in down for j in along}
    blank = "" if named == "none" else " "
    wide = max([*(cell_width(one.text) for one in cells.values()), 1 if named == "none" else len(str(max(along)))])
    # What is left out takes less room than numbers.
    widths = {j: max(cell_width(cells[i, j].text) for i in down) if j == LEFT_OUT else wide for j in along}
    head = len(str(max(down))) if named == "both" else 0
    spans = [sum(widths[j] + len(blank) for j in group) + len(blank) for group in columns]
    lines: list[tuple[Styled, ...]] = [(Styled(title, HEAD),)]
    if named != "none":
        lines.append((Styled(" " * (head + 1)), *(_names(group, widths) for group in columns)))
    for p, group in enumerate(rows):
        lines.append(_border(head, spans, p, len(rows), window))
        for i in group:
            line = [Styled(f"{_name(i):>{head}}" if head else "", QUIET)]
            for q, across in enumerate(columns):
                fill = window.style if window is not None and window.place == (p, q) else ""
                line.append(_side(p, q, window))
                # The blanks are as much of the window as the numbers.
                line += [Styled(f"{blank}{cells[i, j].text:>{widths[j]}}", fill or cells[i, j].style) for j in across]
                line.append(Styled(blank, fill))
            lines.append((*line, _side(p, len(columns), window)))
    return even([*lines, _border(head, spans, len(rows), len(rows), window)])


def _name(index: int) -> str:
    return GAP if index == LEFT_OUT else str(index)


def _names(group: Sequence[int], widths: Mapping[int, int]) -> Styled:
    return Styled(" ".join(["", *(f"{_name(j):>{widths[j]}}" for j in group), " "]), QUIET)


def _side(p: int, q: int, window: Window | None) -> Styled:
    """The line left of the box (p, q)."""
    heavy = window is not None and p == window.place[0] and q in (window.place[1], window.place[1] + 1)
    return Styled("┃", HEAD) if heavy else Styled("│", QUIET)


def _border(head: int, spans: Sequence[int], p: int, last: int, window: Window | None) -> tuple[Styled, ...]:
    """The line above row p of the boxes, with the window's frame over it."""
    corners = _LIGHT[0 if p == 0 else 2 if p == last else 1]
    heavy = {}
    if window is not None and p in (window.place[0], window.place[0] + 1):
        left = window.place[1]
        heavy = dict(zip((left, left + 1), "┏┓" if p == window.place[0] else "┗┛", strict=True))
    parts = [Styled(" " * head)]
    for q, span in enumerate((*spans, 0)):
        corner = corners[0 if q == 0 else 2 if q == len(spans) else 1]
        parts.append(Styled(heavy[q], HEAD) if q in heavy else Styled(corner, QUIET))
        # Between the frame's two corners.
        parts.append(Styled("━" * span, HEAD) if q in heavy and q + 1 in heavy else Styled("─" * span, QUIET))
    return tuple(parts)


def ruled(
    title: Sequence[str],
    groups: Sequence[Group],
    rows: Sequence[Row],
    head: int,
    wide: int,
) -> Panel:
    """Rows of numbers, with a line between two groups of columns.

    Args:
        title: Lines above it.
        groups: Of columns.
        rows: From top to bottom.
        head: Width of the rows' names.
        wide: Width of a column.
    """
    lines: list[tuple[Styled, ...]] = [(Styled(line, HEAD),) for line in title]
    widths = [[1 if name == GAP else wide for name in group.columns] for group in groups]
    tops, names = [Styled(" " * head)], [Styled(" " * head)]
    spans = []
    for group, sizes in zip(groups, widths, strict=True):
        text = _aligned(group.columns, sizes)
        # A blank behind the last number, as much of the group as the one before the first.
        spans.append(max(cell_width(text), cell_width(group.name) + 1) + bool(group.name))
        tops.append(Styled(f"  {group.name}" + " " * (spans[-1] - 1 - cell_width(group.name)), NAME))
        names.append(Styled(" " + text.ljust(spans[-1]), QUIET))
    lines += [tuple(tops), tuple(names)]
    for row in rows:
        line = [Styled(row.name + " " * (head - cell_width(row.name)), NAME)]
        for part, style, sizes, span in zip(row.parts, row.styles, widths, spans, strict=True):
            line += [Styled("│", QUIET), Styled(_aligned(part, sizes).ljust(span), style)]
        lines.append(tuple(line))
    return even(lines)


def _aligned(texts: Sequence[str], sizes: Sequence[int]) -> str:
    return "".join(f" {text:>{size}}" for text, size in zip(texts, sizes, strict=True))
