"""The panels of a convolution over patches: the image under its window, kernels, flattened rows, and results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from convinspect.explaining.words import Words
from convinspect.render.boxes import GAP, Group, Row, Window, boxed, ruled
from convinspect.render.cells import cell_width
from convinspect.render.panels import ACTIVE, LEFT_OUT, Panel, even, prose, some, value_text, weight_text
from convinspect.render.style import HEAD
from convinspect.render.table import Styled
from convinspect.showing.explain import Focus, mark, result_panel, result_style, result_text

if TYPE_CHECKING:
    from convinspect.explaining.example import Example, Image, Matrix

_CHANNELS = (ACTIVE, "bold #000000 on #8ecbff", "bold #000000 on #a6e3a1", "bold #000000 on #f5b5d6")
"""Styles of the active patch's numbers, by channel: the same in the image, in the row and in the kernel."""
_BIAS = "bold #000000 on #d9d9d9"
"""Of the active kernel's bias, which meets no number."""
_MOST_PLANES = 4


class _Plane(NamedTuple):
    """One channel of a kernel at one of its times, both from 0: a group of a flattened patch's columns."""

    channel: int
    time: int


class Scene(NamedTuple):
    """One step, and how much of it is shown; indices count from 0, with `LEFT_OUT` for some.

    Attributes:
        example: The layer over patches.
        image: Its image.
        focus: The step.
        digits: Decimals of results.
        planes: Of the kernel; None stands for some that are left out.
        columns: Positions of one plane, flattened.
        places: Of a patch, along rows and along columns.
        patches: Of the image, along rows and along columns.
        rows: Of X.
        kernels: Of A.
    """

    example: Example
    image: Image
    focus: Focus
    digits: int
    planes: list[_Plane | None]
    columns: list[int]
    places: tuple[list[int], list[int]]
    patches: tuple[list[int], list[int]]
    rows: list[int]
    kernels: list[int]

    @property
    def active(self) -> tuple[int, int]:
        """The active patch's place among the shown ones."""
        _, down, across = self.image.place(self.focus.row)
        return self.patches[0].index(down), self.patches[1].index(across)


def scene_of(example: Example, image: Image, focus: Focus, digits: int, counts: tuple[int, int]) -> Scene:
    """The step, of which a part is shown.

    Args:
        example: A layer over patches.
        image: Its image.
        focus: The step.
        digits: Decimals of results.
        counts: About how many of everything, and of patches along each side of the image.
    """
    most, near = counts[0], min(counts)
    times, high, across = image.patch
    shown = _kept(len(image.values) * times, min(most, _MOST_PLANES))
    _, row, column = image.place(focus.row)
    return Scene(
        example,
        image,
        focus,
        digits,
        [None if n == LEFT_OUT else _Plane(n // times, n % times) for n in shown],
        _kept(high * across, max(2 * most // shown_count(shown), min(most, 3))),
        (_kept(high, min(most, 4)), _kept(across, min(most, 4))),
        (_around(image.grid[1], near, row), _around(image.grid[2], near, column)),
        some(len(example.x), max(most, 3), [focus.row]),
        some(len(example.w), max(min(most, 6), 3), [focus.kernel]),
    )


def shown_count(indices: Sequence[object]) -> int:
    """How many of them are not left out."""
    return sum(index not in (LEFT_OUT, None) for index in indices)


def _kept(count: int, most: int) -> list[int]:
    """As `some`, and of very few the first."""
    return some(count, most) if count <= most or most > 2 else [0, LEFT_OUT]


def _around(count: int, most: int, wanted: int) -> list[int]:
    """As `some`, and of very few the wanted one."""
    if count <= most or most > 2:
        return some(count, most, [wanted])
    return [*([LEFT_OUT] if wanted > 0 else []), wanted, *([LEFT_OUT] if wanted < count - 1 else [])]


def _positions(patch: int, places: list[int], step: int) -> list[int]:
    """Rows or columns of the image in one of its patches, of `step` each; of those the ones at `places`."""
    if patch == LEFT_OUT:
        return [LEFT_OUT]
    return [LEFT_OUT if place == LEFT_OUT else patch * step + place for place in places]


def _fill(channel: int) -> str:
    return _CHANNELS[channel % len(_CHANNELS)]


def _plane_name(scene: Scene, plane: _Plane, times: int, first: int = 0) -> str:
    template = "channel {n}, t {t}" if times > 1 else "channel {n}"
    return Words(scene.example.lang)(template, n=plane.channel, t=first + plane.time)


def image_panels(scene: Scene) -> list[Panel]:
    """The image's planes at the times of the active patch, cut into patches, the active one framed."""
    image = scene.image
    first = image.place(scene.focus.row)[0] * image.patch[0]
    rows, columns = (
        [_positions(patch, places, step) for patch in patches]
        for patches, places, step in zip(scene.patches, scene.places, image.patch[1:], strict=True)
    )
    panels: list[Panel] = []
    for plane in scene.planes:
        if plane is None:
            panels.append(even(["⋮"]))
            continue
        values = image.values[plane.channel][first + plane.time]
        name = _plane_name(scene, plane, image.sizes[0], first)
        window = Window(scene.active, _fill(plane.channel))
        panels.append(boxed(name, (rows, columns), _numbers(values, value_text), window, _named(image)))
    return panels


def kernel_panels(scene: Scene) -> list[Panel]:
    """The active kernel's planes, in the frame of the window."""
    kernel, high, across = scene.example.w[scene.focus.kernel], *scene.image.patch[1:]
    panels: list[Panel] = []
    for plane in scene.planes:
        if plane is None:
            panels.append(even(["⋮"]))
            continue
        first = _first_column(scene.image, plane)
        values = [[kernel[first + i * across + j][0] for j in range(across)] for i in range(high)]
        name = _plane_name(scene, plane, scene.image.patch[0])
        places = [scene.places[0]], [scene.places[1]]
        window = Window((0, 0), _fill(plane.channel))
        panels.append(boxed(name, places, _numbers(values, weight_text), window, _named(scene.image)))
    return panels


def _named(image: Image) -> Literal["both", "columns"]:
    """A sequence has one row, which needs no number."""
    return "both" if image.dims > 1 else "columns"


def _numbers(values: Matrix, text: Callable[[float], str]) -> Callable[[int, int], Styled]:
    """The numbers of a plane by row and column, and the sign for what is left out."""
    return lambda i, j: Styled(GAP if LEFT_OUT in (i, j) else text(values[i][j]))


def result_grids(scene: Scene) -> list[Panel]:
    """A plane of results for each kernel, at the time of the active patch."""
    return [even(["⋮"]) if kernel == LEFT_OUT else _result_grid(scene, kernel) for kernel in scene.kernels]


def _result_grid(scene: Scene, kernel: int) -> Panel:
    results, focus, (_, down, across) = scene.example.f, scene.focus, scene.image.grid
    before = scene.image.place(focus.row)[0] * down * across

    def row_of(i: int, j: int) -> int:
        return LEFT_OUT if LEFT_OUT in (i, j) else before + i * across + j

    def result(i: int, j: int) -> Styled:
        row = row_of(i, j)
        text = result_text(results, focus, row, kernel, scene.digits)
        return Styled(text, result_style(focus, row, kernel))

    return boxed(Words(scene.example.lang)("kernel {n}", n=kernel), ([scene.patches[0]], [scene.patches[1]]), result)


def linear_panels(scene: Scene, width: int) -> list[Panel]:
    """The stages of the Linear: rows, weight and result, with titles of at most `width` cells."""
    example = scene.example
    rows, columns, outs = len(example.x), len(example.x[0]), len(example.w)
    order = {1: "(c, l)", 2: "(c, h, w)", 3: "(c, t, h, w)"}[scene.image.dims]
    say, width_of_x = Words(example.lang), f"{columns:,}"
    groups, numbers = _groups(scene), (_row_numbers(scene), _weight_numbers(scene))
    head, size = _sizes(groups, [*numbers[0], *numbers[1]])
    titles = (
        say(
            "Linear takes X ({rows} × {columns}), a row {order} per patch",
            rows=f"{rows:,}",
            columns=width_of_x,
            order=order,
        ),
        say("A ({rows} × {columns}), a row {order} per kernel", rows=f"{outs:,}", columns=width_of_x, order=order),
        say("and gives Y = X·Aᵀ + b ({rows} × {columns})", rows=f"{rows:,}", columns=f"{outs:,}"),
    )
    biased = [Group("", ("b",))] if example.b is not None else []
    room = min(width, max(48, head + sum(len(group.columns) * (size + 1) + 2 for group in groups)))
    names = "", "patch {n}", "Y"
    results = result_panel(example.y or [], scene.focus, names, (scene.rows, scene.kernels), scene.digits, say)
    return [
        ruled(prose(titles[0], room), groups, numbers[0], head, size),
        ruled(prose(titles[1], room), [*_numbered(scene, groups), *biased], numbers[1], head, size),
        even([*(Styled(line, HEAD) for line in prose(titles[2], room)), *results[1:]]),
    ]


def pair_panel(scene: Scene) -> Panel:
    """The shown rows above the shown kernels, without a title."""
    groups, rows, kernels = _groups(scene), _row_numbers(scene), _weight_numbers(scene)
    head, size = _sizes(groups, [*rows, *kernels])
    if scene.example.b is not None:
        groups = [*groups, Group("", ("b",))]
        rows = [Row(row.name, (*row.parts, ("",)), (*row.styles, "")) for row in rows]
    return ruled((), groups, [*rows, *kernels], head, size)


def _groups(scene: Scene) -> list[Group]:
    """A group for each plane: a flattened patch has one after another."""
    image, across = scene.image, scene.image.patch[2]
    groups = []
    for plane in scene.planes:
        if plane is None:
            groups.append(Group(GAP, (GAP,)))
            continue
        places = [None if column == LEFT_OUT else divmod(column, across) for column in scene.columns]
        names = [GAP if at is None else f"{at[0]},{at[1]}" if image.dims > 1 else str(at[1]) for at in places]
        groups.append(Group(_plane_name(scene, plane, image.patch[0]), names))
    return groups


def _numbered(scene: Scene, groups: Sequence[Group]) -> list[Group]:
    """The same groups, with the columns' names in A."""
    numbered = []
    for plane, group in zip(scene.planes, groups, strict=True):
        if plane is None:
            numbered.append(group)
            continue
        first = _first_column(scene.image, plane)
        numbered.append(
            Group(group.name, [GAP if column == LEFT_OUT else f"a{first + column}" for column in scene.columns])
        )
    return numbered


def _row_numbers(scene: Scene) -> list[Row]:
    """The shown rows of X."""
    say = Words(scene.example.lang)
    return [
        _gap(scene)
        if row == LEFT_OUT
        else _row(scene, (say("patch {n}", n=row), row == scene.focus.row), scene.example.x[row], value_text)
        for row in scene.rows
    ]


def _weight_numbers(scene: Scene) -> list[Row]:
    """The shown rows of A, with their biases."""
    bias, rows, say = scene.example.b, list[Row](), Words(scene.example.lang)
    for kernel in scene.kernels:
        active = kernel == scene.focus.kernel
        if kernel == LEFT_OUT:
            row = _gap(scene)
        else:
            numbers = [tap for (tap,) in scene.example.w[kernel]]
            row = _row(scene, (say("kernel {n}", n=kernel), active), numbers, weight_text)
        if bias is not None:
            text = GAP if kernel == LEFT_OUT else weight_text(bias[kernel])
            row = Row(row.name, (*row.parts, (text,)), (*row.styles, _BIAS if active else ""))
        rows.append(row)
    return rows


def _row(scene: Scene, name: tuple[str, bool], numbers: Sequence[float], text: Callable[[float], str]) -> Row:
    """The numbers of each shown plane, in their channel's style where the row is active."""
    label, active = name
    parts, styles = [], []
    for plane in scene.planes:
        if plane is None:
            parts.append([GAP])
            styles.append("")
            continue
        first = _first_column(scene.image, plane)
        parts.append([GAP if column == LEFT_OUT else text(numbers[first + column]) for column in scene.columns])
        styles.append(_fill(plane.channel) if active else "")
    return Row(mark(label, active), parts, styles)


def _gap(scene: Scene) -> Row:
    """Rows that are left out."""
    parts = [[GAP] if plane is None else [GAP] * len(scene.columns) for plane in scene.planes]
    return Row("  ⋮", parts, [""] * len(parts))


def _sizes(groups: Sequence[Group], rows: Sequence[Row]) -> tuple[int, int]:
    """Width of the rows' names, and of a column: the same for rows and kernels, so that column stands under column."""
    texts = [text for row in rows for part in row.parts for text in part] + [
        name for one in groups for name in one.columns
    ]
    return max(cell_width(row.name) for row in rows), max(map(cell_width, texts))


def _first_column(image: Image, plane: _Plane) -> int:
    """Where a plane begins in a flattened patch, from 0: the order is (c, t, h, w)."""
    return (plane.channel * image.patch[0] + plane.time) * image.patch[1] * image.patch[2]
