"""In which order layers are listed: natural order of names, in which numbers compare as numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import TypeAlias

from convinspect.checkpoint import Checkpoint
from convinspect.records import Layer

PartKey: TypeAlias = tuple[str | tuple[int, str], ...]
NaturalKey: TypeAlias = tuple[tuple[PartKey, ...], str]

_DIGITS = re.compile("([0-9]+)")


def natural_key(name: str) -> NaturalKey:
    """A sort key for dotted names: `conv.2` before `conv.10`, and a module before what lies under it.

    Names compare part by part, so that all of a module stand together: `a.b` comes before `a-b.c`. Of names that differ
    in leading zeros only ("1", "01") the order is that of the text.
    """
    return tuple(map(_part_key, name.split("."))), name


@lru_cache(maxsize=65536)
def _part_key(part: str) -> PartKey:
    """Text and numbers in turn. A number is its length and its digits, since `int` refuses very long ones."""
    pieces = _DIGITS.split(part)
    key: list[str | tuple[int, str]] = list(pieces)
    for place in range(1, len(pieces), 2):
        digits = pieces[place].lstrip("0")
        key[place] = (len(digits), digits)
    return tuple(key)


def keeps_order(checkpoint: Checkpoint) -> bool:
    """Whether the stored order means something: pickles keep the order of definition; safetensors, shards and archives
    do not.
    """
    return checkpoint.container.keeps_order and not checkpoint.shards


def listed(checkpoint: Checkpoint, layers: Iterable[Layer]) -> list[Layer]:
    """Layers in the order of a listing: the file's own where it keeps one, else the natural order of their names."""
    return list(layers) if keeps_order(checkpoint) else sorted(layers, key=_by_name)


def _by_name(layer: Layer) -> NaturalKey:
    return natural_key(layer.name)
