"""The drawings of `explain`: some rows, every step, both layouts; and its JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from convinspect.errors import CannotShow, Option, Wording
from convinspect.explaining.words import Words
from convinspect.kinds import TRANSFORMERS_CONV1D
from convinspect.render.cells import shape
from convinspect.render.panels import prose
from convinspect.render.table import Block
from convinspect.showing.explain import Focus, cell_focus, frame, row_focus
from convinspect.showing.explain_layouts import COLUMN, difference, layouts, same_words
from convinspect.showing.explain_patches import cropped, patch_frame
from convinspect.text import plural

if TYPE_CHECKING:
    from convinspect.explaining.example import Example

COMFORT = 120
"""Cells to draw in where no terminal sets a limit: the built-in examples with their panels side by side."""

DrawStep: TypeAlias = Callable[[Focus, Sequence[int]], Block]
"""Draws one step of an example: the step, and the kernels whose sums are printed."""


def drawn_as_linear(example: Example, names: str | None) -> bool:
    """Whether to use Linear's notation: as asked ("linear", "conv1d"), otherwise by the layer's kind.

    Raises:
        CannotShow: It was asked for, but no Linear computes what the layer does.
    """
    if names == "linear" and example.taps > 1:
        raise CannotShow(
            f"{example.name} has a kernel of size {example.taps}, which no Linear is",
            Wording("leave out ", Option("as_", None)),
        )
    if names in ("linear", "conv1d"):
        return names == "linear"
    return example.kind == TRANSFORMERS_CONV1D or not example.kind.startswith("Conv")


def drawer(example: Example, linear: bool, width: int, height: int | None = None) -> DrawStep:
    """The function that draws the steps of an example, with the same decimals in each.

    Args:
        example: The layer and its data.
        linear: Name things as for Linear rather than for Conv1d.
        width: Available width in cells.
        height: Available lines; None for no limit.
    """
    from convinspect.explaining.example import decimals, decimals_of_terms, sum_of

    digits = decimals(example)

    def draw(focus: Focus, kernels: Sequence[int]) -> Block:
        sums = [sum_of(example, focus.row, kernel) for kernel in kernels]
        decimals_of = digits, decimals_of_terms(sums, digits)
        if example.image is not None:
            return patch_frame(example, example.image, focus, width, sums, decimals_of, height)
        return frame(example, focus, linear, width, sums, decimals_of, height)

    return draw


def frames(
    example: Example, draw: DrawStep, row: int | None, kernel: int | None, both: bool, width: int
) -> list[Block]:
    """The first two rows and the last, or the requested one; then the two layouts if requested, and a description.

    Raises:
        CannotShow: There is no such row or kernel.
    """
    from convinspect.explaining.example import decimals, sum_of

    count, outs = len(example.f), len(example.w)
    rows = [row] if row is not None else sorted({0, min(1, count - 1), count - 1})
    blocks: list[Block] = []
    for place, shown_row in enumerate(rows):
        sum_of(example, shown_row, kernel or 0)
        if kernel is not None:
            blocks.append(draw(cell_focus(shown_row, kernel), [kernel]))
        else:
            active = outs - 1 if place == 2 else min(place, outs - 1)
            listed = [j for j in range(outs) if outs <= 8 or j < 4 or j >= outs - 2 or j == active]
            blocks.append(draw(row_focus(shown_row, active), listed))
    if both:
        blocks.append(layouts(example, row_focus(rows[0], kernel or 0), width, decimals(example)))
    return [*blocks, moral(example, width)]


def overview(example: Example) -> list[Block]:
    """The drawing that the command prints without a terminal, below the layer's name."""
    draw = drawer(example, drawn_as_linear(example, None), COMFORT)
    name = Block((), title=f"{example.name}: {example.kind} {shape(example.stored)}")
    return [name, *frames(example, draw, None, None, both=False, width=COMFORT)]


def moral(example: Example, width: int) -> Block:
    """One sentence on what the drawing shows, and what it leaves out."""
    say, outs = Words(example.lang), len(example.w)
    kernels, columns = (plural(outs, noun) for noun in ("kernel", "column"))
    sentence = "{kernels}, so {columns}: each number is the dot product of a row of X and a kernel{bias}."
    if example.taps > 1:
        sentence = (
            "{kernels}, so {columns}: each number is the dot product of a window of {taps} neighbouring rows and a "
            "kernel{bias}."
        )
    if example.image is not None:
        sentence = "{kernels}, so {columns}: each number is the dot product of a patch and a kernel{bias}."
    bias = "" if example.b is None else say(", plus the kernel's bias")
    said = say(sentence, kernels=kernels, columns=columns, outs=f"{outs:,}", taps=example.taps, bias=bias)
    lines = prose(said, width)
    if example.image is not None:
        words = "Windows never overlap, so a patch is a row by itself, and the convolution is a Linear on these rows."
        lines += prose(say.joined([say(words), same_words(example)]), min(width, COLUMN))
    notes = [say.of(example.note)] if example.note else []
    notes += cropped(example.image, say) if example.image is not None else []
    return Block((*lines, *(line for note in notes for line in prose(say.ended(note), width))))


def steps(example: Example, draw: DrawStep, most: int, both: bool) -> list[Block]:
    """The first `most` steps, cell after cell, each with a description below, and the two layouts if requested."""
    from convinspect.explaining.example import decimals

    every = cell_count(example)
    shown = min(every, most)
    say = Words(example.lang)
    some_of = say("the first {shown} of {count} numbers", shown=f"{shown:,}", count=f"{every:,}")
    left_out = (some_of,) if shown < every else ()
    words = moral(example, COMFORT).lines
    blocks = []
    for i, j in (cell_at(example, index) for index in range(shown)):
        block = draw(cell_focus(i, j), [j])
        both_layouts = layouts(example, row_focus(i, j), COMFORT, decimals(example)) if both else None
        below = () if both_layouts is None else ("", both_layouts.title, "", *both_layouts.lines)
        blocks.append(block._replace(lines=(*block.lines, *below, "", *words, *left_out)))
    return blocks


def cell_count(example: Example) -> int:
    """How many numbers the result has."""
    return len(example.f) * len(example.w)


def cell_at(example: Example, index: int) -> tuple[int, int]:
    """Row and kernel of one number of the result, whose numbers are counted row after row."""
    return divmod(index, len(example.w))


def explain_payload(example: Example) -> dict[str, object]:
    """The JSON of `explain`."""
    image = example.image
    payload: dict[str, object] = {"layer": example.name, "kind": example.kind, "x": example.x, "weight": example.w,
                                  "bias": example.b, "result": example.f}  # fmt: skip
    if image is not None:
        payload |= {"image": image.values, "patch": image.patch[-image.dims :], "grid": image.grid[-image.dims :],
                    "linear_result": example.y, "largest_difference": difference(example)}  # fmt: skip
    return payload
