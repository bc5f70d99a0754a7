"""What a walked pickle is made of: stand-ins for what the stream would build, and where parts are added to them."""

from __future__ import annotations

from _compat_pickle import NAME_MAPPING
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from convinspect.records import Span

Batch: TypeAlias = tuple[int, int, Sequence[int]]
"""Items set at once: the instructions' first byte, the end of the last, and where each key and value is pushed."""

# Plain classes, compared by identity: a dataclass takes ten times as long to define, and these are made by the million.
# Nodes with others inside have no repr of their own: a tuple doubled sixty times is a small graph and an endless text.


class Global:
    """A name that the stream asks for, such as `torch._utils` `_rebuild_tensor_v2`.

    Attributes:
        module: As it is written.
        name: As it is written.
        qualified: `module.name`, with Python 2's name of the builtins and of what is in them made today's (`xrange` is
            `range`).
    """

    __slots__ = ("module", "name", "qualified")

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name
        names = module, name
        if module == "__builtin__":
            names = NAME_MAPPING.get(names, ("builtins", name))
        self.qualified = ".".join(names)

    def __repr__(self) -> str:
        return f"Global(module={self.module!r}, name={self.name!r}, qualified={self.qualified!r})"


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

    __slots__ = ("args", "function", "items", "kwargs", "pairs", "places", "states")

    def __init__(self, function: Any, args: Any, kwargs: Any = None) -> None:
        self.function = function
        self.args = args
        self.kwargs = kwargs
        # Most calls are tensors, which have none of these: one shared empty tuple keeps a large tree small.
        self.states: list[Any] | tuple[()] = ()
        self.pairs: list[tuple[Any, Any]] | tuple[()] = ()
        self.places: list[Batch] | tuple[()] = ()
        self.items: list[Any] | tuple[()] = ()


class Tuple:
    """A tuple, the bytes `start:end` that build it, and where each item is pushed.

    An empty one has no place of its own. Only those of as many items as describe a tensor know their items' places:
    there are several tuples to a tensor, and places take more memory than items.
    """

    __slots__ = ("end", "items", "start", "starts")

    def __init__(self, items: Sequence[Any], start: int, end: int, starts: Sequence[int] = ()) -> None:
        self.items = items
        self.start = start
        self.end = end
        self.starts = starts

    def span(self, index: int) -> Span:
        """Bytes that push item `index`, its own tuple alone when it is one built there.

        Raises:
            IndexError: There is no such item, or its place is not known.
        """
        item = self.items[index]
        start = self.starts[index]
        following = index + 1
        if isinstance(item, Tuple) and item.start == start:
            end = item.end
        else:
            end = self.starts[following] if following < len(self.starts) else self.end - 1
        # Half of what calling the class takes; each tensor has two.
        return tuple.__new__(Span, (start, end))


class Dict:
    """A dictionary's items in stored order; keys may be of any kind, so it stays a list of pairs.

    Attributes:
        pairs: Key and value of each item.
        places: The instructions that set them, one entry for each SETITEM or SETITEMS.
    """

    __slots__ = ("pairs", "places")

    def __init__(self, pairs: list[tuple[Any, Any]] | None = None) -> None:
        self.pairs: list[tuple[Any, Any]] = [] if pairs is None else pairs
        self.places: list[Batch] | tuple[()] = ()


class Set:
    """A set or frozenset."""

    __slots__ = ("frozen", "items")

    def __init__(self, items: list[Any] | None = None, frozen: bool = False) -> None:
        self.items: list[Any] = [] if items is None else items
        self.frozen = frozen


class Persistent:
    """A persistent id; torch uses it for storages and for the source of old whole modules."""

    __slots__ = ("id",)

    def __init__(self, id: Any) -> None:
        self.id = id


class Blob:
    """A long string or bytes left unread: `length` bytes from `start` of the stream."""

    __slots__ = ("length", "start")

    def __init__(self, start: int, length: int) -> None:
        self.start = start
        self.length = length

    def __repr__(self) -> str:
        return f"Blob(start={self.start}, length={self.length})"


class OutOfBand:
    """What has no value here: a protocol 5 buffer, an extension registry code, or a number beyond all use."""

    __slots__ = ("what",)

    def __init__(self, what: str) -> None:
        self.what = what

    def __repr__(self) -> str:
        return f"OutOfBand(what={self.what!r})"


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
