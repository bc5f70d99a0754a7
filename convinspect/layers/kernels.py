"""Layers of Flax and Keras, whose weights are called `kernel` and lie as (kernel…, in, out).

Known by the names: a file with a `kernel` and without any `weight`. The shapes are those of `flax.linen.Conv`, `Dense`,
`DenseGeneral` and `ConvTranspose`, and of `keras.layers.Conv2D`, `DepthwiseConv2D`, `Conv2DTranspose`, `Dense` and
`EinsumDense`.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from convinspect.kinds import DENSE_GENERAL, DEPTHWISE
from convinspect.layers.by_shape import is_whole, maybe_another, with_doubt
from convinspect.layers.layouts import with_layout_note
from convinspect.layouts import KnownFrom, Layout, Maker, torch_shape
from convinspect.records import Doubt, Layer, Tensor

LAYOUT = Layout(Maker.KERNELS, KnownFrom.NAMES)

_MATRICES = ("kernel", "depthwise_kernel", "embedding", "embeddings")
_STATISTICS = frozenset({"moving_mean", "moving_variance", "mean", "var"})
_GATES = {4: "LSTM", 3: "GRU", 1: "RNN"}
_OF_ATTENTION = frozenset({"out", "attention_output"})


def is_kernel_module(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a module without a `weight` has a weight that is called as Flax and Keras call theirs."""
    return "kernel" in tensors or "depthwise_kernel" in tensors


def read_kernels(name: str, tensors: Mapping[str, Tensor], siblings: bool) -> Layer | None:
    """The layer of a module of Flax or Keras; None where its tensors are no known layer.

    Args:
        name: The module's.
        tensors: Those of `KERNEL_PARTS` that it has.
        siblings: Beside it stand `query`, `key` and `value`, so that `out` is an attention's output.
    """
    leaf = next((leaf for leaf in _MATRICES if leaf in tensors), None)
    if leaf is None:
        return _without_kernel(name, tensors)
    layer = Layer(name, "Parameter", "shape", tensors, tensors[leaf], tensors.get("bias"))
    if leaf.startswith("embedding"):
        return layer._replace(kind="Embedding")
    if "recurrent_kernel" in tensors:
        return _recurrent(layer, tensors["recurrent_kernel"])
    if leaf == "depthwise_kernel":
        return _separable(layer)
    read = _kernel(layer._replace(layout=LAYOUT), siblings)
    return with_layout_note(read) if read.layout is not None else read


def _without_kernel(name: str, tensors: Mapping[str, Tensor]) -> Layer | None:
    if _STATISTICS & set(tensors):
        first = tensors.get("moving_mean") or next(iter(tensors.values()))
        return Layer(name, "BatchNorm", "shape", tensors, tensors.get("gamma") or tensors.get("scale") or first)
    weight = tensors.get("gamma") or tensors.get("scale")
    if weight is not None:
        return Layer(name, "Norm", "shape", tensors, weight, tensors.get("beta") or tensors.get("bias"))
    slope = tensors.get("negative_slope") or tensors.get("alpha")
    return None if slope is None else Layer(name, "PReLU", "shape", tensors, slope)


def _recurrent(layer: Layer, recurrent: Tensor) -> Layer:
    units = recurrent.shape[0] if len(recurrent.shape) == 2 else 0
    kind = _GATES.get(recurrent.shape[1] // units, "RNN") if units else "RNN"
    note = "a recurrent layer's matrices are not converted"
    return layer._replace(kind=kind, tags=("recurrent",), notes=(note,))


def _separable(layer: Layer) -> Layer:
    dims = len(layer.weight.shape) - 2
    note = "a depthwise and a pointwise kernel in one layer, which is not converted"
    kind = f"SeparableConv{dims}d" if "pointwise_kernel" in layer.tensors else DEPTHWISE.format(dims)
    return layer._replace(kind=kind if 1 <= dims <= 3 else "Parameter", tags=("separable",), notes=(note,))


def _kernel(layer: Layer, siblings: bool) -> Layer:
    """A layer by the shapes of its kernel and bias."""
    shape, bias = layer.weight.shape, layer.bias
    dims = len(shape)
    if _is_general(layer, siblings):
        return _general(layer)
    if not 2 <= dims <= 5:
        return layer._replace(layout=None, notes=(f"a kernel of {dims} dimensions belongs to no known layer",))
    if is_whole(layer.weight):
        note = f"its numbers are {layer.weight.dtype}, which may be quantized"
        layer = layer._replace(evidence="ambiguous", tags=("integers",), notes=(note,))
    wide_out, wide_in, *size = torch_shape(layer)
    if dims == 2:
        known = layer._replace(kind="Linear", in_width=wide_in, out_width=wide_out)
        return known if bias is None or bias.shape == (wide_out,) else with_doubt(known, Doubt.BIAS_DOES_NOT_FIT)
    conv = layer._replace(
        kind=f"Conv{dims - 2}d",
        out_width=wide_out,
        kernel_size=tuple(size),
        pointwise=all(length == 1 for length in size),
    )
    if "depthwise" in layer.name.lower() and (bias is None or bias.shape == (wide_in * wide_out,)):
        return _depthwise(conv, wide_in, wide_out)
    if bias is None or bias.shape == (wide_out,):
        return maybe_another(conv, alike=True)
    if bias.shape == (wide_in * wide_out,) and wide_out > 1:
        return _depthwise(conv, wide_in, wide_out)
    if bias.shape == (wide_in,):
        # Keras's ConvTranspose is (kernel…, out, in); its DepthwiseConv with one kernel a channel looks alike.
        turned = conv._replace(kind=f"ConvTranspose{dims - 2}d", pointwise=False, in_width=wide_out, out_width=wide_in)
        note = "a depthwise convolution of as many channels has the same shapes"
        return turned if wide_out > 1 else turned._replace(evidence="ambiguous", notes=(*turned.notes, note))
    return with_doubt(conv, Doubt.BIAS_DOES_NOT_FIT)


def _depthwise(conv: Layer, wide_in: int, multiplier: int) -> Layer:
    return conv._replace(
        kind=DEPTHWISE.format(len(conv.kernel_size)), pointwise=False, in_width=wide_in, out_width=wide_in * multiplier
    )


def _is_general(layer: Layer, siblings: bool) -> bool:
    """Whether it is a `DenseGeneral` or `EinsumDense`, as attention has: more than one axis in or out."""
    if len(layer.weight.shape) < 3:
        return False
    return (layer.bias is not None and len(layer.bias.shape) > 1) or siblings


def _general(layer: Layer) -> Layer:
    """Of attention: (in, heads, size) with a bias (heads, size), or (heads, size, out) with a bias (out,)."""
    shape = layer.weight.shape
    last = layer.name.rpartition(".")[2]
    out_axes = 1 if last in _OF_ATTENTION else len(shape) - 1
    if layer.bias is not None:
        out_axes = min(len(layer.bias.shape), len(shape) - 1)
    note = "a Linear over several axes, which is not converted"
    wide = prod(shape[:-out_axes]), prod(shape[-out_axes:])
    known = layer._replace(kind=DENSE_GENERAL, in_width=wide[0], out_width=wide[1], notes=(*layer.notes, note))
    return known._replace(layout=None)
