"""Tensor subclasses that keep other tensors, so that their shape stands in more than one place."""

from __future__ import annotations

from convinspect.records import Tensor


def is_wrapped(tensor: Tensor) -> bool:
    """Whether it is a Tensor subclass around other tensors: a DTensor, a quantized one of torchao, any other."""
    return tensor.subclass is not None and (tensor.layout == "wrapped" or bool(tensor.parts))


def is_dtensor(tensor: Tensor) -> bool:
    """Whether it is PyTorch's DTensor, whose module has moved twice."""
    name = tensor.subclass or ""
    return name.startswith("torch.distributed.") and name.endswith(".DTensor")
