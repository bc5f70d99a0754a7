"""Which layers of a checkpoint change, and which are refused, as the options choose them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from convinspect.checkpoint import Checkpoint, open_like
from convinspect.converting.eligibility import REWRITTEN, Writing
from convinspect.converting.options import Options
from convinspect.converting.plan import Plan, Request, chosen_layers, plan
from convinspect.converting.remaining import Remaining, remaining
from convinspect.converting.rename import Renaming
from convinspect.errors import CannotConvert, Option, Wording
from convinspect.layers.find import find_layers
from convinspect.records import Layer


@dataclass(frozen=True, slots=True)
class Selection:
    """Which layers change, and which are refused.

    Attributes:
        layers: All layers of the checkpoint.
        chosen: Names of the layers that the options choose.
        plan: Their conversions and refusals.
        only_here: With `like`: names of tensors that only the source has.
        only_there: With `like`: names of tensors that only the other checkpoint has.
        notes: What else a user should know.
        remaining: With `like`: what is left to do in PyTorch; None where that is nothing, or does not suffice.
    """

    layers: tuple[Layer, ...]
    chosen: frozenset[str]
    plan: Plan
    only_here: tuple[str, ...] = ()
    only_there: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    remaining: Remaining | None = None


def select_layers(
    checkpoint: Checkpoint, options: Options, renamed: Renaming | None = None, writing: Writing = REWRITTEN
) -> Selection:
    """Decide which layers change, and into what.

    Args:
        checkpoint: The source.
        options: What to do.
        renamed: Tensors that get another name.
        writing: What the way of writing asks of them.

    Raises:
        NotThere: A name matches no layer.
        CannotConvert: The options contradict each other.
    """
    layers = find_layers(checkpoint)
    if options.like is not None:
        return _selection_like(checkpoint, options, renamed or Renaming(), layers, writing)
    planned = _planned(layers, options, writing)
    return Selection(layers, chosen_layers(layers, options.layer, options.exclude), planned)


def _planned(layers: Sequence[Layer], options: Options, writing: Writing) -> Plan:
    if options.kind is None:
        return Plan()
    if options.expand and not any(layer.groups is not None for layer in layers):
        remedy = Wording("give the model's code with ", Option("model", None))
        raise CannotConvert("its groups are not recorded in the file", remedy)
    return plan(layers, requested(options, options.kind, writing))


def requested(options: Options, to: str, writing: Writing = REWRITTEN) -> Request:
    """What the options ask for, as the plan takes it.

    Args:
        options: All of them.
        to: The target kind.
        writing: What the way of writing asks of the layers.
    """
    return Request(
        to, options.kinds, options.layer, options.exclude, options.expand, writing, options.patches,
        options.kernel or (), options.in_channels, options.last,
    )  # fmt: skip


def other_checkpoint(options: Options) -> Checkpoint:
    """The checkpoint whose shapes are wanted: at the root that was asked for, where it has that, else at its main one.

    Raises:
        ConvInspectError: As for `open_like`.
    """
    assert options.like is not None
    return options.like if isinstance(options.like, Checkpoint) else open_like(options.like, options.root)


def _selection_like(
    checkpoint: Checkpoint, options: Options, renamed: Renaming, layers: tuple[Layer, ...], writing: Writing
) -> Selection:
    """The plan for the shapes of another checkpoint, and the names that only one of the two has."""
    # Imported here, as what few conversions need.
    from convinspect.converting.like import plan_like

    other = other_checkpoint(options)
    names = renamed.names(checkpoint)
    may_change = chosen = chosen_layers(layers, options.layer, options.exclude)
    if options.from_:
        may_change = frozenset(layer.name for layer in layers if layer.name in chosen and layer.kind in options.kinds)
    here = dict.fromkeys(names.values())
    planned = plan_like(
        layers, names, other.tensors, find_layers(other), may_change, writing, options.turn_square, options.last
    )
    prefixes = _other_prefixes(names, renamed, other, options.like_name)
    return Selection(
        layers,
        chosen,
        planned,
        tuple(name for name in here if name not in other.tensors),
        tuple(name for name in other.tensors if name not in here),
        prefixes,
        remaining(checkpoint, other, names, planned, bool(prefixes)),
    )


def _other_prefixes(names: Mapping[str, str], renamed: Renaming, other: Checkpoint, other_name: str) -> tuple[str, ...]:
    """A line if wrappers' prefixes differ, which makes strict loading fail; shapes are paired without prefixes."""
    new = {edit.tensor.key: edit.key or "" for edit in renamed.edits}
    theirs = {name: tensor.key for name, tensor in other.tensors.items()}
    for key, name in names.items():
        ours = new.get(key, key)
        if theirs.get(name, ours) != ours:
            fix = Wording("; `convinspect diff` gives the ", Option("rename", None), " for it")
            return (Wording(f"{ours} is {theirs[name]} in {other_name}", fix),)
    return ()
