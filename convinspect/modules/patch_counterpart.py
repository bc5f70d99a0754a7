"""A live convolution that cuts its input into patches → its `PatchLinear`, and back: obstacles, and how it is built."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from convinspect.modules.counterpart import CONVS, code_obstacle, empty_layer, once, padding_of, plain_class, scripted
from convinspect.modules.patches import PatchLinear
from convinspect.modules.state import carry, norms_of, obstacle, stored_weight


def takes_patches(module: nn.Module, to: str) -> bool:
    """Whether a layer gets an answer where convolutions become "linear", or `PatchLinear`s "conv": it is replaced, or
    there is a reason why not. A pointwise convolution gets none, since its patches are single positions.
    """
    if to == "conv":
        return plain_class(module) is PatchLinear
    if isinstance(module, torch.jit.ScriptModule):
        return getattr(module, "original_name", "") in ("Conv1d", "Conv2d", "Conv3d")
    return isinstance(module, nn.modules.conv._ConvNd) and any(size != 1 for size in module.kernel_size)


def patch_reason_to_stay(module: nn.Module, parents: Iterable[nn.Module]) -> str | None:
    """Why a chosen layer cannot be replaced where it is used, or None.

    Args:
        module: A layer of those that `takes_patches` names.
        parents: The modules that hold it.
    """
    reason = scripted(module, parents)
    if reason is None and isinstance(module, nn.modules.conv._ConvNd):
        reason = patch_obstacle(module)
    return reason or obstacle(module, keep_hooks=True) or _norm_obstacle(module)


def patch_obstacle(conv: nn.modules.conv._ConvNd) -> str | None:
    """Why a convolution does not meet each number of its input once, or None."""
    if conv.transposed:
        return "it is a transposed convolution, whose weight is stored as (in, out, …)"
    if tuple(conv.stride) != tuple(conv.kernel_size):
        sizes = "×".join(map(str, conv.kernel_size))
        return f"its stride is {once(conv.stride)}, not its kernel size {sizes}, so its windows are no patches"
    if any(padding_of(conv)):
        return f"it has padding={once(padding_of(conv))}, so its patches do not begin where its input does"
    if any(step != 1 and size != 1 for step, size in zip(conv.dilation, conv.kernel_size, strict=True)):
        return f"it has dilation={once(tuple(conv.dilation))}, so a kernel does not cover a patch"
    if conv.groups != 1:
        return f"it has groups={conv.groups}, so its kernel is not a full matrix"
    return code_obstacle(conv)


def _norm_obstacle(module: nn.Module) -> str | None:
    """A norm over the inputs of each kernel stays what it is in a flat weight; one over each input does not."""
    for norm in norms_of(module):
        dim = getattr(norm, "dim", 0)
        # -1 is what weight_norm makes of dim=None, one norm for all numbers.
        if dim not in (0, -1):
            return f"its weight is normed along dimension {dim}, which the new weight does not have"
    return None


def build_patches(old: nn.Module, memo: dict[int, nn.Parameter]) -> nn.Module:
    """The `PatchLinear` in the place of a convolution, or the convolution in the place of a `PatchLinear`.

    Args:
        old: A module for which `patch_reason_to_stay` is None.
        memo: As for `carry`.
    """
    wide_out = stored_weight(old).shape[0]
    new: nn.Module
    if isinstance(old, PatchLinear):
        kernel, numbers = old.kernel_size, old.in_features
        new = empty_layer(CONVS[old.dims - 1], old.in_channels, wide_out, kernel, stride=kernel)
        shape = (old.in_channels, *kernel)

        def reshaped(tensor: torch.Tensor) -> torch.Tensor:
            # A norm's lengths have one number for each kernel.
            wide = shape if tensor.shape[1] == numbers else (1,) * len(shape)
            return tensor.reshape(tensor.shape[0], *wide)

        carry(old, new, reshaped, memo, keep_both=False)
        return new
    assert isinstance(old, nn.modules.conv._ConvNd)
    new = empty_layer(PatchLinear, old.in_channels, wide_out, tuple(old.kernel_size), dims=len(old.kernel_size))
    carry(old, new, lambda tensor: tensor.flatten(1), memo, keep_both=False)
    return new
