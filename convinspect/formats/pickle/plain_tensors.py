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
from sys import byteorder
from typing import Any, NamedTuple

from convinspect.formats.pickle.values import BEHIND_ARGUMENTS, PUT_LENGTH, Call, Memo, Numbers, PlainTensor, Usual

_INT = rb"(?:K.|M..|J....)"
_GET = rb"(?:h.|j....)"
_PUT = rb"r(....)"
_SIZES = rb"\(?" + _INT + rb"{1,8}[t\x85-\x87]"


@cache
def _expression() -> re.Pattern[bytes]:
    """A tensor: with its key and the function where it follows another, else from the mark of the arguments on; up to
    the memo of the result.
    """
    return re.compile(
        rb"(?:X(..)\0\0([ -~]{1,255})" + _PUT + rb")?"  # 1–3: the tensor's key,
        + rb"((?:" + _GET + rb")?\(\("  # 4: the function,
        + _GET + _GET + rb")"  # ("storage", its type,
        + rb"X(.)\0\0\0([0-9]+)" + _PUT  # 5–7: its key,
        + rb"(" + _GET + _INT + rb")t" + _PUT  # 8–9: device, elements)
        + rb"Q(" + _INT + _SIZES + rb")" + _PUT + rb"(" + _SIZES + rb")" + _PUT  # 10–13: offset and size, stride,
        + rb"([\x88\x89]" + _GET + rb")\)R" + _PUT  # 14–15: whether it takes gradients, and OrderedDict()
        + rb"t" + _PUT + rb"R" + _PUT,  # 16–17
        re.DOTALL,
    )  # fmt: skip


_STEPS_BEFORE = 3
_LAST = 5
"""Bytes of the last instruction, which memorises the result."""
_BEHIND_GRADIENTS = 2 + 5 + 1
"""Bytes from behind `OrderedDict` to the arguments' end."""
_SHORT_TUPLES = {0x85: 1, 0x86: 2, 0x87: 3}
_MARK, _TUPLE, _SHORT_GET, _TRUE = ord("("), ord("t"), ord("h"), 0x88
_WIDTHS = {ord("K"): 2, ord("M"): 3, ord("J"): 5}
_FEWEST_MEMORISED = 256
_LENGTHS = [length.to_bytes(2, "little") for length in range(256)]
_SLOTS = 8
"""Numbers of the memo that a tensor takes with its key."""
_MOST_AHEAD = 4096
_MOST_REMEMBERED = 4096


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
        persistent: Where it gathers the parts of persistent ids.
    """

    def __init__(self, memo: Memo, persistent: list[Sequence[Any]]) -> None:
        self._memo, self._persistent = memo, persistent
        self._known: dict[tuple[bytes, ...], Usual] = {}
        self._ahead = _SLOTS

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
        # The machine may have put something else under a number since.
        self._known.clear()
        self._ahead = _SLOTS
        match_at = _expression().match
        match = match_at(window, at)
        # What follows the mark alone follows a function that is on the stack; after a result there has to be a key.
        if match is None or match[1] is not None:
            return None
        end = steps = 0
        # One plain loop over locals, as the machine has one.
        slots, known, numbers, first = self._memo.slots, self._known, b"", 0
        while match is not None:
            (key_length, key, put_key, names, length, name, put_name, place, put_id, size, put_size, stride,
             put_stride, hooks, put_hooks, put_args, put_result) = match.groups()  # fmt: skip
            number = len(slots)
            puts = put_name + put_id + put_size + put_stride + put_hooks + put_args + put_result
            if key is not None:
                puts = put_key + puts
                if key_length != _LENGTHS[len(key)]:
                    break
            elif steps:
                break
            at = 4 * (number - first)
            if at + len(puts) > len(numbers):
                numbers, first, at = self._following(number), number, 0
            code = (names, place, size, stride, hooks)
            usual = known.get(code) or self._read(code)
            if usual is None or not numbers.startswith(puts, at) or length[0] != len(name):
                break
            taken = usual.steps if key is None else usual.steps + _STEPS_BEFORE
            if taken > left - steps:
                break
            storage = (usual.word, usual.kind, str(name, "ascii"), usual.place, usual.numel)
            end = match.end()
            steps += taken
            offset_at = base + end - usual.behind
            if key is None:
                stack[-1] = call = Call(stack[-1], None, None, _new(PlainTensor, (number, storage, usual, offset_at)))
            else:
                call = Call(usual.function, None, None, _new(PlainTensor, (number + 1, storage, usual, offset_at)))
                text, text_at = str(key, "ascii"), base + match.start()
                slots.append(text)
                stack += (text, call)
                starts += (text_at, text_at + len(key) + 2 * PUT_LENGTH)
            slots += (call, call, call, call, call, call, call)
            self._persistent.append(storage)
            match = match_at(window, end)
        return Taken(end, steps, end - _LAST) if steps else None

    def _following(self, number: int) -> bytes:
        """Numbers of four bytes each, from one on upwards; every time for more tensors."""
        self._ahead = min(8 * self._ahead, _MOST_AHEAD)
        numbers = array("I", range(number, number + self._ahead))
        if byteorder == "big":
            numbers.byteswap()
        return numbers.tobytes()

    def _read(self, code: tuple[bytes, bytes, bytes, bytes, bytes]) -> Usual | None:
        """What a tensor's instructions say beside its keys and the memo's numbers; None where they are unusual."""
        names, place, size_code, stride_code, hooks = code
        marks = names.index(b"((", 0 if names[0] == _MARK else 1 + (4, 1)[names[0] == _SHORT_GET])
        function, names = names[:marks], names[marks + 2 :]
        place_length = 2 if place[0] == _SHORT_GET else 5
        width = _WIDTHS[size_code[0]]
        size, stride = _tuple(size_code[width:]), _tuple(stride_code)
        try:
            got = self._recall(names + place[:place_length] + hooks[1:] + function)
        except IndexError:
            return None
        if size is None or stride is None:
            return None
        before = 2 + len(names) + PUT_LENGTH + PUT_LENGTH + len(place) + 1 + PUT_LENGTH + 1
        usual = Usual(
            got if function else [*got, None],
            _number(place[place_length:]),
            (_number(size_code[:width]), width),
            (size, stride),
            hooks[0] == _TRUE,
            before,
            len(size_code) + len(stride_code) + 2 * PUT_LENGTH + len(hooks) + _BEHIND_GRADIENTS + BEHIND_ARGUMENTS,
        )
        if len(self._known) < _MOST_REMEMBERED:
            self._known[code] = usual
        return usual

    def _recall(self, gets: bytes) -> list[Any]:
        """What GETs push, one behind the other.

        Raises:
            IndexError: Nothing has that number yet.
        """
        values, at = [], 0
        while at < len(gets):
            end = at + (2 if gets[at] == _SHORT_GET else 5)
            number = int.from_bytes(gets[at + 1 : end], "little")
            if number >= len(self._memo.slots):
                raise IndexError
            values.append(self._memo.get(number))
            at = end
        return values


_new = tuple.__new__
"""Half of what calling the class takes."""


def _tuple(code: bytes) -> Numbers | None:
    """What a size's or a stride's instructions say; None where they do not make one tuple of all the numbers."""
    marked = code[0] == _MARK
    values, places, at = [], [], int(marked)
    while at < len(code) - 1:
        end = at + _WIDTHS[code[at]]
        values.append(_number(code[at:end]))
        places.append(at)
        at = end
    if (code[-1] != _TUPLE) if marked else (_SHORT_TUPLES.get(code[-1]) != len(values)):
        return None
    # The numbers, the tuple, its memo, and the mark where there is one.
    return Numbers(tuple(values), tuple(places), len(code), len(values) + 2 + marked)


def _number(code: bytes) -> int:
    """What BININT1, BININT2 and BININT push, of which the last alone has a sign."""
    return code[1] if len(code) == 2 else int.from_bytes(code[1:], "little", signed=len(code) == 5)
