"""Comparing by several ranks: each takes tensors that lie one after another in the first checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from convinspect.ranks.shares import done_by_ranks
from convinspect.records import Tensor

if TYPE_CHECKING:
    from convinspect.ranks.group import Group

R = TypeVar("R")
Compared = tuple[str, Tensor, Tensor]
"""A tensor's name, before, and after."""


def compared_by_ranks(
    group: Group, common: Sequence[Compared], work: Callable[[list[Compared]], dict[str, R]]
) -> dict[str, R]:
    """What became of each tensor, by name, in order.

    Args:
        group: The ranks, each of which makes this call with the same tensors.
        common: The tensors that both checkpoints have.
        work: Compares some of them.

    Raises:
        OtherRankFailed: A rank has failed, or died.
    """
    stored = sorted(common, key=lambda pair: _place(pair[1]))
    found = dict(done_by_ranks(group, stored, lambda pair: pair[1].nbytes, lambda some: work(list(some)).items()))
    return {name: found[name] for name, _, _ in common}


def _place(tensor: Tensor) -> tuple[str, int]:
    """Where a tensor, or the first of its pieces, lies."""
    storage = (tensor.parts[0] if tensor.parts else tensor).storage
    if storage is not None and storage.pieces is not None:
        places = (chunk.place for chunk in storage.pieces.chunks if chunk.place is not None)
        return next(((str(place.file), place.offset) for place in places), ("", 0))
    return ("", 0) if storage is None else (str(storage.file), storage.start or 0)
