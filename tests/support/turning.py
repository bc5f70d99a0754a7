"""A model of oblong and square matrices, and its state with all of them stored as (in, out)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def model(bias: bool = True) -> nn.Sequential:
    """Two square matrices between oblong ones; one of the squares never has a bias."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 4, bias=bias), nn.Linear(4, 4, bias=bias), nn.Linear(4, 4, bias=False), nn.Linear(4, 5, bias=bias)
    )


def turned(state: dict[str, Any]) -> dict[str, Any]:
    """The state with each matrix transposed."""
    return {key: value.t().contiguous() if value.dim() == 2 else value for key, value in state.items()}
