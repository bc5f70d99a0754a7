"""A live module's state → the module that takes its place: parameters, buffers, norms, hooks, flags.

`obstacle` names what cannot be carried over, before anything changes; `carry` carries over everything else.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from convinspect.text import with_article

Change = Callable[[torch.Tensor], torch.Tensor]
"""A weight, or a tensor of its dimensions, in its new shape."""

WEIGHTS = ("weight", "weight_g", "weight_v", "weight_orig", "weight_mask")
"""Tensors that may have the kernel's shape; spectral norm's 1-D `weight_v` is excluded by its rank."""

ORIGINALS = ("original", "original0", "original1")
"""Names under which a parametrization stores a weight."""

# Private classes, known by name so that a version without them does not break the import.
_PARAMETRIZATIONS = tuple(
    getattr(parametrizations, name) for name in ("_WeightNorm", "_SpectralNorm") if hasattr(parametrizations, name)
)
_FIELDS_OF_LAYERS = {
    "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "transposed", "output_padding",
    "groups", "padding_mode", "_reversed_padding_repeated_twice", "in_features", "out_features", "dims", "nf", "nx",
}  # fmt: skip


def obstacle(module: nn.Module, keep_hooks: bool) -> str | None:
    """Why a module's state cannot be carried over whole, or None.

    Args:
        module: The one to be replaced.
        keep_hooks: Its successor takes and gives the same shapes, so that hooks on inputs and outputs stay valid.
    """
    if "forward" in vars(module) or vars(module).get("_compiled_call_impl") is not None:
        return "its forward was replaced on the object itself (patched, or compiled); convert before that"
    inner = [name for name in module._modules if name != "parametrizations"]
    if inner:
        return f"it holds modules of its own ({', '.join(inner[:3])}), which its successor would not have"
    for name, parameter in [*_own_parameters(module), *_originals(module)]:
        if isinstance(parameter, nn.UninitializedParameter):
            return "its weight has no shape before the first input (a lazy module)"
        if type(parameter) is not nn.Parameter or type(parameter.data) is not torch.Tensor:
            kind = type(parameter) if type(parameter) is not nn.Parameter else type(parameter.data)
            if kind.__name__ == "DTensor":
                return f"its {name} is sharded (a DTensor): swap first, then shard the model"
            return f"its {name} is {with_article(kind.__name__)}, which only its own library can reshape"
        if parameter.is_inference() and name in (*WEIGHTS, *ORIGINALS):
            return f"its {name} was made under torch.inference_mode(), and so cannot become another parameter"
        watched = parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None)
        if watched and name in (*WEIGHTS, *ORIGINALS):
            return f"its {name} has a hook of its own (register_hook), which a new parameter would not call"
    return _parametrization_obstacle(module) or _norm_obstacle(module) or _hook_obstacle(module, keep_hooks)


def _own_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in module._parameters.items() if parameter is not None)


def _originals(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    if parametrize.is_parametrized(module):
        for listed in _parametrizations(module).values():
            yield from _own_parameters(listed)


def _parametrizations(module: nn.Module) -> Any:
    """Its ParametrizationLists by the computed tensor's name; PyTorch's own annotation is only `Module`."""
    return module.parametrizations


def _parametrization_obstacle(module: nn.Module) -> str | None:
    if not parametrize.is_parametrized(module):
        return None
    for name, listed in _parametrizations(module).items():
        known = name == "weight" and len(listed) == 1 and isinstance(listed[0], _PARAMETRIZATIONS)
        if not known:
            classes = ", ".join(type(part).__name__ for part in listed)
            return f"its {name} is computed by {classes}, which may depend on the weight's shape"
        # Pruning renames tensors there, and any hook may change the result.
        more = sorted({*listed._parameters, *listed._buffers}.difference(ORIGINALS))
        more += [kind for kind, hooks in _hooks(listed) if isinstance(hooks, dict) and hooks]
        if more:
            return f"the parametrization of its {name} has more than PyTorch gives it ({more[0]}): pruning, or a hook"
    return None


def _norm_obstacle(module: nn.Module) -> str | None:
    """Why a norm cannot be carried over: one over the kernel's positions would become another norm. Or None."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm | SpectralNorm | prune.BasePruningMethod):
            name = str(getattr(hook, "_tensor_name", None) or getattr(hook, "name", ""))
            if name not in ("weight", "bias"):
                return f"its {name}, of which its weight is computed, is itself under {type(hook).__name__}"
    for norm in norms_of(module):
        if getattr(norm, "dim", 0) not in (0, 1, -1):
            return f"its weight is normed along dimension {norm.dim}, which the new weight does not have"
    return None


def transposing_obstacle(module: nn.Module) -> str | None:
    """Why a module's weight cannot be transposed, or None; for modules without an `obstacle`."""
    norms = [type(norm).__name__.removeprefix("_") for norm in norms_of(module)]
    if norms:
        return f"its weight is under a norm ({norms[0]}), whose dimension and vectors are not those of the transpose"
    return None


def norms_of(module: nn.Module) -> list[Any]:
    """The norms of a module's weight, as hooks or as parametrizations."""
    hooks = [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, WeightNorm | SpectralNorm)]
    return hooks + (list(_parametrizations(module)["weight"]) if parametrize.is_parametrized(module) else [])


def _hooks(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Names of a module's attributes that hold hooks, with their dictionaries."""
    return ((name, hooks) for name, hooks in vars(module).items() if "hook" in name)


def _is_of_weights(hook: Any) -> bool:
    """Whether a hook is PyTorch's norm or pruning: these work on parameters of any shape, and never see an input."""
    inner = getattr(hook, "hook", hook)
    owner = getattr(inner, "__module__", None) or type(inner).__module__
    return isinstance(inner, prune.BasePruningMethod) or owner.startswith("torch.nn.utils.")


def _hook_obstacle(module: nn.Module, keep_hooks: bool) -> str | None:
    if keep_hooks:
        return None
    for name, hooks in _hooks(module):
        if isinstance(hooks, dict) and not all(_is_of_weights(hook) for hook in hooks.values()):
            return f"it has hooks ({name}), and its input changes shape; remove them, or use swap_pointwise"
    return None


@torch.inference_mode(False)
def carry(old: nn.Module, new: nn.Module, change: Change, memo: dict[int, nn.Parameter], keep_both: bool) -> None:
    """Give `new` all of `old`'s state, with reshaped weights. Memory is shared, not copied, where strides allow.

    An unchanged parameter is the same object in both.

    Args:
        old: The module to replace, without an `obstacle`.
        new: Newly built; its own parameters are dropped.
        change: Applied to tensors of the weight's rank; returns the same tensor object to leave it unchanged.
        memo: Changed parameters by the old one's id, so that a shared parameter stays shared.
        keep_both: Both modules stay in use, so hooks and buffers are copied. Else `new` takes over the dictionaries of
            hooks themselves, so that existing handles can still remove a hook.
    """
    dims = stored_weight(old).dim()

    def changed(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return change(tensor) if name in WEIGHTS and tensor.dim() == dims else tensor

    # Not by `setattr`: a module's `__setattr__` checks each value, which is slow.
    vars(new)["_parameters"] = {
        name: None if value is None else _parameter(value, lambda t, name=name: changed(name, t), memo)  # type: ignore[misc]
        for name, value in old._parameters.items()
    }
    vars(new)["_buffers"] = {
        name: None if buffer is None else changed(name, buffer.clone() if keep_both else buffer)
        for name, buffer in old._buffers.items()
    }
    vars(new)["_non_persistent_buffers_set"] = set(old._non_persistent_buffers_set)
    for name, value in vars(old).items():
        if "hook" in name:
            vars(new)[name] = _copied_hooks(value) if keep_both else value
            _point_at(new, vars(new)[name])
        elif name in ("weight", "bias") and isinstance(value, torch.Tensor):
            # The result that an old-style norm or pruning computed last.
            vars(new)[name] = changed(name, value.detach())
        elif name not in vars(new) and name not in _FIELDS_OF_LAYERS:
            vars(new)[name] = value
    if parametrize.is_parametrized(old):
        _carry_parametrization(old, new, change, memo, keep_both)
    new.train(old.training)


def stored_weight(module: nn.Module) -> torch.Tensor:
    """The stored tensor with the kernel's shape. A computed weight is not read: that would run a power iteration."""
    tensor: torch.Tensor
    if parametrize.is_parametrized(module):
        listed: Any = _parametrizations(module)["weight"]
        tensor = listed.original if hasattr(listed, "original") else listed.original1
        return tensor.detach()
    name = next((leaf for leaf in ("weight_orig", "weight_v") if leaf in module._parameters), "weight")
    tensor = getattr(module, name)
    return tensor.detach()


def _copied_hooks(hooks: Any) -> Any:
    """Hooks for a second module: those of norms and pruning are copied, since they have state; others are shared."""
    if not isinstance(hooks, dict):
        return hooks
    copied = copy.copy(hooks)
    for key, hook in hooks.items():
        if getattr(hook, "with_module", False) or _is_of_weights(hook):
            copied[key] = copy.copy(hook)
    return copied


def _point_at(new: nn.Module, hooks: Any) -> None:
    """Make hooks on loading refer to the new module; they hold a weak reference to their module."""
    for hook in hooks.values() if isinstance(hooks, dict) else ():
        if getattr(hook, "with_module", False):
            hook.module = weakref.ref(new)


def _parameter(old: nn.Parameter, change: Change, memo: dict[int, nn.Parameter]) -> nn.Parameter:
    if id(old) not in memo:
        stored = old.detach()
        data = change(stored)
        if data is stored:
            memo[id(old)] = old
        else:
            memo[id(old)] = new = nn.Parameter(data, requires_grad=old.requires_grad)
            # Attributes that training code sets, such as `weight._no_weight_decay`.
            vars(new).update(vars(old))
            if old.grad is not None:
                new.grad = change(old.grad)
    return memo[id(old)]


def _carry_parametrization(
    old: nn.Module, new: nn.Module, change: Change, memo: dict[int, nn.Parameter], keep_both: bool
) -> None:
    listed = _parametrizations(old)["weight"]
    stored = stored_weight(old)
    dims = stored.dim()
    new._parameters["weight"] = nn.Parameter(change(stored))
    parametrize.register_parametrization(
        new, "weight", copy.deepcopy(listed[0]) if keep_both else listed[0], unsafe=True
    )
    after = _parametrizations(new)["weight"]
    for name, parameter in _own_parameters(listed):
        setattr(after, name, _parameter(parameter, lambda t: change(t) if t.dim() == dims else t, memo))
