"""Rows of a table that are made on demand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar, overload

T = TypeVar("T")


class LazyRows(Sequence[T]):
    """A row for each of many things, made again on each access, so that rows that are not read cost nothing.

    Args:
        make: (thing, *more) → its row.
        things: One for each row.
        more: Further arguments of `make`.
    """

    def __init__(self, make: Callable[..., T], things: Sequence[object], *more: object) -> None:
        self._make, self._things, self._more = make, things, more

    def __len__(self) -> int:
        return len(self._things)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self._make(thing, *self._more) for thing in self._things[index]]
        return self._make(self._things[index], *self._more)
