"""What a command costs before it works: processor time beside that of the libraries that draw a command line."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from making import Files, Point
from measuring import Cost, Route, convinspect, python, run
from tables import START, Table, seconds

PAIRS = 21
BASE = Route("`import typer, rich.table`", python("import typer, rich.table"))


def starts_compared(folder: Path) -> list[Table]:
    """`shapes` on a file of one layer and `--help` against importing Typer and Rich, in pairs of runs.

    The median of the pairs' ratios is told, since what else the machine does falls on both runs of a pair.
    """
    with tempfile.TemporaryDirectory(dir=folder) as made:
        file = Files(Path(made), Point("start", START, 2, 8)).torch
        ours = [
            Route("`convinspect shapes FILE`", convinspect("shapes", file)),
            Route("`convinspect --help`", convinspect("--help")),
        ]
        rows = [_row(route) for route in ours]
    head = ["", "÷ base", "median", "base"]
    remark = f"processor time, {PAIRS} pairs; base: {BASE.name}"
    return [Table("Starting, in pairs", head, rows, [remark])]


def _row(route: Route) -> list[str]:
    # Once before, so that modules are compiled and in the page cache.
    pairs = [(run(route, processor=True), run(BASE, processor=True)) for _ in range(PAIRS + 1)][1:]
    costs = [(ours.seconds, base.seconds) for ours, base in pairs if isinstance(ours, Cost) and isinstance(base, Cost)]
    if not costs:
        return [route.name, "failed", "–", "–"]
    return [
        route.name,
        f"{paired_ratio(costs):.2f}",
        *(seconds(statistics.median(side)) for side in zip(*costs, strict=True)),
    ]


def paired_ratio(costs: Sequence[tuple[float, float]]) -> float:
    """The median of each pair's first cost over its second."""
    return statistics.median(ours / base for ours, base in costs)
