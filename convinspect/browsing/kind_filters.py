"""By what layers can be filtered: a kind, or a property that matters to a conversion."""

from __future__ import annotations

from collections.abc import Sequence

from convinspect.records import Layer


def filters(layers: Sequence[Layer]) -> dict[str, int]:
    """Properties that some layers have and all kinds, each with the number of its layers."""
    counts = {name: sum(is_of(layer, name) for layer in layers) for name in ("pointwise", "patch", "tied")}
    found = {name: number for name, number in counts.items() if number}
    for layer in layers:
        found[layer.kind] = found.get(layer.kind, 0) + 1
    return found


def is_of(layer: Layer, name: str) -> bool:
    """Whether a filter lets a layer through."""
    properties = {"pointwise": layer.pointwise, "patch": layer.patch, "tied": bool(layer.tied_to)}
    return properties.get(name, layer.kind == name)
