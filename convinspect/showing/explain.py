"""Draw data, kernels and result side by side, with the active row, kernel and cell marked and the arithmetic below."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from convinspect.explaining.words import Words
from convinspect.render.cells import cell_width, shape
from convinspect.render.panels import (
    ACTIVE,
    LEFT_OUT,
    Panel,
    active_where,
    fixed,
    flowing,
    matrix_panel,
    panel,
    prose,
    some,
    stripped,
    value_text,
    weight_text,
    wide,
)
from convinspect.render.style import QUIET
from convinspect.render.table import Block, Cell, Styled

if TYPE_CHECKING:
    from convinspect.explaining.example import Example, Matrix, Sum

TERMS = 6
FEWER_TERMS = 4
"""Terms of a sum that are printed before its middle is taken together."""


@dataclass(frozen=True, slots=True)
class Focus:
    """The part of the result that is being computed.

    Attributes:
        row: Row of the result, from 0.
        kernel: Kernel, from 0.
        done: Whether a cell (row, kernel) of the result has been computed already.
    """

    row: int
    kernel: int
    done: Callable[[int, int], bool]


def row_focus(row: int, kernel: int) -> Focus:
    """Focus on a row of the result, computed with all kernels; the rows before it are done."""
    return Focus(row, kernel, lambda i, j: i <= row)


def cell_focus(row: int, kernel: int) -> Focus:
    """Focus on one cell; all before it, row after row, are done."""
    return Focus(row, kernel, lambda i, j: (i, j) <= (row, kernel))


def frame(
    example: Example,
    focus: Focus,
    linear: bool,
    width: int,
    sums: Sequence[Sum],
    digits: tuple[int, int],
    height: int | None = None,
) -> Block:
    """One step of the computation.

    Args:
        example: The layer and its data.
        focus: The step.
        linear: Name things as for Linear (Y = X·Aᵀ + b) rather than for Conv1d.
        width: Available width in cells.
        sums: Kernels whose arithmetic is printed.
        digits: Decimals of results, and of terms.
        height: Available lines, title included; None for no limit.
    """
    say = Words(example.lang)
    cell = f"{'Y' if linear else 'f'}[{focus.row}, ·]"
    title = say("row {n} of 0–{last}: {cell}", n=focus.row, last=len(example.f) - 1, cell=cell)
    for most in range(9, 2, -1):
        panels = _panels(example, focus, linear, most, digits[0])
        # A screen that is too low for the panels has no room for a long sum either.
        terms = TERMS if most > 3 else FEWER_TERMS
        gaps = _left_out(example, focus, most)
        beside = gaps if cell_width(f"{title}{gaps}") <= width else ""
        below: list[Cell] = [] if beside else [(Styled(line, QUIET),) for line in prose(gaps.lstrip(" ·"), width)]
        lines = [*flowing(panels, width), *below, "", *arithmetic(sums, focus, linear, width, digits, terms, say)]
        if max(map(wide, panels)) <= width and (height is None or len(lines) + 2 <= height):
            break
    return Block(tuple(map(stripped, lines)), title=f"{title}{beside}")


def _left_out(example: Example, focus: Focus, most: int) -> str:
    """How many rows and columns the panels leave out, to be appended to the title; "" if none."""
    say = Words(example.lang)
    window = range(focus.row, focus.row + example.taps)
    parts = []
    for single, several, count, wanted in (
        ("{count} row of X", "{count} rows of X", len(example.x), window),
        ("{count} column of X", "{count} columns of X", len(example.x[0]), ()),
        ("{count} kernel", "{count} kernels", len(example.w) if example.taps == 1 else 0, (focus.kernel,)),
    ):
        hidden = count - sum(index != LEFT_OUT for index in some(count, most, wanted))
        if hidden:
            parts.append(say(single if hidden == 1 else several, count=f"{hidden:,}"))
    return say(" · left out: {parts}", parts=say.listed(parts)) if parts else ""


def _panels(example: Example, focus: Focus, linear: bool, most: int, digits: int) -> list[Panel]:
    """Data, kernels and result, about `most` rows and columns of each."""
    say = Words(example.lang)
    window = range(focus.row, focus.row + example.taps)
    channels = some(len(example.x[0]), most)
    data = matrix_panel(
        say("X, data ({rows} × {columns})", rows=len(example.x), columns=len(example.x[0])),
        some(len(example.x), most, window),
        channels,
        (lambda row: mark(say("row {n}", n=row), row in window), "x{}".format),
        lambda row, channel: value_text(example.x[row][channel]),
        active_where(lambda row, channel: row in window),
    )
    if example.taps > 1:
        weights = _taps_panel(example, focus, channels)
    else:
        weights = _kernels_panel(example, focus, linear, most)
    letter = "Y" if linear else "f"
    title = say("{letter}, result ({rows} × {columns})", letter=letter, rows=len(example.f), columns=len(example.w))
    places = some(len(example.f), most, [focus.row]), some(len(example.w), most, [focus.kernel])
    return [data, weights, result_panel(example.f, focus, (title, "row {n}", letter), places, digits, say)]


def result_panel(
    results: Matrix,
    focus: Focus,
    names: tuple[str, str, str],
    places: tuple[list[int], list[int]],
    digits: int,
    say: Words,
) -> Panel:
    """The results computed so far, with dots for the others.

    Args:
        results: (n × out).
        focus: The step.
        names: The title, what row n is called, and the letter for the results.
        places: The rows and the kernels that are shown, as `some` gives them.
        digits: Decimals.
        say: What says sentences in the reader's language.
    """
    rows, kernels = places
    title, noun, letter = names
    return panel(
        title,
        ["⋮" if row == LEFT_OUT else say(noun, n=row) for row in rows],
        # A blank after each, where the closing bracket goes.
        ["… " if kernel == LEFT_OUT else f"{letter}{kernel} " for kernel in kernels],
        [[result_text(results, focus, row, kernel, digits) for kernel in kernels] for row in rows],
        lambda i, j: result_style(focus, rows[i], kernels[j]),
        gap=1,
    )


def result_text(results: Matrix, focus: Focus, row: int, kernel: int, digits: int) -> str:
    """A result, a dot where it is not computed yet, "…" for those left out."""
    if LEFT_OUT in (row, kernel):
        return "… "
    number = fixed(results[row][kernel], digits)
    # Every result is as wide as when it is active, in brackets (which mark it without colours), so that nothing
    # moves from step to step.
    if not focus.done(row, kernel):
        return f"{'·':>{len(number) + 1}} "
    return f"[{number}]" if (row, kernel) == (focus.row, focus.kernel) else f" {number} "


def result_style(focus: Focus, row: int, kernel: int) -> str:
    """The style of a result."""
    if (row, kernel) == (focus.row, focus.kernel):
        return ACTIVE
    return QUIET if LEFT_OUT in (row, kernel) or not focus.done(row, kernel) else ""


def _kernels_panel(example: Example, focus: Focus, linear: bool, most: int) -> Panel:
    """All kernels of size 1, a row each, and their biases."""
    say, ins, outs, bias = Words(example.lang), len(example.x[0]), len(example.w), example.b
    row_name = "row {n}" if linear else "kernel {n}"
    columns = some(ins, most) if bias is None else [*some(ins, most), ins]

    def number(kernel: int, column: int) -> str:
        if bias is not None and column == ins:
            return weight_text(bias[kernel])
        return weight_text(example.w[kernel][column][0])

    return matrix_panel(
        say("A, weight ({rows} × {columns})", rows=outs, columns=ins)
        if linear
        else say("W, kernels {shape}", shape=shape(example.stored)),
        some(outs, most, [focus.kernel]),
        columns,
        (
            lambda kernel: mark(say(row_name, n=kernel), kernel == focus.kernel),
            lambda column: "b" if column == ins else f"w{column}",
        ),
        number,
        active_where(lambda kernel, column: kernel == focus.kernel),
    )


def _taps_panel(example: Example, focus: Focus, channels: list[int]) -> Panel:
    """One kernel of size > 1: each of its taps meets one row of the window."""
    weights, say = example.w[focus.kernel], Words(example.lang)
    bias = "" if example.b is None else weight_text(example.b[focus.kernel])
    title = "kernel {n} of W {shape}, b{n} = {bias}" if bias else "kernel {n} of W {shape}"
    return matrix_panel(
        say(title, n=focus.kernel, shape=shape(example.stored), bias=bias),
        range(example.taps),
        channels,
        (lambda tap: mark(say("tap {n}", n=tap), True), "w{}".format),
        lambda tap, channel: weight_text(weights[channel][tap]),
        active_where(lambda tap, channel: True),
    )


def mark(name: str, active: bool) -> str:
    """A row's name, with a sign before it where it is the active one."""
    return f"▸ {name}" if active else f"  {name}"


def arithmetic(
    sums: Sequence[Sum], focus: Focus, linear: bool, width: int, digits: tuple[int, int], terms: int, say: Words
) -> list[Cell]:
    """The sums behind some results, that of the active one in full.

    Args:
        sums: One for each result.
        focus: The step.
        linear: Name things as for Linear.
        width: Available width in cells.
        digits: Decimals of results, and of terms.
        terms: Most terms of a sum that are printed.
        say: What says sentences in the reader's language.
    """
    lines: list[Cell] = []
    for cell in sums:
        if (cell.row, cell.kernel) == (focus.row, focus.kernel):
            lines += _in_full(cell, linear, width, digits, terms, say)
        else:
            lines.append(_in_short(cell, linear, width, digits[0]))
    return lines


def _in_short(cell: Sum, linear: bool, width: int, digits: int) -> Cell:
    """The arithmetic on one line, with the factors if they fit."""
    result = fixed(cell.result, digits)
    end = [] if cell.bias is None else [_signed(weight_text(cell.bias))]
    factors = " + ".join([f"{_signed(value_text(x))}·{_signed(weight_text(w))}" for _, _, x, w in cell.terms[:9]] + end)
    line = f"{_name(cell, linear)} = {factors} = "
    if len(cell.terms) > 9 or cell_width(line + result) > width:
        line = f"{_name(cell, linear)} = "
    return (Styled(line, QUIET), Styled(result))


def _name(cell: Sum, linear: bool) -> str:
    return f"{'Y' if linear else 'f'}[{cell.row},{cell.kernel}]"


def _in_full(cell: Sum, linear: bool, width: int, digits: tuple[int, int], most_terms: int, say: Words) -> list[Cell]:
    """The arithmetic in full: symbols, numbers, products, running sum, result."""
    head, most = _name(cell, linear), digits[1]
    letter = "a" if linear else "w"
    first = cell.terms[0][0]

    def weight(row: int, channel: int) -> str:
        tap = "" if cell.terms[-1][0] == first else f",{row - first}"
        return f"{letter}{cell.kernel},{channel}{tap}"

    symbols = [f"x{row},{channel}·{weight(row, channel)}" for row, channel, _, _ in cell.terms]
    factors = [f"{_signed(value_text(x))}·{_signed(weight_text(w))}" for _, _, x, w in cell.terms]
    products = [x * w for _, _, x, w in cell.terms]
    end = [] if cell.bias is None else [(f"b{cell.kernel}", _signed(weight_text(cell.bias)), cell.bias)]
    texts = [fixed(product, most) for product in products]
    if len(products) > most_terms:
        first_terms = most_terms // 2
        cut = slice(first_terms, len(products) - (most_terms - 1 - first_terms))
        number = len(products[cut])
        middle = sum(round(product, most) for product in products[cut])
        symbols[cut] = factors[cut] = [say("({count} more)", count=number)]
        texts[cut] = [fixed(middle, most)]
    symbols += [name for name, _, _ in end]
    factors += [text for _, text, _ in end]
    texts += [fixed(value, most) for _, _, value in end]
    running, total = [], 0.0
    for text in texts:
        total += float(text)
        running.append(fixed(total, most))
    indent = " " * len(head)
    lines: list[Cell] = []
    for start, words, joint in (
        (head, symbols, " + "),
        (indent, factors, " + "),
        (indent, [_signed(text) for text in texts], " + "),
    ):
        lines += [(Styled(line),) for line in _filled(f"{start} = ", words, joint, width)]
    lines += [(Styled(line, QUIET),) for line in _filled(f"{indent} {say('running sum')} ", running, " → ", width)]
    lines.append((Styled(f"{indent} = "), Styled(fixed(cell.result, digits[0]), ACTIVE)))
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
            line = " " * cell_width(start) + piece.lstrip()
        else:
            line += piece
    return [*lines, line]
