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
    matrix, kernel = sorted((before, after), key=lambda tensor: len(tensor.shape))
    dims = len(kernel.shape) - 2
    if len(matrix.shape) != 2 or dims < 1 or matrix.shape[0] != kernel.shape[0] or kernel.shape[1] == 1:
        return False
    if not last:
        return same_in_order(before, after)
    if matrix.numel != kernel.numel or not kernel.numel:
        return False
    parted = viewed(matrix, (kernel.shape[0], *kernel.shape[2:], kernel.shape[1]))
    return parted is not None and same_bits(permuted(kernel, (0, *range(2, 2 + dims), 1)), parted)


def same_in_order(before: Tensor, after: Tensor) -> bool:
    """Whether a reshape makes one of the other: the same numbers in the same order."""
    pure = relate(before.shape, after.shape).how in PURE
    return pure and (both := in_one_shape(before, after)) is not None and same_bits(*both)


def same_order(before: Tensor, after: Tensor) -> bool:
    """Whether two matrices hold the same sequence of numbers, row by row."""
    flat = [tensor._replace(shape=(tensor.numel,), stride=(1,)) for tensor in (before, after)]
    in_rows = all(tensor.stride[:2] == (tensor.shape[1], 1) for tensor in (before, after))
    return in_rows and same_bits(*flat)
