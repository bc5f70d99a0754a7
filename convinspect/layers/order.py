"""The order of a listing: the file's own, or by name, where numbers compare as numbers, or by size."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Literal, TypeAlias, get_args

from convinspect.checkpoint import Checkpoint
from convinspect.errors import CannotShow, Option, Wording
from convinspect.layers.folding import Fold, fold, unfolded
from convinspect.layers.parameters import counted_in, parameters_of
from convinspect.records import Layer

PartKey: TypeAlias = tuple[str | tuple[int, str], ...]
NaturalKey: TypeAlias = tuple[tuple[PartKey, ...], str]

Order: TypeAlias = Literal["name", "params", "size", "file"]
"""What a listing may be sorted by."""

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
    """Layers in the order of a listing that nobody asked to sort: see `sort_layers`."""
    return sort_layers(checkpoint, layers)


def sort_layers(checkpoint: Checkpoint, layers: Iterable[Layer], by: Order | None = None) -> list[Layer]:
    """Layers in the order of a listing.

    Args:
        checkpoint: Theirs.
        layers: In stored order, as `find_layers` gives them.
        by: "name": natural order of names, in which numbers compare as numbers. "params" or "size": those of the most
            parameters or bytes first. "file": as stored. None: as stored where the file keeps an order of its own, as
            pickles do, else by name.

    Raises:
        CannotShow: `by` is none of these.
    """
    return [row.layers[0] for row in sort_rows(checkpoint, layers, by)]


def sort_rows(
    checkpoint: Checkpoint, layers: Iterable[Layer], by: Order | None = None, *, folded: bool = False
) -> list[Fold]:
    """The same as rows: one for each layer, or `folded`, where the sums of all that a row stands for count."""
    if by is not None and by not in get_args(Order):
        raise CannotShow(Wording(Option("sort", by), " is no order"), f"choose one of {', '.join(get_args(Order))}")
    stored = by == "file" or (by != "name" and keeps_order(checkpoint))
    ordered = list(layers) if stored else sorted(layers, key=_by_name)
    rows = fold(ordered) if folded else unfolded(ordered)
    if by == "params":
        counted = counted_in(checkpoint)
        rows.sort(key=lambda row: -parameters_of(row.layers, counted))
    elif by == "size":
        rows.sort(key=lambda row: -_nbytes(row.layers))
    return rows


def _nbytes(layers: Sequence[Layer]) -> int:
    return sum([layer.nbytes for layer in layers])


def _by_name(layer: Layer) -> NaturalKey:
    return natural_key(layer.name)
