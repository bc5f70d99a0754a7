"""Shapes that tensors should have → calls of `convert` that give them these."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from convinspect.converting.plan import DEFAULT_FROM, Request, plan
from convinspect.diffing.load_error import Shape
from convinspect.errors import Option, Wording
from convinspect.kinds import KINDS, option_of
from convinspect.records import Layer

KIND_OF_RANK = {2: "Linear", 3: "Conv1d", 4: "Conv2d", 5: "Conv3d"}
"""What a weight's number of dimensions says of its layer."""
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
_MOST_NAMES = 4
"""Layers that are named one by one; of more, a shorter way to say the same is looked for."""


@dataclass(frozen=True, slots=True)
class Step:
    """One call of `convert`.

    Attributes:
        to: The kind that the layers become.
        kinds: Kinds that the option `from` must name; () where the usual ones do.
        layers: Names or globs for the option `layer`; () for all.
        count: How many layers it converts.
    """

    to: str
    kinds: tuple[str, ...]
    layers: tuple[str, ...]
    count: int


def planned_steps(layers: Sequence[Layer], wanted: Mapping[int, Shape]) -> tuple[tuple[Step, ...], dict[int, str]]:
    """Calls of `convert`, one for each target kind, that give tensors the wanted shapes and change no other shape.

    Args:
        layers: Of the checkpoint.
        wanted: Shapes by the tensor's id.

    Returns:
        The calls; and, by the tensor's id, why none gives its shape.
    """
    refusals: dict[int, str] = {}
    steps = []
    concerned = [layer for layer in layers if any(id(tensor) in wanted for tensor in layer.tensors.values())]
    for to in KINDS:
        chosen = [layer for layer in concerned if _target(layer, wanted) == to]
        while chosen:
            reasons = _unmet(layers, chosen, to, wanted)
            if not reasons:
                steps.append(_step(layers, chosen, to))
                break
            for layer in chosen:
                if layer.name in reasons:
                    refusals |= {id(tensor): reasons[layer.name] for tensor in layer.tensors.values()}
            # Try again without the layers that failed.
            chosen = [layer for layer in chosen if layer.name not in reasons]
    return tuple(steps), refusals


def _target(layer: Layer, wanted: Mapping[int, Shape]) -> str:
    """The kind that the wanted shapes ask for; the shape wanted for the weight counts first."""
    shapes = [wanted[id(tensor)] for tensor in (layer.weight, *layer.tensors.values()) if id(tensor) in wanted]
    return KIND_OF_RANK[len(shapes[0])]


def _unmet(layers: Sequence[Layer], chosen: Sequence[Layer], to: str, wanted: Mapping[int, Shape]) -> dict[str, str]:
    """Reasons, by name, of chosen layers that would not get their wanted shapes if all were converted."""
    unmet = {layer.name: _kind_obstacle(layer, to) for layer in chosen if layer.kind not in KINDS or layer.kind == to}
    if unmet:
        return unmet
    names = tuple(layer.name or "(root)" for layer in chosen)
    planned = plan(layers, Request(to, _kinds(chosen), names))
    refused = {refusal.name: refusal.reason for refusal in planned.refusals}
    new_shapes = {each.layer.name: {id(edit.tensor): edit.shape for edit in each.edits} for each in planned.conversions}
    for layer in chosen:
        shapes = {id(tensor): wanted[id(tensor)] for tensor in layer.tensors.values() if id(tensor) in wanted}
        if layer.name not in new_shapes:
            unmet[layer.name] = refused.get(layer.name, "it is left unchanged")
        elif new_shapes[layer.name] != shapes:
            unmet[layer.name] = Wording("convert ", Option("to", option_of(to)), " gives other shapes than these")
    return unmet


def _kind_obstacle(layer: Layer, to: str) -> str:
    like = Option("like", None)
    if layer.kind == to:
        return Wording("only convert ", like, " a checkpoint that has it transposed turns it over")
    return Wording("only convert ", like, f" reshapes what reads as {layer.kind}")


def _kinds(layers: Iterable[Layer]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(layer.kind for layer in layers))


def _step(layers: Sequence[Layer], chosen: Sequence[Layer], to: str) -> Step:
    """The call with the shortest selection: all layers, globs over numbered blocks, or each by name."""
    kinds = _kinds(chosen)
    origin = () if set(kinds) <= set(DEFAULT_FROM.get(to, ("Linear",))) else kinds
    names = tuple(layer.name or "(root)" for layer in chosen)
    globs = tuple(dict.fromkeys(_NUMBER.sub("*", name) for name in names))
    if len(names) > _MOST_NAMES:
        wanted = {layer.name for layer in chosen}
        for shorter in ((), globs):
            planned = plan(layers, Request(to, origin, shorter))
            if {each.layer.name for each in planned.conversions} == wanted:
                return Step(to, origin, shorter, len(names))
    return Step(to, origin, names, len(names))
