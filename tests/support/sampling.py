"""Which cases of a large family run: some of them each time, all of them by hand."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")
EVERY_CASE = bool(os.environ.get("EVERY_CASE"))


def some(cases: Iterable[T], count: int) -> list[T]:
    """`count` of the cases, the first, the last and others evenly between them; all of them with `EVERY_CASE=1`."""
    every = list(cases)
    if EVERY_CASE or count >= len(every):
        return every
    return [every[number * (len(every) - 1) // max(1, count - 1)] for number in range(count)]


def times(usual: int, thorough: int) -> int:
    """How often something random is tried: `thorough` with `EVERY_CASE=1`."""
    return thorough if EVERY_CASE else usual
