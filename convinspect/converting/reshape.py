"""A tensor's other shape: (out, in) with or without dimensions of size 1 behind, transposed or not, and its strides.

A convolution's numbers lie row by row, or with the channels last, as PyTorch's memory formats have it. A pointwise
kernel lies the same either way and only its strides differ, `(I, 1, 1, 1)` or `(I, 1, I, I)`. A Linear keeps no such
thing, so on the way back the other convolutions of the root must tell.
"""

from __future__ import annotations

from collections.abc import Iterable

from convinspect.records import Edit, Layer, Tensor, contiguous


def reshaped(tensor: Tensor, extra: int, turned: bool) -> Edit:
    """A weight with `extra` trailing dimensions of size 1 after (out, in), whatever it has now.

    Args:
        tensor: Shape (out, in, 1, …); (in, out) when `turned`.
        extra: How many dimensions of size 1 it is to have.
        turned: It is stored transposed.
    """
    shape, stride = tensor.shape[:2], tensor.stride[:2]
    if turned:
        shape, stride = shape[::-1], stride[::-1]
    ones = (1,) * extra
    # A matrix that lies transposed is TensorFlow's as a rule, (…, in, out) permuted, whose other strides are its size.
    transposed = stride == (1, shape[0]) and 1 not in shape
    return Edit(tensor, shape + ones, stride + (shape[0] * shape[1] if transposed else 1,) * extra, turned)


def edit_to(tensor: Tensor, shape: tuple[int, ...]) -> Edit | None:
    """The edit that gives a tensor another shape with the same numbers, or None when there is none.

    Trailing dimensions of size 1 may come and go behind the first two; a matrix may be transposed.
    """
    old, new = out_in(tensor.shape), out_in(shape)
    if old is None or new is None:
        return None
    extra = len(shape) - 2
    if old == new:
        return reshaped(tensor, extra, turned=False)
    if old == new[::-1] and 2 in (len(tensor.shape), len(shape)):
        return reshaped(tensor, extra, turned=True)
    return None


def out_in(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """(out, in) of a pointwise or Linear weight's shape; None for any other."""
    if 2 <= len(shape) <= 5 and all(size == 1 for size in shape[2:]):
        return shape[0], shape[1]
    return None


def channels_last(tensor: Tensor) -> bool | None:
    """Whether a tensor (O, I, H, W) or (O, I, D, H, W) has its channels last; None where strides do not tell."""
    dims = len(tensor.shape)
    if dims not in (4, 5):
        return None
    order = (0, *range(2, dims), 1)
    steps = dict(zip(order, contiguous([tensor.shape[axis] for axis in order]), strict=True))
    last, rows = tuple(steps[axis] for axis in range(dims)), contiguous(tensor.shape)
    return None if last == rows or tensor.stride not in (last, rows) else tensor.stride == last


def channels_last_stays(layers: Iterable[Layer], edits: Iterable[Edit], dims: int) -> bool:
    """Whether all tensors of `dims` dimensions that do not change have their channels last; False when none tells."""
    changed = {id(edit.tensor) for edit in edits}
    kept = {
        channels_last(tensor)
        for layer in layers
        for tensor in layer.tensors.values()
        if len(tensor.shape) == dims and id(tensor) not in changed
    }
    return kept - {None} == {True}


def with_channels_last(edit: Edit) -> Edit:
    """The edit with a channels-last pointwise kernel's strides, where its numbers lie row by row."""
    rows, columns = edit.stride[:2]
    plain = columns == 1 and rows == edit.shape[1]
    return edit._replace(stride=(rows, columns, *([rows] * (len(edit.shape) - 2)))) if plain else edit
