"""numpy arrays and records → torch tensors, in every dtype that PyTorch has and numpy does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from convinspect.errors import CannotShow
from convinspect.numbers import ML_DTYPES

if TYPE_CHECKING:
    import torch


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
    """A torch tensor of an array's numbers; it shares the array's memory where that is in order.

    Args:
        array: As `numbers.read` gives it.
        dtype: PyTorch's name of its dtype.
    """
    import torch

    ordered = np.ascontiguousarray(array).reshape(array.shape)
    if dtype not in ML_DTYPES:
        plain: torch.Tensor = torch.from_numpy(ordered)
        return plain
    raw = ordered.reshape(-1).view(np.uint8)
    return torch.from_numpy(raw).view(torch_dtype(dtype)).reshape(array.shape)
