"""Data, kernels and result side by side, the active row, kernel and cell marked, and the arithmetic below."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from convinspect.view.style import HEAD, NAME, QUIET
from convinspect.view.table import Block, Cell, Styled, pieces
from convinspect.view.text import cell_width, shape

if TYPE_CHECKING:
    from convinspect.explain import Example, Sum

ACTIVE = "bold #000000 on #ffd84d"
_GAP = 3
_TERMS = 6
"""Terms of a sum that are printed before its middle is taken together."""


@dataclass(frozen=True, slots=True)
class Focus:
    """What is being computed.

    Attributes:
        row: Of the result, from 1.
        kernel: From 1.
        done: Whether a cell (row, kernel) of the result has been computed.
    """

    row: int
    kernel: int
    done: Callable[[int, int], bool]


def row_focus(row: int, kernel: int) -> Focus:
    """A row of the result that is computed with all kernels, and the rows before it."""
    return Focus(row, kernel, lambda i, j: i <= row)


def cell_focus(row: int, kernel: int) -> Focus:
    """One cell, and all before it, row after row."""
    return Focus(row, kernel, lambda i, j: (i, j) <= (row, kernel))


def frame(
    example: Example, focus: Focus, linear: bool, width: int, sums: Sequence[Sum], digits: tuple[int, int]
) -> Block:
    """One step of the computation.

    Args:
        example: The layer and its data.
        focus: The step.
        linear: Name things as for Linear (Y = X·Aᵀ + b) rather than for Conv1d.
        width: Cells to lay out in.
        sums: Whose arithmetic is printed.
        digits: Decimals of results, and of terms.
    """
    most = 9
    while True:
        panels = _panels(example, focus, linear, most, digits[0])
        wide = sum(_wide(panel) for panel in panels) + _GAP * (len(panels) - 1)
        if most <= 3 or max(map(_wide, panels)) <= width:
            break
        most -= 1
    lines = _beside(panels) if wide <= width else _below(panels)
    lines += ["", *_arithmetic(sums, focus, linear, width, digits)]
    letter = "Y" if linear else "f"
    lines = [_stripped(line) for line in lines]
    return Block(tuple(lines), title=f"row {focus.row} of {len(example.f)}: {letter}[{focus.row}, ·]")


Panel = list[tuple[Styled, ...]]


def _panels(example: Example, focus: Focus, linear: bool, most: int, digits: int) -> list[Panel]:
    window = range(focus.row, focus.row + example.taps)
    x_rows, channels = _some(len(example.x), most, window), _some(len(example.x[0]), most)
    data = _panel(
        f"X, data ({len(example.x)} × {len(example.x[0])})",
        [_mark(f"row {i}", i in window) if i else "⋮" for i in x_rows],
        [f"x{c}" if c else "…" for c in channels],
        [[_value(example.x[i - 1][c - 1]) if i and c else "…" for c in channels] for i in x_rows],
        lambda i, c: ACTIVE if x_rows[i] in window else "",
    )
    rows, kernels = _some(len(example.f), most, [focus.row]), _some(len(example.w), most, [focus.kernel])
    letter = "Y" if linear else "f"

    def result(i: int, j: int) -> str:
        if not i or not j:
            return "… "
        if not focus.done(i, j):
            return "· "
        text = _fixed(example.f[i - 1][j - 1], digits)
        # Brackets mark the cell where colours cannot, and take no room that the others do not leave.
        return f"[{text}]" if (i, j) == (focus.row, focus.kernel) else f" {text} "

    def result_style(i: int, j: int) -> str:
        if (rows[i], kernels[j]) == (focus.row, focus.kernel):
            return ACTIVE
        done = rows[i] and kernels[j] and focus.done(rows[i], kernels[j])
        return "" if done else QUIET

    found = _panel(
        f"{letter}, result ({len(example.f)} × {len(example.w)})",
        [f"row {i}" if i else "⋮" for i in rows],
        [f"{letter}{j} " if j else "… " for j in kernels],
        [[result(i, j) for j in kernels] for i in rows],
        result_style,
        gap=1,
    )
    weights = (
        _taps_panel(example, focus, channels) if example.taps > 1 else _kernels_panel(example, focus, linear, most)
    )
    return [data, weights, found]


def _kernels_panel(example: Example, focus: Focus, linear: bool, most: int) -> Panel:
    kernels, channels = _some(len(example.w), most, [focus.kernel]), _some(len(example.x[0]), most)
    grid = [[_weight(example.w[j - 1][c - 1][0]) if j and c else "…" for c in channels] for j in kernels]
    columns = [f"w{c}" if c else "…" for c in channels]
    if example.b is not None:
        columns = [*columns, "b"]
        grid = [[*line, _weight(example.b[j - 1]) if j else "…"] for j, line in zip(kernels, grid, strict=True)]
    what = f"A, weight ({len(example.w)} × {len(example.w[0])})" if linear else f"W, kernels {shape(example.stored)}"
    names = [_mark(f"{'row' if linear else 'kernel'} {j}", j == focus.kernel) if j else "⋮" for j in kernels]
    return _panel(what, names, columns, grid, lambda j, c: ACTIVE if kernels[j] == focus.kernel else "")


def _taps_panel(example: Example, focus: Focus, channels: list[int]) -> Panel:
    """One kernel of size > 1: each of its taps meets one row of the window."""
    weights = example.w[focus.kernel - 1]
    grid = [[_weight(weights[c - 1][tap]) if c else "…" for c in channels] for tap in range(example.taps)]
    names = [_mark(f"tap {tap + 1}", True) for tap in range(example.taps)]
    what = f"kernel {focus.kernel} of W {shape(example.stored)}"
    return _panel(what, names, [f"w{c}" if c else "…" for c in channels], grid, lambda i, c: ACTIVE)


def _mark(name: str, active: bool) -> str:
    return f"▸ {name}" if active else f"  {name}"


def _some(count: int, most: int, wanted: Iterable[int] = ()) -> list[int]:
    """Indices from 1 to `count`, at most about `most` of them: both ends and what is wanted; 0 stands for a gap."""
    if count <= most:
        return list(range(1, count + 1))
    kept = {
        *range(1, most // 2 + 1),
        *range(count - (most - 1) // 2 + 1, count + 1),
        *(i for i in wanted if i <= count),
    }
    found: list[int] = []
    for index in sorted(kept):
        if found and index != found[-1] + 1:
            found.append(0)
        found.append(index)
    return found


def _fixed(value: float, digits: int) -> str:
    """With so many decimals; zero has no sign."""
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _value(value: float) -> str:
    return f"{value:.1f}" if round(value, 1) == value else f"{value:.4g}"


def _weight(value: float) -> str:
    return f"{value:.1f}" if round(value, 1) == value else f"{value:.3f}" if abs(value) >= 0.001 else f"{value:.1e}"


def _panel(
    title: str,
    names: Sequence[str],
    columns: Sequence[str],
    grid: Sequence[Sequence[str]],
    style: Callable[[int, int], str],
    gap: int = 2,
) -> Panel:
    """Lines of one width: title, column names, rows; columns `gap` cells apart."""
    head = max(map(cell_width, names))
    widths = [max([cell_width(name), *(cell_width(line[n]) for line in grid)]) for n, name in enumerate(columns)]
    lines: Panel = [(Styled(title, HEAD),)]
    lines.append(
        (
            Styled(" " * head),
            *(Styled(" " * gap + f"{name:>{wide}}", QUIET) for name, wide in zip(columns, widths, strict=True)),
        )
    )
    for i, (name, line) in enumerate(zip(names, grid, strict=True)):
        cells = [Styled(f"{name:<{head}}", NAME)]
        for n, (text, wide) in enumerate(zip(line, widths, strict=True)):
            cells += [Styled(" " * gap), Styled(f"{text:>{wide}}", style(i, n))]
        lines.append(tuple(cells))
    wide = max(sum(cell_width(piece.text) for piece in line) for line in lines)
    return [(*line, Styled(" " * (wide - sum(cell_width(piece.text) for piece in line)))) for line in lines]


def _stripped(line: Cell) -> Cell:
    """Without the blanks that only kept the next panel in its place."""
    kept = list(pieces(line))
    while kept and not kept[-1].text.strip():
        kept.pop()
    return (*kept[:-1], Styled(kept[-1].text.rstrip(), kept[-1].style)) if kept else ""


def _wide(panel: Panel) -> int:
    return sum(cell_width(piece.text) for piece in panel[0])


def _beside(panels: Sequence[Panel]) -> list[Cell]:
    lines: list[Cell] = []
    for n in range(max(map(len, panels))):
        cells: list[Styled] = []
        for panel in panels:
            gap = [Styled(" " * _GAP)] if cells else []
            cells += gap + list(panel[n] if n < len(panel) else (Styled(" " * _wide(panel)),))
        lines.append(tuple(cells))
    return lines


def _below(panels: Sequence[Panel]) -> list[Cell]:
    lines: list[Cell] = []
    for panel in panels:
        lines += ["", *panel] if lines else panel
    return lines


# --------------------------------------------------------------------------------------------------- arithmetic


def _arithmetic(sums: Sequence[Sum], focus: Focus, linear: bool, width: int, digits: tuple[int, int]) -> list[Cell]:
    lines: list[Cell] = []
    for one in sums:
        if (one.row, one.kernel) == (focus.row, focus.kernel):
            lines += _in_full(one, linear, width, digits)
        else:
            lines.append(_in_short(one, linear, width, digits[0]))
    return lines


def _in_short(one: Sum, linear: bool, width: int, digits: int) -> Cell:
    """On one line: with its factors where they fit."""
    result = _fixed(one.result, digits)
    end = [] if one.bias is None else [_signed(_weight(one.bias))]
    factors = " + ".join([f"{_signed(_value(x))}·{_signed(_weight(w))}" for _, _, x, w in one.terms[:9]] + end)
    line = f"{_name(one, linear)} = {factors} = "
    if len(one.terms) > 9 or cell_width(line + result) > width:
        line = f"{_name(one, linear)} = "
    return (Styled(line, QUIET), Styled(result))


def _name(one: Sum, linear: bool) -> str:
    return f"{'Y' if linear else 'f'}[{one.row},{one.kernel}]"


def _in_full(one: Sum, linear: bool, width: int, digits: tuple[int, int]) -> list[Cell]:
    """Symbols, numbers, products, running sum, result."""
    head, most = _name(one, linear), digits[1]
    letter = "a" if linear else "w"
    first = one.terms[0][0]

    def weight(row: int, channel: int) -> str:
        tap = "" if one.terms[-1][0] == first else f",{row - first + 1}"
        return f"{letter}{one.kernel},{channel}{tap}"

    symbols = [f"x{row},{channel}·{weight(row, channel)}" for row, channel, _, _ in one.terms]
    factors = [f"{_signed(_value(x))}·{_signed(_weight(w))}" for _, _, x, w in one.terms]
    products = [x * w for _, _, x, w in one.terms]
    end = [] if one.bias is None else [(f"b{one.kernel}", _signed(_weight(one.bias)), one.bias)]
    texts = [_fixed(product, most) for product in products]
    if len(products) > _TERMS:
        cut = slice(3, len(products) - 2)
        number = len(products[cut])
        middle = sum(round(product, most) for product in products[cut])
        symbols[cut] = factors[cut] = [f"({number} more)"]
        texts[cut] = [_fixed(middle, most)]
    symbols += [name for name, _, _ in end]
    factors += [text for _, text, _ in end]
    texts += [_fixed(value, most) for _, _, value in end]
    running, total = [], 0.0
    for text in texts:
        total += float(text)
        running.append(_fixed(total, most))
    indent = " " * len(head)
    lines: list[Cell] = []
    for start, words, joint in (
        (head, symbols, " + "),
        (indent, factors, " + "),
        (indent, [_signed(text) for text in texts], " + "),
    ):
        lines += [(Styled(line),) for line in _filled(f"{start} = ", words, joint, width)]
    lines += [(Styled(line, QUIET),) for line in _filled(f"{indent} running sum ", running, " → ", width)]
    lines.append((Styled(f"{indent} = "), Styled(_fixed(one.result, digits[0]), ACTIVE)))
    return lines


def _signed(text: str) -> str:
    return f"({text})" if text.startswith("-") else text


def _filled(start: str, words: Sequence[str], joint: str, width: int) -> list[str]:
    """Words joined into lines of at most `width` cells, the following ones indented as far as the first."""
    lines, line = [], start
    for n, word in enumerate(words):
        piece = word if n == 0 else joint + word
        if cell_width(line + piece) > width and line.strip() and line != start:
            lines.append(line)
            line = " " * len(start) + piece.lstrip()
        else:
            line += piece
    return [*lines, line]


# ---------------------------------------------------------------------------------------------------- two layouts


def layouts(example: Example, focus: Focus, width: int, digits: int) -> Block:
    """Conv1d's (N, C, L) next to Linear's (N, L, C): the same numbers, lying and standing."""
    turned_x = [list(column) for column in zip(*example.x, strict=True)]
    turned_f = [list(column) for column in zip(*example.f, strict=True)]
    positions = _some(len(example.x), 9, [focus.row])
    channels, kernels = _some(len(turned_x), 9), _some(len(turned_f), 9, [focus.kernel])
    window = range(focus.row, focus.row + example.taps)
    lying = _panel(
        f"Conv1d takes (C, L) = ({len(turned_x)}, {len(example.x)})",
        [f"channel {c}" if c else "⋮" for c in channels],
        [str(i) if i else "…" for i in positions],
        [[_value(turned_x[c - 1][i - 1]) if c and i else "…" for i in positions] for c in channels],
        lambda c, i: ACTIVE if positions[i] in window else "",
    )
    weights = example.w[focus.kernel - 1]
    sliding = _panel(
        f"kernel {focus.kernel}, sliding along L",
        [f"channel {c}" if c else "⋮" for c in channels],
        [f"tap {tap + 1}" for tap in range(example.taps)],
        [[_weight(weights[c - 1][tap]) if c else "…" for tap in range(example.taps)] for c in channels],
        lambda c, tap: ACTIVE,
    )
    places = _some(len(example.f), 9, [focus.row])
    gives = _panel(
        f"and gives (O, L) = ({len(turned_f)}, {len(example.f)})",
        [f"kernel {j}" if j else "⋮" for j in kernels],
        [str(i) if i else "…" for i in places],
        [[_fixed(turned_f[j - 1][i - 1], digits) if j and i else "…" for i in places] for j in kernels],
        lambda j, i: ACTIVE if (kernels[j], places[i]) == (focus.kernel, focus.row) else "",
    )
    panels = [lying, sliding, gives]
    fits = sum(map(_wide, panels)) + _GAP * 2 <= width
    outs, ins = len(example.w), len(example.w[0])
    lines = _beside(panels) if fits else _below(panels)
    lines += ["", *(_pointwise_words(outs, ins) if example.taps == 1 else _window_words(example.taps))]
    return Block(tuple(map(_stripped, lines)), title="the two layouts")


def _pointwise_words(outs: int, ins: int) -> list[str]:
    return [
        f"Conv1d lays the data on their side: channels down, positions across. Its weight is ({outs}, {ins}, 1):",
        f"{outs} kernels, each {ins} channels high and 1 position wide, sliding along L.",
        f"Linear keeps one row per position, (L, C), and its weight is ({outs}, {ins}): Y = X·Aᵀ + b.",
        "A kernel 1 position wide sees one position at a time, so both compute the same numbers;",
        "the 1 at the end of (out, in, 1) is the kernel's width, and holds no number of its own.",
    ]


def _window_words(taps: int) -> list[str]:
    return [
        f"This kernel is {taps} positions wide: each result sees {taps} neighbouring rows at once.",
        "A Linear on one row cannot do that; only a kernel of size 1 is a Linear at each position.",
    ]
