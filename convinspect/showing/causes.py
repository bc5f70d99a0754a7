"""Many keys with one cause as one row."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from itertools import takewhile

from convinspect.layers.folding import fold_names

FEW = 12
"""So many rows are shown one by one; of more, one for each cause."""

_MOST_FOLDED = 2_000
"""Of more names with one cause, the first stands for all: to fold them takes longer than to find them."""
_MOST_PLACES = 4
"""Names that begin in more ways than this are not told apart by it."""


def by_cause(names: Sequence[str], causes: Sequence[Hashable]) -> list[tuple[str, tuple[int, ...]]]:
    """A name for each cause and the places of its members, in order of the first; each alone where there are few.

    Args:
        names: In the order that they are shown in.
        causes: One for each name.
    """
    if len(names) <= FEW:
        return [(name, (place,)) for place, name in enumerate(names)]
    groups: dict[Hashable, list[int]] = {}
    for place, cause in enumerate(causes):
        groups.setdefault(cause, []).append(place)
    return [(_said(names, places), tuple(places)) for places in groups.values()]


def _said(names: Sequence[str], places: Sequence[int]) -> str:
    """The names of all members as one, if they differ in numbers only; else what they begin with."""
    if len(places) == 1:
        return names[places[0]]
    if len(places) <= _MOST_FOLDED:
        folds = fold_names([names[place] for place in places], [None] * len(places))
        if len(folds) == 1:
            return folds[0][0]
    front = _common_levels([names[place] for place in places])
    return f"{front}…" if front else f"{names[places[0]]}, …"


def _common_levels(names: Sequence[str]) -> str:
    """The levels that all names begin with, as "model.layers."."""
    pairs = zip(min(names).split(".")[:-1], max(names).split("."), strict=False)
    return "".join(f"{level}." for level, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def beginnings(names: Iterable[str]) -> dict[str, str]:
    """How each name begins, its first level, where all of them begin in few ways; else "" for each."""
    found = {name: name.partition(".")[0] for name in names}
    few = len(set(found.values())) <= _MOST_PLACES
    return found if few else dict.fromkeys(found, "")
