"""Reshape a weight: (out, in) with or without trailing dimensions of size 1, transposed or not, with its strides.

A convolution's numbers are stored row by row or channels-last (PyTorch's memory formats). The numbers of a pointwise
kernel are stored the same either way and only its strides differ, `(I, 1, 1, 1)` or `(I, 1, I, I)`. A Linear has no
memory format, so when it is converted back, the format is taken from the other convolutions of the root.
"""

from __future__ import annotations

from collections.abc import Iterable

from convinspect.arrays.views import is_channels_last
from convinspect.layouts import Maker, pointwise_shape, torch_order
from convinspect.records import Edit, Layer, Tensor, contiguous


def reshaped(tensor: Tensor, extra: int, turned: bool) -> Edit:
    """The edit that gives a weight `extra` trailing dimensions of size 1 after (out, in).

    Args:
        tensor: Shape (out, in, 1, …); (in, out) if `turned`.
        extra: Number of trailing dimensions of size 1.
        turned: The tensor is stored transposed.
    """
    shape, stride = tensor.shape[:2], tensor.stride[:2]
    if turned:
        shape, stride = shape[::-1], stride[::-1]
    ones = (1,) * extra
    # A matrix with transposed strides usually comes from TensorFlow, (…, in, out) permuted; its other strides are its
    # number of elements.
    transposed = stride == (1, shape[0]) and 1 not in shape
    return Edit(tensor, shape + ones, stride + (shape[0] * shape[1] if transposed else 1,) * extra, turned)


def reshaped_in(maker: Maker, tensor: Tensor, extra: int) -> Edit:
    """As `reshaped`, in another library's layout.

    Args:
        maker: One for which `same_order` is true.
        tensor: A pointwise weight in that layout, whose numbers lie in the order of its axes.
        extra: Number of the kernel's dimensions, all of size 1.
    """
    order = torch_order(maker, len(tensor.shape))
    shape = pointwise_shape(maker, tensor.shape[order[0]], tensor.shape[order[1]], extra)
    return Edit(tensor, shape, contiguous(shape))


def edit_to(tensor: Tensor, shape: tuple[int, ...]) -> Edit | None:
    """The edit that gives a tensor another shape with the same numbers, or None if there is none.

    Trailing dimensions of size 1 may be added or removed after the first two; a matrix may be transposed.
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


def channels_last(tensor: Tensor | Edit) -> bool | None:
    """Whether a tensor (O, I, H, W) or (O, I, D, H, W) is, or will be, channels-last; None if no strides show it."""
    return is_channels_last(tensor.shape, tensor.stride)


def channels_last_stays(layers: Iterable[Layer], edits: Iterable[Edit], dims: int) -> bool:
    """Whether all unchanged tensors of `dims` dimensions are channels-last; False if no strides show it."""
    changed = {id(edit.tensor) for edit in edits}
    kept = {
        channels_last(tensor)
        for layer in layers
        for tensor in layer.tensors.values()
        if len(tensor.shape) == dims and id(tensor) not in changed
    }
    return kept - {None} == {True}


def with_channels_last(edit: Edit) -> Edit:
    """The edit with the strides of a channels-last pointwise kernel, if its numbers are stored row by row."""
    rows, columns = edit.stride[:2]
    plain = columns == 1 and rows == edit.shape[1]
    return edit._replace(stride=(rows, columns, *([rows] * (len(edit.shape) - 2)))) if plain else edit
