"""Which parameter of a model an optimizer's state belongs to, as far as names or shapes determine it.

An optimizer's state_dict identifies parameters by number: `state[3]["exp_avg"]` belongs to the fourth parameter that
the optimizer was given, in an order of the user's own (`[*c.parameters(), *a.parameters()]`, groups with and without
weight decay, without frozen layers). Only its shape says whose it may be, unless the file keeps names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple

from convinspect.checkpoint import Checkpoint
from convinspect.dtypes import FLOATING
from convinspect.errors import Option, Wording
from convinspect.keys.wrappers import clean_names
from convinspect.records import Root, Tensor

Shape = tuple[int, ...]

_FLAT_PADDING = 1024
"""So many numbers at most are added to a flat vector of all parameters (fairseq pads to a multiple of GPUs)."""


class Fit(IntEnum):
    """How well an optimizer fits a model."""

    NOT = 0
    PARTLY = 1
    """Each state has the shape of a parameter, and some parameters have none: frozen, or another model's."""
    WHOLLY = 2
    """There is one for each parameter."""


class Owners(NamedTuple):
    """An optimizer's states, and the parameters that they may belong to.

    Attributes:
        states: The tensors of each state by its id, which is a number or a parameter's name.
        candidates: The parameters that each may belong to: one where names tell, else all of its shape.
        fit: How well the model fits.
        doubt: Why it does not fit; "" if it does.
        named: Names tell.
        flat: The state is one vector of all parameters' numbers, on which no shape depends.
    """

    states: Mapping[str, list[Tensor]] = {}
    candidates: Mapping[str, tuple[Tensor, ...]] = {}
    fit: Fit = Fit.NOT
    doubt: str = ""
    named: bool = False
    flat: bool = False


def owners_of(checkpoint: Checkpoint, root: Root) -> Owners:
    """Match an optimizer's state to a model's parameters.

    Args:
        checkpoint: The model.
        root: The optimizer.
    """
    parameters = [tensor for tensor in checkpoint.parameters() if tensor.dtype in FLOATING]
    if root.keyed_by is not None or root.parameter_names is not None:
        return _by_names(checkpoint, root)
    states = _states(root)
    ids = [str(number) for group in root.parameters or () for number in group]
    optimizer = f"the optimizer at {root.path!r}"
    if root.parameters is not None and not set(ids).issuperset(states):
        return Owners(doubt=f"{optimizer} keeps state for no known parameter")
    if _is_flat(states, ids, parameters):
        return Owners(states, fit=Fit.WHOLLY, flat=True)
    if len(ids) > len(parameters):
        numbers = f"{optimizer} has {len(ids)} parameters and the model {len(parameters)}"
        by_names = () if checkpoint.known_parameters is not None else (
            " by its names (", Option("model", None), " tells them from buffers)",
        )  # fmt: skip
        return Owners(doubt=Wording(numbers, *by_names, ", so which state belongs to which weight cannot be told"))
    return _by_shapes(optimizer, states, ids, parameters)


def _by_shapes(
    optimizer: str, states: Mapping[str, list[Tensor]], ids: Sequence[str], parameters: Sequence[Tensor]
) -> Owners:
    of_shape: dict[Shape, list[Tensor]] = {}
    for parameter in parameters:
        of_shape.setdefault(parameter.shape, []).append(parameter)
    candidates: dict[str, tuple[Tensor, ...]] = {}
    counts: Counter[Shape] = Counter()
    for number, tensors in states.items():
        shaped = [tensor for tensor in tensors if not shapeless(tensor)]
        known = [tensor.shape for tensor in shaped if tensor.shape in of_shape]
        if not shaped:
            continue
        if not known and (whole := _spanned(tensor.shape for tensor in shaped)) in of_shape:
            known = [whole]
        if not known:
            name, shape = state_name(shaped[0].key, number), shaped[0].shape
            what = f"{name!r} of parameter {number} in shape {shape}"
            return Owners(states, doubt=f"{optimizer} keeps {what}, which no parameter of the model has")
        # Where a state is factored, its larger part is the one that may have a weight's shape.
        shape = max(known, key=lambda shape: (len(shape), shape))
        candidates[number] = tuple(of_shape[shape])
        counts[shape] += 1
    for shape, count in counts.items():
        if count > len(of_shape[shape]):
            most = f"for {count} parameters of shape {shape}, of which the model has {len(of_shape[shape])}"
            return Owners(states, doubt=f"{optimizer} keeps state {most}")
    wholly = len(ids) == len(parameters) or len(candidates) == len(parameters)
    return Owners(states, candidates, Fit.WHOLLY if wholly else Fit.PARTLY)


def _spanned(shapes: Iterable[Shape]) -> Shape:
    """The shape that a factored state spans, (O, 1) and (1, I) for a weight (O, I); () if these are no factors."""
    every = list(shapes)
    dims = {len(shape) for shape in every}
    sizes = [set(along) - {1} for along in zip(*every, strict=False)]
    if len(every) < 2 or len(dims) != 1 or any(len(size) > 1 for size in sizes):
        return ()
    return tuple(max(size, default=1) for size in sizes)


def _by_names(checkpoint: Checkpoint, root: Root) -> Owners:
    names = root.keyed_by if root.keyed_by is not None else root.parameter_names or ()
    owners = _named(checkpoint, names)
    if isinstance(owners, str):
        missing = f"names parameters that the model does not have ({owners})"
        return Owners(doubt=f"the optimizer at {root.path!r} {missing}", named=True)
    if root.keyed_by is None:
        keys = [str(number) for group in root.parameters or () for number in group]
        states = _states(root)
    else:
        keys = list(names)
        states = _states(root, keys)
    candidates = {key: (owner,) for key, owner in zip(keys, owners, strict=False)}
    if not set(candidates).issuperset(states):
        return Owners(states, doubt=f"the optimizer at {root.path!r} keeps state for no known parameter", named=True)
    return Owners(states, candidates, Fit.WHOLLY, named=True)


def _named(checkpoint: Checkpoint, names: Sequence[str]) -> list[Tensor] | str:
    """The model's tensors with these names, which may lack its prefix; the first name that is missing."""
    if not names:
        return []
    bare = clean_names(list(names))
    prefixes = ["", *(name.removesuffix(bare[0]) for name in checkpoint.tensors if name.endswith(f".{bare[0]}"))]
    for prefix in prefixes:
        tensors = [checkpoint.tensors.get(prefix + name) for name in bare]
        if all(tensor is not None for tensor in tensors):
            return [tensor for tensor in tensors if tensor is not None]
    return next((name for name, clean in zip(names, bare, strict=True) if clean not in checkpoint.tensors), names[0])


def _is_flat(states: Mapping[str, list[Tensor]], ids: Sequence[str], parameters: Sequence[Tensor]) -> bool:
    """Whether the state is one vector of the numbers of all parameters, as fairseq's flattened optimizers keep it, or
    vectors of so many numbers at the first of them (L-BFGS).
    """
    if len(parameters) < 2 or len(states) != 1 or len(ids) not in (1, len(parameters)):
        return False
    padding = _FLAT_PADDING if len(ids) == 1 else 1
    total = sum(parameter.numel for parameter in parameters)
    vectors = [tensor for tensor in next(iter(states.values())) if not shapeless(tensor)]
    sizes = {tensor.shape[0] for tensor in vectors if len(tensor.shape) == 1}
    return bool(vectors) and len(sizes) == 1 and all(len(tensor.shape) == 1 for tensor in vectors) and (
        total <= next(iter(sizes)) < total + padding
    )  # fmt: skip


def shapeless(tensor: Tensor) -> bool:
    """Whether a state depends on no shape: a step count, one number for the whole parameter (QHAdam, AdaNorm), or the
    tables of bitsandbytes' 8-bit state, which are counted in blocks of the parameter's numbers.
    """
    leaf = tensor.key.rpartition(".")[2]
    return tensor.shape in ((), (1,)) or leaf.startswith(("qmap", "absmax")) or leaf == "gnorm_vec"


def _states(root: Root, names: Iterable[str] | None = None) -> dict[str, list[Tensor]]:
    """The tensors of each state by its id, in stored order.

    Args:
        root: The optimizer.
        names: The ids, where they are parameters' names, which have dots; None for numbers.
    """
    states: dict[str, list[Tensor]] = {}
    known = None if names is None else set(names)
    below = _below(root)
    for tensor in root.tensors:
        if not tensor.key.startswith(below):
            continue
        rest = tensor.key.removeprefix(below)
        number = rest.partition(".")[0]
        if known is not None:
            # The longest front of the key that is a name: a state may have parts of its own.
            front = rest.rpartition(".")[0]
            while front and front not in known:
                front = front.rpartition(".")[0]
            number = front or rest
        if known is None and number == rest and shapeless(tensor):
            continue  # one number for all parameters (MADGRAD's `state["k"]`)
        states.setdefault(number, []).append(tensor)
    return states


def _below(root: Root) -> str:
    """What the keys of an optimizer's state begin with: "state.", or in a distributed checkpoint "optim.state."."""
    first = root.tensors[0].key if root.tensors else ""
    at = f".{first}".find(".state.")
    return first[:at] + "state." if at >= 0 else "state."


def state_name(key: str, number: str) -> str:
    """What an optimizer calls a state: "exp_avg" of `state.3.exp_avg`."""
    return key.partition(f"state.{number}.")[2] or key
