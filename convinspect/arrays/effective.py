"""The weight and bias that a forward pass uses: as stored, or computed from what a norm or pruning keeps."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import numpy as np

from convinspect.arrays.read import Array, numpy_dtype, read_tensor
from convinspect.dtypes import COMPLEX
from convinspect.errors import BrokenFile, CannotShow
from convinspect.records import Layer, Tensor


def effective_weight(layer: Layer) -> Array:
    """The kernel that a forward pass in eval mode uses: `weight`, or what is computed from the tensors stored instead.

    - weight_norm: g · v / ‖v‖, the norm over the axes along which g has size 1 (Salimans & Kingma 2016,
      "Weight Normalization", equation 2).
    - spectral_norm: W / (uᵀ W v), W as a matrix with dimension `dim` first (Miyato et al. 2018, "Spectral
      Normalization for Generative Adversarial Networks", section 2.1 and algorithm 1), with the stored u, v;
      `spectral_reading` tells where `dim` comes from.
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
    if "weight_u" in layer.tensors and "weight_v" not in layer.tensors and "weight" in layer.tensors:
        # Before PyTorch 1.1 v was not stored; the product was, as a buffer that eval mode used directly.
        return read_tensor(layer.tensors["weight"])
    w = _weight_of(layer)
    product: Array = w / _reading(layer, w).sigma
    return product


class Reading(NamedTuple):
    """The dimension along which a spectral norm is taken.

    Attributes:
        dim: Of the weight.
        sigma: The spectral norm along it, by the stored u and v.
        known: The file records it, or its numbers show it; else it is assumed.
    """

    dim: int
    sigma: Any
    known: bool


def spectral_reading(layer: Layer) -> Reading | None:
    """How the kernel of a spectral-normed layer is computed; None for other layers.

    Raises:
        BrokenFile: Its tensors do not fit each other.
        And what `read_tensor` raises.
    """
    if layer.norm != "spectral_norm":
        return None
    with np.errstate(all="ignore"):
        return _reading(layer, _weight_of(layer))


def assumed_dim(layer: Layer) -> int | None:
    """The dimension that is assumed for a layer's spectral norm; None where nothing is assumed.

    Raises:
        As `spectral_reading`.
    """
    reading = spectral_reading(layer) if len(layer.norm_dims) > 1 else None
    return None if reading is None or reading.known else reading.dim


def _weight_of(layer: Layer) -> Array:
    return _wide(_part(layer, "weight_orig", "parametrizations.weight.original"))


_CHANCE = 1e-3
_FARTHEST, _TIMES_FARTHER = 0.1, 8
"""How far from normalized W v, of length 1, a u may be that was computed from it before the last training step, and how
many times farther it must be along every other dimension."""


def _reading(layer: Layer, w: Array) -> Reading:
    """The layer's dimension if one is recorded or only one fits; else the one along which u is normalized W v.

    Every step of the power iteration ends with u = W v / ‖W v‖ (Miyato et al. 2018, algorithm 1). Where neither tells,
    the first is assumed, which is PyTorch's default where that fits.
    """
    u = _wide(_part(layer, "weight_u", "parametrizations.weight.0._u"))
    dims = [dim for dim in layer.norm_dims if w.shape[dim : dim + 1] == u.shape]
    if not dims:
        raise BrokenFile(f"layer {layer.name}: u of length {len(u)} does not fit W of shape {w.shape}")
    readings = [_along(layer, w, u, dim) for dim in dims]
    sigmas = [reading.sigma for reading, _ in readings]
    if len(readings) == 1 or np.allclose(sigmas, sigmas[0], rtol=1e-12, atol=0):
        return readings[0][0]._replace(known=True)
    (best, nearest), (_, second), *_ = sorted(readings, key=lambda pair: pair[1])
    # A random u lies within r of a given direction with a probability of about r to the power of its length minus 1.
    farthest = min(_FARTHEST, _CHANCE ** (1 / max(len(u) - 1, 1)))
    if nearest <= farthest and second >= _TIMES_FARTHER * nearest:
        return best._replace(known=True)
    return readings[0][0]


def _along(layer: Layer, w: Array, u: Array, dim: int) -> tuple[Reading, float]:
    """The norm along a dimension, and how far u is from the direction of W v."""
    matrix = np.moveaxis(w, dim, 0).reshape(len(u), -1)
    if "weight_u" in layer.tensors and "weight_v" not in layer.tensors:
        v = matrix.T @ u
        v /= np.sqrt(np.sum(np.square(v)))
    else:
        v = _wide(_part(layer, "weight_v", "parametrizations.weight.0._v"))
    if v.shape != matrix.shape[1:]:
        raise BrokenFile(f"layer {layer.name}: v of shape {v.shape} does not fit W of shape {w.shape}")
    image = matrix @ v
    off = u - image / np.linalg.norm(image)
    distance = float(np.linalg.norm(off))
    return Reading(dim, np.vdot(u, image), False), distance if np.isfinite(distance) else np.inf


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
