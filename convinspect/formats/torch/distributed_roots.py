"""The roots of a distributed checkpoint, whose keys are whole paths: the model, and each optimizer's state beside it.

`{"model": …, "optim": …}` is saved as `model.fc.weight` and `optim.state.fc.weight.exp_avg`, and of an optimizer's
param_groups each setting is an object of its own, `optim.param_groups.0.lr`.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Sequence

from convinspect.keys.others import Other
from convinspect.records import Root, Tensor

_OPTIMIZERS = {"optim", "optimizer", "optimizer_state"}
_NAMED = re.compile(r"optim(izer)?s?(_\w+)?")
_PARTS = ("state", "param_groups")
_DEEPEST = 3
"""Levels at which an optimizer is looked for: `{"app": {"optim": …}}` has two."""


def optimizer_of(key: str) -> str:
    """The front of a key that is an optimizer's, such as "optim"; "" of all else."""
    parts = key.split(".", _DEEPEST + 1)
    if parts[0] in _OPTIMIZERS:
        return parts[0]
    for level, part in enumerate(parts[:_DEEPEST]):
        if _NAMED.fullmatch(part) and parts[level + 1 : level + 2] and parts[level + 1] in _PARTS:
            return ".".join(parts[: level + 1])
    return ""


def split(tensors: Iterable[Tensor], others: tuple[Other, ...], objects: Iterable[str]) -> list[Root]:
    """The tensors of each root.

    Args:
        tensors: All of them.
        others: Keys of the model whose values are no tensors.
        objects: Keys of all that is no tensor.
    """
    model: list[Tensor] = []
    optimizers: dict[str, list[Tensor]] = {}
    for tensor in tensors:
        front = optimizer_of(tensor.key)
        (optimizers.setdefault(front, []) if front else model).append(tensor)
    groups: dict[str, set[str]] = {}
    for key in objects if optimizers else ():
        front = optimizer_of(key)
        if key.startswith(f"{front}.param_groups."):
            groups.setdefault(front, set()).add(key.rpartition(".")[2])
    roots = [Root("", "model", tuple(model), others=others)]
    for front, states in optimizers.items():
        path = "optimizer" if len(optimizers) == 1 else front
        keyed = _names(front, states, model)
        keys = frozenset(groups.get(front, ()))
        roots.append(Root(path, "optimizer", tuple(states), keyed_by=keyed, group_keys=keys))
    return [root for root in roots if root.tensors]


def _names(front: str, states: Sequence[Tensor], model: Iterable[Tensor]) -> tuple[str, ...] | None:
    """The parameters' names by which an optimizer keeps its state; None where it keeps it by their numbers."""
    below = f"{front}.state."
    inside = [tensor.key[len(below) :] for tensor in states if tensor.key.startswith(below)]
    if not inside or all(key.partition(".")[0].isdecimal() and key.count(".") == 1 for key in inside):
        return None
    known: set[str] = set()
    for tensor in model:
        name = tensor.key
        known.add(name)
        for _ in range(_DEEPEST):
            name = name.partition(".")[2]
            known.add(name)
    names = dict.fromkeys(_name(key, known) for key in inside)
    return tuple(names)


def _name(key: str, known: Container[str]) -> str:
    """The longest front of a state's key that is a parameter's; all but its last level where none is."""
    front = key.rpartition(".")[0]
    while front and front not in known:
        front = front.rpartition(".")[0]
    return front or key.rpartition(".")[0]
