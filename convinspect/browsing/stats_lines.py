"""The statistics of a layer as lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convinspect.render.cells import count, safe, wrap
from convinspect.render.matrix import sparkline
from convinspect.render.style import BAD, QUIET
from convinspect.render.table import Styled

if TYPE_CHECKING:
    from convinspect.browsing.numbers import Numbers

Line = tuple[Styled, ...]

_WHOLE = len("histogram  from min to max")


def stats_lines(numbers: Numbers, width: int) -> list[Line]:
    """Range, mean, counts and histogram, and how the numbers were come by."""
    stats = numbers.stats
    figures = [
        (name, f"{value:.4g}")
        for name, value in (
            ("min", stats.minimum), ("max", stats.maximum), ("mean", stats.mean), ("std", stats.std), ("L2", stats.l2),
        )
        if value is not None
    ]  # fmt: skip
    figures += [("numbers", count(stats.numel)), ("zeros", count(stats.zeros))]
    figures += [(name, count(number)) for name, number in (("NaN", stats.nan), ("Inf", stats.inf)) if number]
    lines = _flowed(figures, width)
    if stats.histogram:
        bars = sparkline(stats.histogram)
        ends = " from min to max" if width >= _WHOLE + len(bars) else ""
        lines.append((Styled("histogram ", QUIET), Styled(bars), Styled(ends, QUIET)))
    for note in numbers.notes:
        text = safe(str(note))
        lines += [(Styled(text[start:end], QUIET),) for start, end in wrap(text, max(width, 8))]
    return lines


def _flowed(figures: list[tuple[str, str]], width: int) -> list[Line]:
    """Names and figures side by side, as many in a line as fit."""
    lines: list[Line] = []
    line: Line = ()
    used = 0
    for name, figure in figures:
        size = len(name) + len(figure) + 3
        if line and used + size > width:
            lines.append(line)
            line, used = (), 0
        style = BAD if name in ("NaN", "Inf") else ""
        line = (*line, Styled(f"{name} ", QUIET), Styled(f"{figure}  ", style))
        used += size
    return [*lines, line] if line else lines
