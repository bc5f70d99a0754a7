"""Repeated blocks as one row: `encoder.0.conv`, `encoder.1.conv`, … → `encoder.{0–1}.conv`."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

from convinspect.records import Layer

_Entry: TypeAlias = tuple[tuple[str, ...], tuple[int, ...]]
"""Parts of a name, and which layers have it."""

# "01" is not folded, since the fold would not show its zero; longer numbers are not block numbers.
NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")
_DEEPEST = 64
"""Positions beyond are left alone: no honest name has so many parts, and each costs a look at every layer."""


class Fold(NamedTuple):
    """Layers that differ only in numbers in their names.

    Attributes:
        name: Their name, with each varying number as a set in braces.
        layers: In stored order.
    """

    name: str
    layers: tuple[Layer, ...]


def unfolded(layers: Iterable[Layer]) -> list[Fold]:
    """Each layer by itself."""
    return [Fold(layer.name, (layer,)) for layer in layers]


def fold(layers: Sequence[Layer]) -> list[Fold]:
    """Fold layers with equal kind, shapes, dtype, settings and tags whose names differ in numbers only.

    One number position is folded at a time, from the last to the first, so that each fold is a full product of its
    sets: no name stands for a layer that does not exist.
    """
    found = fold_names([layer.name for layer in layers], [signature(layer) for layer in layers])
    return [Fold(name, tuple(layers[index] for index in members)) for name, members in found]


def fold_names(names: Sequence[str], signatures: Sequence[Hashable]) -> list[tuple[str, tuple[int, ...]]]:
    """Fold dotted names that differ in numbers only and have equal signatures; each with the indices of its members.

    Args:
        names: In any order.
        signatures: One for each name.
    """
    folds: list[_Entry] = [(tuple(name.split(".")), (index,)) for index, name in enumerate(names)]
    deepest = max((len(parts) for parts, _ in folds), default=0)
    for position in reversed(range(min(deepest, _DEEPEST))):
        folds = _folded_at(folds, position, signatures)
    return [(".".join(parts), tuple(sorted(members))) for parts, members in folds]


def _folded_at(folds: list[_Entry], position: int, signatures: Sequence[Hashable]) -> list[_Entry]:
    groups: dict[Hashable, list[_Entry]] = {}
    for index, (parts, members) in enumerate(folds):
        if position < len(parts) and NUMBER.fullmatch(parts[position]):
            same = (parts[:position], parts[position + 1 :], signatures[members[0]])
            groups.setdefault(same, []).append((parts, members))
        else:
            groups[index] = [(parts, members)]
    return [_merged(entries, position) for entries in groups.values()]


def signature(layer: Layer) -> Hashable:
    """What layers have in common that are shown as one: kind, shapes, dtypes, settings and tags."""
    parts = tuple((leaf, tensor.shape, tensor.dtype) for leaf, tensor in layer.tensors.items())
    settings = (layer.stride, layer.padding, layer.dilation, layer.groups)
    return (layer.kind, layer.evidence, parts, settings, layer.tags)


def _merged(entries: list[_Entry], position: int) -> _Entry:
    if len(entries) == 1:
        return entries[0]
    parts = list(entries[0][0])
    parts[position] = "{" + ranges([int(entry[0][position]) for entry in entries]) + "}"
    return tuple(parts), tuple(index for _, members in entries for index in members)


def ranges(numbers: list[int]) -> str:
    """`0, 1, 2, 5` → `0–2,5`."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}–{last}" for first, last in runs)
