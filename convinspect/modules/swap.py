"""What `convinspect.modules` offers: one layer converted, or every layer of a model swapped."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal, TypeAlias

from torch import nn

from convinspect.errors import CannotConvert, NotThere
from convinspect.modules.counterpart import (
    CONVS,
    POINTWISE,
    build_counterpart,
    exposed,
    is_target,
    is_transformers,
    kernel_obstacle,
    kind_of,
    linear_obstacle,
    plain_class,
    position_obstacle,
    reason_to_stay,
    transformers_obstacle,
)
from convinspect.modules.pointwise import (
    ChannelsFirstLinear,
    PointwiseConv1d,
    PointwiseConv2d,
    PointwiseConv3d,
    PointwiseLinear,
)
from convinspect.modules.references import outside_references
from convinspect.modules.state import ORIGINALS, WEIGHTS, obstacle
from convinspect.text import closest, plural, with_article

__all__ = [
    "ChannelsFirstLinear",
    "Left",
    "PointwiseConv1d",
    "PointwiseConv2d",
    "PointwiseConv3d",
    "PointwiseLinear",
    "Skipped",
    "Swap",
    "Swaps",
    "conv1d_to_linear",
    "conv2d_to_linear",
    "conv3d_to_linear",
    "expose_linears",
    "linear_to_conv1d",
    "linear_to_conv2d",
    "linear_to_conv3d",
    "swap_pointwise",
    "transformers_to_linear",
]  # fmt: skip

Target: TypeAlias = Literal["linear", "conv1d", "conv2d", "conv3d"]
Where: TypeAlias = str | Iterable[str] | Callable[[str, nn.Module], bool] | None


# --------------------------------------------------------------------------------------------------- one module


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


# ------------------------------------------------------------------------------------------------- a whole model


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


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A chosen layer of the right kind.

    Attributes:
        module: The layer.
        names: All of its names in the model.
        parents: The module that each name goes through.
        reason: Why it stays, or None.
    """

    module: nn.Module
    names: tuple[str, ...]
    parents: tuple[nn.Module, ...]
    reason: str | None = None


def swap_pointwise(model: nn.Module, to: Target = "linear", where: Where = None) -> Swaps:
    """Replace every pointwise layer of a model by one of the other kind, in place, so that the model runs as before.

    Args:
        model: Changed in place; convolutions keep taking `(N, C, …)`, as `PointwiseLinear`.
        to: "linear" takes pointwise Conv1d, Conv2d, Conv3d and transformers' Conv1D; "conv1d", "conv2d" and
            "conv3d" take Linear, and leave convolutions of other dimensions, whose input is another. There and back
            gives the classes and numbers that were there, but that transformers' Conv1D stays a Linear.
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
    for module in model.modules():
        if isinstance(module, _gradient_reducers()):
            problem = f"the model is wrapped in {type(module).__name__}, which would not know the new weights"
            raise CannotConvert(problem, "swap first, then wrap")
    candidates = _candidates(model, where, lambda module: is_target(module, to))
    candidates = [_unless(each, reason_to_stay(each.module, each.parents, to)) for each in candidates]
    candidates = _unless_referenced(model, candidates)
    candidates = _unless_tied(model, candidates)
    memo: dict[int, nn.Parameter] = {}
    return _replaced(model, candidates, lambda module: build_counterpart(module, to, True, memo))


def expose_linears(model: nn.Module, where: Where = None) -> Swaps:
    """Give every `PointwiseLinear` of a model a plain `nn.Linear` as its child, in place, for tools that look for it.

    `torch.ao.quantization` (dynamic, static, FX), bitsandbytes, torchao and adapters replace `nn.Linear` and nothing
    else; they pass over a class of its own.

    Args:
        model: Changed in place, after `swap_pointwise`; takes and gives the same shapes.
        where: As for `swap_pointwise`.

    Returns:
        What was replaced by a `ChannelsFirstLinear`, and what was not and why. Parameters are the same objects; keys
        have one part more: `conv.linear.weight`.

    Raises:
        NotThere: A name or glob matches no module.
    """
    candidates = _candidates(model, where, lambda module: plain_class(module) is PointwiseLinear)
    candidates = [_unless(each, obstacle(each.module, keep_hooks=False)) for each in candidates]
    return _replaced(model, _unless_referenced(model, candidates), exposed)


def _gradient_reducers() -> tuple[type[nn.Module], ...]:
    """Wrappers that keep lists of a model's parameters. A model that FSDP wraps has imported it; others need not."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    sharded = getattr(fsdp, "FullyShardedDataParallel", nn.parallel.DistributedDataParallel)
    return (nn.parallel.DistributedDataParallel, sharded)


def _unless(candidate: _Candidate, reason: str | None) -> _Candidate:
    """The candidate with a reason to stay, unless it already has one."""
    return candidate if reason is None or candidate.reason is not None else replace(candidate, reason=reason)


def _replaced(model: nn.Module, candidates: list[_Candidate], make: Callable[[nn.Module], nn.Module]) -> Swaps:
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


def _candidates(model: nn.Module, where: Where, is_target: Callable[[nn.Module], bool]) -> list[_Candidate]:
    """The chosen modules of the right kinds, each once."""
    places: dict[int, list[tuple[str, nn.Module | None, nn.Module]]] = {}
    for name, parent, module in _places(model):
        if is_target(module):
            places.setdefault(id(module), []).append((name, parent, module))
    is_chosen = _chooser(model, where)
    candidates = []
    for listed in places.values():
        names = tuple(name for name, _, _ in listed)
        # The model itself has no parent; an empty module takes its place, and `Swaps.model` returns the successor.
        parents = tuple(nn.Module() if parent is None else parent for _, parent, _ in listed)
        module = listed[0][2]
        chosen = [is_chosen(name, module) for name in names]
        if any(chosen):
            missed = None if all(chosen) else f"it is also {names[chosen.index(False)]}, which was not chosen"
            candidates.append(_Candidate(module, names, parents, missed))
    return candidates


def _places(model: nn.Module) -> Iterator[tuple[str, nn.Module | None, nn.Module]]:
    """Every name of every module, with its parent, in the model's order; a shared module comes once for each name."""
    yield "", None, model
    seen: set[int] = set()
    todo: list[tuple[str, nn.Module | None, nn.Module]] = [("", None, model)]
    while todo:
        name, parent, module = todo.pop()
        if parent is not None:
            yield name, parent, module
        if id(module) in seen:
            continue
        seen.add(id(module))
        children = [(key, child) for key, child in module._modules.items() if child is not None]
        todo += [(f"{name}.{key}" if name else key, module, child) for key, child in reversed(children)]


def _chooser(model: nn.Module, where: Where) -> Callable[[str, nn.Module], bool]:
    if where is None:
        return lambda name, module: True
    if callable(where):
        return where
    patterns = [where] if isinstance(where, str) else list(where)
    names = [name for name, _, _ in _places(model)]
    for pattern in patterns:
        if pattern not in names and not any(fnmatchcase(name, pattern) for name in names):
            raise NotThere(f"no module matches {pattern!r}", closest(pattern, [name for name in names if name]))
    return lambda name, module: any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)


def _unless_referenced(model: nn.Module, candidates: list[_Candidate]) -> list[_Candidate]:
    """Layers stay if the model also refers to them, or to their weights, outside PyTorch's registers."""
    owners: dict[int, int] = {}
    for candidate in candidates:
        if candidate.reason is None:
            ids = map(id, (candidate.module, *candidate.module.parameters(recurse=True)))
            owners |= dict.fromkeys(ids, id(candidate.module))
    reasons = {
        owners[referenced]: f"the model also keeps it in {place}, which would stay with the old one"
        for referenced, place in outside_references(model, set(owners)).items()
    }
    return [_unless(candidate, reasons.get(id(candidate.module))) for candidate in candidates]


def _unless_tied(model: nn.Module, candidates: list[_Candidate]) -> list[_Candidate]:
    """Layers stay if they share a parameter with one that stays: it changes in all of them or in none."""
    ties = _ties(model, candidates)
    reasons = {place: candidate.reason for place, candidate in enumerate(candidates)}
    changed = True
    while changed:
        # Repeated, since a layer that stays makes those tied to it stay, and these others.
        changed = False
        for owners in ties:
            keeper = next((name for name, owner in owners if owner is None or reasons[owner] is not None), None)
            for _, owner in owners if keeper is not None else ():
                if owner is not None and reasons[owner] is None:
                    reasons[owner] = f"its weight is tied to {keeper}, which does not change"
                    changed = True
    return [_unless(candidate, reasons[place]) for place, candidate in enumerate(candidates)]


def _ties(model: nn.Module, candidates: list[_Candidate]) -> list[list[tuple[str, int | None]]]:
    """For each parameter its names, each with the index of the candidate that would change it, or None."""
    owners = {id(part): place for place, candidate in enumerate(candidates) for part in candidate.module.modules()}
    ties: dict[int, list[tuple[str, int | None]]] = {}
    for name, module in model.named_modules():
        owner = owners.get(id(module))
        for key, parameter in module._parameters.items():
            if parameter is not None:
                # Only these names are reshaped; under other names a parameter does not change.
                changes = owner if key in (*WEIGHTS, *ORIGINALS) else None
                ties.setdefault(id(parameter), []).append((f"{name}.{key}" if name else key, changes))
    return list(ties.values())
