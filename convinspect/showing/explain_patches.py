"""Draw a convolution over patches beside the Linear that it is: an image, its patches as rows, both results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from convinspect.explaining.words import Words
from convinspect.render.cells import cell_width, shape
from convinspect.render.panels import Panel, beside, even, flowing, prose, stripped, wide
from convinspect.render.style import HEAD, QUIET
from convinspect.render.table import Block, Cell, Styled, plain
from convinspect.showing.explain import FEWER_TERMS, Focus, arithmetic
from convinspect.showing.patch_panels import (
    Scene,
    image_panels,
    kernel_panels,
    linear_panels,
    pair_panel,
    result_grids,
    scene_of,
    shown_count,
)

if TYPE_CHECKING:
    from convinspect.explaining.example import Example, Image, Sum

_NOUNS = {1: "sequence", 2: "image", 3: "video"}
_AXES = ("times", "rows", "columns")
_TERMS = 8
"""Terms of a sum that are printed: all of the built-in example's."""


def patch_frame(
    example: Example,
    image: Image,
    focus: Focus,
    width: int,
    sums: Sequence[Sum],
    digits: tuple[int, int],
    height: int | None = None,
) -> Block:
    """One step of the computation, the convolution's part on the left, the Linear's on the right or below.

    Args:
        example: A layer over patches.
        image: Its image.
        focus: The step: a patch, which is a row of X, and a kernel.
        width: Available width in cells.
        sums: Kernels whose arithmetic is printed.
        digits: Decimals of results, and of terms.
        height: Available lines, title included; None for no limit.
    """
    # The form that shows most, and of two that show as much the one side by side.
    ways = [(draw, most, 6) for most in range(9, 0, -1) for draw in (_lanes, _stages) if most > 3 or draw is _stages]
    if height is not None:
        ways += [*((_brief, 9, near) for near in (6, 3)), *((_brief, most, 1) for most in range(9, 0, -1))]
    say = Words(example.lang)
    title = say(
        "patch {n} of 0–{last}: {place}", n=focus.row, last=len(example.x) - 1, place=_where(image, focus.row, say)
    )
    sums_in_full, in_brief = (
        arithmetic(sums, focus, True, width, digits, terms, say) for terms in (_TERMS, FEWER_TERMS)
    )
    for draw, most, near in ways:
        scene = scene_of(example, image, focus, digits[0], (most, near))
        gaps = _left_out(scene)
        beside_title = gaps if cell_width(f"{title}{gaps}") <= width else ""
        below: list[Cell] = [] if beside_title else [Styled(line, QUIET) for line in prose(gaps.lstrip(" ·"), width)]
        lines: list[Cell] = [] if cell_width(title) <= width else [*_heads(title, width), ""]
        gap = [] if below and draw is _brief else [""]
        lines += [*draw(scene, width), *below, *gap, *(in_brief if draw is _brief else sums_in_full)]
        fits = max(cell_width(plain(line)) for line in lines) <= width
        if fits and (height is None or len(lines) + 2 <= height):
            break
    return Block(tuple(map(stripped, lines)), title="" if cell_width(title) > width else f"{title}{beside_title}")


def _heads(text: str, width: int) -> list[Cell]:
    """A title in at most `width` cells."""
    return [Styled(line, HEAD) for line in prose(text, width)]


def _where(image: Image, row: int, say: Words) -> str:
    """Which part of the image a patch is."""
    names = ("positions",) if image.dims == 1 else _AXES[-image.dims :]
    places = list(zip(image.place(row), image.patch, strict=True))[-image.dims :]
    parts = [
        say(name + " {first}–{last}", first=place * step, last=(place + 1) * step - 1)
        if step > 1
        else say(name[:-1] + " {first}", first=place)
        for name, (place, step) in zip(names, places, strict=True)
    ]
    return say("{place} of the " + _NOUNS[image.dims], place=say.listed(parts))


def _left_out(scene: Scene) -> str:
    """How much the panels leave out, to be appended to the title; "" if nothing."""
    example, planes = scene.example, shown_count(scene.planes)
    counts = (
        ("patch", len(example.x) - shown_count(scene.rows), "patches"),
        ("column of X", len(example.x[0]) - planes * shown_count(scene.columns), "columns of X"),
        ("kernel", len(example.w) - shown_count(scene.kernels), "kernels"),
    )
    say = Words(example.lang)
    parts = [
        say("{count} " + (one if count == 1 else several), count=f"{count:,}")
        for one, count, several in counts
        if count
    ]
    return say(" · left out: {parts}", parts=say.listed(parts)) if parts else ""


def _lanes(scene: Scene, width: int) -> list[Cell]:
    """The convolution on the left, the Linear on the right, stage by stage."""
    linear = linear_panels(scene, width)
    space = width - 3 - max(map(wide, linear))
    conv = [_titled(title, panels, space) for title, panels in _convolution(scene)]
    most = max(map(wide, conv))
    lines: list[Cell] = []
    for left, right in zip(conv, linear, strict=True):
        # A blank line of the lane's width, so that the right lane begins at the same place in all stages.
        lines += beside([even([*left, " " * most]), right])
    return lines[:-1] if len(conv[-1]) >= len(linear[-1]) else lines


def _stages(scene: Scene, width: int) -> list[Cell]:
    """Stage by stage, the Linear's part beside the convolution's or below."""
    linear = linear_panels(scene, width)
    lines: list[Cell] = []
    for (title, panels), right in zip(_convolution(scene), linear, strict=True):
        lines += [*([""] if lines else []), *flowing([_titled(title, panels, width), right], width)]
    return lines


def _brief(scene: Scene, width: int) -> list[Cell]:
    """The window, the result of the active kernel, and the active row above that kernel."""
    active = scene._replace(rows=[scene.focus.row], kernels=[scene.focus.kernel])
    return [*flowing([*image_panels(scene), *result_grids(active)], width), "", *pair_panel(active)]


def _titled(title: str, panels: Sequence[Panel], width: int) -> Panel:
    """Panels in at most `width` cells, below one title."""
    flown = flowing(panels, width)
    most = max([cell_width(plain(line)) for line in flown])
    return even([*_heads(title, max(most, min(width, 48))), *flown])


def _convolution(scene: Scene) -> list[tuple[str, list[Panel]]]:
    """The stages of the convolution: image, kernel and result, each with its title."""
    example, image, dims = scene.example, scene.image, scene.image.dims
    axes = ("T", "H", "W")[-dims:] if dims > 1 else ("L",)
    sizes = (len(image.values), *image.sizes[-dims:])
    patch = "×".join(map(str, image.patch[-dims:]))
    say = Words(example.lang)
    taken = "{kind} takes the " + _NOUNS[dims] + " (C, {axes}) = {sizes}; its window, {patch}, moves by its own size"
    results = (len(example.w), *image.grid[-dims:])
    divided = ", ".join(f"{axis}/{step}" for axis, step in zip(axes, image.patch[-dims:], strict=True))
    return [
        (say(taken, kind=example.kind, axes=", ".join(axes), sizes=shape(sizes), patch=patch), image_panels(scene)),
        (say("kernel {n} of W {shape}", n=scene.focus.kernel, shape=shape(example.stored)), kernel_panels(scene)),
        (say("and gives (O, {axes}) = {sizes}", axes=divided, sizes=shape(results)), result_grids(scene)),
    ]


def cropped(image: Image, say: Words) -> list[str]:
    """What of the image is in no patch, as sentences without a full stop."""
    left = [size - grid * step for size, grid, step in zip(image.sizes, image.grid, image.patch, strict=True)]
    named = zip(_AXES if image.dims > 1 else ("", "", "positions"), left, strict=True)
    parts = [
        say("the last {count} " + (name if count > 1 else name[:-1]), count=f"{count:,}")
        for name, count in named
        if count
    ]
    listed = (" and " if say.lang == "en" else "和").join(parts)
    sentence = "{parts} of the " + _NOUNS[image.dims] + " fill no patch, and neither form sees them"
    return [say(sentence, parts=listed)] if parts else []
