"""A checkpoint's weights → a live model of the user's own code, loaded strictly, its layers swapped where asked."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from convinspect.arrays.read import read_tensor
from convinspect.arrays.to_torch import as_torch
from convinspect.checkpoint import Checkpoint
from convinspect.errors import CannotConvert, CannotShow, Option, Wording
from convinspect.formats.sources import short_name
from convinspect.formats.torch.objects import plain_values, read_objects
from convinspect.kinds import CONV_TRANSPOSES, TARGETS
from convinspect.modules import PatchLinear, swap_patches, swap_pointwise
from convinspect.records import Container, Tensor

_TARGETS = {kind: name for name, kind in TARGETS.items() if kind not in CONV_TRANSPOSES}
_EXTRA = "_extra_state"
"""How the keys end under which `state_dict()` keeps what `get_extra_state` gives."""


_GIVE_CODE = Wording("give ", Option("model_after", None))


@dataclass(frozen=True, slots=True)
class Loading:
    """The result of loading a checkpoint into a model.

    Attributes:
        problem: What does not fit; "" when all does.
        notes: Tied tensors that were supplied although the file does not hold them.
    """

    problem: str = ""
    notes: tuple[str, ...] = ()


def load_strictly(model: nn.Module, checkpoint: Checkpoint) -> Loading:
    """Load all of a checkpoint's root into a model.

    A safetensors file keeps one name of each tie; the other names count as present, as in
    `safetensors.torch.load_model`. Plain values that modules save by `get_extra_state` are taken from the file.
    """
    own = model.state_dict(keep_vars=True)
    tensors = _as_named(checkpoint, own)
    state: dict[str, Any]
    try:
        state = {key: as_torch(read_tensor(tensor), tensor.dtype) for key, tensor in tensors.items()}
    except CannotShow as error:
        raise error.at(checkpoint.path) from None
    state |= _extra_states(checkpoint, [key for key in own if key not in state and key.endswith(_EXTRA)])
    notes = []
    if checkpoint.container is Container.SAFETENSORS:
        ties = {key: tie for key in own if key not in state and (tie := _tie(own, key, state)) is not None}
        notes = [
            f"{key} is not in {short_name(checkpoint.path)}: the model ties it to {tie}" for key, tie in ties.items()
        ]
        state |= {key: state[tie] for key, tie in ties.items()}
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        missing = [key for key in own if key not in state and key.endswith(_EXTRA)]
        return Loading(_problem(error, missing), tuple(notes))
    return Loading("", tuple(notes))


def _problem(error: RuntimeError, missing: Sequence[str]) -> str:
    """PyTorch's message for a state_dict that does not fit, in one line.

    Args:
        error: What `load_state_dict` raised.
        missing: Extra states that were not read.
    """
    lines = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
    problem = "; ".join(lines[:2]) + (f" (and {len(lines) - 2} more)" if len(lines) > 2 else "")
    if missing:
        problem += f"; {missing[0]} is not read where it is more than plain values, since nothing in a file is run"
    return problem


def _extra_states(checkpoint: Checkpoint, keys: Collection[str]) -> dict[str, Any]:
    """Values from the file for those of these keys that are plain values."""
    objects = read_objects(checkpoint.path) if keys else None
    values = {} if objects is None else plain_values(objects, checkpoint.root.path)
    return {key: values[key] for key in keys if key in values}


def _tie(own: Mapping[str, Any], key: str, state: Mapping[str, Any]) -> str | None:
    """Another name of the model's tied parameter that the state holds; None if there is none."""
    return next((name for name, parameter in own.items() if parameter is own[key] and name in state), None)


def under_own_names(model: nn.Module, stored: Checkpoint, renamed: Checkpoint) -> bool:
    """Whether the model's keys match the file's names better than the renamed ones."""
    own = model.state_dict()
    fits = [len(_as_named(checkpoint, own).keys() & own.keys()) for checkpoint in (stored, renamed)]
    return fits[0] > fits[1]


def _as_named(checkpoint: Checkpoint, own: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """The root's tensors by the names that match more of the model's keys: as stored, or without wrappers' prefixes."""
    stored = {tensor.key: tensor for tensor in checkpoint.root.tensors}
    clean = checkpoint.tensors
    return stored if len(stored.keys() & own.keys()) >= len(clean.keys() & own.keys()) else clean


def swap_layers(model: nn.Module, kinds: Mapping[str, str], after: Checkpoint | None = None) -> None:
    """Give the named layers their new kind.

    Args:
        model: Changed in place.
        kinds: Kinds after, by the layer's name.
        after: The checkpoint after; None where no kernel is larger than 1.

    Raises:
        CannotConvert: One of them cannot be swapped.
    """
    for kind in dict.fromkeys(kinds.values()):
        names = {name for name, kind_after in kinds.items() if kind_after == kind}
        if kind not in _TARGETS:
            raise CannotConvert(f"layers became {kind}, which is not swapped here", _GIVE_CODE)
        of_patches = {name for name, module in model.named_modules() if name in names and _takes_images(module)}
        larger = {
            name for name in names - of_patches if after is not None and _is_larger(after.tensors.get(f"{name}.weight"))
        }
        if larger:
            problem = f"layer {min(larger)} of the model is given flattened patches, and the convolution is not"
            raise CannotConvert(problem, _GIVE_CODE)
        for some, swap in ((names - of_patches, swap_pointwise), (of_patches, swap_patches)):
            to = _TARGETS[kind] if swap is swap_pointwise or kind == "Linear" else "conv"
            swaps = swap(model, to, lambda name, module, some=some: name in some)  # type: ignore[arg-type, misc]
            if swaps.left:
                left = swaps.left[0]
                problem = Wording(f"layer {left.name} of the model cannot be swapped: ", left.reason)
                raise CannotConvert(problem, _GIVE_CODE)
            missing = some - {swap.name for swap in swaps.swapped}
            if missing:
                raise CannotConvert(f"the model has no layer {min(missing)} to swap", _GIVE_CODE)


def _takes_images(module: nn.Module) -> bool:
    """Whether it is a convolution of a larger kernel, or stands for one."""
    larger = isinstance(module, nn.modules.conv._ConvNd) and any(size != 1 for size in module.kernel_size)
    return larger or isinstance(module, PatchLinear)


def _is_larger(weight: Tensor | None) -> bool:
    return weight is not None and any(size != 1 for size in weight.shape[2:])
