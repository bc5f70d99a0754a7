"""Whether two tensors of different shapes hold the same numbers, in an order in which they can be one layer's."""

from __future__ import annotations

from convinspect.arrays.equality import same_bits
from convinspect.converting.relations import PURE, in_one_shape, permuted, relate, viewed
from convinspect.layers.lora import as_vector, follows_a_layer
from convinspect.records import Tensor


def same_magnitudes(before: Tensor, after: Tensor) -> bool:
    """Whether both are DoRA's magnitudes, a vector with or without sizes of 1, and hold the same bits."""
    vectors = [as_vector(tensor) if follows_a_layer(tensor.key) else None for tensor in (before, after)]
    return vectors[0] is not None and vectors[1] is not None and same_bits(vectors[0], vectors[1])


def same_as_patches(before: Tensor, after: Tensor, last: bool = False) -> bool:
    """Whether a kernel over patches and its Linear hold the same numbers in PyTorch's order, channel by channel.

    Of two kernels, (O, 1, k) and (O, k, 1), the same numbers make two functions. (O, 1, k) and (O, k) are one layer
    only where the windows do not overlap, which nothing says of one channel.

    Args:
        before: The kernel or the matrix.
        after: The other.
        last: In the order instead in which the channels of each patch are last.
    """
    if _patch_pair(before, after) is None:
        return False
    if not last:
        return same_in_order(before, after)
    forms = patch_forms(before, after, last)
    return forms is not None and same_bits(*forms)


def _patch_pair(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor] | None:
    """Which is the matrix, and which the kernel over patches whose rows it may have; None if they are no such two."""
    matrix, kernel = sorted((before, after), key=lambda tensor: len(tensor.shape))
    rows = len(matrix.shape) == 2 < len(kernel.shape) and matrix.shape[0] == kernel.shape[0]
    return (matrix, kernel) if rows and kernel.shape[1] != 1 else None


def patch_forms(before: Tensor, after: Tensor, last: bool = False) -> tuple[Tensor, Tensor] | None:
    """A kernel over patches and its Linear's matrix in one shape, as matrices where no number must move for that.

    Args:
        before: The kernel or the matrix.
        after: The other.
        last: In the order in which the channels of each patch are last.

    Returns:
        Both in the order given; None if they are no such two, or empty.
    """
    pair = _patch_pair(before, after)
    if pair is None or pair[0].numel != pair[1].numel or not pair[0].numel:
        return None
    matrix, kernel = pair
    if last:
        rows, channels, *sizes = kernel.shape
        kernel = permuted(kernel, (0, *range(2, 2 + len(sizes)), 1))
        seen = viewed(matrix, (rows, *sizes, channels))
    elif (flat := viewed(kernel, matrix.shape)) is not None:
        kernel, seen = flat, matrix
    else:
        seen = viewed(matrix, kernel.shape)
    if seen is None:
        return None
    return (seen, kernel) if before is matrix else (kernel, seen)


def same_in_order(before: Tensor, after: Tensor) -> bool:
    """Whether a reshape makes one of the other: the same numbers in the same order."""
    pure = relate(before.shape, after.shape).how in PURE
    return pure and (both := in_one_shape(before, after)) is not None and same_bits(*both)


def same_order(before: Tensor, after: Tensor) -> bool:
    """Whether two matrices hold the same sequence of numbers, row by row."""
    flat = [tensor._replace(shape=(tensor.numel,), stride=(1,)) for tensor in (before, after)]
    in_rows = all(tensor.stride[:2] == (tensor.shape[1], 1) for tensor in (before, after))
    return in_rows and same_bits(flat[0], flat[1])
