"""Numbers that get another order: a kernel (O, I, h, w), whose patches are flattened channel by channel, and the Linear
over patches that are flattened position by position, (h, w, c).

PyTorch keeps a kernel's numbers row by row or channels-last. Channels-last they lie as the Linear's do, so that in a
format with strides another header is enough; row by row they have to move, kernel by kernel.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from itertools import accumulate

from convinspect.checkpoint import Checkpoint
from convinspect.converting.relations import permuted, viewed
from convinspect.dtypes import ITEMSIZE
from convinspect.errors import CannotConvert, Option, Wording
from convinspect.records import Edit, Moved, Tensor, bytes_of, contiguous

LAST_ORDERS = {1: "(l, c)", 2: "(h, w, c)", 3: "(t, h, w, c)"}
"""In which order a patch has its numbers where channels are last, by the number of its dimensions."""


def channels_last_edit(tensor: Tensor, kernel: tuple[int, ...], flat: bool, strided: bool = True) -> Edit | None:
    """The edit between a kernel (O, I, k…) and the matrix (O, k…·I) that multiplies patches with their channels last.

    Args:
        tensor: The kernel if `flat`, else the matrix.
        kernel: The kernel's size, k….
        flat: It becomes the matrix.
        strided: Where strides alone say it, they do; a kernel is then channels-last.

    Returns:
        The edit, or None where the numbers lie in neither order.
    """
    count, dims = tensor.shape[0], len(kernel)
    if flat:
        order: tuple[int, ...] = (0, *range(2, 2 + dims), 1)
        seen = tensor.shape
        shape: tuple[int, ...] = (count, tensor.numel // max(count, 1))
    else:
        order = (0, 1 + dims, *range(1, 1 + dims))
        channels = tensor.shape[1]
        for size in kernel:
            channels //= size
        seen = (count, *kernel, channels)
        shape = (count, channels, *kernel)
    return _edit(tensor, Moved(seen, order), shape, strided)


def followed(tensor: Tensor, edit: Edit) -> Edit | None:
    """The same edit, which moves numbers, for another tensor of the same shape; None where it cannot be done."""
    if edit.moved is None:
        return None
    return _edit(tensor, edit.moved, edit.shape, edit.moved.by_strides or len(edit.shape) == 2)


def by_strides(edit: Edit) -> Edit:
    """The edit of a matrix that becomes a kernel, with channels-last strides in place of numbers that move."""
    if edit.moved is None or edit.moved.by_strides:
        return edit
    return _edit(edit.tensor, edit.moved, edit.shape, strided=True) or edit


def _edit(tensor: Tensor, moved: Moved, shape: tuple[int, ...], strided: bool) -> Edit | None:
    wide = [axis for axis in moved.order if moved.seen[axis] != 1]
    if wide == sorted(wide) or not tensor.numel:
        seen = viewed(tensor, shape)
        return None if seen is None else Edit(tensor, shape, seen.stride)
    parted = viewed(tensor, moved.seen) if strided else None
    stays = None if parted is None else viewed(permuted(parted, moved.order), shape)
    if stays is not None:
        return Edit(tensor, shape, stays.stride, moved=moved._replace(by_strides=True))
    run = viewed(tensor, (tensor.numel,))
    in_rows = run is not None and run.stride == (1,)
    return Edit(tensor, shape, contiguous(shape), moved=moved._replace(by_strides=False)) if in_rows else None


def moving_obstacle(tensor: Tensor) -> str | None:
    """Why a tensor's numbers cannot be moved within its file, or None."""
    storage = tensor.storage
    if tensor.layout != "strided":
        return f"its numbers would have to move, and {tensor.key} is {tensor.layout}"
    if ITEMSIZE.get(tensor.dtype, 0) < 1:
        return f"its numbers would have to move, and {tensor.key} has several to a byte ({tensor.dtype})"
    if storage is not None and storage.packed_nbytes is not None:
        return "its numbers would have to move, and the file keeps them compressed; torch.save it again"
    return None


def check_apart(checkpoint: Checkpoint, edits: Iterable[Edit]) -> None:
    """Refuse to move numbers that a tensor reads which does not change in the same way.

    Args:
        checkpoint: The source.
        edits: All changes of its shapes.

    Raises:
        CannotConvert: Some tensor is another view of the same numbers.
    """
    moving = {bytes_of(edit.tensor): edit for edit in edits if edit.moves_bytes and bytes_of(edit.tensor) is not None}
    if not moving:
        return
    alike = {id(edit.tensor): (edit.shape, edit.moved) for edit in edits}
    storages: dict[tuple[object, ...], list[Edit]] = {}
    for place, edit in moving.items():
        assert place is not None
        storages.setdefault(place[:2], []).append(edit)
    ranges = {place: _Ranges(some) for place, some in storages.items()}
    for root in checkpoint.roots:
        for tensor in root.tensors:
            place = bytes_of(tensor)
            found = ranges.get(place[:2]) if place is not None else None
            for edit in found.sharing(tensor) if found is not None else ():
                if alike.get(id(tensor)) != (edit.shape, edit.moved):
                    what = f"the numbers of {edit.tensor.key} would move, which {tensor.key} reads too"
                    remedy = Wording("it has to change with it; ", Option("state_dict"), " writes separate tensors")
                    raise CannotConvert(what, remedy)


class _Ranges:
    """Edits of tensors of one storage, found by the bytes from their first to their last.

    A file may have a hundred thousand views of one storage, so that each is not compared with all.
    """

    def __init__(self, edits: list[Edit]) -> None:
        self.edits = sorted(((*_reach(edit.tensor), number, edit) for number, edit in enumerate(edits)))
        self.begins = [begin for begin, *_ in self.edits]
        self.ends = list(accumulate((end for _, end, *_ in self.edits), max))

    def sharing(self, tensor: Tensor) -> list[Edit]:
        """Edits of tensors that share a byte with this one, as far as first and last bytes tell; in the order given."""
        begin, end = _reach(tensor)
        # From the first range on of which it, or one before it, ends behind the tensor's first byte.
        some = self.edits[bisect_right(self.ends, begin) : bisect_left(self.begins, end)]
        return [edit for _, edit in sorted((number, edit) for _, last, number, edit in some if last > begin)]


def _reach(tensor: Tensor) -> tuple[int, int]:
    """The bytes of its storage from a tensor's first on, and where the last ends."""
    size = ITEMSIZE.get(tensor.dtype, 1)
    last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride, strict=True))
    return int(tensor.offset * size), math.ceil((tensor.offset + last + 1) * size)
