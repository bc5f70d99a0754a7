"""A checkpoint's weights → a live model of the user's own code, loaded strictly, its layers swapped where asked."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from convinspect.arrays.read import read_tensor
from convinspect.arrays.to_torch import as_torch
from convinspect.checkpoint import Checkpoint
from convinspect.errors import CannotConvert, CannotShow
from convinspect.formats.torch.objects import plain_values, read_objects
from convinspect.kinds import TARGETS
from convinspect.modules import swap_pointwise
from convinspect.records import Container, Tensor

_TARGETS = {kind: name for name, kind in TARGETS.items()}
_EXTRA = "_extra_state"
"""How the keys end under which `state_dict()` keeps what `get_extra_state` gives."""


@dataclass(frozen=True, slots=True)
class Loading:
    """How a checkpoint went into a model.

    Attributes:
        problem: What does not fit; "" when all does.
        notes: What was supplied beside the file's tensors.
    """

    problem: str = ""
    notes: tuple[str, ...] = ()


def load_strictly(model: nn.Module, checkpoint: Checkpoint) -> Loading:
    """Load all of a checkpoint's root into a model.

    Names that the model ties to others count as there where safetensors keep only one of them, as they do for
    `safetensors.torch.load_model`; plain values that modules save by `get_extra_state` are taken from the file.
    """
    wanted = model.state_dict(keep_vars=True)
    tensors = _as_named(checkpoint, wanted)
    state: dict[str, Any]
    try:
        state = {key: as_torch(read_tensor(tensor), tensor.dtype) for key, tensor in tensors.items()}
    except CannotShow as error:
        raise error.at(checkpoint.path) from None
    state |= _extra_states(checkpoint, [key for key in wanted if key not in state and key.endswith(_EXTRA)])
    notes = []
    if checkpoint.container is Container.SAFETENSORS:
        ties = {key: tie for key in wanted if key not in state and (tie := _tie(wanted, key, state)) is not None}
        notes = [f"{key} is not in {checkpoint.path.name}: the model ties it to {tie}" for key, tie in ties.items()]
        state |= {key: state[tie] for key, tie in ties.items()}
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
        problem = "; ".join(lines[:2]) + (f" (and {len(lines) - 2} more)" if len(lines) > 2 else "")
        lost = [key for key in wanted if key not in state and key.endswith(_EXTRA)]
        if lost:
            problem += f"; {lost[0]} is not read where it is more than plain values, since nothing in a file is run"
        return Loading(problem, tuple(notes))
    return Loading("", tuple(notes))


def _extra_states(checkpoint: Checkpoint, keys: Collection[str]) -> dict[str, Any]:
    """Of these keys, those whose values in the file are plain."""
    objects = read_objects(checkpoint.path) if keys else None
    found = {} if objects is None else plain_values(objects, checkpoint.root.path)
    return {key: found[key] for key in keys if key in found}


def _tie(wanted: Mapping[str, Any], key: str, state: Mapping[str, Any]) -> str | None:
    """Another name of a model's parameter, under which it is there; None where there is none."""
    return next((other for other, one in wanted.items() if one is wanted[key] and other in state), None)


def under_own_names(model: nn.Module, stored: Checkpoint, renamed: Checkpoint) -> bool:
    """Whether a model has the names of the file rather than those that a renaming gave it."""
    wanted = model.state_dict()
    fits = [len(_as_named(one, wanted).keys() & wanted.keys()) for one in (stored, renamed)]
    return fits[0] > fits[1]


def _as_named(checkpoint: Checkpoint, wanted: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """The root's tensors under the names that a model has more of: as stored, or without wrappers' prefixes."""
    stored = {tensor.key: tensor for tensor in checkpoint.root.tensors}
    clean = checkpoint.tensors
    return stored if len(stored.keys() & wanted.keys()) >= len(clean.keys() & wanted.keys()) else clean


def swap_layers(model: nn.Module, kinds: Mapping[str, str]) -> None:
    """Give the named layers their new kind.

    Raises:
        CannotConvert: One of them cannot be swapped.
    """
    for kind in dict.fromkeys(kinds.values()):
        names = {name for name, one in kinds.items() if one == kind}
        if kind not in _TARGETS:
            raise CannotConvert(f"layers became {kind}, which is not swapped here", "give --model-after")
        swaps = swap_pointwise(model, _TARGETS[kind], lambda name, module, names=names: name in names)  # type: ignore[arg-type, misc]
        if swaps.left:
            one = swaps.left[0]
            raise CannotConvert(f"layer {one.name} of the model cannot be swapped: {one.reason}", "give --model-after")
        lost = names - {one.name for one in swaps.swapped}
        if lost:
            raise CannotConvert(f"the model has no layer {sorted(lost)[0]} to swap", "give --model-after")
