"""What treats converted layers differently from now on, though their outputs are the same: optimizers, and code that
looks at the number of a weight's dimensions. docs/after-converting.md has the measurements.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import Enum
from typing import NamedTuple

from convinspect.checkpoint import Checkpoint
from convinspect.converting.decisions import Conversion, Plan
from convinspect.converting.owners import owners_of
from convinspect.converting.shape_seeing import Effect, families_of
from convinspect.layers.lora import is_magnitude
from convinspect.records import Edit, Layer, Root


class Topic(Enum):
    """What it is that treats them differently."""

    OPTIMIZER = "optimizer"
    GROUPS = "optimizer groups"
    NORM = "parametrization"
    PRUNING = "pruning"
    ADAPTER = "adapter"


class Afterwards(NamedTuple):
    """One thing that treats converted layers differently.

    Attributes:
        topic: What it is.
        where: The path of the optimizer's root; else the first layer that it is about, "" for the root module.
        name: What it is called: "Adafactor", "spectral_norm", "DoRA"; of groups "".
        effect: What an optimizer does; None for all others.
        layers: How many layers it is about; 0 for optimizers.
    """

    topic: Topic
    where: str
    name: str = ""
    effect: Effect | None = None
    layers: int = 0


def afterwards(
    checkpoint: Checkpoint, plan: Plan, foreign: Collection[str] = (), alone: bool = False
) -> list[Afterwards]:
    """What treats the converted layers differently.

    Args:
        checkpoint: The file; its root in use is the model.
        plan: The conversions.
        foreign: Paths of other models' optimizers.
        alone: The root is written without the others, so that no optimizer is in the new file.
    """
    if not plan.conversions:
        return []
    edits = plan.edits
    roots = [root for root in checkpoint.roots if root.role == "optimizer" and root.path not in foreign and not alone]
    found = [
        Afterwards(Topic.OPTIMIZER, root.path, family.name, family.effect)
        for root in roots
        for family in families_of(root, edits)
    ]
    found += [Afterwards(Topic.GROUPS, root.path) for root in roots if _regrouped(checkpoint, root, edits)]
    return [*dict.fromkeys(found), *_of_layers(plan.conversions)]


def _of_layers(conversions: Iterable[Conversion]) -> list[Afterwards]:
    """Norms, masks and adapters that conversions carry over, each kind once."""
    layers: dict[tuple[Topic, str], list[str]] = {}
    for conversion in conversions:
        layer = conversion.layer
        if layer.norm == "pruned":
            layers.setdefault((Topic.PRUNING, "prune"), []).append(layer.name)
        elif _norm_along_inputs(layer):
            layers.setdefault((Topic.NORM, layer.norm or ""), []).append(layer.name)
        if is_magnitude(layer.name) and any(
            (len(edit.tensor.shape) == 1) != (len(edit.shape) == 1) for edit in conversion.edits
        ):
            layers.setdefault((Topic.ADAPTER, "DoRA"), []).append(layer.name)
    return [Afterwards(topic, names[0], name, layers=len(names)) for (topic, name), names in layers.items()]


def _norm_along_inputs(layer: Layer) -> bool:
    """Whether its norm is taken along the inputs, the last dimension of a Linear and no other kind's."""
    if layer.norm == "spectral_norm":
        return 1 in layer.norm_dims[:1]
    if layer.norm != "weight_norm":
        return False
    g = layer.tensors.get("weight_g") or layer.tensors.get("parametrizations.weight.original0")
    return g is not None and len(g.shape) > 1 and g.shape[0] == 1 != layer.weight.shape[0]


def _regrouped(checkpoint: Checkpoint, root: Root, edits: Iterable[Edit]) -> bool:
    """Whether its groups hold weights of other numbers of dimensions each, and one gets those of another.

    Code that chooses groups by `ndim` then puts a converted weight into another group than the file has it in.
    """
    if root.parameters is None or len(root.parameters) < 2:
        return False
    owners = owners_of(checkpoint, root)
    after = {id(edit.tensor): len(edit.shape) for edit in edits}
    dims: list[set[int]] = []
    moved: list[set[int]] = []
    for group in root.parameters:
        before, now = set[int](), set[int]()
        for number in map(str, group):
            for owner in owners.candidates.get(number, ()):
                before.add(len(owner.shape))
                now |= {after[id(owner)]} if id(owner) in after else set()
        dims.append(before)
        moved.append(now - before)
    return any(
        mine & theirs and not dims[at] & theirs
        for at, mine in enumerate(moved)
        for other, theirs in enumerate(dims)
        if other != at
    )
