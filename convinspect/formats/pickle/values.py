"""What a walked pickle is made of: stand-ins for what the stream would build, and where parts are added to them."""

from __future__ import annotations

from _compat_pickle import NAME_MAPPING
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from convinspect.records import Span

Batch: TypeAlias = tuple[int, int, Sequence[int]]
"""Items set at once: the instructions' first byte, the end of the last, and where each key and value is pushed."""

# The nodes have no repr: a tuple doubled sixty times is a small graph and an endless text.


@dataclass(slots=True, eq=False)
class Global:
    """A name that the stream asks for, such as `torch._utils` `_rebuild_tensor_v2`."""

    module: str
    name: str
    qualified: str = field(init=False)
    """`module.name`, with Python 2's name of the builtins and of what is in them made today's (`xrange` is `range`)."""

    def __post_init__(self) -> None:
        names = self.module, self.name
        if self.module == "__builtin__":
            names = NAME_MAPPING.get(names, ("builtins", self.name))
        self.qualified = ".".join(names)


@dataclass(slots=True, eq=False, repr=False)
class Call:
    """A call that unpickling would make: REDUCE, NEWOBJ, NEWOBJ_EX, OBJ or INST.

    Attributes:
        function: What would be called, usually a `Global`.
        args: Usually a `Tuple`.
        kwargs: Of NEWOBJ_EX, else None.
        states: What BUILD would hand to `__setstate__`, in order.
        pairs: Key and value of every item set on the result.
        places: Where these were set, as in `Dict`.
        items: What is appended or added to the result.
    """

    function: Any
    args: Any
    kwargs: Any = None
    # Most calls are tensors, which have none of these: one shared empty tuple keeps a large tree small.
    states: list[Any] | tuple[()] = ()
    pairs: list[tuple[Any, Any]] | tuple[()] = ()
    places: list[Batch] | tuple[()] = ()
    items: list[Any] | tuple[()] = ()


@dataclass(slots=True, eq=False, repr=False)
class Tuple:
    """A tuple, the bytes `start:end` that build it, and where each item is pushed.

    An empty one has no place of its own. Only those of as many items as describe a tensor know their items' places:
    there are several tuples to a tensor, and places take more memory than items.
    """

    items: Sequence[Any]
    start: int
    end: int
    starts: Sequence[int] = ()

    def span(self, index: int) -> Span:
        """Bytes that push item `index`, its own tuple alone when it is one built there.

        Raises:
            IndexError: There is no such item, or its place is not known.
        """
        item = self.items[index]
        if isinstance(item, Tuple) and item.start == self.starts[index]:
            return Span(item.start, item.end)
        following = index + 1
        return Span(self.starts[index], self.starts[following] if following < len(self.starts) else self.end - 1)


@dataclass(slots=True, eq=False, repr=False)
class Dict:
    """A dictionary's items in stored order; keys may be of any kind, so it stays a list of pairs.

    Attributes:
        pairs: Key and value of each item.
        places: The instructions that set them, one entry for each SETITEM or SETITEMS.
    """

    pairs: list[tuple[Any, Any]] = field(default_factory=list)
    places: list[Batch] | tuple[()] = ()


@dataclass(slots=True, eq=False, repr=False)
class Set:
    """A set or frozenset."""

    items: list[Any] = field(default_factory=list)


@dataclass(slots=True, eq=False, repr=False)
class Persistent:
    """A persistent id; torch uses it for storages and for the source of old whole modules."""

    id: Any


@dataclass(slots=True, eq=False)
class Blob:
    """A long string or bytes left unread: `length` bytes from `start` of the stream."""

    start: int
    length: int


@dataclass(slots=True, eq=False)
class OutOfBand:
    """What has no value here: a protocol 5 buffer, an extension registry code, or a number beyond all use."""

    what: str


class Memo:
    """What PUT remembers, by number.

    Attributes:
        slots: Those numbered from 0 on without a gap, as picklers number them.
        others: All others, by number.
    """

    __slots__ = ("others", "slots")

    def __init__(self) -> None:
        self.slots: list[Any] = []
        self.others: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.slots) + len(self.others)

    def put(self, number: int, value: Any) -> None:
        """Remember the value, in place of what was remembered by this number."""
        if 0 <= number < len(self.slots):
            self.slots[number] = value
        elif number == len(self.slots):
            self.slots.append(value)
            self.others.pop(number, None)
        else:
            self.others[number] = value

    def values(self) -> Iterator[Any]:
        """All that is remembered."""
        yield from self.slots
        yield from self.others.values()


def paired(items: list[Any]) -> Iterator[tuple[Any, Any]]:
    """Keys and values, as SETITEMS finds them on the stack; an IndexError when one is alone."""
    if len(items) % 2:
        raise IndexError
    return zip(items[::2], items[1::2], strict=True)


def pairs_into(target: Any) -> tuple[list[tuple[Any, Any]], list[Batch]]:
    """Where SETITEM puts what it sets: a dictionary, or the result of a call; and where the places go."""
    if not isinstance(target, (Dict, Call)):
        raise TypeError
    target.pairs = target.pairs or []
    target.places = target.places or []
    return target.pairs, target.places


def items_into(target: Any) -> list[Any]:
    """Where APPEND and ADDITEMS put what they add: a list, a set, or the result of a call."""
    if isinstance(target, list):
        return target
    if isinstance(target, Call):
        target.items = target.items or []
        return target.items
    if isinstance(target, Set):
        return target.items
    raise TypeError
