"""Under which strides the same bytes are seen in another shape."""

from __future__ import annotations

from typing import TypeAlias

from convinspect.records import contiguous

Shape: TypeAlias = tuple[int, ...]


def is_channels_last(shape: Shape, stride: Shape) -> bool | None:
    """Whether a tensor (O, I, H, W) or (O, I, D, H, W) is channels-last; None if its strides do not show it."""
    dims = len(shape)
    if dims not in (4, 5):
        return None
    order = (0, *range(2, dims), 1)
    steps = dict(zip(order, contiguous([shape[axis] for axis in order]), strict=True))
    last, rows = tuple(steps[axis] for axis in range(dims)), contiguous(shape)
    return None if last == rows or stride not in (last, rows) else stride == last


def view_stride(shape: Shape, stride: Shape, wanted: Shape) -> Shape | None:
    """Strides under which a tensor is seen in another shape without a number being moved, as `Tensor.view` finds them
    (`computeStride` in PyTorch's ATen/TensorUtils.cpp); None where there are none.

    Args:
        shape: The tensor's.
        stride: Its strides in elements.
        wanted: A shape of as many elements.
    """
    if 0 in shape:
        return contiguous(wanted)
    # Runs of axes, the last first, that lie in memory as one: (its number of elements, its innermost stride).
    runs: list[tuple[int, int]] = []
    for size, step in reversed([pair for pair in zip(shape, stride, strict=True) if pair[0] != 1]):
        if runs and step == runs[-1][0] * runs[-1][1]:
            runs[-1] = (runs[-1][0] * size, runs[-1][1])
        else:
            runs.append((size, step))
    strides: list[int] = []
    left, step, run = 1, 1, iter(runs)
    for size in reversed(wanted):
        if size != 1 and left == 1:
            left, step = next(run)
        if left % size:
            return None
        strides.append(step)
        left //= size
        step *= size
    return tuple(strides[::-1])
