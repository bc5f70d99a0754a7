"""What was measured, as text: one row per route, one column per file."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from measuring import Cost, Growth, Missing, Result, Route, memory_growth, time_growth

START = "start"
"""The column of the file by which start-up is told."""

LEGEND = (
    "A cell is time, largest resident set, and in brackets convinspect's time ÷ this route's. Growth is k in "
    "cost ∝ size^k, by least squares of log cost on log size with start-up (the column `start`, a file of one layer) "
    "taken off, and behind the slash the same of the last two files alone; flat: nothing stands out from start-up, "
    "–: one file alone does. Linux tells no process as smaller than the one that starts it, about 20 MB."
)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under a title, with remarks beneath."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    remarks: Sequence[str] = ()


def seconds(value: float) -> str:
    """As many digits as the figure bears."""
    if value < 0.0995:
        return f"{value * 1000:.2g} ms"
    return f"{value:.2f} s" if value < 9.995 else f"{value:.0f} s"


def cell(result: Result | None, ours: Result | None) -> str:
    """One route on one file, against our own on the same one."""
    if result is None:
        return "–"
    if isinstance(result, Missing):
        return result.why
    ratio = ""
    if isinstance(ours, Cost) and result.seconds > 0:
        times = ours.seconds / result.seconds
        ratio = f" ({times:.0f})" if times > 99 else f" ({times:.2g})"
    word = f", {result.word}" if result.word else ""
    return f"{seconds(result.seconds)}, {result.megabytes:.0f} MB{ratio}{word}"


def exponent(found: Growth) -> str:
    """A growth in few signs."""
    if found.exponent is None or found.last is None:
        return "flat" if found.flat else "–"
    return f"{found.exponent:.2f} / {found.last:.2f}"


def series(
    title: str, routes: Sequence[Route], columns: Mapping[str, float], results: Mapping[tuple[str, str], Result]
) -> Table:
    """A table of routes on files.

    Args:
        title: Above it.
        routes: Rows.
        columns: Label of each file, with its size in the unit that growth is told in; the first may be the start.
        results: By route's name and file's label.
    """
    grown = len(columns) > 2 and START in columns
    rows, failures = [], []
    for route in routes:
        found = {label: results.get((route.name, label)) for label in columns}
        row = [route.name]
        for label, result in found.items():
            ours = results.get((route.against, label)) if route.against is not None else None
            shown: Result | None = result
            if isinstance(result, Missing) and len(result.why) > 20:
                failures.append(f"{route.name}, {label}: {result.why}")
                shown = Missing("failed")
            row.append(cell(shown, ours))
        if grown:
            row += _growths(list(found.values()), list(columns.values()))
        rows.append(row)
    head = ["", *columns, *(["growth: time", "memory"] if grown else [])]
    return Table(title, head, rows, failures)


def _growths(results: Sequence[Result | None], sizes: Sequence[float]) -> list[str]:
    start = results[0]
    points = [(size, cost) for size, cost in zip(sizes[1:], results[1:], strict=True) if isinstance(cost, Cost)]
    if not isinstance(start, Cost):
        return ["–", "–"]
    return [exponent(time_growth(start, points)), exponent(memory_growth(start, points))]


def plain(table: Table) -> str:
    """For a terminal: columns padded, a rule beneath the head."""
    widths = [max(_width(row[i]) for row in [table.head, *table.rows]) for i in range(len(table.head))]
    lines = ["   ".join(_padded(text, width) for text, width in zip(row, widths, strict=True)).rstrip()
             for row in [table.head, *table.rows]]  # fmt: skip
    return "\n".join([table.title, "", lines[0], "─" * max(map(_width, lines)), *lines[1:], *table.remarks, ""])


def markdown(table: Table) -> str:
    """For docs/performance.md."""
    lines = [f"| {' | '.join(row)} |" for row in [table.head, ["---"] * len(table.head), *table.rows]]
    remarks = ["", *(f"- {remark}" for remark in table.remarks)] if table.remarks else []
    return "\n".join([f"### {table.title}", "", *lines, *remarks, ""])


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in text)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))
