"""The weight and bias that a forward pass uses: as stored, or computed from what a norm or pruning keeps."""

from __future__ import annotations

import sys

import numpy as np

from convinspect.arrays.read import Array, numpy_dtype, read_tensor
from convinspect.dtypes import COMPLEX
from convinspect.errors import BrokenFile, CannotShow
from convinspect.records import Layer, Tensor


def effective_weight(layer: Layer) -> Array:
    """The kernel that a forward pass in eval mode uses: `weight`, or what is computed from the tensors stored instead.

    - weight_norm: g · v / ‖v‖, the norm over the axes along which g has size 1 (Salimans & Kingma 2016,
      "Weight Normalization", equation 2).
    - spectral_norm: W / (uᵀ W v), W as a matrix with the output channels first (Miyato et al. 2018, "Spectral
      Normalization for Generative Adversarial Networks", section 2.1 and algorithm 1), with the stored u, v.
    - pruned: weight_orig · weight_mask.

    Returns:
        An array of the shape and dtype of `layer.weight`, computed in float64 and rounded to that dtype once.

    Raises:
        CannotShow: `layer.norm` is none of these three.
        BrokenFile: One of the tensors is missing, or their shapes do not fit each other.
        And what `read_tensor` raises.
    """
    if layer.norm is None:
        return read_tensor(layer.weight)
    if layer.norm not in _PRODUCTS:
        raise CannotShow(f"layer {layer.name}: how its weight is computed is not recorded in the file")
    with np.errstate(all="ignore"):
        return _PRODUCTS[layer.norm](layer).astype(numpy_dtype(layer.weight.dtype, sys.byteorder))


def effective_bias(layer: Layer) -> Array | None:
    """The bias that a forward pass would add; None when there is none, or when it cannot be computed."""
    if layer.bias is None or len(layer.bias.shape) != 1 or "parametrizations.bias.original" in layer.tensors:
        return None
    bias = read_tensor(layer.bias)
    mask = layer.tensors.get("bias_mask")
    return bias if mask is None else (bias * read_tensor(mask)).astype(bias.dtype)


def _weight_normed(layer: Layer) -> Array:
    g = _wide(_part(layer, "weight_g", "parametrizations.weight.original0"))
    v = _wide(_part(layer, "weight_v", "parametrizations.weight.original1"))
    if g.size == 1:
        g = g.reshape((1,) * v.ndim)
    if g.ndim != v.ndim or any(n not in (1, m) for n, m in zip(g.shape, v.shape, strict=True)):
        raise BrokenFile(f"layer {layer.name}: g of shape {g.shape} does not fit v of shape {v.shape}")
    axes = tuple(axis for axis, size in enumerate(g.shape) if size == 1)
    v *= g / np.sqrt(np.sum(np.square(np.abs(v)), axis=axes, keepdims=True))
    return v


def _spectral_normed(layer: Layer) -> Array:
    w = _wide(_part(layer, "weight_orig", "parametrizations.weight.original"))
    u = _wide(_part(layer, "weight_u", "parametrizations.weight.0._u"))
    matrix = _output_first(layer, w, len(u))
    if "weight_u" in layer.tensors and "weight_v" not in layer.tensors:
        # Before PyTorch 1.1 v was not stored; the product was, as a buffer that eval mode used directly.
        if "weight" in layer.tensors:
            return read_tensor(layer.tensors["weight"])
        v = matrix.T @ u
        v /= np.sqrt(np.sum(np.square(v)))
    else:
        v = _wide(_part(layer, "weight_v", "parametrizations.weight.0._v"))
    if v.shape != matrix.shape[1:]:
        raise BrokenFile(f"layer {layer.name}: v of shape {v.shape} does not fit W of shape {w.shape}")
    product: Array = w / np.vdot(u, matrix @ v)
    return product


def _output_first(layer: Layer, w: Array, outputs: int) -> Array:
    """W as the (outputs, rest) matrix whose spectral norm is taken."""
    first = 1 if layer.kind.startswith("ConvTranspose") else 0
    for axis in (first, *range(w.ndim)):
        if w.shape[axis : axis + 1] == (outputs,):
            return np.moveaxis(w, axis, 0).reshape(outputs, -1)
    raise BrokenFile(f"layer {layer.name}: u of length {outputs} does not fit W of shape {w.shape}")


def _pruned(layer: Layer) -> Array:
    w, mask = _wide(_part(layer, "weight_orig")), _wide(_part(layer, "weight_mask"))
    if w.shape != mask.shape:
        raise BrokenFile(f"layer {layer.name}: mask of shape {mask.shape} does not fit W of shape {w.shape}")
    product: Array = w * mask
    return product


_PRODUCTS = {"weight_norm": _weight_normed, "spectral_norm": _spectral_normed, "pruned": _pruned}


def _part(layer: Layer, *names: str) -> Tensor:
    """The layer's tensor under the first of these names that exists."""
    for name in names:
        if name in layer.tensors:
            return layer.tensors[name]
    raise BrokenFile(
        f"layer {layer.name} has {', '.join(layer.tensors)} but no {names[0]}", "save the whole model again"
    )


def _wide(tensor: Tensor) -> Array:
    return read_tensor(tensor).astype(np.complex128 if tensor.dtype in COMPLEX else np.float64)
