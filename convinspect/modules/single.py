"""One layer → a new one of the other kind, beside which it lives on."""

from __future__ import annotations

from torch import nn

from convinspect.errors import CannotConvert
from convinspect.modules.counterpart import (
    CONVS,
    POINTWISE,
    build_counterpart,
    is_transformers,
    kernel_obstacle,
    linear_obstacle,
    position_obstacle,
    transformers_obstacle,
)
from convinspect.modules.pointwise import PointwiseLinear
from convinspect.modules.state import obstacle
from convinspect.text import with_article


def conv1d_to_linear(conv: nn.Conv1d) -> nn.Linear:
    """The Linear that computes the same at each position.

    Args:
        conv: Kernel size 1, stride 1, padding 0, groups 1; takes `(N, C, L)`; weight `(O, I, 1)`.

    Returns:
        A Linear of weight `(O, I)` that takes `(N, L, C)`: `linear(x.mT).mT` equals `conv(x)` up to rounding.
        dtype, device, requires_grad, grad, training flag, weight norm, spectral norm and pruning are kept.

    Raises:
        CannotConvert: It does what a Linear cannot, or holds what cannot be carried over; the message names it.
    """
    return _to_linear(conv, 1)


def conv2d_to_linear(conv: nn.Conv2d) -> nn.Linear:
    """As `conv1d_to_linear`, from weight `(O, I, 1, 1)`; the Linear takes `(N, H, W, C)`."""
    return _to_linear(conv, 2)


def conv3d_to_linear(conv: nn.Conv3d) -> nn.Linear:
    """As `conv1d_to_linear`, from weight `(O, I, 1, 1, 1)`; the Linear takes `(N, D, H, W, C)`."""
    return _to_linear(conv, 3)


def linear_to_conv1d(linear: nn.Linear) -> nn.Conv1d:
    """The Conv1d of kernel size 1 that computes the same.

    Args:
        linear: Weight `(O, I)`, takes `(…, I)`. A `PointwiseLinear` gives back its stride and padding.

    Returns:
        A Conv1d of weight `(O, I, 1)` that takes `(N, I, L)`.

    Raises:
        CannotConvert: As `conv1d_to_linear`.
    """
    conv = _to_conv(linear, 1)
    assert isinstance(conv, nn.Conv1d)
    return conv


def linear_to_conv2d(linear: nn.Linear) -> nn.Conv2d:
    """As `linear_to_conv1d`, to weight `(O, I, 1, 1)`, taking `(N, I, H, W)`."""
    conv = _to_conv(linear, 2)
    assert isinstance(conv, nn.Conv2d)
    return conv


def linear_to_conv3d(linear: nn.Linear) -> nn.Conv3d:
    """As `linear_to_conv1d`, to weight `(O, I, 1, 1, 1)`, taking `(N, I, D, H, W)`."""
    conv = _to_conv(linear, 3)
    assert isinstance(conv, nn.Conv3d)
    return conv


def transformers_to_linear(layer: nn.Module) -> nn.Linear:
    """The Linear of transformers' `Conv1D`, a Linear whose weight is stored transposed.

    Args:
        layer: Weight `(I, O)`; takes `(…, I)`.

    Returns:
        A Linear of weight `(O, I)` that takes the same; the weight is a copy.

    Raises:
        CannotConvert: It is no such layer, or holds what cannot be carried over.
    """
    if not is_transformers(layer):
        raise CannotConvert(f"{with_article(type(layer).__name__)} is no transformers Conv1D")
    _refuse(transformers_obstacle(layer))
    return build_counterpart(layer, "linear", False, {})  # type: ignore[return-value]


def _to_linear(conv: nn.Module, dims: int) -> nn.Linear:
    if not isinstance(conv, CONVS[dims - 1]):
        raise CannotConvert(f"{with_article(type(conv).__name__)} is no Conv{dims}d")
    _refuse(kernel_obstacle(conv) or position_obstacle(conv) or obstacle(conv, isinstance(conv, POINTWISE)))
    return build_counterpart(conv, "linear", False, {})  # type: ignore[return-value]


def _to_conv(linear: nn.Module, dims: int) -> nn.Module:
    if not isinstance(linear, nn.Linear):
        raise CannotConvert(f"{with_article(type(linear).__name__)} is no Linear")
    _refuse(linear_obstacle(linear, dims) or obstacle(linear, isinstance(linear, PointwiseLinear)))
    return build_counterpart(linear, f"conv{dims}d", False, {})


def _refuse(reason: str | None) -> None:
    if reason is not None:
        raise CannotConvert(reason)
