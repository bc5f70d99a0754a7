"""Weights whose numbers mean something only together with scales that are stored beside them.

Libraries call these scales `weight_scale_inv`, `scale`, `w_scale`, …, and keep them in the layer's own module or, under
the layer's name, in the one around it.
"""

from __future__ import annotations

from collections.abc import Mapping

from convinspect.dtypes import NUMBERS
from convinspect.records import Tensor

_ENDINGS = ("_scale", "_scale_inv", "_scales", "_weight_scale", "_weight_scale_inv")
"""What follows a layer's or a parameter's name in that of its scales."""


def may_need_scales(tensor: Tensor | None) -> bool:
    """Whether its numbers are float8 or integers, which are often codes."""
    if tensor is None or tensor.dtype == "bool":
        return False
    return tensor.dtype.startswith("float8_") or tensor.dtype not in NUMBERS


def says_scale(leaf: str) -> bool:
    """Whether a tensor of this name, in a module whose weight may need scales, is one."""
    return "scale" in leaf.lower()


def has_scales_beside(name: str, tensors: Mapping[str, Tensor] | None) -> bool:
    """Whether scales stand beside a layer or parameter under its own name: `w1_scale` beside `w1`.

    Args:
        name: Its last part.
        tensors: Of the module that it is part of; None where that holds none itself.
    """
    return tensors is not None and name != "" and any(f"{name}{ending}" in tensors for ending in _ENDINGS)
