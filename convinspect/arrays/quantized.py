"""The numbers that PyTorch's quantized tensors stand for: `(integer - zero_point) * scale`, as by `dequantize()`."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from convinspect.arrays.read import Array, read_tensor
from convinspect.errors import BrokenFile, CannotShow
from convinspect.records import Tensor

_STORED = {"qint8": "int8", "quint8": "uint8", "qint32": "int32"}
"""The integers of each dtype."""
_BY_TENSOR, _BY_CHANNEL = "per_tensor_affine", "per_channel_affine"
_REMEDY = "dequantize it in PyTorch first"


class Quantizer(NamedTuple):
    """How the integers of a tensor are read.

    Attributes:
        scheme: PyTorch's name of it, such as "per_tensor_affine".
        scale: One number, or one for each index along `axis`.
        zero_point: As many.
        axis: None where one scale is for all.
    """

    scheme: str
    scale: Array
    zero_point: Array
    axis: int | None


def is_quantized(tensor: Tensor) -> bool:
    """Whether it is one of PyTorch's quantized tensors, which holds its scale and zero point itself."""
    return tensor.layout == "quantized"


def quantizer_of(tensor: Tensor) -> Quantizer:
    """The scheme, scale and zero point of a quantized tensor.

    Raises:
        CannotShow: Its scheme or dtype is none that can be read here.
        BrokenFile: They do not fit its shape.
        And what `read_tensor` raises.
    """
    scheme, *rest = [word.strip().removeprefix("torch.") for word in tensor.quantizer.split(",")]
    if scheme not in (_BY_TENSOR, _BY_CHANNEL) or tensor.dtype not in _STORED:
        raise CannotShow(f"tensor {tensor.key} is {tensor.dtype} of scheme {scheme or 'unknown'}", _REMEDY)
    broken = BrokenFile(f"tensor {tensor.key}: its scale and zero point do not fit it", "save it again")
    try:
        numbers = [float(word) for word in rest]
    except ValueError:
        raise broken from None
    if scheme == _BY_TENSOR:
        if len(numbers) != 2 or tensor.parts or not all(map(math.isfinite, numbers)):
            raise broken
        return Quantizer(scheme, np.asarray(numbers[0]), np.asarray(numbers[1]).astype(np.int64), None)
    if len(numbers) != 1 or len(tensor.parts) != 2 or numbers[0] not in range(len(tensor.shape)):
        raise broken
    axis = int(numbers[0])
    if any(part.shape != (tensor.shape[axis],) for part in tensor.parts):
        raise broken
    scale, zero_point = (read_tensor(part) for part in tensor.parts)
    return Quantizer(scheme, scale, zero_point, axis)


def dequantized(tensor: Tensor) -> Array:
    """The numbers of a quantized tensor, as float32 of its shape.

    They are those of `dequantize()`, but where integers of qint32 are beyond 2**24: PyTorch rounds these to float32
    before it subtracts, which may change the last bit.

    Raises:
        As `quantizer_of`.
    """
    found = quantizer_of(tensor)
    stored = tensor._replace(dtype=_STORED[tensor.dtype], layout="strided", parts=(), quantizer="")
    integers = read_tensor(stored)
    scale, zero_point = found.scale, found.zero_point
    if found.axis is not None:
        along = tuple(-1 if axis == found.axis else 1 for axis in range(integers.ndim))
        scale, zero_point = scale.reshape(along), zero_point.reshape(along)
    # PyTorch's own types on the way: one scale for all is rounded to float32, scales of channels are multiplied with
    # as they are, and the product is rounded.
    factor = scale.astype(np.float32) if found.axis is None else scale
    with np.errstate(all="ignore"):
        difference = (integers.astype(np.int64) - zero_point.astype(np.int64)).astype(np.float32)
        product: Array = (difference * factor).astype(np.float32)
    return product


def numbers_of(tensor: Tensor) -> Array:
    """As `read_tensor`, of quantized tensors too: what their integers stand for."""
    return dequantized(tensor) if is_quantized(tensor) else read_tensor(tensor)


def said_of(tensor: Tensor) -> str:
    """A line on what was done to show a quantized tensor's numbers, with its scale and zero point.

    Raises:
        As `quantizer_of`.
    """
    found = quantizer_of(tensor)
    if found.axis is None:
        numbers = f"scale {found.scale:.6g}, zero point {int(found.zero_point)}"
    else:
        numbers = f"by channel along axis {found.axis}: scales {_range(found.scale)}, zero points "
        numbers += _range(found.zero_point)
    return f"dequantized from {tensor.dtype}: (integer − zero point) · scale; {numbers}"


def _range(numbers: Array) -> str:
    if numbers.size == 0:
        return "none"
    low, high = numbers.min(), numbers.max()
    return f"{low:.6g}" if low == high else f"{low:.6g} to {high:.6g}"
