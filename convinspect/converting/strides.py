"""Which strides a conversion back cannot give again: those of dimensions of size 1, which a Linear does not have."""

from __future__ import annotations

from collections.abc import Sequence

from convinspect.converting.moving import channels_last_edit
from convinspect.converting.relations import viewed
from convinspect.converting.reshape import channels_last, channels_last_stays, out_in, reshaped, with_channels_last
from convinspect.errors import Option, Wording
from convinspect.records import Edit, Layer
from convinspect.text import first_few, plural


def not_given_back(layers: Sequence[Layer], own: Sequence[Edit], following: Sequence[Edit]) -> tuple[str, ...]:
    """A line if converting back gives some tensors other strides than they have; the numbers are the same.

    Args:
        layers: All layers of the root.
        own: Edits of its weights.
        following: Edits of copies and of optimizer state, which get their weight's memory format.
    """
    kernels = {len(edit.tensor.shape) for edit in own} & {4, 5}
    last = {dims for dims in kernels if channels_last_stays(layers, own, dims)}
    formats: dict[tuple[int, ...], set[bool]] = {}
    weights, others = [], []
    for edit in own:
        shape = edit.tensor.shape
        back = _back(edit, len(shape) in last)
        formats.setdefault(shape, set()).add(back is not None and channels_last(back) is True)
        weights += [edit.tensor.key] if _is_lost(edit, back) else []
    for edit in following:
        ways = [_back(edit, is_last) for is_last in formats.get(edit.tensor.shape, ())]
        others += [edit.tensor.key] if any(_is_lost(edit, back) for back in ways) else []
    lost = (*weights, *others)
    if not lost:
        return ()
    have = "has strides of its own" if len(lost) == 1 else "have strides of their own"
    what = f"{plural(len(lost), 'tensor')} ({first_few(lost)}) {have} in dimensions of size 1, which are not kept: "
    same = "the weights' own" if others else "the same bytes"
    way = "converting back gives the same numbers with other strides; with ", Option("like", None), " this file, "
    return (Wording(what, *way, same),)


def _back(edit: Edit, is_last: bool) -> Edit | None:
    """The edit of the way back; None for what is no matrix (DoRA's magnitudes, scales of adapters).

    Args:
        edit: Of the way there.
        is_last: The convolution will be channels-last.
    """
    tensor = edit.tensor
    converted = tensor._replace(shape=edit.shape, stride=edit.stride)
    if edit.moved is not None:
        last = len(tensor.shape) == 2 or is_last
        return channels_last_edit(converted, tensor.shape[2:] or edit.shape[2:], len(edit.shape) > 2, last)
    if min(len(tensor.shape), len(edit.shape)) == 2 and None in (out_in(tensor.shape), out_in(edit.shape)):
        seen = viewed(converted, tensor.shape)
        return None if seen is None else Edit(converted, seen.shape, seen.stride)
    before, after = out_in(tensor.shape), out_in(edit.shape)
    if before is None or after is None or after != (before[::-1] if edit.transposed else before):
        return None
    back = reshaped(converted, len(tensor.shape) - 2, edit.transposed)
    return with_channels_last(back) if is_last else back


def _is_lost(edit: Edit, back: Edit | None) -> bool:
    tensor = edit.tensor
    return tensor.spans is not None and back is not None and back.stride != tensor.stride
