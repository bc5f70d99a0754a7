"""A matrix as a picture: of coloured cells, two per character, in a terminal; of signs where there are few colours; of
true cells (`Grid`) in SVG, HTML and PNG.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from convinspect.render.cells import count
from convinspect.render.style import QUIET, STEPS, Depth
from convinspect.render.table import MOST_TITLES, Block, Cell, Grid, Styled, plain, wrapped

if TYPE_CHECKING:
    import numpy as np

    Numbers: TypeAlias = "np.ndarray[tuple[int, ...], np.dtype[np.generic]]"
    Floats: TypeAlias = "np.ndarray[tuple[int, ...], np.dtype[np.float64]]"
    Matrix: TypeAlias = "Numbers | Sequence[Sequence[float]]"

_STRANGE = "#ff00ff"
"""NaN and infinity in a terminal's cells; in pictures they are crossed out, too."""

_MINUS = "-=≡"
_PLUS = "+*#"
_MARKS_FROM = (0.1, 0.4, 0.7)

_LARGEST_CELL = 8
_LEGEND = 16
_CHROME = 7
"""Lines around the picture: title, its blank, two of legend and their blank, one note, and the next prompt."""
_LEAST_NOTE = 40
_MORE_LEGEND = 2
"""Lines that the legend of characters may take beyond these."""

MOST_ACROSS = 512
"""Most cells of a picture's row or column; a screen has two pixels for each."""
MOST_CELLS = 1 << 17
"""Most cells of a picture: 256 × 512. An SVG of as many is below a megabyte."""

_BLOCK = 1 << 18
"""Values whose extremes are looked for at a time."""

_FEW = 100
"""Values from which on the scale may end before the largest."""
_REACH = 4
"""It does where the largest is more than so many times what 99 % of the values stay within."""


class _Shades(NamedTuple):
    """What is drawn.

    Attributes:
        shares: Of the limit, -1 to 1; NaN for what is not finite. (rows, columns)
        limit: The magnitude where the scale ends; 0.0 if there is none.
        low: The least finite value, in cells.
        high: The largest.
        below: Number of cells below the scale.
        above: Number of cells above it.
        bad: Number of cells that are not finite.
    """

    shares: Floats
    limit: float
    low: float
    high: float
    below: int
    above: int
    bad: int


class Names(NamedTuple):
    """What rows and columns are called."""

    rows: Sequence[str]
    columns: Sequence[str]


def heatmap(
    values: Matrix,
    width: int | None = None,
    height: int | None = None,
    color: bool = True,
    title: str = "",
    notes: tuple[str, ...] = (),
    depth: Depth = Depth.TRUE,
    names: Names | None = None,
    pictured: bool = False,
    averaged: bool = False,
) -> Block:
    """The matrix as a picture, rows downwards.

    Blue is negative, red positive, grey zero, and what is farther from grey is larger. The scale is symmetric about 0
    and ends at the largest magnitude shown. Where few are far beyond all others, it ends before them, and the legend
    says how many. If the matrix is larger than the picture, a cell is the mean of the values that it covers, and a note
    says so.

    Args:
        values: A 2-D numpy array of real numbers of any dtype, or a list of rows.
        width: Available cells, or None for one (two without colour) for each column.
        height: Available terminal lines, or None for all rows.
        color: False draws characters: `-=≡` below zero, `+*#` above, blank near it, `?` where not finite.
        title: Above the picture.
        notes: Dimmed lines below.
        depth: Colours of the terminal; of 16, none are shades, so that signs are drawn: `+`, `-`, and `·` near zero.
        names: Of rows and columns, for a picture's cells.
        pictured: For SVG, HTML or PNG: with true cells in place of the characters.
        averaged: The values are means already, and the legend calls them so.
    """
    import numpy as np

    array = np.asarray(values)
    signs = not color or depth is Depth.BASIC
    rows, columns, room = _room(array.shape, width, height, signs, color, len(notes))
    if pictured:
        rows, columns = _most(array.shape)
    if not rows or not columns:
        return Block((), title, ("no values", *notes))
    grid = _means(array, rows, columns)
    shades = _shades(grid)
    notes = (*_mean_note(array.shape, rows, columns, width), *notes)
    legend = _legend(shades, _range(array, grid, shades, averaged), width, color, signs)
    if pictured:
        return Block(("", *legend), title, notes, Grid(_steps(shades), _titles(grid, array.shape, names)))
    zoom = max(min(room[0] // columns, room[1] // rows, _LARGEST_CELL), 1)
    if signs:
        wide = 2 if width is None or 2 * columns <= width else 1
        picture = [_signs(row, wide, color) for row in shades.shares.tolist()]
    else:
        picture = _half_blocks(_zoomed(_steps(shades), zoom))
    return Block((*picture, "", *legend), title, notes)


def _room(
    shape: tuple[int, ...], width: int | None, height: int | None, signs: bool, color: bool, notes: int
) -> tuple[int, int, tuple[int, int]]:
    """Rows and columns to draw in characters, and cells available across and down."""
    per_line = 1 if signs else 2
    across = width if width is not None else shape[1]
    chrome = _CHROME + notes + (_MORE_LEGEND if signs and not color else 0)
    down = (max(height - chrome, 2) if height is not None else shape[0]) * per_line
    return min(shape[0], down), min(shape[1], across), (across, down)


def _most(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of true cells."""
    rows, columns = min(shape[0], MOST_ACROSS), min(shape[1], MOST_ACROSS)
    if rows * columns <= MOST_CELLS:
        return rows, columns
    if rows >= columns:
        return MOST_CELLS // columns, columns
    return rows, MOST_CELLS // rows


def _means(array: Numbers, rows: int, columns: int) -> Floats:
    """The matrix averaged down to `rows` × `columns`; a mean is not finite if one of its values is not."""
    import numpy as np

    if (rows, columns) == array.shape:
        return array.astype(np.float64)
    tops = np.arange(rows) * array.shape[0] // rows
    lefts = np.arange(columns) * array.shape[1] // columns
    with np.errstate(all="ignore"):
        sums = np.add.reduceat(np.add.reduceat(array, tops, axis=0, dtype=np.float64), lefts, axis=1)
        counts = np.outer(np.diff(tops, append=array.shape[0]), np.diff(lefts, append=array.shape[1]))
        means: Floats = sums / counts
    return means


def _shades(grid: Floats) -> _Shades:
    import numpy as np

    finite = np.isfinite(grid)
    known = grid[finite]
    sizes = np.abs(known)
    limit = float(sizes.max(initial=0.0))
    if sizes.size >= _FEW:
        most = float(np.quantile(sizes, 0.99))
        limit = most if 0 < most * _REACH < limit else limit
    # A magnitude below the smallest normal one would overflow as a divisor.
    with np.errstate(all="ignore"):
        shares = np.where(finite, np.clip(grid / limit, -1, 1) if limit else 0.0, np.nan)
    return _Shades(
        shares,
        limit,
        float(known.min(initial=math.inf)),
        float(known.max(initial=-math.inf)),
        int((known < -limit).sum()),
        int((known > limit).sum()),
        int((~finite).sum()),
    )


def _steps(shades: _Shades) -> list[list[int | None]]:
    import numpy as np

    bad = STEPS + 1
    steps = np.where(np.isnan(shades.shares), bad, np.rint(shades.shares * STEPS)).astype(np.int64).tolist()
    return [[None if step == bad else step for step in row] for row in steps] if shades.bad else steps


def _titles(grid: Floats, shape: tuple[int, ...], names: Names | None) -> tuple[tuple[str, ...], ...]:
    """What each cell says under the pointer; () where cells are means, or too many to name."""
    if names is None or grid.shape != shape or grid.size > MOST_TITLES:
        return ()
    return tuple(
        tuple(f"{row}, {column}: {value:.4g}" for column, value in zip(names.columns, line, strict=True))
        for row, line in zip(names.rows, grid.tolist(), strict=True)
    )


def _mean_note(shape: tuple[int, ...], rows: int, columns: int, width: int | None) -> tuple[str, ...]:
    if (rows, columns) == tuple(shape):
        return ()
    down, across = (f"{n / m:.3g}" for n, m in ((shape[0], rows), (shape[1], columns)))
    text = f"{shape[0]} × {shape[1]} values; each cell is the mean of about {down} × {across}"
    return (text,) if width is None else tuple(wrapped(text, max(width, _LEAST_NOTE)).split("\n"))


def _zoomed(grid: Sequence[Sequence[int | None]], zoom: int) -> list[list[str]]:
    """Each cell's style, `zoom` times across and down."""
    wide = [[shade(step) for step in row for _ in range(zoom)] for row in grid]
    return [row for row in wide for _ in range(zoom)]


def _half_blocks(grid: list[list[str]]) -> list[Cell]:
    lines: list[Cell] = []
    for i in range(0, len(grid), 2):
        lower = [f" on {style}" for style in grid[i + 1]] if i + 1 < len(grid) else [""] * len(grid[i])
        runs = groupby(up + low for up, low in zip(grid[i], lower, strict=True))
        lines.append(tuple(Styled("▀" * len(list(run)), style) for style, run in runs))
    return lines


def shade(step: int | None) -> str:
    """The style of a cell: see `style.cell`; None is not finite."""
    return _STRANGE if step is None else f"cell({step})"


def _legend(shades: _Shades, range_line: str, width: int | None, color: bool, signs: bool) -> list[Cell]:
    """The meaning of the kinds of cells that appear, and the numbers."""
    bad = shades.bad > 0
    sign = Styled("?", "bold magenta" if color else "") if signs else Styled("×", "bold reverse magenta")
    if shades.bad == shades.shares.size:
        return [(sign, Styled(" NaN or Inf; no finite value"))]
    if not shades.limit:
        return [(sign, Styled(" NaN or Inf; all others are 0")) if bad else "all values are 0"]
    last = (Styled("  "), sign, Styled(f" not finite (NaN, Inf): {count(shades.bad)}")) if bad else ()
    if not signs:
        lines = _color_legend(shades.limit, last, width)
    elif color:
        lines = _sign_legend(shades.limit, last, width)
    else:
        lines = _character_legend(shades.limit, bad, width)
    said = [range_line, *_clipped(shades)]
    return [*lines, *(line for text in said for line in _fitted(text, width))]


def _range(array: Numbers, grid: Floats, shades: _Shades, averaged: bool) -> str:
    """The least and the largest finite value and, where cells are means, mean."""
    if not averaged and grid.shape == array.shape:
        return f"min {shades.low:.4g}, max {shades.high:.4g}"
    means = f"means from {shades.low:.4g} to {shades.high:.4g}"
    if averaged:
        return means
    low, high = _extremes(array)
    return f"min {low:.4g}, max {high:.4g}; {means}"


def _extremes(array: Numbers) -> tuple[float, float]:
    """The least and the largest finite value, with few rows in float64 at a time."""
    import numpy as np

    low, high = math.inf, -math.inf
    step = max(_BLOCK // array.shape[1], 1)
    for top in range(0, array.shape[0], step):
        block = array[top : top + step].astype(np.float64)
        if not np.isfinite(block).all():
            block = block[np.isfinite(block)]
        low, high = min(low, float(block.min(initial=math.inf))), max(high, float(block.max(initial=-math.inf)))
    return low, high


def _clipped(shades: _Shades) -> list[str]:
    if not shades.below + shades.above:
        return []
    parts = [f"{count(n)} {where}" for n, where in ((shades.below, "below"), (shades.above, "above")) if n]
    return [f"the scale ends at ±{shades.limit:.4g}, where 99 % of the cells are; clipped: {', '.join(parts)}"]


def _fitted(text: str, width: int | None) -> list[Cell]:
    return [text] if width is None else [*wrapped(text, width).split("\n")]


def _color_legend(limit: float, last: tuple[Styled, ...], width: int | None) -> list[Cell]:
    low, middle, high = f"{-limit:.4g} ", " 0 ", f" {limit:.4g}"
    one_line = width is None or len(low + middle + high) + len(plain(last)) + 8 <= width
    text = len(low + middle + high) + (len(plain(last)) if one_line else 0)
    shown = _LEGEND if width is None else max(min(_LEGEND, (width - text) // 2), 1)
    ramp = [max(round(i * STEPS / shown), 1) for i in range(1, shown + 1)]
    scale = (
        Styled(low),
        *(Styled("█", shade(-step)) for step in reversed(ramp)),
        Styled(middle),
        *(Styled("█", shade(step)) for step in ramp),
        Styled(high),
    )
    return [(*scale, *last)] if one_line else [scale, last[1:]]


def _signs(shares: Sequence[float], wide: int, color: bool) -> Cell:
    marks = [_mark(share, color) for share in shares]
    if not color:
        return "".join(mark * wide for mark, _ in marks).rstrip(" ")
    return tuple(
        Styled(mark * wide * len(list(run)), style) for (mark, style), run in groupby(marks, key=lambda mark: mark)
    )


def _mark(share: float, color: bool) -> tuple[str, str]:
    """A value's character and style."""
    if math.isnan(share):
        return "?", "bold reverse magenta" if color else ""
    level = sum(abs(share) >= step for step in _MARKS_FROM)
    if not color:
        return (" " if level == 0 else (_MINUS if share < 0 else _PLUS)[level - 1]), ""
    if level == 0:
        return "·", QUIET
    bold = "bold " if level > 1 else ""
    return ("-", f"{bold}bright_blue") if share < 0 else ("+", f"{bold}bright_red")


def _sign_legend(limit: float, last: tuple[Styled, ...], width: int | None) -> list[Cell]:
    small, large = (f"{step * limit:.3g}" for step in _MARKS_FROM[:2])
    scale = (
        Styled("-", "bright_blue"),
        Styled(f" from -{small}, "),
        Styled("+", "bright_red"),
        Styled(f" from {small}, bold from {large}, "),
        Styled("·", QUIET),
        Styled(" near 0"),
    )
    if width is None or len(plain((*scale, *last))) <= width:
        return [(*scale, *last)]
    lines = (
        [scale]
        if len(plain(scale)) <= width
        else [(*scale[:3], Styled(f" from {small}")), (Styled(f"bold from {large}, "), *scale[4:])]
    )
    return [*lines, *([last[1:]] if last else [])]


def _character_legend(limit: float, bad: bool, width: int | None) -> list[Cell]:
    """The marks in one line or, if that does not fit, in three: below zero, above zero, and the rest."""
    steps = [f"{step * limit:.3g}" for step in _MARKS_FROM]
    below = ", ".join(f"{mark} from -{step}" for mark, step in zip(_MINUS, steps, strict=True))
    above = ", ".join(f"{mark} from {step}" for mark, step in zip(_PLUS, steps, strict=True))
    parts = [below, above, f"largest {limit:.4g}" + ("; ? not finite" if bad else "")]
    line = "; ".join(parts)
    if width is None:
        return [*parts]
    return [line] if len(line) <= width else [*"\n".join(wrapped(part, width) for part in parts).split("\n")]
