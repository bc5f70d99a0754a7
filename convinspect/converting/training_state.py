"""What changes with a converted weight: the state that an optimizer keeps for it, and its copies in an EMA.

State follows its weight where names tell which is whose, or where all parameters of its shape change alike; otherwise
the user decides.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field

from convinspect.checkpoint import Checkpoint
from convinspect.converting.eligibility import Held
from convinspect.converting.ema import copies_beside, copies_in, like
from convinspect.converting.owners import Fit, Owners, owners_of, shapeless
from convinspect.converting.plan import Plan
from convinspect.converting.shape_seeing import obstacle, state_obstacle
from convinspect.errors import CannotConvert, Option, Wording
from convinspect.formats.torch.wrappers import is_wrapped
from convinspect.records import Contents, Edit, Root, Tensor

WAYS_OUT = Wording(
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


def followers(checkpoint: Checkpoint, plan: Plan, keep_optimizer: bool, staying: Container[str] = ()) -> Followers:
    """What else must change with the plan.

    Args:
        checkpoint: The file; its root in use is the model.
        plan: The model's conversions.
        keep_optimizer: Leave optimizer state unchanged.
        staying: Keys of the model's own tensors that are not to change.

    Raises:
        CannotConvert: An optimizer's state cannot be matched to the model's parameters unambiguously.
    """
    if not plan.edits:
        return Followers()
    elsewhere = [in_root(checkpoint, plan, root, keep_optimizer) for root in roots_beside(checkpoint)]
    every = [own_copies(checkpoint, plan, staying), *elsewhere]
    return Followers(
        tuple(edit for some in every for edit in some.optimizer),
        tuple(edit for some in every for edit in some.copies),
        tuple(path for some in every for path in some.roots),
        tuple(path for some in every for path in some.left),
        tuple(path for some in every for path in some.others),
        {key: held for some in every for key, held in some.held.items()},
    )


def roots_beside(checkpoint: Checkpoint) -> list[Root]:
    """The roots that may hold copies or state of the root in use."""
    parts = parts_of(checkpoint)
    return [
        root
        for root in checkpoint.roots
        if root is not checkpoint.root and (root not in parts or root.role == "optimizer")
    ]


def in_root(checkpoint: Checkpoint, plan: Plan, root: Root, keep_optimizer: bool = False) -> Followers:
    """What must change in another root.

    Raises:
        CannotConvert: It is an optimizer's, and its state cannot be matched to the model's parameters unambiguously.
    """
    if root.role == "optimizer":
        return _in_optimizer(checkpoint, plan, root, keep_optimizer)
    return _in_other_root(checkpoint, plan, root)


def own_copies(checkpoint: Checkpoint, plan: Plan, staying: Container[str] = ()) -> Followers:
    """Copies in the model's own root that change with the plan; none of those whose keys are `staying`."""
    copies = copies_beside(checkpoint, plan, staying)
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
    edits = tuple(edit for _, edit in states)
    return Followers(edits, roots=(root.path,) if states else (), held=held)


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
        CannotConvert: It is ambiguous which state belongs to which weight, or the state cannot follow its weight.
    """
    owners = claimed(checkpoint, plan, root)
    if owners is None:
        return None
    edits = {id(edit.tensor): edit for edit in plan.edits}
    if owners.flat:
        return _of_flat(root, plan)
    # State without a shape says nothing of whose it is.
    shapeless_state = not owners.states.keys() <= owners.candidates.keys()
    why = next((why for edit in plan.edits if shapeless_state and (why := obstacle(root, edit))), None)
    if why is not None:
        raise CannotConvert(why, WAYS_OUT)
    return [
        pair
        for number, candidates in owners.candidates.items()
        for pair in _following(root, owners.states.get(number, ()), candidates, edits, checkpoint)
    ]


def claimed(checkpoint: Checkpoint, plan: Plan, root: Root) -> Owners | None:
    """Which of the model's parameters an optimizer's state belongs to; None if the optimizer is another model's.

    Raises:
        CannotConvert: It is ambiguous whether it is this model's.
    """
    owners = owners_of(checkpoint, root)
    fits = [(model, owners_of(model, root).fit) for model in _other_models(checkpoint, plan)]
    rivals = [model for model, fit in fits if fit > Fit.NOT and fit >= owners.fit]
    if rivals and any(fit > owners.fit for _, fit in fits):
        return None
    if owners.fit == Fit.NOT:
        raise CannotConvert(owners.doubt, WAYS_OUT)
    if rivals and not owners.named and not _are_snapshots(checkpoint, rivals):
        raise CannotConvert(
            f"the optimizer at {root.path!r} fits the model at {checkpoint.root.path!r} and the one at"
            f" {rivals[0].root.path!r}, which stays unchanged",
            WAYS_OUT,
        )
    return owners


def _of_flat(root: Root, plan: Plan) -> list[tuple[str, Edit]]:
    """No edits: a reshape leaves one vector of all numbers as it is. A new order of them does not."""
    if any(edit.transposed or edit.moved is not None for edit in plan.edits):
        problem = (
            f"the optimizer at {root.path!r} keeps all parameters as one vector, in which numbers cannot change places"
        )
        raise CannotConvert(problem, WAYS_OUT)
    return []


def _following(
    root: Root,
    states: Sequence[Tensor],
    candidates: Sequence[Tensor],
    edits: Mapping[int, Edit],
    checkpoint: Checkpoint,
) -> list[tuple[str, Edit]]:
    """Edits of one parameter's state, each with the stored key of a weight that it may belong to.

    Args:
        root: The optimizer.
        states: The state's tensors.
        candidates: The parameters that it may belong to.
        edits: The plan's, by the id of the tensor.
        checkpoint: The model.

    Raises:
        CannotConvert: Some candidates change and others do not, or the state cannot follow.
    """
    changes = [edits.get(id(candidate)) for candidate in candidates]
    edit = next((change for change in changes if change is not None), None)
    shaped = [tensor for tensor in states if not shapeless(tensor)]
    if edit is None or not states:
        return []
    shape = edit.tensor.shape
    if any(change is None or _change(change) != _change(edit) for change in changes):
        stays = next((one.key for one, change in zip(candidates, changes, strict=True) if change is None), "")
        apart = f"{edit.tensor.key} changes and {stays} does not" if stays else "they change differently"
        problem = f"the optimizer at {root.path!r} keeps no names, and of the parameters of shape {shape} {apart}"
        # What is called otherwise than a weight may be a buffer, of which an optimizer knows nothing.
        buffer = stays and not stays.endswith("weight") and checkpoint.known_parameters is None
        by_model = (" (", Option("model", None), " tells them from buffers)") if buffer else ()
        raise CannotConvert(Wording(problem, *by_model, ", so which state belongs to which cannot be told"), WAYS_OUT)
    why = obstacle(root, edit) or state_obstacle(root, states, edit)
    odd = next((tensor for tensor in shaped if tensor.shape != shape), None)
    if why is None and odd is not None:
        why = f"the optimizer at {root.path!r} keeps {odd.key} in shape {odd.shape}, but {edit.tensor.key} has {shape}"
    if why is not None:
        raise CannotConvert(why, WAYS_OUT)
    # A wrapped state holds back whichever weight it may belong to; every other follows whichever it is.
    return [
        (owner.key, like(tensor, edit))
        for tensor in shaped
        for owner in (candidates if is_wrapped(tensor) else [edit.tensor])
    ]


def _change(edit: Edit) -> tuple[object, ...]:
    """What an edit does, whichever tensor it does it to."""
    return edit.shape, edit.stride, edit.transposed, edit.moved


def _are_snapshots(checkpoint: Checkpoint, rivals: Sequence[Checkpoint]) -> bool:
    """Whether models are the same one at other times (`models.latest`, `models.best`) beside a single optimizer."""
    own = [(name, tensor.shape, tensor.dtype) for name, tensor in checkpoint.tensors.items()]
    alone = sum(root.role == "optimizer" for root in checkpoint.roots) == 1
    return alone and all(
        own == [(name, tensor.shape, tensor.dtype) for name, tensor in rival.tensors.items()] for rival in rivals
    )


def _other_models(checkpoint: Checkpoint, plan: Plan) -> list[Checkpoint]:
    """Roots that may be separate models, and do not change as the plan's root does."""
    parts = parts_of(checkpoint)
    models = [
        root for root in checkpoint.roots if root is not checkpoint.root and root not in parts and root.role == "model"
    ]
    staying = [root for root in models if len(copies_in(checkpoint, plan, root).edits) < len(plan.edits)]
    return [Checkpoint(Contents(checkpoint.path, checkpoint.container, (root,), 0)) for root in staying]
