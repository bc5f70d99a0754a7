"""Whose work is what: the same answer on every rank, since each works it out alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from convinspect.ranks.group import Group

T = TypeVar("T")
R = TypeVar("R")


def shared_out(sizes: Mapping[str, int], ranks: int) -> list[list[str]]:
    """The names that each rank takes: the largest first, each to the rank that has least so far.

    Args:
        sizes: Bytes by name.
        ranks: How many ranks there are.
    """
    shares: list[list[str]] = [[] for _ in range(ranks)]
    bytes_of = [0] * ranks
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        least = min(range(ranks), key=lambda rank: (bytes_of[rank], len(shares[rank]), rank))
        shares[least].append(name)
        bytes_of[least] += sizes[name]
    return shares


def run_of_rank(things: Iterable[tuple[T, int]], rank: int, ranks: int) -> Sequence[T]:
    """The part of a row that a rank takes: things that lie one after another, with its share of the bytes.

    Args:
        things: Each with its bytes, in the order in which they are read.
        rank: The rank.
        ranks: How many there are.
    """
    row = [(thing, max(1, nbytes)) for thing, nbytes in things]
    total = sum(nbytes for _, nbytes in row)
    mine, before = [], 0
    for thing, nbytes in row:
        # By its middle, so that each thing is one rank's.
        if (2 * before + nbytes) * ranks // (2 * total) == rank:
            mine.append(thing)
        before += nbytes
    return mine


def done_by_ranks(
    group: Group, things: Sequence[T], nbytes: Callable[[T], int], work: Callable[[Sequence[T]], Iterable[R]]
) -> list[R]:
    """The results for all things, in their order, of which each rank works out a run.

    Args:
        group: The ranks, each of which makes this call with the same things.
        things: What to work on, in the order in which it is read.
        nbytes: What a thing takes to read.
        work: Gives the results for some things, in their order.

    Raises:
        OtherRankFailed: A rank has failed, or died.
    """
    mine = run_of_rank(((thing, nbytes(thing)) for thing in things), group.rank, group.size)
    shares: list[list[R]] = group.exchange(list(work(mine)))
    return [result for share in shares for result in share]
