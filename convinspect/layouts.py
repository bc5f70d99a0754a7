"""How libraries other than PyTorch lay out a layer's weight, and the same numbers seen in PyTorch's order of axes.

PyTorch keeps (out, in, k…) for a convolution and (out, in) for a Linear. The orders of the others are those of their
own layers: `mlx.nn.Conv1d`, `flax.linen.Conv` and `Dense`, `keras.layers.Conv2D` and `Dense`, `paddle.nn.Linear`,
`spconv.pytorch.SubMConv3d`.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from convinspect.records import Layer, Tensor


class Maker(Enum):
    """Whose layout it is; the values are what users are shown."""

    MLX = "MLX"
    KERNELS = "Flax/Keras"
    PADDLE = "Paddle"
    SPCONV_1 = "spconv 1"
    SPCONV_2 = "spconv 2"

    @property
    def axes(self) -> str:
        """How its weights lie, in words."""
        if self is Maker.PADDLE:
            return "a Linear is (in, out)"
        return "weights are (out, kernel…, in)" if self in _OUT_FIRST else "weights are (kernel…, in, out)"


class KnownFrom(Enum):
    """Where a layout is known from; the values are parts of sentences for people."""

    METADATA = "as the file's metadata says"
    WRITTEN = "as its own library's marks in the file say"
    NAMES = "as the tensors' names say"
    CLASS = "as the layer's class says"
    SHAPES = "since only so are the kernels as long in every direction"
    LIKELY = "since in PyTorch's order the kernels would be of very different lengths"
    WRITER = "since MLX wrote the file, which does not say that its convolutions are MLX's own"
    CONTRADICTED = "as the file's metadata says, though some kernels are as long in every direction only in PyTorch's"

    @property
    def sure(self) -> bool:
        """Whether a layer may be converted by it without being named."""
        return self not in (KnownFrom.LIKELY, KnownFrom.WRITER, KnownFrom.CONTRADICTED)


KERNEL_PARTS = frozenset(
    {"kernel", "bias", "recurrent_kernel", "depthwise_kernel", "pointwise_kernel", "embedding", "embeddings", "scale",
     "gamma", "beta", "moving_mean", "moving_variance", "mean", "var", "negative_slope", "alpha"}
)  # fmt: skip
"""What Flax and Keras call the tensors of their layers."""


class Layout(NamedTuple):
    """A layout, and where it is known from."""

    maker: Maker
    known_from: KnownFrom


_OUT_FIRST = (Maker.MLX, Maker.SPCONV_2)
"""Makers of (out, k…, in); (out, in) for a Linear."""
_OUT_LAST = (Maker.KERNELS, Maker.SPCONV_1)
"""Makers of (k…, in, out); (in, out) for a Linear."""


def torch_order(maker: Maker, dims: int) -> tuple[int, ...]:
    """The stored axes of a weight in PyTorch's order: those of out, in, and of the kernel.

    Of a ConvTranspose, which PyTorch stores as (in, out, k…), those of in, out, and of the kernel.

    Args:
        maker: Whose layout it is.
        dims: Dimensions of the weight, at least 2.
    """
    if maker in _OUT_FIRST:
        return (0, dims - 1, *range(1, dims - 1))
    if maker in _OUT_LAST:
        return (dims - 1, dims - 2, *range(dims - 2))
    return (1, 0) if dims == 2 else tuple(range(dims))


def pointwise_shape(maker: Maker, wide_out: int, wide_in: int, extra: int) -> tuple[int, ...]:
    """The shape as stored of a kernel of size 1, or of a Linear.

    Args:
        maker: One whose pointwise weights are the same numbers in the same order in any number of dimensions
            (`same_order`).
        wide_out: Outputs.
        wide_in: Inputs.
        extra: Dimensions of the kernel; 0 for a Linear.
    """
    ones = (1,) * extra
    return (*ones, wide_in, wide_out) if maker in _OUT_LAST else (wide_out, *ones, wide_in)


def same_order(maker: Maker) -> bool:
    """Whether a pointwise convolution and a Linear hold the same numbers in the same order, so that a header edit turns
    one into the other: not in Paddle, whose Linear is (in, out) beside convolutions of (out, in, k…).
    """
    return maker in (Maker.MLX, Maker.KERNELS)


def in_torch_order(layer: Layer) -> Layer:
    """The layer with its kernel in PyTorch's order of axes: the same bytes under other shapes and strides.

    The result has PyTorch's layout, and its kernels are records that the checkpoint does not hold.
    """
    if layer.layout is None or len(layer.weight.shape) < 2:
        return layer
    order = torch_order(layer.layout.maker, len(layer.weight.shape))
    turned = {
        leaf: _turned(tensor, order) if len(tensor.shape) == len(order) and tensor is not layer.bias else tensor
        for leaf, tensor in layer.tensors.items()
    }
    leaf = next((leaf for leaf, tensor in layer.tensors.items() if tensor is layer.weight), None)
    weight = _turned(layer.weight, order) if leaf is None else turned[leaf]
    return layer._replace(tensors=turned, weight=weight, layout=None)


def _turned(tensor: Tensor, order: tuple[int, ...]) -> Tensor:
    shape, stride = tensor.shape, tensor.stride
    strides = tuple(stride[axis] for axis in order) if len(stride) == len(shape) else stride
    return tensor._replace(shape=tuple(shape[axis] for axis in order), stride=strides)


def is_turned(layer: Layer) -> bool:
    """Whether the weight's axes are not in PyTorch's order."""
    dims = len(layer.weight.shape)
    return layer.layout is not None and dims > 1 and torch_order(layer.layout.maker, dims) != tuple(range(dims))


def torch_shape(layer: Layer) -> tuple[int, ...]:
    """The weight's sizes in PyTorch's order of axes."""
    shape = layer.weight.shape
    if layer.layout is None or len(shape) < 2:
        return shape
    return tuple(shape[axis] for axis in torch_order(layer.layout.maker, len(shape)))


def axis_names(layer: Layer) -> list[str]:
    """What the stored axes of a kernel are: "out", "in", "kernel_size[0]", …, in stored order."""
    dims = len(layer.weight.shape)
    turned = layer.kind.startswith("ConvTranspose")
    names = [*(("in", "out") if turned else ("out", "in")), *(f"kernel_size[{i}]" for i in range(dims - 2))]
    if layer.layout is None:
        return names
    order = torch_order(layer.layout.maker, dims)
    return [names[order.index(axis)] for axis in range(dims)]
