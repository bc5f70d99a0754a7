"""Draw Conv1d's layout of data, kernel and result beside Linear's."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from convinspect.explaining.words import Words
from convinspect.render.panels import (
    Panel,
    active_where,
    fixed,
    flowing,
    matrix_panel,
    prose,
    some,
    stripped,
    value_text,
    weight_text,
    wide,
)
from convinspect.render.table import Block
from convinspect.showing.explain import Focus

if TYPE_CHECKING:
    from convinspect.explaining.example import Example


COLUMN = 100
"""Cells in which sentences are read with ease."""


def layouts(example: Example, focus: Focus, width: int, digits: int) -> Block:
    """Conv1d's (N, C, L) next to Linear's (N, L, C): the same numbers, transposed.

    Args:
        example: The layer and its data.
        focus: The row and kernel to mark.
        width: Available width in cells.
        digits: Decimals of results.
    """
    say = Words(example.lang)
    for most in range(9, 1, -1):
        conv1d = _conv1d_panels(example, focus, most, digits)
        linear = _linear_panels(example, focus, most, digits) if example.y is not None else []
        if max(map(wide, conv1d + linear)) <= width:
            break
    lines = [*flowing(conv1d, width), *(["", *flowing(linear, width)] if linear else [])]
    outs, ins = len(example.w), len(example.w[0])
    words = (
        _window_words(example.taps, say)
        if example.y is None
        else [*_pointwise_words(outs, ins, say), same_words(example)]
    )
    lines += ["", *prose(say.joined(words), min(width, COLUMN))]
    return Block(tuple(map(stripped, lines)), title=say("the two layouts"))


def _conv1d_panels(example: Example, focus: Focus, most: int, digits: int) -> list[Panel]:
    """Data, one kernel and result as Conv1d has them: channels down, positions across.

    Args:
        example: The layer and its data.
        focus: The row and kernel to mark.
        most: About how many rows and columns of each panel to show.
        digits: Decimals of results.
    """
    say, ins, outs = Words(example.lang), len(example.x[0]), len(example.w)
    channels, kernels = some(ins, most), some(outs, most, [focus.kernel])
    window = range(focus.row, focus.row + example.taps)
    weights = example.w[focus.kernel]
    return [
        matrix_panel(
            say("Conv1d takes (C, L) = ({channels}, {length})", channels=ins, length=len(example.x)),
            channels,
            some(len(example.x), most, [focus.row]),
            (lambda channel: say("channel {n}", n=channel), str),
            lambda channel, position: value_text(example.x[position][channel]),
            active_where(lambda channel, position: position in window),
        ),
        matrix_panel(
            say("kernel {n}, sliding along L", n=focus.kernel),
            channels,
            range(example.taps),
            (lambda channel: say("channel {n}", n=channel), lambda tap: say("tap {n}", n=tap)),
            lambda channel, tap: weight_text(weights[channel][tap]),
            active_where(lambda channel, tap: True),
        ),
        matrix_panel(
            say("and gives (O, L) = ({channels}, {length})", channels=outs, length=len(example.f)),
            kernels,
            some(len(example.f), most, [focus.row]),
            (lambda kernel: say("kernel {n}", n=kernel), str),
            lambda kernel, position: fixed(example.f[position][kernel], digits),
            active_where(lambda kernel, position: (kernel, position) == (focus.kernel, focus.row)),
        ),
    ]


def _linear_panels(example: Example, focus: Focus, most: int, digits: int) -> list[Panel]:
    """The same layer as a Linear has it, a position per row: data, one row of its weight, result."""
    say, ins, outs = Words(example.lang), len(example.x[0]), len(example.w)
    positions, channels = some(len(example.x), most, [focus.row]), some(ins, most)
    weights, y = example.w[focus.kernel], example.y or []
    return [
        matrix_panel(
            say("Linear takes (L, C) = ({length}, {channels})", length=len(example.x), channels=ins),
            positions,
            channels,
            (lambda row: say("row {n}", n=row), "x{}".format),
            lambda row, channel: value_text(example.x[row][channel]),
            active_where(lambda row, channel: row == focus.row),
        ),
        matrix_panel(
            say("row {n} of A ({outs}, {ins})", n=focus.kernel, outs=outs, ins=ins),
            [0],
            channels,
            (lambda row: "", "a{}".format),
            lambda row, channel: weight_text(weights[channel][0]),
            active_where(lambda row, channel: True),
        ),
        matrix_panel(
            say("and gives (L, O) = ({length}, {channels})", length=len(y), channels=outs),
            positions,
            some(outs, most, [focus.kernel]),
            (lambda row: say("row {n}", n=row), "Y{}".format),
            lambda row, kernel: fixed(y[row][kernel], digits),
            active_where(lambda row, kernel: (row, kernel) == (focus.row, focus.kernel)),
        ),
    ]


def _pointwise_words(outs: int, ins: int, say: Words) -> list[str]:
    sentences = (
        "Conv1d lays the data on their side: channels down, positions across. Its weight is ({outs}, {ins}, 1):",
        "{outs} kernels, each {ins} channels high and 1 position wide, sliding along L.",
        "Linear keeps one row per position, (L, C), and its weight is ({outs}, {ins}): Y = X·Aᵀ + b.",
        "A kernel 1 position wide sees one position at a time, so both compute the same numbers;",
        "the 1 at the end of (out, in, 1) is the kernel's width, and holds no number of its own.",
    )
    return [say(sentence, outs=outs, ins=ins) for sentence in sentences]


def difference(example: Example) -> float:
    """The largest difference between the convolution's results and the Linear's, of those that are finite."""
    pairs = zip(example.f, example.y or [], strict=True)
    differences = (abs(by_conv1d - by_linear) for row in pairs for by_conv1d, by_linear in zip(*row, strict=True))
    return max(filter(math.isfinite, differences), default=0.0)


def same_words(example: Example) -> str:
    """That both give the same numbers, and how far rounding sets them apart."""
    largest = difference(example)
    # Rounded, since the last bits differ between machines.
    within = 10.0 ** max(-15, math.ceil(math.log10(largest))) if largest else 1e-15
    sentence = "Both were computed by PyTorch just now: the same to within {within}, which is rounding."
    return Words(example.lang)(sentence, within=f"{within:.0e}")


def _window_words(taps: int, say: Words) -> list[str]:
    sentences = (
        "This kernel is {taps} positions wide: each result sees {taps} neighbouring rows at once.",
        "A Linear on one row cannot do that; only a kernel of size 1 is a Linear at each position.",
    )
    return [say(sentence, taps=taps) for sentence in sentences]
