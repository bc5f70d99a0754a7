"""Changes that are made together or not at all: of tensors over the same bytes, and of both halves of a LoRA pair with
what lies beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from convinspect.layers.grouping import lora_partner
from convinspect.records import Edit, Layer, bytes_of

Shapes = Mapping[str, tuple[int, ...]]


def blocked_by_ties(
    layers: Sequence[Layer],
    edits: Mapping[str, Sequence[Edit]],
    kinds: Mapping[str, str],
    beside: Mapping[str, str],
    refused: frozenset[str],
) -> dict[str, str]:
    """Which of the layers that are to change must stay, since something of theirs stays elsewhere.

    Args:
        layers: All that there are.
        edits: What is to change in each, by its name.
        kinds: What each of these is to become.
        beside: Halves of LoRA pairs → the layer of magnitudes that must change with them.
        refused: Layers that were meant to change and stay.

    Returns:
        The reason by the layer's name, "" where that of another says it all. One that stays can keep another's partner,
        so it is looked over until nothing more does.
    """
    ties: dict[object, list[tuple[str, Layer]]] = {}
    for layer in layers:
        for tensor in layer.tensors.values():
            ties.setdefault(bytes_of(tensor) or tensor.key, []).append((tensor.key, layer))
    before = {layer.name: layer.kind for layer in layers}
    halves: dict[str, list[str]] = {}
    for half, magnitudes in beside.items():
        halves.setdefault(magnitudes, []).append(half)
    going, reasons = dict(edits), dict[str, str]()
    while True:
        shapes = {edit.tensor.key: edit.shape for one in going.values() for edit in one}
        telling = {where: _telling(tie, shapes) for where, tie in ties.items()}
        count = len(going)
        for name, one in list(going.items()):
            partner = lora_partner(name)
            if partner is not None and partner not in going and before.get(partner) != kinds[name]:
                reasons[name] = f"one half of a LoRA pair, whose other half {partner} does not change"
            elif name in beside and beside[name] not in going:
                reasons[name] = f"its pair's magnitudes {beside[name]} cannot change with it"
            elif any(half in refused or half in reasons for half in halves.get(name, ())):
                reasons[name] = ""
            elif (keeper := _keeper(one, telling, shapes)) is not None:
                key, owner = keeper
                reasons[name] = f"its weight is tied to {key} of {owner.name} ({owner.kind}), which does not change"
            else:
                continue
            del going[name]
        if len(going) == count:
            return reasons


def _telling(tie: Sequence[tuple[str, Layer]], shapes: Shapes) -> Sequence[tuple[str, Layer]]:
    """The first of a tie and the first that does not get the same shape, so that not all are looked through for each:
    to a tensor of any shape, these tell who of the tie is the first to get another.
    """
    shape = shapes.get(tie[0][0])
    other = next((one for one in tie if shapes.get(one[0]) != shape), None)
    return tie[:1] if other is None else (tie[0], other)


def _keeper(
    edits: Sequence[Edit], ties: Mapping[object, Sequence[tuple[str, Layer]]], shapes: Shapes
) -> tuple[str, Layer] | None:
    """Another tensor over the same bytes as one that changes, which would not change the same way."""
    for edit in edits:
        for key, layer in ties[bytes_of(edit.tensor) or edit.tensor.key]:
            if shapes.get(key) != edit.shape and edit.tensor.storage is not None:
                return key, layer
    return None
