"""What a walked pickle is made of: stand-ins for what the stream would build, and where parts are added to them."""

from __future__ import annotations

from _compat_pickle import NAME_MAPPING
from array import array
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

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


class Numbers(NamedTuple):
    """What the instructions that make a tuple of numbers say.

    Attributes:
        values: The numbers.
        places: How far from the first instruction each is pushed.
        length: Bytes of all the instructions.
        steps: How many they are.
    """

    values: tuple[int, ...]
    places: tuple[int, ...]
    length: int
    steps: int

    def built(self, start: int) -> Tuple:
        """The tuple, of instructions that begin at `start`."""
        placed = [start + place for place in self.places] if len(self.values) >= FEWEST_PARTS else ()
        return Tuple(self.values, start, start + self.length, placed and array("Q", placed))


FEWEST_PARTS = 4
"""Tuples of fewer items do not know their items' places."""
PUT_LENGTH = 5
"""Bytes of the instruction that memorises something in a large pickle."""


class Usual:
    """What thousands of tensors have in common that are rebuilt by the usual instructions.

    Attributes:
        word: The first part of the storage's persistent id.
        kind: Its second, the storage's type.
        place: Its fourth, the device.
        numel: Its last.
        hooks: What makes the empty dictionary of hooks.
        function: What rebuilds the tensor; None where it stood before the instructions that were read.
        offset: First element's place in the storage.
        width: Bytes that push it.
        size: The size.
        stride: The stride.
        trains: Whether it takes gradients.
        before: Bytes from the arguments' mark to the offset, without the storage's key.
        behind: Bytes from the offset on.
        steps: Instructions from the arguments' mark to the memo of the result.
        told: What the reader of tensors made of all this, so that it asks once; None before it did.
    """

    __slots__ = (
        "before", "behind", "function", "hooks", "kind", "numel", "offset", "place", "size", "steps", "stride", "told",
        "trains", "width", "word",
    )  # fmt: skip

    def __init__(
        self, got: Sequence[Any], numel: int, offset: tuple[int, int], tuples: tuple[Numbers, Numbers], trains: bool,
        before: int, behind: int,
    ) -> None:  # fmt: skip
        self.word, self.kind, self.place, self.hooks, self.function = got
        self.numel = numel
        self.offset, self.width = offset
        self.size, self.stride = tuples
        self.trains = trains
        self.before, self.behind = before, behind
        self.steps = _STEPS + self.size.steps + self.stride.steps
        self.told: Any = None

    @property
    def after(self) -> tuple[int, int, int]:
        """How far behind the offset the size begins, the stride, and whether it takes gradients."""
        stride = self.width + self.size.length + PUT_LENGTH
        return self.width, stride, stride + self.stride.length + PUT_LENGTH


BEHIND_ARGUMENTS = 11
"""Bytes from the arguments' end on, to that of the result's memo."""
_STEPS = 21
"""Instructions of a tensor beside those that make its size and stride."""


class PlainTensor(NamedTuple):
    """A tensor that is rebuilt by the usual instructions; its arguments are built when something asks for them.

    Attributes:
        number: Of the first of seven memo slots: storage key, persistent id, size, stride, hooks, arguments, tensor.
        storage: The parts of the storage's persistent id.
        usual: What else they say.
        offset_at: Where the offset is pushed.
    """

    number: int
    storage: tuple[Any, ...]
    usual: Usual
    offset_at: int

    def arguments(self) -> Tuple:
        """The arguments, as the instructions build them one by one."""
        usual = self.usual
        storage = Persistent(Tuple(self.storage, -1, -1))
        start = self.offset_at - len(self.storage[2]) - usual.before
        size_at, stride_at, trains_at = (self.offset_at + after for after in usual.after)
        places = (start + 1, self.offset_at, size_at, stride_at, trains_at, trains_at + 1)
        size, stride = usual.size.built(size_at), usual.stride.built(stride_at)
        items = (storage, usual.offset, size, stride, usual.trains, Call(usual.hooks, EMPTY))
        return Tuple(items, start, self.offset_at + usual.behind - BEHIND_ARGUMENTS, array("Q", places))


class Call:
    """A call that unpickling would make: REDUCE, NEWOBJ, NEWOBJ_EX, OBJ or INST.

    Attributes:
        function: What would be called, usually a `Global`.
        args: Usually a `Tuple`. Of a plain tensor it is built when it is first asked for: hardly anything does.
        plain: What it says of a tensor that is rebuilt by the usual instructions; None for all else.
        kwargs: Of NEWOBJ_EX, else None.
        states: What BUILD would hand to `__setstate__`, in order.
        pairs: Key and value of every item set on the result.
        places: Where these were set, as in `Dict`.
        items: What is appended or added to the result.
    """

    __slots__ = ("args", "function", "items", "kwargs", "pairs", "places", "plain", "states")

    def __init__(self, function: Any, args: Any, kwargs: Any = None, plain: PlainTensor | None = None) -> None:
        self.function = function
        if plain is None:
            self.args = args
        self.plain = plain
        self.kwargs = kwargs
        # Most calls are tensors, which have none of these: one shared empty tuple keeps a large tree small.
        self.states: list[Any] | tuple[()] = ()
        self.pairs: list[tuple[Any, Any]] | tuple[()] = ()
        self.places: list[Batch] | tuple[()] = ()
        self.items: list[Any] | tuple[()] = ()

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            # Python asks here for what was not set: the arguments of a plain tensor alone.
            if name != "args" or self.plain is None:
                raise AttributeError(name)
            self.args = self.plain.arguments()
            return self.args

    def memorised(self, number: int) -> Any:
        """What the memo has under a number whose slot holds this call: a part of a plain tensor, or the call itself."""
        if self.plain is None or not 0 <= number - self.plain.number < _SLOTS - 1:
            return self
        storage, _, size, stride, _, hooks = self.args.items
        return (self.plain.storage[2], storage.id, size, stride, hooks, self.args)[number - self.plain.number]


_SLOTS = 7
"""Numbers of the memo that a plain tensor takes."""


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


EMPTY = Tuple((), -1, -1)
"""The empty tuple, which has no place of its own."""


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


class RawBytes(Blob):
    """Bytes that stand in the stream without an instruction that pushes them, as joblib's arrays do."""

    __slots__ = ()


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
        slots: Those numbered from 0 on without a gap, as picklers number them. In each of a plain tensor's the tensor's
            call stands until `get` is asked for it.
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
            self._settle(self.slots[number])
            self.slots[number] = value
        elif number == len(self.slots):
            self.slots.append(value)
            self.others.pop(number, None)
        else:
            self.others[number] = value

    def get(self, number: int) -> Any:
        """What is remembered by this number.

        Raises:
            KeyError: Nothing is.
        """
        value = self.slots[number] if 0 <= number < len(self.slots) else self.others[number]
        return value.memorised(number) if type(value) is Call else value

    def _settle(self, value: Any) -> None:
        """Put a plain tensor's parts into its slots, one of which is about to hold something else."""
        if type(value) is Call and value.plain is not None:
            first = value.plain.number
            self.slots[first : first + _SLOTS] = [value.memorised(first + at) for at in range(_SLOTS)]
            value.plain = None

    def values(self) -> Iterator[Any]:
        """All that is remembered."""
        yield from (self.get(number) for number in range(len(self.slots)))
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
