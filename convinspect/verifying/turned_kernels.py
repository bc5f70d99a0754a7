"""Kernels of one position that became matrices with rows and columns exchanged, or the reverse, where no file says that
they are a transposed convolution's.

The weight (in, out, 1) of a ConvTranspose1d looks like the weight (out, in, 1) of a Conv1d of other widths. A bias of
the second size tells them apart where the sizes differ, and a recorded class does. Else the numbers show that the
matrix is the kernel's transpose, and not that this is right.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from convinspect.arrays.equality import as_matrix, same_bits
from convinspect.arrays.storage import Files
from convinspect.errors import CannotShow
from convinspect.kinds import CONV_TRANSPOSES, CONVOLUTIONS, EXTRA_DIMS
from convinspect.records import Layer, Tensor
from convinspect.verifying.turned import Turned


def find_turned_kernels(
    layers: Sequence[Layer], layers_after: Mapping[str, Layer], chosen: Collection[str] | None = None
) -> Turned:
    """The kernels, before or after, that only a transposed convolution can have, by the matrix on the other side.

    Args:
        layers: Before.
        layers_after: By name.
        chosen: Names of layers of which the user says that they were converted; None where nothing was said.
    """
    pairs = [
        pair
        for layer in layers
        if (after := layers_after.get(layer.name)) is not None and (pair := _matrix_and_kernel(layer, after))
    ]
    with Files() as files:
        found = [(matrix, kernel) for matrix, kernel in pairs if _is_exchanged(matrix, kernel, files)]
    if not found:
        return Turned()
    named = chosen or ()
    if any(_is_straight(matrix, kernel) for matrix, kernel in pairs):
        # Where other kernels became matrices as they lie, one that did not is a fault; of a square one it would be.
        found = [pair for pair in found if pair[0].name in named and not _is_square(pair[0].weight.shape)]
    shown = any(kernel.kind in CONV_TRANSPOSES and _is_turned(matrix, kernel) for matrix, kernel in pairs)
    names = [matrix.name for matrix, _ in found]
    return Turned(frozenset(names), frozenset() if shown else frozenset(name for name in names if name not in named))


_LARGE = 1 << 16
"""Bytes of a matrix of which a corner is looked at first: nearly all were not exchanged, and it tells so."""
_CORNER = 2


def _corner(matrix: Tensor) -> Tensor:
    return matrix._replace(shape=(_CORNER, _CORNER))


def _matrix_and_kernel(one: Layer, other: Layer) -> tuple[Layer, Layer] | None:
    """Two layers, of which one has a matrix and the other a kernel of one position, in this order; None for others."""
    matrix, kernel = sorted((one, other), key=lambda layer: len(layer.weight.shape))
    # What its name alone calls an Embedding may be a Linear.
    is_linear = matrix.kind == "Linear" or (matrix.kind == "Embedding" and matrix.evidence != "module")
    fits = len(matrix.weight.shape) == 2 and kernel.pointwise and is_linear
    return (matrix, kernel) if fits and matrix.weight.numel else None


def _is_turned(matrix: Layer, kernel: Layer) -> bool:
    return matrix.weight.shape == kernel.weight.shape[1::-1]


def _is_square(shape: tuple[int, ...]) -> bool:
    return shape[0] == shape[1]


def _is_straight(matrix: Layer, kernel: Layer) -> bool:
    """Whether a convolution became a matrix as it lies, which its bias or its shape shows."""
    shape = matrix.weight.shape
    return kernel.kind in CONVOLUTIONS and kernel.weight.shape[:2] == shape and not _is_square(shape)


def as_transposed_kernels(layers: Iterable[Layer], turned: Turned) -> list[Layer]:
    """The layers, of which those that were found are transposed convolutions."""
    return [_as_transposed(layer) if layer.name in turned.names else layer for layer in layers]


def _as_transposed(layer: Layer) -> Layer:
    if layer.kind not in CONVOLUTIONS:
        return layer
    wide_in, wide_out = layer.weight.shape[:2]
    kind = f"ConvTranspose{EXTRA_DIMS[layer.kind]}d"
    return layer._replace(kind=kind, in_width=wide_in, out_width=wide_out)


def _is_exchanged(matrix: Layer, kernel: Layer, files: Files) -> bool:
    """Whether a kernel in doubt holds a Linear's numbers with rows and columns exchanged, and not as they are."""
    first, second = kernel.weight.shape[:2]
    settled = kernel.kind not in CONVOLUTIONS or kernel.evidence == "module" or kernel.low_rank
    told = kernel.bias is not None and first != second
    special = any(layer.layout is not None or layer.norm is not None for layer in (matrix, kernel))
    if settled or told or special or not _is_turned(matrix, kernel):
        return False
    if matrix.weight.dtype != kernel.weight.dtype or 1 in (first, second):
        return False
    straight, turned = (as_matrix(kernel.weight, transposed) for transposed in (False, True))
    try:
        plain = {matrix.weight.layout, turned.layout} == {"strided"}
        if plain and turned.nbytes > _LARGE and not same_bits(_corner(turned), _corner(matrix.weight), files):
            return False
        if first == second and same_bits(straight, matrix.weight, files):
            return False
        return same_bits(turned, matrix.weight, files)
    except CannotShow:
        return False
