"""What follows a converted weight: the state that an optimizer keeps for it, and its copies in an EMA.

An optimizer's state_dict knows parameters by number, not by name: `state[3]["exp_avg"]` belongs to the fourth
parameter in its param_groups. Which one that is in the model follows from order alone, so it is used only where
every shape fits; otherwise the user decides.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

from convinspect.checkpoint import Checkpoint
from convinspect.converting.plan import Plan, reshaped
from convinspect.converting.reshape import with_channels_last
from convinspect.dtypes import FLOATING
from convinspect.errors import CannotConvert
from convinspect.keys.wrappers import clean_names
from convinspect.layers.lora import undotted_copies
from convinspect.records import Contents, Edit, Root, Tensor, bytes_of

_WAYS_OUT = (
    "use --drop-optimizer to leave its state out, so that it starts anew, or --keep-optimizer to leave it as it is"
)


@dataclass(frozen=True, slots=True)
class Followers:
    """Edits beyond the model's own tensors.

    Attributes:
        optimizer: Of state that belongs to a converted weight.
        copies: Of the same weights in other roots (EMA), or in the root itself.
        roots: Paths of the roots that they are in; of the root itself, the module.
        left: Paths of the roots that hold such weights and stay as they are, and keys of such in the root itself.
        others: Paths of optimizers of other models in the file, and of these models.
    """

    optimizer: tuple[Edit, ...] = ()
    copies: tuple[Edit, ...] = ()
    roots: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


def followers(checkpoint: Checkpoint, plan: Plan, keep_optimizer: bool) -> Followers:
    """What else must change when the plan is carried out.

    Args:
        checkpoint: The file; its root in use is the model.
        plan: The model's conversions.
        keep_optimizer: Leave optimizer state as it is.

    Raises:
        CannotConvert: An optimizer's state cannot be matched to the model's parameters without doubt.
    """
    if not plan.edits:
        return Followers()
    own = own_copies(checkpoint, plan)
    copies, roots, left = list(own.copies), list(own.roots), list(own.left)
    optimizer: list[Edit] = []
    others: list[str] = []
    parts = parts_of(checkpoint)
    for root in checkpoint.roots:
        if root is checkpoint.root or (root in parts and root.role != "optimizer"):
            continue
        found: list[Edit] = []
        if root.role == "optimizer":
            states = [] if keep_optimizer else _states(checkpoint, plan, root)
            found = states or []
            optimizer += found
            others += [root.path] * (states is None)
        else:
            found, more = _copies(checkpoint, plan, root)
            copies += found
            left += [root.path] * more
            others += [root.path] * (root.role == "model" and not found and not more)
        if found:
            roots.append(root.path)
    return Followers(tuple(optimizer), tuple(copies), tuple(roots), tuple(left), tuple(others))


def parts_of(checkpoint: Checkpoint) -> list[Root]:
    """The roots that the root in use is put together of (`--root .`)."""
    if any(root is checkpoint.root for root in checkpoint.roots):
        return []
    below = checkpoint.root.path
    return [root for root in checkpoint.roots if not below or f"{root.path}.".startswith(f"{below}.")]


def _copies(checkpoint: Checkpoint, plan: Plan, root: Root) -> tuple[list[Edit], bool]:
    """What changes with the plan in another root, and whether something there should but cannot.

    The same numbers change, and so does what an EMA keeps by the same name; shapes must be equal. An EMA that is a
    list tells no names, and follows in the order of parameters when every shape fits. A model of equal names that is
    no EMA may be another model.
    """
    in_order = _in_order(checkpoint, root)
    if in_order:
        edits = {id(edit.tensor): edit for edit in plan.edits}
        pairs = zip(root.tensors, in_order, strict=True)
        return [_like(tensor, edits[id(one)]) for tensor, one in pairs if id(one) in edits], False
    names = {tensor.key: name for name, tensor in checkpoint.tensors.items()}
    by_name = {names[edit.tensor.key]: edit for edit in plan.edits}
    by_bytes = {bytes_of(edit.tensor): edit for edit in plan.edits if bytes_of(edit.tensor) is not None}
    shapes = {edit.tensor.shape for edit in plan.edits}
    found: list[Edit] = []
    more = False
    for name, tensor in zip(clean_names([tensor.key for tensor in root.tensors]), root.tensors, strict=True):
        same = by_bytes.get(bytes_of(tensor))
        named = by_name.get(_bare(name, by_name) if root.role == "ema" else name)
        edit = same or (named if root.role == "ema" else None)
        if edit is not None and edit.tensor.shape == tensor.shape:
            found.append(_like(tensor, edit))
        elif (
            same
            or (named and named.tensor.shape == tensor.shape)
            or (root.role == "ema" and name.isdecimal() and tensor.shape in shapes)
        ):
            more = True
    return found, more


def _bare(name: str, known: Container[str]) -> str:
    """A name without the levels that an EMA puts before it: `ema_model.conv.weight` → `conv.weight`."""
    while name not in known and "." in name:
        name = name.partition(".")[2]
    return name


def own_copies(checkpoint: Checkpoint, plan: Plan) -> Followers:
    """What changes with the plan in the model's own root: copies that an EMA names without dots.

    One that may be a copy of several tensors, or has another shape than the one that it is a copy of, is left.
    """
    changed = {edit.tensor.key: edit for edit in plan.edits}
    copies: list[Edit] = []
    left: list[str] = []
    owners = undotted_copies(checkpoint.root.tensors) if changed else {}
    for tensor in checkpoint.root.tensors:
        edits = [changed.get(owner.key) for owner in owners.get(tensor.key, ())]
        if tensor.key in changed or not any(edits):
            continue
        if len(edits) == 1 and edits[0] is not None and edits[0].tensor.shape == tensor.shape:
            copies.append(_like(tensor, edits[0]))
        else:
            left.append(tensor.key)
    roots = dict.fromkeys(edit.tensor.key.rpartition(".")[0] for edit in copies)
    return Followers((), tuple(copies), tuple(roots), tuple(left))


def _in_order(checkpoint: Checkpoint, root: Root) -> list[Tensor]:
    """The model's parameters, when an EMA's list holds one of the same shape for each; none for any other root."""
    parameters = [one for one in checkpoint.parameters() if one.dtype in FLOATING]
    listed = [tensor.key for tensor in root.tensors] == [str(number) for number in range(len(parameters))]
    fits = listed and [one.shape for one in root.tensors] == [one.shape for one in parameters]
    return parameters if root.role == "ema" and fits else []


def _like(tensor: Tensor, edit: Edit) -> Edit:
    """The same change on a tensor of the same shape."""
    if 1 in (len(tensor.shape), len(edit.shape)):
        # DoRA's magnitudes, whose one dimension alone has a stride that tells.
        return edit._replace(tensor=tensor)
    like = reshaped(tensor, len(edit.shape) - 2, edit.transposed)
    return like if set(edit.stride[2:]) <= {1} else with_channels_last(like)


def _states(checkpoint: Checkpoint, plan: Plan, root: Root) -> list[Edit] | None:
    """State of the converted weights; None where the optimizer is another model's, so that it stays as it is.

    Raises:
        CannotConvert: Which state belongs to which weight cannot be told without doubt.
    """
    owners, doubt = _owners(checkpoint, root)
    others = [one for one in _other_models(checkpoint, plan) if _owners(one, root)[0] is not None]
    if owners is None and others:
        return None
    if owners is None:
        raise CannotConvert(doubt, _WAYS_OUT)
    if others and root.parameter_names is None:
        raise CannotConvert(
            f"the optimizer at {root.path!r} fits the model at {checkpoint.root.path!r} and the one at"
            f" {others[0].root.path!r}, which stays as it is",
            _WAYS_OUT,
        )
    edits = {id(edit.tensor): edit for edit in plan.edits}
    found = []
    for tensor in root.tensors:
        number, _ = _number_and_name(tensor.key)
        owner = owners.get(number or "")
        if owner is not None and tensor.shape and id(owner) in edits:
            found.append(_like(tensor, edits[id(owner)]))
    if len(root.parameters or ()) > 1 and root.parameter_names is None:
        _hold_without_order(root, plan, list(owners.values()))
    return found


def _other_models(checkpoint: Checkpoint, plan: Plan) -> list[Checkpoint]:
    """The roots that may be a model of their own and do not change as the plan's does."""
    parts = parts_of(checkpoint)
    roots = [one for one in checkpoint.roots if one is not checkpoint.root and one not in parts and one.role == "model"]
    staying = [one for one in roots if len(_copies(checkpoint, plan, one)[0]) < len(plan.edits)]
    return [Checkpoint(Contents(checkpoint.path, checkpoint.container, (one,), 0)) for one in staying]


def _owners(checkpoint: Checkpoint, root: Root) -> tuple[dict[str, Tensor] | None, str]:
    """An optimizer's ids → the parameters that they belong to: by their names where it has them, else by their order
    alone; or None and the reason why it cannot be this model's.
    """
    ids = [str(one) for group in root.parameters or () for one in group]
    parameters = [one for one in checkpoint.parameters() if one.dtype in FLOATING]
    where = f"the optimizer at {root.path!r}"
    if root.parameter_names is not None:
        named = _by_name(checkpoint, root.parameter_names)
        if named is None:
            return None, f"{where} names parameters that the model does not have ({root.parameter_names[0]})"
        parameters = named
    if root.parameters is None or len(ids) != len(parameters):
        return None, (
            f"{where} has {len(ids)} parameters and the model {len(parameters)}{_as_named(checkpoint)}, so which state"
            " belongs to which weight cannot be told"
        )
    owners = dict(zip(ids, parameters, strict=True))
    for tensor in root.tensors:
        own, name = _number_and_name(tensor.key)
        if own is None:
            continue
        if own not in owners:
            return None, f"{where} keeps state for no known parameter"
        owner = owners[own]
        # A state without dimensions is the step count.
        if tensor.shape and tensor.shape != owner.shape:
            return None, (
                f"{where} keeps {name!r} of parameter {own} in shape {tensor.shape}, but {owner.key} has {owner.shape}"
            )
    return owners, ""


def _as_named(checkpoint: Checkpoint) -> str:
    return "" if checkpoint.known_parameters is not None else " by its names (--model tells them from buffers)"


def _by_name(checkpoint: Checkpoint, names: Sequence[str]) -> list[Tensor] | None:
    """The model's tensors of these names, which may lack its prefix; None when one is not there."""
    first = clean_names([names[0]])[0]
    prefixes = ["", *(name.removesuffix(first) for name in checkpoint.tensors if name.endswith(f".{first}"))]
    for prefix in prefixes:
        found = [checkpoint.tensors.get(prefix + name) for name in clean_names(list(names))]
        if all(one is not None for one in found):
            return [one for one in found if one is not None]
    return None


def _number_and_name(key: str) -> tuple[str | None, str]:
    parts = key.split(".")
    return (parts[1], ".".join(parts[2:])) if len(parts) > 2 and parts[0] == "state" else (None, "")


def _hold_without_order(root: Root, plan: Plan, parameters: Sequence[Tensor]) -> None:
    """With several groups the order is the groups', not the model's. Then equal shapes can be mixed up, which does
    no harm only where all parameters of a shape change alike.
    """
    changed = {edit.tensor.key: edit for edit in plan.edits}
    shapes = {edit.tensor.shape for edit in plan.edits}
    if any(tensor.shape in shapes and tensor.key not in changed for tensor in parameters):
        raise CannotConvert(
            f"the optimizer at {root.path!r} has several parameter groups, and some weights of the same shape do not"
            " change, so which state belongs to which cannot be told",
            _WAYS_OUT,
        )
