"""Where the chunks of a tensor lie in it once it has another shape: a chunk is a box, which begins at some index.

A reshape joins neighbouring dimensions or parts one. A box stays a box where it covers those dimensions as one run of
indices: all that follow the first dimension in which it has several are covered whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import NamedTuple, TypeAlias

from convinspect.arrays.views import view_stride
from convinspect.records import Edit

Shape: TypeAlias = tuple[int, ...]


class Box(NamedTuple):
    """A part of a tensor: the index of its first element, and its sizes."""

    begin: Shape
    shape: Shape


class Steps(NamedTuple):
    """What an edit does to a tensor: it is seen in a shape, its axes are permuted, and it is seen in its new shape."""

    before: Shape
    seen: Shape
    order: tuple[int, ...]
    after: Shape

    @property
    def turned(self) -> Shape:
        """The shape once the axes are permuted."""
        return tuple(self.seen[axis] for axis in self.order)


def steps_of(edit: Edit) -> Steps:
    """An edit as steps, which a part of the tensor can take too."""
    before = edit.tensor.shape
    if edit.moved is not None:
        return Steps(before, edit.moved.seen, edit.moved.order, edit.shape)
    if edit.transposed:
        return Steps(before, before[:2], (1, 0), edit.shape)
    return Steps(before, before, tuple(range(len(before))), edit.shape)


def after_steps(box: Box, steps: Steps) -> Box | None:
    """Where a part lies in the edited tensor; None where its elements are no box there."""
    seen = reshaped_box(steps.before, steps.seen, box)
    if seen is None:
        return None
    turned = Box(*(tuple(numbers[axis] for axis in steps.order) for numbers in seen))
    return reshaped_box(steps.turned, steps.after, turned)


def stride_after(stride: Shape, box: Box, steps: Steps) -> Shape | None:
    """Strides of a part after the same steps over the same bytes; None where its numbers would have to move.

    Args:
        stride: Of the part as it is stored, in elements.
        box: The part, which `after_steps` takes.
        steps: What is done to the whole tensor.
    """
    seen = reshaped_box(steps.before, steps.seen, box)
    after = after_steps(box, steps)
    if seen is None or after is None:
        return None
    parted = view_stride(box.shape, stride, seen.shape)
    if parted is None:
        return None
    shape, turned = (tuple(numbers[axis] for axis in steps.order) for numbers in (seen.shape, parted))
    return view_stride(shape, turned, after.shape)


def reshaped_box(before: Shape, after: Shape, box: Box) -> Box | None:
    """A part of a tensor once the tensor is reshaped; None where its elements are no box there.

    Args:
        before: The tensor's shape.
        after: Its new shape, of as many elements.
        box: The part.
    """
    if before == after:
        return box
    if 0 in before:
        return Box((0,) * len(after), after) if box.shape == before else None
    begins: list[int] = []
    sizes: list[int] = []
    for old, new in _groups(before, after):
        run = _run(before[old], Box(box.begin[old], box.shape[old]))
        part = None if run is None else _box(after[new], *run)
        if part is None:
            return None
        begins += part.begin
        sizes += part.shape
    return Box(tuple(begins), tuple(sizes))


def _groups(before: Shape, after: Shape) -> Iterator[tuple[slice, slice]]:
    """Neighbouring dimensions of the one shape, and those of the other that have as many elements together."""
    at = to = 0
    while at < len(before) or to < len(after):
        first, other = at, to
        at, to = min(at + 1, len(before)), min(to + 1, len(after))
        while (count := prod(before[first:at])) != (wanted := prod(after[other:to])):
            if count < wanted:
                at += 1
            else:
                to += 1
        yield slice(first, at), slice(other, to)


def _run(shape: Shape, box: Box) -> tuple[int, int] | None:
    """The elements of a box as a run of flat indices: the first, and their number; None where they are no run."""
    several = [axis for axis, size in enumerate(box.shape) if size != 1]
    if several and box.shape[several[0] + 1 :] != shape[several[0] + 1 :]:
        return None
    first = 0
    for size, index in zip(shape, box.begin, strict=True):
        first = first * size + index
    return first, prod(box.shape)


def _box(shape: Shape, first: int, count: int) -> Box | None:
    """The box that a run of flat indices fills; None where it fills none."""
    if not shape:
        return Box((), ()) if (first, count) == (0, 1) else None
    for axis in range(len(shape)):
        step = prod(shape[axis + 1 :])
        size, rest = divmod(count, step)
        index = first // step
        within = index % shape[axis] if axis else index
        if rest == 0 and first % step == 0 and within + size <= shape[axis]:
            begin = [first // prod(shape[other + 1 :]) % shape[other] for other in range(axis)]
            return Box((*begin, within, *([0] * (len(shape) - axis - 1))), (*([1] * axis), size, *shape[axis + 1 :]))
    return None
