"""How a convolution's numbers lie: row by row, or with the channels last, as PyTorch's memory formats have it.

A pointwise kernel lies the same either way and only its strides differ, `(I, 1, 1, 1)` or `(I, 1, I, I)`. A Linear
keeps no such thing, so on the way back the other convolutions of the root must tell.
"""

from __future__ import annotations

from collections.abc import Iterable

from convinspect.records import Edit, Layer, Tensor, contiguous


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
