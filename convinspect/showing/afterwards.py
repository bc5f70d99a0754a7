"""The line and the JSON of what treats converted layers differently from now on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from convinspect.converting.afterwards import Afterwards, Topic
from convinspect.converting.shape_seeing import Effect
from convinspect.text import plural

_EFFECTS = {
    Effect.STEPS: "steps differently on a Linear's weight than on a convolution's",
    Effect.MAY_STEP: "may step differently on a Linear's weight than on a convolution's",
    Effect.STATE: "keeps state of another size for a Linear's weight than for a convolution's",
    Effect.MATRICES: "takes weights of two dimensions alone",
}


def afterwards_lines(found: Sequence[Afterwards]) -> list[str]:
    """One line for the file; none where nothing applies."""
    if not found:
        return []
    return [f"outputs are the same, what follows may not be: {'; '.join(map(_said, found))}"]


def _said(one: Afterwards) -> str:
    if one.topic is Topic.OPTIMIZER:
        does = _EFFECTS[one.effect] if one.effect else ""
        return f"the optimizer at {one.where!r} is {one.name}, which {does}"
    if one.topic is Topic.GROUPS:
        return (
            f"the groups of the optimizer at {one.where!r} hold weights of different numbers of dimensions, so code"
            " that chooses groups by ndim now makes others"
        )
    where = one.where or "(root)"
    layers = where if one.layers == 1 else f"{where} and {plural(one.layers - 1, 'other layer')}"
    if one.topic is Topic.PRUNING:
        return f"pruning {layers} again with dim=-1 takes inputs of a Linear, and places in the kernel of a convolution"
    if one.topic is Topic.NORM:
        return f"the {one.name} of {layers} is taken along the inputs: dim=1 says so in every form, dim=-1 does not"
    return f"{one.name}'s magnitudes ({layers}) have another number of dimensions, by which code may choose groups"


def afterwards_payload(found: Sequence[Afterwards]) -> list[dict[str, Any]]:
    """The JSON: what it is, where, what it is called, what an optimizer does, and how many layers it is about."""
    return [
        {
            "topic": one.topic.value,
            "where": one.where,
            "name": one.name,
            "effect": one.effect.value if one.effect else None,
            "layers": one.layers,
        }
        for one in found
    ]
