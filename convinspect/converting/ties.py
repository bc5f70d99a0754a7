"""Tensors that must change together: ties (over the same bytes), and both halves of a LoRA pair with its magnitudes."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

from convinspect.converting.eligibility import converted_together
from convinspect.layers.grouping import lora_partner
from convinspect.records import Doubt, Edit, Layer, bytes_of

Shapes = Mapping[str, tuple[int, ...]]


Tie = Sequence[tuple[str, Layer]]
"""Tensors over the same bytes: the stored key of each, and its layer."""


def blocked_by_ties(
    layers: Sequence[Layer],
    edits: Mapping[str, Sequence[Edit]],
    kinds: Mapping[str, str],
    beside: Mapping[str, str],
    refused: frozenset[str],
) -> dict[str, str | None]:
    """Which of the layers to change must stay, because a tensor tied to theirs or their pair's other part stays.

    Args:
        layers: All layers of the root.
        edits: Planned edits by the layer's name.
        kinds: Target kinds by the layer's name.
        beside: Halves of LoRA pairs → the layer of DoRA magnitudes that must change with them.
        refused: Names of layers that were refused.

    Returns:
        The reason by the layer's name; None if another layer's reason says it already.
    """
    # Of many layers few may change: what is tied to these alone is looked at.
    ties: dict[object, list[tuple[str, Layer]]] = {
        bytes_of(edit.tensor) or edit.tensor.key: [] for changes in edits.values() for edit in changes
    }
    for layer in layers:
        for tensor in layer.tensors.values():
            if (tie := ties.get(bytes_of(tensor) or tensor.key)) is not None:
                tie.append((tensor.key, layer))
    before = {layer.name: layer.kind for layer in layers}
    by_name = {layer.name: layer for layer in layers if Doubt.LINEAR_BY_NAME in layer.doubts and layer.tied_to}
    halves: dict[str, list[str]] = {}
    for half, magnitudes in beside.items():
        halves.setdefault(magnitudes, []).append(half)
    going, reasons = dict(edits), dict[str, str | None]()
    # A layer that stays can block its partners, so repeat until no more layers are blocked.
    while True:
        shapes = {edit.tensor.key: edit.shape for changes in going.values() for edit in changes}
        telling = {place: _telling(tie, shapes) for place, tie in ties.items()}
        count = len(going)
        for name, changes in list(going.items()):
            reason = _broken_pair(name, going, before, kinds, beside)
            parted = any(half in refused or half in reasons for half in halves.get(name, ()))
            if reason is None and not parted:
                reason = _broken_tie(changes, telling, shapes, by_name.get(name))
            if reason is not None or parted:
                reasons[name] = reason
                del going[name]
        if len(going) == count:
            return reasons


def _broken_pair(
    name: str,
    going: Container[str],
    before: Mapping[str, str],
    kinds: Mapping[str, str],
    beside: Mapping[str, str],
) -> str | None:
    """Why a half of a LoRA pair must stay (the other half or the pair's magnitudes do), or None."""
    partner = lora_partner(name)
    if partner is not None and partner not in going and before.get(partner) != kinds[name]:
        return f"one half of a LoRA pair, whose other half {partner} does not change"
    if name in beside and beside[name] not in going:
        return f"its pair's magnitudes {beside[name]} cannot change with it"
    return None


def _broken_tie(edits: Sequence[Edit], ties: Mapping[object, Tie], shapes: Shapes, by_name: Layer | None) -> str | None:
    """Why a layer must stay (a tied tensor would not get the same shape), or None.

    Args:
        edits: The layer's.
        ties: All tensors over the same bytes.
        shapes: New shapes by stored key.
        by_name: The layer, where it is a Linear by its name alone; its tie may be one too, if the user says so.
    """
    for edit in edits:
        for key, layer in ties[bytes_of(edit.tensor) or edit.tensor.key]:
            if shapes.get(key) != edit.shape and edit.tensor.storage is not None:
                if by_name is not None and layer.kind == "Embedding" and layer.evidence == "ambiguous":
                    return converted_together(by_name, Doubt.LINEAR_BY_NAME.value)
                return f"its weight is tied to {key} of {layer.name} ({layer.kind}), which does not change"
    return None


def _telling(tie: Tie, shapes: Shapes) -> Tie:
    """The first tied tensor and the first whose new shape differs; the two decide for the whole tie.

    For a tensor of any new shape, one of them is the tie's first member with another. So a tie of thousands of tensors
    is not searched for each.
    """
    shape = shapes.get(tie[0][0])
    different = next((member for member in tie if shapes.get(member[0]) != shape), None)
    return tie[:1] if different is None else (tie[0], different)
