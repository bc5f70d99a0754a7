"""Pickle bytes → a tree of plain values. Nothing that the stream names is imported, called or looked up.

A pickle is a program for a small stack machine. `opcodes` decodes its instructions; this module runs
them on stand-ins: a global becomes the pair of its names (`Global`), a call becomes a record of the call
(`Call`). So no allow-list is needed, and a class that no longer exists is no obstacle. The instructions and
their effect on the stack are those of the standard library's `pickletools` documentation, protocols 0 to 5.

Every tuple remembers the bytes that built it and where each of its items was pushed, because a conversion
rewrites exactly the size and stride tuples of a tensor and nothing else; every dictionary remembers where its items
were set, because a renaming rewrites exactly the keys.

The work is bounded: so many instructions, and so many more for each storage that the file holds. Long runs of
numbers, such as the order of a data set's samples, are decoded at once and count a quarter.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from convinspect.formats.pickle.opcodes import (
    RUN,
    Undecodable,
    broken,
    instructions,
    too_much,
    undecodable,
    values_of,
)
from convinspect.formats.pickle.plain_tensors import PlainTensors
from convinspect.formats.pickle.rare import carry_out as carry_out_rare
from convinspect.formats.pickle.state import State, line_span, two_names
from convinspect.formats.pickle.values import FEWEST_PARTS, Blob, Call, Dict, Persistent, Tuple, paired, pairs_into
from convinspect.records import Span

Read: TypeAlias = Callable[[int, int], bytes]
"""(offset, size) → the bytes there, fewer where the stream ends."""


_WINDOW = 1 << 20
_LARGEST_WINDOW = 1 << 26

# Strings longer than a window stay where they are: a replay buffer pickled beside the weights is not ours to load.
_MOST_STEPS = 600_000
"""Instructions that any pickle may have; each leaves at most 250 bytes of ours."""
_STEPS_PER_STORAGE = 100
"""More of them for each storage: a parameter with its optimizer state takes 32 a tensor."""
_STEPS_PER_WINDOW = 4_000
"""What reading a window counts, since the strings in it stay in memory."""
_STEPS_PER_RUN = 4
"""Numbers of a run that count as one instruction."""
_MOST_PARTS = 64
"""Items of a tuple that may describe a tensor, of which it is asked where each was pushed."""
_DEEPEST = 10_000
"""Marks that may be open at a time; a pickler recurses once for each and gives up at a tenth of that."""

_STRING_LENGTH_BYTES = {b"B": 4, b"X": 4, b"T": 4, b"\x8e": 8, b"\x8d": 8, b"\x96": 8}


class Walk(NamedTuple):
    """Result of `walk`.

    Attributes:
        value: The tree.
        end: Offset just behind the pickle's last instruction.
        globals: Qualified names that the stream asks for, each with the instruction that first does.
        persistent: The parts of every persistent id that is a tuple, in order.
        steps: How much work it was, in instructions.
    """

    value: Any
    end: int
    globals: dict[str, Span]
    persistent: list[Sequence[Any]]
    steps: int


def reader(data: bytes) -> Read:
    """A `Read` over bytes in memory."""
    return lambda offset, size: data[offset : offset + size]


def walk(read: Read, start: int, end: int, storages: int = 0) -> Walk:
    """Build the tree of the pickle that begins at `start` and stops before `end`.

    Memory is bounded by the stream: it is read in windows, and a string longer than a window is left as a `Blob`.

    Args:
        read: Gives the stream's bytes.
        start: Offset of the first instruction.
        end: Offset that no instruction may pass.
        storages: How many storages the file holds beside the pickle, which bounds what it may take to describe them.

    Raises:
        CutShort: The stream ends before its last instruction.
        BrokenFile: It is no pickle.
        RefusedFile: It is out of proportion to the storages.
    """
    machine = Machine(storages)
    return machine.result(machine.carry_out(read, start, end))


def most_steps(storages: int) -> int:
    """Instructions that a pickle beside so many storages may have."""
    return _MOST_STEPS + _STEPS_PER_STORAGE * storages


def _blob_at(read: Read, position: int, end: int) -> Blob | None:
    """The string instruction at `position`, when it is longer than a window and wholly inside the stream."""
    head = read(position, min(9, end - position))
    width = _STRING_LENGTH_BYTES.get(head[:1])
    if width is None or len(head) <= width:
        return None
    length = int.from_bytes(head[1 : 1 + width], "little")
    first = position + 1 + width
    return Blob(first, length) if length >= _WINDOW and first + length < end else None


class Machine(State):
    """The pickle machine's state, kept between windows, and what is left of it where the stream breaks.

    Args:
        storages: As of `walk`.
    """

    def __init__(self, storages: int = 0) -> None:
        self._most = most_steps(storages)
        super().__init__(self._most)

    def result(self, end: int) -> Walk:
        """What was built, once the pickle was carried out up to `end`."""
        return Walk(self.stack[-1], end, self.globals, self.persistent, self._most - self.left)

    def carry_out(self, read: Read, start: int, end: int) -> int:
        """Carry out the pickle at `start`; the offset behind it. Arguments and errors are those of `walk`."""
        position, size = start, _WINDOW
        while True:
            window = read(position, min(size, end - position))
            self.left -= _STEPS_PER_WINDOW
            try:
                return self.run(window, position)
            except Undecodable as error:
                failed_at, why = position + error.position, error.why
            except (IndexError, KeyError, TypeError, AttributeError):
                raise broken(self.position, "an instruction does not fit what precedes it") from None
            blob = _blob_at(read, failed_at, end)
            if blob is not None:
                self.push(blob, failed_at)
                position, size = blob.start + blob.length, _WINDOW
            elif position + len(window) >= end or size > _LARGEST_WINDOW or why == "unknown":
                raise undecodable(failed_at, why, read(failed_at, 1))
            else:
                size = size * 4 if failed_at == position else _WINDOW
                position = failed_at

    def run(self, window: bytes, base: int) -> int:
        """Carry out the window's instructions up to STOP; the offset behind it in the stream.

        One plain loop over locals: this is where the time of a listing goes.

        Args:
            window: A part of the stream, from an instruction's first byte on.
            base: Offset of the window in the stream.

        Raises:
            Undecodable: The window ends before STOP, or holds what is no instruction.
        """
        stack, starts, marks, left, at = self.stack, self.starts, self.marks, self.left, self.position
        memo, slots, none = self.memo, self.memo.slots, self.none
        plain = PlainTensors(memo, self.persistent)
        # A run that the window before this one cut in two goes on here.
        run, following = RUN.match(window), 0
        try:
            while True:
                if run:
                    at = base + run.start()
                    values, _ = values_of(run[0])
                    stack.extend(values)
                    # More items than a tensor has parts, so nobody asks where each was pushed.
                    starts.extend([at] * len(values))
                    left -= len(values) // _STEPS_PER_RUN
                    following = run.end()
                for code, arg, pos in instructions(window, following):
                    at = base + pos
                    left -= 1
                    if left < 0:
                        raise too_much()
                    if code in _PUT:
                        # MEMOIZE, which has no argument, takes the next number.
                        if (arg is None or arg == len(slots)) and not memo.others:
                            slots.append(stack[-1])
                        else:
                            memo.put(len(memo) if arg is None else arg, stack[-1])
                    elif code in _GET:
                        value = slots[arg] if 0 <= arg < len(slots) else memo.others[arg]
                        stack.append(value.memorised(arg) if type(value) is Call else value)
                        starts.append(at)
                    elif code in _LITERAL:
                        stack.append(arg)
                        starts.append(at)
                    elif code == "(":
                        if window.startswith(b"(", pos + 1) and len(marks) < _DEEPEST - 3:
                            taken = plain.take(window, base, pos, stack, starts, left + 1)
                            if taken is not None:
                                left += 1 - taken.steps
                                at, following, run = base + taken.last, taken.end, None
                                break
                        marks.append((stack, starts, at))
                        stack, starts = [], []
                        if len(marks) > _DEEPEST:
                            raise too_much()
                        run = RUN.match(window, pos + 1)
                        if run:
                            break
                    elif code == "t":
                        placed = array("Q", starts) if FEWEST_PARTS <= len(stack) <= _MOST_PARTS else ()
                        value = Tuple(tuple(stack), marks[-1][2], at + 1, placed)
                        stack, starts, first = marks.pop()
                        stack.append(value)
                        starts.append(first)
                    elif code in _SHORT_TUPLE:
                        n = _SHORT_TUPLE[code]
                        if len(stack) < n:
                            raise IndexError
                        first = starts[-n]
                        value = Tuple(tuple(stack[-n:]), first, at + 1)
                        del stack[-n:], starts[-n:]
                        stack.append(value)
                        starts.append(first)
                    elif code == ")":
                        stack.append(none)
                        starts.append(at)
                    elif code in _CALLING:
                        args = stack.pop()
                        starts.pop()
                        stack[-1] = Call(stack[-1], args)
                    elif code == "Q":
                        value = stack[-1]
                        stack[-1] = Persistent(value)
                        if isinstance(value, Tuple):
                            self.persistent.append(value.items)
                            # One to a tensor, of which nobody asks where it was pushed.
                            value.start = value.end = -1
                            value.starts = ()
                    elif code in _CONSTANT:
                        stack.append(_CONSTANT[code])
                        starts.append(at)
                    elif code == "u":
                        items, places = stack, starts
                        stack, starts, first = marks.pop()
                        pairs, batches = pairs_into(stack[-1])
                        pairs.extend(paired(items))
                        batches.append((first, at + 1, array("Q", places)))
                    elif code == "c":
                        stack.append(self.named(*two_names(arg), line_span(arg, at)))
                        starts.append(at)
                    elif code == "}":
                        stack.append(Dict())
                        starts.append(at)
                    elif code == "b" and type(stack[-2]) is Call:
                        # One to each object of a distributed checkpoint's .metadata, which has many.
                        starts.pop()
                        value = stack.pop()
                        stack[-1].states = stack[-1].states or []
                        stack[-1].states.append(value)
                    elif code == ".":
                        stack[-1]
                        return at + 1
                    elif code not in _NO_EFFECT:
                        self.stack, self.starts = stack, starts
                        carry_out_rare(self, code, arg, at)
                        stack, starts = self.stack, self.starts
        finally:
            self.stack, self.starts, self.left, self.position = stack, starts, left, at


_PUT = frozenset("qrp\x94")
_GET = frozenset("hjg")
_LITERAL = frozenset("JKM\x8aUBC\x8e\x96X\x8c\x8dG")
_CONSTANT: dict[str, Any] = {"N": None, "\x88": True, "\x89": False}
_CALLING = frozenset("R\x81")
_SHORT_TUPLE = {"\x85": 1, "\x86": 2, "\x87": 3}
_NO_EFFECT = frozenset("\x80\x95\x98")
