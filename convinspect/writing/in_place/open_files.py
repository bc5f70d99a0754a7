"""Room for many open files at once: the system's usual limit is 1,024, and may be raised up to a harder one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

OTHERS = 64
"""Files that a process may have open besides those that it edits."""


def raise_limit(soft: int, hard: int) -> bool:
    """Whether the limit could be set."""
    import resource

    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    except (OSError, ValueError):
        return False
    return True


@contextmanager
def many_open(count: int) -> Iterator[int | None]:
    """Raise the limit of open files for a while, where so many would exceed it.

    Args:
        count: Files that are to be open at once.

    Yields:
        The limit if it is too low all the same; None if they can be open.
    """
    try:
        import resource
    except ImportError:
        yield None
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + OTHERS
    if soft == resource.RLIM_INFINITY or wanted <= soft:
        yield None
        return
    raised = raise_limit(wanted, hard)
    try:
        yield None if raised else soft
    finally:
        if raised:
            raise_limit(soft, hard)
