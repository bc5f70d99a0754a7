"""Shapes that tensors should have → calls of `convert` that give them these."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from convinspect.converting.plan import DEFAULT_FROM, Request, plan
from convinspect.diffing.load_error import Shape
from convinspect.errors import Option, Wording
from convinspect.kinds import KIND_OF_RANK, TARGETS, is_in_out, may_change, option_of
from convinspect.records import Layer

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
        patches: They are convolutions that cut patches, and become the Linear over these.
        patch: Kernel size of the convolutions that Linear layers over patches become; () for all others.
    """

    to: str
    kinds: tuple[str, ...]
    layers: tuple[str, ...]
    count: int
    patches: bool = False
    patch: tuple[int, ...] = ()


class Aim(NamedTuple):
    """What a layer should become, by its weight's shape and the wanted one; attributes as `Step`'s."""

    to: str
    patches: bool = False
    patch: tuple[int, ...] = ()


def is_flattened(one: Shape, other: Shape) -> bool:
    """Whether one is a convolution's weight and the other that of the Linear over its patches."""
    flat, kernel = sorted((one, other), key=len)
    patches = len(flat) == 2 and 3 <= len(kernel) <= 5 and any(size != 1 for size in kernel[2:])
    return patches and flat[0] == kernel[0] and math.prod(flat) == math.prod(kernel)


def aim_of(layer: Layer, shape: Shape, wanted: Shape) -> Aim:
    """What a layer should become so that a weight of one shape gets the other; the kind is "" where none does it."""
    to = KIND_OF_RANK.get(len(wanted), "")
    if is_flattened(shape, wanted):
        return Aim(to, patches=len(wanted) == 2, patch=wanted[2:])
    turned = shape[:2] != wanted[:2]
    if to.startswith("Conv") and is_in_out(layer.kind) != turned:
        return Aim(to.replace("Conv", "ConvTranspose"))
    return Aim(to)


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
    aims = {id(layer): _aim(layer, wanted) for layer in concerned}
    kinds = ("", *TARGETS.values())
    for aim in sorted(set(aims.values()), key=lambda each: (kinds.index(each.to), each[1:])):
        chosen = [layer for layer in concerned if aims[id(layer)] == aim]
        while chosen:
            reasons = _unmet(layers, chosen, aim, wanted)
            if not reasons:
                steps.append(_step(layers, chosen, aim))
                break
            for layer in chosen:
                if layer.name in reasons:
                    refusals |= {id(tensor): reasons[layer.name] for tensor in layer.tensors.values()}
            # Try again without the layers that failed.
            chosen = [layer for layer in chosen if layer.name not in reasons]
    return tuple(steps), refusals


def _aim(layer: Layer, wanted: Mapping[int, Shape]) -> Aim:
    """What the wanted shapes ask for; the shape wanted for the weight counts first."""
    tensors = (layer.weight, *layer.tensors.values())
    tensor = next(tensor for tensor in tensors if id(tensor) in wanted)
    return aim_of(layer, tensor.shape, wanted[id(tensor)])


def _request(aim: Aim, kinds: tuple[str, ...], names: tuple[str, ...]) -> Request:
    return Request(aim.to, kinds, names, patches=aim.patches, patch=aim.patch)


def _unmet(layers: Sequence[Layer], chosen: Sequence[Layer], aim: Aim, wanted: Mapping[int, Shape]) -> dict[str, str]:
    """Reasons, by name, of chosen layers that would not get their wanted shapes if all were converted."""
    able = [layer for layer in chosen if aim.to and may_change(layer.kind, layer.pointwise) and layer.kind != aim.to]
    if len(able) < len(chosen):
        return {layer.name: _kind_obstacle(layer, aim.to) for layer in chosen if layer not in able}
    names = tuple(layer.name or "(root)" for layer in chosen)
    planned = plan(layers, _request(aim, _kinds(chosen), names))
    refused = {refusal.name: refusal.reason for refusal in planned.refusals}
    new_shapes = {each.layer.name: {id(edit.tensor): edit.shape for edit in each.edits} for each in planned.conversions}
    unmet: dict[str, str] = {}
    for layer in chosen:
        shapes = {id(tensor): wanted[id(tensor)] for tensor in layer.tensors.values() if id(tensor) in wanted}
        if layer.name not in new_shapes:
            unmet[layer.name] = refused.get(layer.name, "it is left unchanged")
        elif new_shapes[layer.name] != shapes:
            unmet[layer.name] = Wording("convert ", Option("to", option_of(aim.to)), " gives other shapes than these")
    return unmet


def _kind_obstacle(layer: Layer, to: str) -> str:
    like = Option("like", None)
    if layer.kind == to:
        return Wording("only convert ", like, " a checkpoint that has it transposed turns it over")
    return Wording("only convert ", like, f" reshapes what reads as {layer.kind}")


def _kinds(layers: Iterable[Layer]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(layer.kind for layer in layers))


def _step(layers: Sequence[Layer], chosen: Sequence[Layer], aim: Aim) -> Step:
    """The call with the shortest selection: all layers, globs over numbered blocks, or each by name."""
    kinds = _kinds(chosen)
    origin = () if aim.patches or set(kinds) <= set(DEFAULT_FROM.get(aim.to, ("Linear",))) else kinds
    names = tuple(layer.name or "(root)" for layer in chosen)
    globs = tuple(dict.fromkeys(_NUMBER.sub("*", name) for name in names))
    if len(names) > _MOST_NAMES:
        wanted = {layer.name for layer in chosen}
        for shorter in ((), globs):
            planned = plan(layers, _request(aim, origin, shorter))
            if {each.layer.name for each in planned.conversions} == wanted:
                return Step(aim.to, origin, shorter, len(names), *aim[1:])
    return Step(aim.to, origin, names, len(names), *aim[1:])
