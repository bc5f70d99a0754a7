"""The instructions that rebuild one tensor of a state_dict, recognised and carried out as a whole.

`torch.save` writes each tensor in the same thirty instructions: its key, `_rebuild_tensor_v2`, a mark, the storage's
persistent id, the offset, size and stride, whether it takes gradients, and an empty OrderedDict of hooks. Where the
stream says exactly that, one expression reads them in a third of the time that the machine's loop takes, and leaves
behind what the loop would have left: the same nodes, places, memo and count of work. Anything else is left to the loop.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple, TypeAlias

from convinspect.formats.pickle.values import Call, Memo, Persistent, Tuple

_INT = rb"(?:K.|M..|J....)"
_GET = rb"(?:h.|j....)"
_PUT = rb"r(....)"
_SIZES = rb"(\(?" + _INT + rb"{1,8}[t\x85-\x87])"


@cache
def _expressions() -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """A tensor, from the mark that begins the arguments to the memo of the result; and what stands before one that
    follows another, behind the text of its key: the key's memo, the function, and the tensor's marks.
    """
    tensor = (
        rb"\(\((" + _GET + _GET  # 1: ("storage", its type,
        + rb")X(.)\0\0\0([0-9]+)" + _PUT  # 2–4: its key,
        + rb"(" + _GET + rb")(" + _INT + rb")t" + _PUT  # 5–7: device, elements)
        + rb"Q(" + _INT + rb")"  # 8: the offset in it,
        + _SIZES + _PUT + _SIZES + _PUT  # 9–12: size, stride,
        + rb"([\x88\x89])"  # 13: whether it takes gradients,
        + rb"(" + _GET + rb")\)R" + _PUT  # 14–15: and OrderedDict()
        + rb"t" + _PUT + rb"R" + _PUT  # 16–17
    )  # fmt: skip
    before = _PUT + rb"(" + _GET + rb")\(\("
    return re.compile(tensor, re.DOTALL), re.compile(before, re.DOTALL)


_STEPS = 21
"""Instructions of a tensor beside those that make its size and stride."""
_STEPS_BEFORE = 3
_LAST = 5
"""Bytes of the last instruction, which memorises the result."""
_SHORT_TUPLES = {0x85: 1, 0x86: 2, 0x87: 3}
_MARK, _TUPLE = ord("("), ord("t")
_WIDTHS = {ord("K"): 2, ord("M"): 3, ord("J"): 5}
_FEWEST_PLACED = 4
"""Tuples of fewer items do not know their items' places."""
_FEWEST_MEMORISED = 256
_MOST_REMEMBERED = 4096
# Seven numbers of the memo, each one more than the last, as one number of 28 bytes: n × _ONES + _FOLLOWING.
_ONES = sum(1 << 32 * i for i in range(7))
_FOLLOWING = sum(i << 32 * i for i in range(7))


class _SizeCode(NamedTuple):
    """What the instructions that make a size or a stride say.

    Attributes:
        values: The numbers.
        places: How far from the tuple's first byte each is pushed.
        steps: How many instructions it is; 0 where they do not make one tuple of all the numbers.
    """

    values: tuple[int, ...]
    places: tuple[int, ...]
    steps: int


_Before: TypeAlias = tuple[str, int, Any, int]
"""Key and function before a tensor that follows another, each with its place in the stream."""


class Taken(NamedTuple):
    """What was carried out.

    Attributes:
        end: Where in the window the next instruction begins.
        steps: How many instructions it was.
        last: Where in the window the last of them begins.
    """

    end: int
    steps: int
    last: int


class PlainTensors:
    """Carries out runs of plain tensors for a machine.

    Args:
        memo: The machine's.
        empty: Its empty tuple.
        persistent: Where it gathers the parts of persistent ids.
    """

    def __init__(self, memo: Memo, empty: Tuple, persistent: list[Sequence[Any]]) -> None:
        self._memo, self._empty, self._persistent = memo, empty, persistent
        self._sizes: dict[bytes, _SizeCode] = {}
        self._recalled: dict[bytes, tuple[Any, ...]] = {}

    def take(self, window: bytes, base: int, at: int, stack: list[Any], starts: list[int], left: int) -> Taken | None:
        """Carry out the tensor whose arguments begin at `at`, and those that follow it; None when there is none.

        Args:
            window: A part of the stream.
            base: Its offset in the stream.
            at: Where in the window the mark of the arguments is; the function is on the stack already.
            stack: The machine's, to which results and further keys are added.
            starts: Where each was pushed.
            left: How many instructions may follow.
        """
        # What is memorised has numbers of four bytes from the 257th on; small pickles need no expressions.
        if len(self._memo.slots) < _FEWEST_MEMORISED or self._memo.others or not stack:
            return None
        tensor, _ = _expressions()
        # The machine may have put something else under a number since.
        self._recalled.clear()
        end = steps = 0
        before: _Before | None = None
        while (match := tensor.match(window, at)) is not None:
            taken = self._carry_out(match, base, before, stack, starts, left - steps)
            if not taken:
                break
            end, steps = match.end(), steps + taken
            following = self._before(window, base, end)
            if following is None:
                break
            before, at = following
        return Taken(end, steps, end - _LAST) if steps else None

    def _before(self, window: bytes, base: int, at: int) -> tuple[_Before, int] | None:
        """Key and function of a further tensor, and where that begins; None where something else follows."""
        first = at + 5
        end = first + int.from_bytes(window[at + 1 : first], "little")
        match = _expressions()[1].match(window, end)
        if match is None or window[at] != _TEXT or int.from_bytes(match[1], "little") != len(self._memo.slots):
            return None
        try:
            key = str(window[first:end], "utf-8", "surrogatepass")
            (function,) = self._recall(match[2])
        except (UnicodeDecodeError, IndexError):
            return None
        return (key, base + at, function, base + match.start(2)), match.end() - 2

    def _carry_out(
        self,
        match: re.Match[bytes],
        base: int,
        before: _Before | None,
        stack: list[Any],
        starts: list[int],
        left: int,
    ) -> int:
        """How many instructions were carried out: 0, and nothing is done, where they mean anything else after all."""
        (names, length, key, put_key, device, numel, put_id, offset, size_code, put_size, stride_code, put_stride,
         grad, hooks, put_hooks, put_args, put_result) = match.groups()  # fmt: skip
        slots = self._memo.slots
        number = len(slots) if before is None else len(slots) + 1
        puts = int.from_bytes(put_key + put_id + put_size + put_stride + put_hooks + put_args + put_result, "little")
        size, stride = self._read(size_code), self._read(stride_code)
        steps = _STEPS + size.steps + stride.steps + (0 if before is None else _STEPS_BEFORE)
        known = puts == number * _ONES + _FOLLOWING and length[0] == len(key) and size.steps and stride.steps
        if not known or steps > left:
            return 0
        try:
            word, kind, place, hook = self._recall(names + device + hooks)
        except IndexError:
            return 0
        start = match.start
        storage_key = str(key, "ascii")
        parts = (word, kind, storage_key, place, _number(numel))
        identity = Tuple(parts, -1, -1)
        size_at, stride_at = base + start(9), base + start(11)
        shape = _tuple(size, size_at, base + match.end(9))
        strides = _tuple(stride, stride_at, base + match.end(11))
        called = Call(hook, self._empty)
        first = base + start()
        args = Tuple(
            (Persistent(identity), _number(offset), shape, strides, grad == b"\x88", called),
            first,
            base + start(16) - 1,
            array("Q", (first + 1, base + start(8), size_at, stride_at, base + start(13), base + start(14))),
        )
        if before is not None:
            text, text_at, function, function_at = before
            slots.append(text)
            stack += (text, function)
            starts += (text_at, function_at)
        stack[-1] = result = Call(stack[-1], args)
        slots += (storage_key, identity, shape, strides, called, args, result)
        self._persistent.append(parts)
        return steps

    def _recall(self, gets: bytes) -> tuple[Any, ...]:
        """What GETs push, one behind the other; the same few are asked for with every tensor.

        Raises:
            IndexError: Nothing has that number yet.
        """
        known = self._recalled.get(gets)
        if known is None:
            numbers, at = [], 0
            while at < len(gets):
                end = at + (2 if gets[at] == _SHORT_GET else 5)
                numbers.append(int.from_bytes(gets[at + 1 : end], "little"))
                at = end
            known = self._recalled[gets] = tuple(self._memo.slots[number] for number in numbers)
        return known

    def _read(self, code: bytes) -> _SizeCode:
        """A size or a stride; the same few occur thousands of times."""
        known = self._sizes.get(code)
        if known is None:
            known = _sizes(code)
            if len(self._sizes) < _MOST_REMEMBERED:
                self._sizes[code] = known
        return known


_TEXT, _SHORT_GET = ord("X"), ord("h")


def _sizes(code: bytes) -> _SizeCode:
    marked = code[0] == _MARK
    values, places, at = [], [], int(marked)
    while at < len(code) - 1:
        end = at + _WIDTHS[code[at]]
        values.append(_number(code[at:end]))
        places.append(at)
        at = end
    whole = code[-1] == _TUPLE if marked else _SHORT_TUPLES.get(code[-1]) == len(values)
    # The numbers, the tuple, its memo, and the mark where there is one.
    return _SizeCode(tuple(values), tuple(places), len(values) + 2 + marked if whole else 0)


def _number(code: bytes) -> int:
    """What BININT1, BININT2 and BININT push, of which the last alone has a sign."""
    return code[1] if len(code) == 2 else int.from_bytes(code[1:], "little", signed=len(code) == 5)


def _tuple(sizes: _SizeCode, start: int, end: int) -> Tuple:
    if len(sizes.values) < _FEWEST_PLACED:
        return Tuple(sizes.values, start, end)
    return Tuple(sizes.values, start, end, array("Q", [start + place for place in sizes.places]))
