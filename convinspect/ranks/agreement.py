"""Before ranks share work: do all of them see the same files?"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from convinspect.errors import ChangedMeanwhile
from convinspect.ranks.group import Group


def agree(group: Group, seen: object, path: Path) -> None:
    """Wait until every rank has opened its files, and check that they are the same.

    Args:
        group: The ranks.
        seen: What a rank has seen of them, as plain values.
        path: What they opened.

    Raises:
        ChangedMeanwhile: A rank sees something else than rank 0.
        OtherRankFailed: A rank could not open them.
    """
    sums = group.exchange(sha256(repr(seen).encode()).hexdigest())
    if sums[group.rank] != sums[0]:
        problem = "it is not what rank 0 sees there"
        raise ChangedMeanwhile(problem, "let nothing write to it, and give all machines the same files", path)


def checking(group: Group, progress: Callable[[int], None]) -> Callable[[int], None]:
    """Progress that also ends the work once another rank has failed."""

    def advance(done: int) -> None:
        group.check()
        progress(done)

    return advance
