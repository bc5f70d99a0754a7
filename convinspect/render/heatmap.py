"""A matrix as a picture of coloured cells, two per character; without colour as a picture of characters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, TypeAlias

from convinspect.render.table import Block, Cell, Styled, plain, wrapped

if TYPE_CHECKING:
    import numpy as np

    Matrix: TypeAlias = "np.ndarray[tuple[int, ...], np.dtype[np.generic]] | Sequence[Sequence[float]]"
    Grid: TypeAlias = "list[list[float]]"

_ZERO = (42, 42, 46)
_BELOW = (_ZERO, (36, 82, 150), (64, 156, 255), (196, 232, 255))
_ABOVE = (_ZERO, (150, 44, 40), (255, 96, 64), (255, 220, 170))
_NOT_FINITE = "#ff00ff"

_STEPS = 20
"""Shades on either side of zero; few enough for neighbours to share one."""

_MINUS = "-=≡"
_PLUS = "+*#"
_MARKS_FROM = (0.1, 0.4, 0.7)

_LARGEST_CELL = 8
_LEGEND = 16
_CHROME = 6
"""Lines around the picture: title, its blank, legend and its blank, one note, and the next prompt."""
_MORE_LEGEND = 2
"""Lines that the legend of characters may take beyond the first."""


def heatmap(
    values: Matrix,
    width: int | None = None,
    height: int | None = None,
    color: bool = True,
    title: str = "",
    notes: tuple[str, ...] = (),
) -> Block:
    """The matrix as a picture, rows downwards.

    Blue is negative, red positive, dark grey zero, brighter is larger; magenta holds a value that is not
    finite. The scale is symmetric and ends at the largest magnitude shown. If the matrix is larger than the
    picture, a cell is the mean of the values that it covers, and a note says so.

    Args:
        values: A 2-D numpy array of real numbers of any dtype, or a list of rows.
        width: Available cells, or None for one (two without colour) for each column.
        height: Available terminal lines, or None for all rows.
        color: False draws characters: `-=≡` below zero, `+*#` above, blank near it, `?` where not finite.
        title: Above the picture.
        notes: Dimmed lines below.
    """
    import numpy as np

    array = np.asarray(values)
    n_rows, n_columns = array.shape
    per_line = 2 if color else 1
    room_across = width if width is not None else n_columns
    chrome = _CHROME + len(notes) + (0 if color else _MORE_LEGEND)
    room_down = (max(height - chrome, 2) if height is not None else n_rows) * per_line
    rows, columns = min(n_rows, room_down), min(n_columns, room_across)
    if not rows or not columns:
        return Block((), title, ("no values", *notes))
    grid = _means(array, rows, columns)
    largest = max((abs(v) for row in grid for v in row if math.isfinite(v)), default=0.0)
    shares = [[v / largest if largest else v * 0 for v in row] for row in grid]
    if color:
        zoom = max(min(room_across // columns, room_down // rows, _LARGEST_CELL), 1)
        picture = _half_blocks(_zoomed(shares, zoom, zoom))
    else:
        picture = _characters(_zoomed(shares, 2 if width is None or 2 * columns <= width else 1, 1))
    legend = _legend(largest, shares, width, color)
    return Block((*picture, "", *legend), title, (*_mean_note(array.shape, rows, columns), *notes))


def _means(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]], rows: int, columns: int) -> Grid:
    """The matrix averaged down to `rows` × `columns`; a mean is not finite if one of its values is not."""
    import numpy as np

    tops = np.arange(rows) * array.shape[0] // rows
    lefts = np.arange(columns) * array.shape[1] // columns
    with np.errstate(all="ignore"):
        sums = np.add.reduceat(np.add.reduceat(array, tops, axis=0, dtype=np.float64), lefts, axis=1)
        counts = np.outer(np.diff(tops, append=array.shape[0]), np.diff(lefts, append=array.shape[1]))
        means: Grid = (sums / counts).tolist()
    return means


def _mean_note(shape: tuple[int, ...], rows: int, columns: int) -> tuple[str, ...]:
    if (rows, columns) == tuple(shape):
        return ()
    down, across = (f"{n / m:.3g}" for n, m in ((shape[0], rows), (shape[1], columns)))
    return (f"{shape[0]} × {shape[1]} values; each cell is the mean of about {down} × {across}",)


def _zoomed(grid: Grid, across: int, down: int) -> Grid:
    wide = [[v for v in row for _ in range(across)] for row in grid]
    return [row for row in wide for _ in range(down)]


def _half_blocks(grid: Grid) -> list[Cell]:
    lines: list[Cell] = []
    for i in range(0, len(grid), 2):
        upper = [shade(v) for v in grid[i]]
        lower = [f" on {shade(v)}" for v in grid[i + 1]] if i + 1 < len(grid) else [""] * len(upper)
        runs = groupby(up + low for up, low in zip(upper, lower, strict=True))
        lines.append(tuple(Styled("▀" * len(list(run)), style) for style, run in runs))
    return lines


def shade(share: float) -> str:
    """The colour of a value, given as a share of the largest magnitude (-1 to 1)."""
    if not math.isfinite(share):
        return _NOT_FINITE
    stops = _BELOW if share < 0 else _ABOVE
    place = round(min(abs(share), 1.0) * _STEPS) / _STEPS * (len(stops) - 1)
    i = min(int(place), len(stops) - 2)
    red, green, blue = (round(a + (b - a) * (place - i)) for a, b in zip(stops[i], stops[i + 1], strict=True))
    return f"#{red:02x}{green:02x}{blue:02x}"


def _legend(largest: float, shares: Grid, width: int | None, color: bool) -> list[Cell]:
    """The meaning of the kinds of cells that appear."""
    bad = sum(not math.isfinite(share) for row in shares for share in row)
    sign = Styled("█", _NOT_FINITE) if color else Styled("?")
    if bad == sum(map(len, shares)):
        return [(sign, Styled(" not finite; there is no finite value"))]
    if not largest:
        return [(sign, Styled(" not finite; all others are 0")) if bad else "all values are 0"]
    if color:
        return [_color_legend(largest, (Styled("  "), sign, Styled(" not finite")) if bad else (), width)]
    return _character_legend(largest, bad > 0, width)


def _color_legend(largest: float, last: tuple[Styled, ...], width: int | None) -> Cell:
    low, middle, high = f"{-largest:.4g} ", " 0 ", f" {largest:.4g}"
    text = len(low + middle + high) + len(plain(last))
    shades = _LEGEND if width is None else max(min(_LEGEND, (width - text) // 2), 1)
    ramp = [i / shades for i in range(1, shades + 1)]
    return (
        Styled(low),
        *(Styled("█", shade(-share)) for share in reversed(ramp)),
        Styled(middle),
        *(Styled("█", shade(share)) for share in ramp),
        Styled(high),
        *last,
    )


def _characters(grid: Grid) -> list[Cell]:
    return ["".join(map(_mark, row)).rstrip(" ") for row in grid]


def _mark(share: float) -> str:
    if not math.isfinite(share):
        return "?"
    level = sum(abs(share) >= step for step in _MARKS_FROM)
    return " " if level == 0 else (_MINUS if share < 0 else _PLUS)[level - 1]


def _character_legend(largest: float, bad: bool, width: int | None) -> list[Cell]:
    """The marks in one line or, if that does not fit, in three: below zero, above zero, and the rest."""
    steps = [f"{step * largest:.3g}" for step in _MARKS_FROM]
    below = ", ".join(f"{mark} from -{step}" for mark, step in zip(_MINUS, steps, strict=True))
    above = ", ".join(f"{mark} from {step}" for mark, step in zip(_PLUS, steps, strict=True))
    parts = [below, above, f"largest {largest:.4g}" + ("; ? not finite" if bad else "")]
    line = "; ".join(parts)
    if width is None:
        return [*parts]
    return [line] if len(line) <= width else [*"\n".join(wrapped(part, width) for part in parts).split("\n")]
