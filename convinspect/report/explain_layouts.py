"""Conv1d's layout of data, kernel and result beside Linear's."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from convinspect.render.panels import (
    ACTIVE,
    Panel,
    fixed,
    flowing,
    panel,
    prose,
    some,
    stripped,
    value_text,
    weight_text,
    wide,
)
from convinspect.render.table import Block, Cell
from convinspect.report.explain import Focus

if TYPE_CHECKING:
    from convinspect.explaining.example import Example


_COLUMN = 100
"""Cells in which sentences are read with ease."""


def layouts(example: Example, focus: Focus, width: int, digits: int) -> Block:
    """Conv1d's (N, C, L) next to Linear's (N, L, C): the same numbers, lying and standing."""
    turned_x = [list(column) for column in zip(*example.x, strict=True)]
    turned_f = [list(column) for column in zip(*example.f, strict=True)]
    for most in range(9, 1, -1):
        lines, widest = _panels(example, (turned_x, turned_f), focus, most, (width, digits))
        if widest <= width:
            break
    outs, ins = len(example.w), len(example.w[0])
    words = _window_words(example.taps) if example.y is None else [*_pointwise_words(outs, ins), _same_words(example)]
    lines += ["", *prose(" ".join(words), min(width, _COLUMN))]
    return Block(tuple(map(stripped, lines)), title="the two layouts")


def _panels(
    example: Example,
    turned: tuple[list[list[float]], list[list[float]]],
    focus: Focus,
    most: int,
    room: tuple[int, int],
) -> tuple[list[Cell], int]:
    """Both layouts with at most about so many rows and columns of each panel, and the widest panel's cells."""
    (turned_x, turned_f), (width, digits) = turned, room
    positions = some(len(example.x), most, [focus.row])
    channels, kernels = some(len(turned_x), most), some(len(turned_f), most, [focus.kernel])
    window = range(focus.row, focus.row + example.taps)
    lying = panel(
        f"Conv1d takes (C, L) = ({len(turned_x)}, {len(example.x)})",
        [f"channel {c}" if c else "⋮" for c in channels],
        [str(i) if i else "…" for i in positions],
        [[value_text(turned_x[c - 1][i - 1]) if c and i else "…" for i in positions] for c in channels],
        lambda c, i: ACTIVE if positions[i] in window else "",
    )
    weights = example.w[focus.kernel - 1]
    sliding = panel(
        f"kernel {focus.kernel}, sliding along L",
        [f"channel {c}" if c else "⋮" for c in channels],
        [f"tap {tap + 1}" for tap in range(example.taps)],
        [[weight_text(weights[c - 1][tap]) if c else "…" for tap in range(example.taps)] for c in channels],
        lambda c, tap: ACTIVE,
    )
    places = some(len(example.f), most, [focus.row])
    gives = panel(
        f"and gives (O, L) = ({len(turned_f)}, {len(example.f)})",
        [f"kernel {j}" if j else "⋮" for j in kernels],
        [str(i) if i else "…" for i in places],
        [[fixed(turned_f[j - 1][i - 1], digits) if j and i else "…" for i in places] for j in kernels],
        lambda j, i: ACTIVE if (kernels[j], places[i]) == (focus.kernel, focus.row) else "",
    )
    drawn = [lying, sliding, gives]
    lines = flowing(drawn, width)
    if example.y is not None:
        standing = _standing(example, focus, (positions, channels, kernels), digits)
        lines += ["", *flowing(standing, width)]
        drawn += standing
    return lines, max(map(wide, drawn))


def _standing(
    example: Example, focus: Focus, shown: tuple[list[int], list[int], list[int]], digits: int
) -> list[Panel]:
    """The same layer as a Linear: data, one row of its weight, result."""
    positions, channels, kernels = shown
    weights, y = example.w[focus.kernel - 1], example.y or []
    takes = panel(
        f"Linear takes (L, C) = ({len(example.x)}, {len(weights)})",
        [f"row {i}" if i else "⋮" for i in positions],
        [f"x{c}" if c else "…" for c in channels],
        [[value_text(example.x[i - 1][c - 1]) if i and c else "…" for c in channels] for i in positions],
        lambda i, c: ACTIVE if positions[i] == focus.row else "",
    )
    row = panel(
        f"row {focus.kernel} of A ({len(example.w)}, {len(weights)})",
        [""],
        [f"a{c}" if c else "…" for c in channels],
        [[weight_text(weights[c - 1][0]) if c else "…" for c in channels]],
        lambda i, c: ACTIVE,
    )
    gives = panel(
        f"and gives (L, O) = ({len(y)}, {len(example.w)})",
        [f"row {i}" if i else "⋮" for i in positions],
        [f"Y{j}" if j else "…" for j in kernels],
        [[fixed(y[i - 1][j - 1], digits) if i and j else "…" for j in kernels] for i in positions],
        lambda i, j: ACTIVE if (positions[i], kernels[j]) == (focus.row, focus.kernel) else "",
    )
    return [takes, row, gives]


def _pointwise_words(outs: int, ins: int) -> list[str]:
    return [
        f"Conv1d lays the data on their side: channels down, positions across. Its weight is ({outs}, {ins}, 1):",
        f"{outs} kernels, each {ins} channels high and 1 position wide, sliding along L.",
        f"Linear keeps one row per position, (L, C), and its weight is ({outs}, {ins}): Y = X·Aᵀ + b.",
        "A kernel 1 position wide sees one position at a time, so both compute the same numbers;",
        "the 1 at the end of (out, in, 1) is the kernel's width, and holds no number of its own.",
    ]


def _same_words(example: Example) -> str:
    pairs = zip(example.f, example.y or [], strict=True)
    off = (abs(one - other) for f, y in pairs for one, other in zip(f, y, strict=True))
    apart = max(filter(math.isfinite, off), default=0.0)
    # A round figure, since the last bits differ between machines.
    within = 10.0 ** max(-15, math.ceil(math.log10(apart))) if apart else 1e-15
    return f"Both were computed by PyTorch just now: the same to within {within:.0e}, which is rounding."


def _window_words(taps: int) -> list[str]:
    return [
        f"This kernel is {taps} positions wide: each result sees {taps} neighbouring rows at once.",
        "A Linear on one row cannot do that; only a kernel of size 1 is a Linear at each position.",
    ]
