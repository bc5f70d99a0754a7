"""What commands that run layers ask of the user: a device, a dtype, numbers from a file."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from convinspect.errors import CannotShow

if TYPE_CHECKING:
    import torch


def check_device(name: str) -> None:
    """Refuse a device that holds no numbers here.

    Raises:
        CannotShow: There is no such device.
    """
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.zeros(1, device=name).item()
    except Exception as error:
        # Each backend fails in its own way, with a missing module, an assertion or a list of all that it has.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].partition(". ")[0]
        raise CannotShow(f"--device {name!r} cannot be used ({reason[:200]})", "cpu always can") from None


def check_dtype_on(device: str, dtype: str, what_for: str, remedy: str) -> None:
    """Refuse a device that does not compute in a dtype.

    Raises:
        CannotShow: It does not.
    """
    from convinspect.arrays.devices import has_dtype

    if not has_dtype(device, dtype):
        raise CannotShow(f"--device {device!r} has no {dtype}{what_for}", remedy)


def check_dtype(name: str) -> None:
    """Refuse what is no floating dtype.

    Raises:
        CannotShow: It is none.
    """
    import torch

    if not getattr(getattr(torch, name, None), "is_floating_point", False):
        raise CannotShow(f"--dtype {name!r} is no floating dtype of PyTorch", "write float32, bfloat16, float16, …")


def tensor_in(path: Path) -> torch.Tensor:
    """The one tensor of a checkpoint; nothing in the file is run.

    Raises:
        CannotShow: It holds several, or none.
        ConvInspectError: It cannot be read.
    """
    from convinspect.arrays.read import read_tensor
    from convinspect.arrays.to_torch import as_torch
    from convinspect.checkpoint import open_checkpoint

    tensors = list(open_checkpoint(path).tensors.values())
    if len(tensors) != 1:
        raise CannotShow(f"it holds {len(tensors)} tensors, and an input is one", "save each by itself", path)
    return as_torch(read_tensor(tensors[0]), tensors[0].dtype)
