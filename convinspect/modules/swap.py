"""Every chosen layer of a live model replaced, in place."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import nn

from convinspect.errors import CannotConvert
from convinspect.modules.choosing import Candidate, Where, candidates_of, unless, unless_referenced, unless_tied
from convinspect.modules.counterpart import (
    build_counterpart,
    exposed,
    is_target,
    is_turned,
    kind_of,
    plain_class,
    reason_to_stay,
)
from convinspect.modules.patch_counterpart import build_patches, patch_reason_to_stay, takes_patches
from convinspect.modules.patches import PatchLinear
from convinspect.modules.pointwise import PointwiseLinear
from convinspect.modules.state import obstacle
from convinspect.text import plural

Target: TypeAlias = Literal["linear", "conv1d", "conv2d", "conv3d"]


@dataclass(frozen=True, slots=True)
class Swap:
    """One layer that was replaced: its name in the model, its old class and its new one."""

    name: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """One chosen layer that was not replaced: its name, its class, and why."""

    name: str
    kind: str
    reason: str


Left = Skipped
"""Its former name."""


@dataclass(frozen=True, slots=True)
class Swaps:
    """What `swap_pointwise` did.

    Attributes:
        model: The model; a new object only if the given model was itself a layer to replace.
        swapped: Layers replaced, in the model's order.
        left: Chosen layers that were not replaced, with the reason.
    """

    model: nn.Module
    swapped: tuple[Swap, ...]
    left: tuple[Skipped, ...]

    def __repr__(self) -> str:
        return f"<swaps: {plural(len(self.swapped), 'layer')} replaced, {len(self.left):,} left>"


def swap_pointwise(model: nn.Module, to: Target = "linear", where: Where = None) -> Swaps:
    """Replace every pointwise layer of a model by one of the other kind, in place, so that the model runs as before.

    Args:
        model: Changed in place; convolutions keep taking `(N, C, …)`, as `PointwiseLinear`.
        to: "linear" takes pointwise Conv1d, Conv2d, Conv3d, ConvTranspose1d, 2d and 3d of stride 1 without padding
            and output_padding, and transformers' Conv1D; "conv1d", "conv2d" and "conv3d" take Linear, and leave
            convolutions of other dimensions, whose input is another. There and back gives the classes and numbers
            that were there, but that transformers' Conv1D stays a Linear.
        where: Names or globs ("encoder.*"), or a function of name and module; None for all.

    Returns:
        The layers that were swapped, and the chosen ones that were not, with the reason.

    Raises:
        NotThere: A name or glob matches no module.
        CannotConvert: `to` is no kind.

    Kept: dtype, device, requires_grad, grad, training flags, hooks, ties, weight norm, spectral norm, pruning, keys.
    A weight that other code reads by itself (`model.conv.weight`) has its new shape there too.

    `torch.compile`, `torch.export` and `torch.jit.trace` take swapped models; `torch.jit.script` takes none, and
    `torch.fx.symbolic_trace` takes them after `expose_linears` alone. Scripted layers stay, and are named.
    """
    if to not in ("linear", "conv1d", "conv2d", "conv3d"):
        raise CannotConvert(f"to={to!r} is no kind", "it is linear, conv1d, conv2d or conv3d")
    _refuse_wrapped(model)
    candidates = candidates_of(model, where, lambda module: is_target(module, to))
    candidates = [unless(each, reason_to_stay(each.module, each.parents, to)) for each in candidates]
    candidates = unless_referenced(model, candidates)
    candidates = unless_tied(model, candidates, is_turned)
    memo: dict[int, nn.Parameter] = {}
    return _replaced(model, candidates, lambda module: build_counterpart(module, to, True, memo))


def swap_patches(model: nn.Module, to: Literal["linear", "conv"] = "linear", where: Where = None) -> Swaps:
    """Replace every convolution whose stride is its kernel size by a `PatchLinear`, in place, so that the model runs as
    before: patch embeddings, downsamplings.

    Args:
        model: Changed in place.
        to: "linear" takes Conv1d, Conv2d and Conv3d; pointwise ones are left to `swap_pointwise`. "conv" takes
            `PatchLinear` back to the convolution that it was.
        where: As for `swap_pointwise`.

    Returns:
        As `swap_pointwise`. Convolutions whose windows overlap, or that have padding, dilation or groups, are among
        those that were left, with the reason.

    Raises:
        NotThere: A name or glob matches no module.
        CannotConvert: `to` is neither, or the model is wrapped for training on several devices.

    Kept: as by `swap_pointwise`. A weight `(O, C, kh, kw)` becomes `(O, C·kh·kw)`, the same numbers in the same order.
    """
    if to not in ("linear", "conv"):
        raise CannotConvert(f"to={to!r} is no kind", "it is linear or conv")
    _refuse_wrapped(model)
    candidates = candidates_of(model, where, lambda module: takes_patches(module, to))
    candidates = [unless(each, patch_reason_to_stay(each.module, each.parents)) for each in candidates]
    candidates = unless_tied(model, unless_referenced(model, candidates))
    memo: dict[int, nn.Parameter] = {}
    return _replaced(model, candidates, lambda module: build_patches(module, memo))


def expose_linears(model: nn.Module, where: Where = None) -> Swaps:
    """Give every `PointwiseLinear` and `PatchLinear` a plain `nn.Linear` as its child, in place, as tools want it.

    `torch.ao.quantization` (dynamic, static, FX), bitsandbytes, torchao and adapters replace `nn.Linear` and nothing
    else; they pass over a class of its own.

    Args:
        model: Changed in place, after `swap_pointwise` or `swap_patches`; takes and gives the same shapes.
        where: As for `swap_pointwise`.

    Returns:
        What was replaced by a `ChannelsFirstLinear`, and what was not and why. Parameters are the same objects; keys
        have one part more: `conv.linear.weight`.

    Raises:
        NotThere: A name or glob matches no module.
    """
    candidates = candidates_of(model, where, lambda module: plain_class(module) in (PointwiseLinear, PatchLinear))
    candidates = [unless(each, obstacle(each.module, keep_hooks=False)) for each in candidates]
    return _replaced(model, unless_referenced(model, candidates), exposed)


def _refuse_wrapped(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, _gradient_reducers()):
            problem = f"the model is wrapped in {type(module).__name__}, which would not know the new weights"
            raise CannotConvert(problem, "swap first, then wrap")


def _gradient_reducers() -> tuple[type[nn.Module], ...]:
    """Wrappers that keep lists of a model's parameters. A model that FSDP wraps has imported it; others need not."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    sharded = getattr(fsdp, "FullyShardedDataParallel", nn.parallel.DistributedDataParallel)
    return (nn.parallel.DistributedDataParallel, sharded)


def _replaced(model: nn.Module, candidates: list[Candidate], make: Callable[[nn.Module], nn.Module]) -> Swaps:
    """Replace every candidate that has no reason to stay."""
    swapped, skipped = [], []
    for candidate in candidates:
        kind = kind_of(candidate.module)
        if candidate.reason is not None:
            skipped.append(Skipped(candidate.names[0], kind, candidate.reason))
            continue
        new = make(candidate.module)
        for name, parent in zip(candidate.names, candidate.parents, strict=True):
            parent._modules[name.rpartition(".")[2]] = new
        model = new if candidate.module is model else model
        swapped.append(Swap(candidate.names[0], kind, plain_class(new).__name__))
    return Swaps(model, tuple(swapped), tuple(skipped))
