"""What changes with a converted weight: the state that an optimizer keeps for it, and its copies in an EMA.

An optimizer's state_dict identifies parameters by number, not by name: `state[3]["exp_avg"]` belongs to the fourth
parameter in its param_groups. Which parameter of the model that is follows only from the order, so the state is
converted only if every shape fits; otherwise the user decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from convinspect.checkpoint import Checkpoint
from convinspect.converting.eligibility import Held
from convinspect.converting.ema import copies_beside, copies_in, like
from convinspect.converting.plan import Plan
from convinspect.dtypes import FLOATING
from convinspect.errors import CannotConvert, Option, Wording
from convinspect.formats.torch.wrappers import is_wrapped
from convinspect.keys.wrappers import clean_names
from convinspect.records import Contents, Edit, Root, Tensor

_WAYS_OUT = Wording(
    "use ", Option("drop_optimizer"), " to leave its state out, so that it starts empty, or ", Option("keep_optimizer"),
    " to leave it unchanged",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Followers:
    """Edits beyond the model's own tensors.

    Attributes:
        optimizer: Edits of optimizer state that belongs to a converted weight.
        copies: Edits of copies of the weights in other roots (EMA), or in the root itself.
        roots: Paths of the roots that contain these tensors; for copies in the root itself, their module.
        left: Paths of roots with such weights that stay unchanged, and keys of such weights in the root itself.
        others: Paths of other models in the file, and of their optimizers.
        held: Copies and state that no edit can change (Tensor subclasses around others), by their weight's stored key.
    """

    optimizer: tuple[Edit, ...] = ()
    copies: tuple[Edit, ...] = ()
    roots: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    held: Mapping[str, Held] = field(default_factory=dict)


def followers(checkpoint: Checkpoint, plan: Plan, keep_optimizer: bool) -> Followers:
    """What else must change with the plan.

    Args:
        checkpoint: The file; its root in use is the model.
        plan: The model's conversions.
        keep_optimizer: Leave optimizer state unchanged.

    Raises:
        CannotConvert: An optimizer's state cannot be matched to the model's parameters unambiguously.
    """
    if not plan.edits:
        return Followers()
    parts = parts_of(checkpoint)
    elsewhere = [
        _in_optimizer(checkpoint, plan, root, keep_optimizer)
        if root.role == "optimizer"
        else _in_other_root(checkpoint, plan, root)
        for root in checkpoint.roots
        if root is not checkpoint.root and (root not in parts or root.role == "optimizer")
    ]
    every = [own_copies(checkpoint, plan), *elsewhere]
    return Followers(
        tuple(edit for some in every for edit in some.optimizer),
        tuple(edit for some in every for edit in some.copies),
        tuple(path for some in every for path in some.roots),
        tuple(path for some in every for path in some.left),
        tuple(path for some in every for path in some.others),
        {key: held for some in every for key, held in some.held.items()},
    )


def own_copies(checkpoint: Checkpoint, plan: Plan) -> Followers:
    """Copies in the model's own root that change with the plan, which an EMA names without dots."""
    copies = copies_beside(checkpoint, plan)
    modules = dict.fromkeys(edit.tensor.key.rpartition(".")[0] for edit in copies.edits)
    return Followers(copies=tuple(copies.edits), roots=tuple(modules), left=tuple(copies.left), held=copies.held)


def _in_other_root(checkpoint: Checkpoint, plan: Plan, root: Root) -> Followers:
    copies = copies_in(checkpoint, plan, root)
    another = root.role == "model" and not copies.edits and not copies.left
    return Followers(
        copies=tuple(copies.edits),
        roots=(root.path,) if copies.edits else (),
        left=(root.path,) if copies.left else (),
        others=(root.path,) if another else (),
        held=copies.held,
    )


def _in_optimizer(checkpoint: Checkpoint, plan: Plan, root: Root, keep: bool) -> Followers:
    states = [] if keep else _states(checkpoint, plan, root)
    if states is None:
        return Followers(others=(root.path,))
    held = {owner: Held(edit.tensor, root.role) for owner, edit in states if is_wrapped(edit.tensor)}
    return Followers(optimizer=tuple(edit for _, edit in states), roots=(root.path,) if states else (), held=held)


def parts_of(checkpoint: Checkpoint) -> list[Root]:
    """The roots that the root in use combines (`root="."`)."""
    if any(root is checkpoint.root for root in checkpoint.roots):
        return []
    below = checkpoint.root.path
    return [root for root in checkpoint.roots if not below or f"{root.path}.".startswith(f"{below}.")]


def _states(checkpoint: Checkpoint, plan: Plan, root: Root) -> list[tuple[str, Edit]] | None:
    """Edits of the converted weights' state, each with its weight's stored key.

    None if the optimizer is another model's and stays unchanged.

    Raises:
        CannotConvert: It is ambiguous which state belongs to which weight.
    """
    owners = _owners(checkpoint, root)
    other_models = [model for model in _other_models(checkpoint, plan) if not _owners(model, root).doubt]
    if owners.doubt and other_models:
        return None
    if owners.doubt:
        raise CannotConvert(owners.doubt, _WAYS_OUT)
    if other_models and root.parameter_names is None:
        raise CannotConvert(
            f"the optimizer at {root.path!r} fits the model at {checkpoint.root.path!r} and the one at"
            f" {other_models[0].root.path!r}, which stays unchanged",
            _WAYS_OUT,
        )
    edits = {id(edit.tensor): edit for edit in plan.edits}
    states = []
    for tensor in root.tensors:
        number, _ = _number_and_name(tensor.key)
        owner = owners.by_id.get(number or "")
        if owner is not None and tensor.shape and id(owner) in edits:
            states.append((owner.key, like(tensor, edits[id(owner)])))
    if len(root.parameters or ()) > 1 and root.parameter_names is None:
        _check_without_order(root, plan, list(owners.by_id.values()))
    return states


def _other_models(checkpoint: Checkpoint, plan: Plan) -> list[Checkpoint]:
    """Roots that may be separate models, and do not change as the plan's root does."""
    parts = parts_of(checkpoint)
    models = [
        root for root in checkpoint.roots if root is not checkpoint.root and root not in parts and root.role == "model"
    ]
    staying = [root for root in models if len(copies_in(checkpoint, plan, root).edits) < len(plan.edits)]
    return [Checkpoint(Contents(checkpoint.path, checkpoint.container, (root,), 0)) for root in staying]


class _Owners(NamedTuple):
    """An optimizer's ids → the parameters that they belong to; or the reason why they cannot be matched."""

    by_id: dict[str, Tensor]
    doubt: str = ""


def _owners(checkpoint: Checkpoint, root: Root) -> _Owners:
    """Match by the parameters' names if the optimizer has them, else by their order."""
    ids = [str(number) for group in root.parameters or () for number in group]
    parameters = [tensor for tensor in checkpoint.parameters() if tensor.dtype in FLOATING]
    optimizer = f"the optimizer at {root.path!r}"
    if root.parameter_names is not None:
        named = _by_name(checkpoint, root.parameter_names)
        if named is None:
            name = root.parameter_names[0]
            return _Owners({}, f"{optimizer} names parameters that the model does not have ({name})")
        parameters = named
    if root.parameters is None or len(ids) != len(parameters):
        numbers = f"{optimizer} has {len(ids)} parameters and the model {len(parameters)}"
        by_names = () if checkpoint.known_parameters is not None else (
            " by its names (", Option("model", None), " tells them from buffers)",
        )  # fmt: skip
        return _Owners({}, Wording(numbers, *by_names, ", so which state belongs to which weight cannot be told"))
    by_id = dict(zip(ids, parameters, strict=True))
    for tensor in root.tensors:
        number, name = _number_and_name(tensor.key)
        if number is None:
            continue
        if number not in by_id:
            return _Owners({}, f"{optimizer} keeps state for no known parameter")
        owner = by_id[number]
        # A state without dimensions is the step count.
        if tensor.shape and tensor.shape != owner.shape:
            shapes = f"in shape {tensor.shape}, but {owner.key} has {owner.shape}"
            return _Owners({}, f"{optimizer} keeps {name!r} of parameter {number} {shapes}")
    return _Owners(by_id)


def _by_name(checkpoint: Checkpoint, names: Sequence[str]) -> list[Tensor] | None:
    """The model's tensors with these names, which may lack its prefix; None if one is missing."""
    first = clean_names([names[0]])[0]
    prefixes = ["", *(name.removesuffix(first) for name in checkpoint.tensors if name.endswith(f".{first}"))]
    for prefix in prefixes:
        tensors = [checkpoint.tensors.get(prefix + name) for name in clean_names(list(names))]
        if all(tensor is not None for tensor in tensors):
            return [tensor for tensor in tensors if tensor is not None]
    return None


def _number_and_name(key: str) -> tuple[str | None, str]:
    parts = key.split(".")
    return (parts[1], ".".join(parts[2:])) if len(parts) > 2 and parts[0] == "state" else (None, "")


def _check_without_order(root: Root, plan: Plan, parameters: Sequence[Tensor]) -> None:
    """Refuse groups whose order may not be the model's.

    Then parameters of equal shape can be mixed up, which is harmless only if all parameters of that shape change.
    """
    changed = {edit.tensor.key: edit for edit in plan.edits}
    shapes = {edit.tensor.shape for edit in plan.edits}
    if any(tensor.shape in shapes and tensor.key not in changed for tensor in parameters):
        raise CannotConvert(
            f"the optimizer at {root.path!r} has several parameter groups, and some weights of the same shape do not"
            " change, so which state belongs to which cannot be told",
            _WAYS_OUT,
        )
