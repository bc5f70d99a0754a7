"""numpy arrays and layers → torch tensors, in every dtype that PyTorch has and numpy does not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convinspect.arrays.effective import effective_bias, effective_weight
from convinspect.arrays.read import ML_DTYPES, read_tensor
from convinspect.errors import CannotShow
from convinspect.layouts import in_torch_order

if TYPE_CHECKING:
    import torch

    from convinspect.records import Layer, Tensor


def torch_dtype(name: str) -> torch.dtype:
    """PyTorch's dtype of a name such as "float32".

    Raises:
        CannotShow: This PyTorch has none of that name.
    """
    import torch

    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise CannotShow(f"this PyTorch has no dtype {name}", "update PyTorch")
    return dtype


def as_torch(array: Any, dtype: str) -> torch.Tensor:
    """A torch tensor of an array's numbers; it shares the array's memory where that is contiguous.

    Args:
        array: As `read_tensor` gives it.
        dtype: PyTorch's name of its dtype.
    """
    import torch

    ordered = np.ascontiguousarray(array).reshape(array.shape)
    if dtype not in ML_DTYPES:
        plain: torch.Tensor = torch.from_numpy(ordered)
        return plain
    raw = ordered.reshape(-1).view(np.uint8)
    return torch.from_numpy(raw).view(torch_dtype(dtype)).reshape(array.shape)


def as_stored(array: Any, dtype: str) -> torch.Tensor:
    """As `as_torch`, in the dtype itself: numpy has no complex32, whose numbers `read_tensor` gives as complex64."""
    found = as_torch(array, dtype)
    return found.to(torch_dtype(dtype)) if dtype == "complex32" else found


def weight_and_bias(layer: Layer) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A layer's effective weight, in PyTorch's order of axes, and its bias (O,) or None, in the file's dtypes.

    Raises:
        ConvInspectError: They cannot be computed or read.
    """
    layer = in_torch_order(layer)
    weight, bias = as_torch(effective_weight(layer), layer.weight.dtype), effective_bias(layer)
    return weight, None if bias is None or layer.bias is None else as_torch(bias, layer.bias.dtype)


def single_tensor(tensors: Mapping[str, Tensor], path: Path) -> torch.Tensor:
    """The numbers of a file's one tensor.

    Args:
        tensors: All of the file, by name.
        path: The file, for errors.

    Raises:
        CannotShow: There are several, or none.
        ConvInspectError: It cannot be read.
    """
    if len(tensors) != 1:
        raise CannotShow(f"it holds {len(tensors)} tensors, and an input is one", "save each by itself", path)
    (tensor,) = tensors.values()
    return as_torch(read_tensor(tensor), tensor.dtype)
