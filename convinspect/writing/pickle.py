"""Edit a pickle's instructions: change sizes and dictionary keys, and leave out items.

The memo makes this delicate. A pickler that meets a string again writes "fetch number 7" (GET) instead of the string,
so a key may be pushed in one place and used in another, and an item left out may be the one that put number 7 there.
So one pass over the instructions keeps two memos, that of the old stream and that of the new one. If a GET would fetch
something else than before, it is replaced by instructions that push the old value again and put it in the memo. From
protocol 4 on the stream consists of frames, whose lengths are corrected at the end.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from convinspect.errors import BrokenFile, CannotWrite
from convinspect.formats.pickle.opcodes import Instruction, Undecodable, instructions
from convinspect.records import Span

Splices = dict[int, tuple[int, bytes]]
"""Offset in the stream → the end of the old bytes, and the new bytes."""


def spliced(data: bytes, splices: Splices) -> bytes:
    """The bytes with some runs replaced; runs do not overlap."""
    parts: list[bytes] = []
    at = 0
    for start, (end, new) in sorted(splices.items()):
        parts += [data[at:start], new]
        at = end
    return b"".join([*parts, data[at:]])


def edited(
    data: bytes, tuples: Iterable[tuple[Span, bytes]], keys: Mapping[int, str] | None = None, cuts: Iterable[Span] = ()
) -> bytes:
    """The pickle with its instructions changed.

    Args:
        data: One whole pickle.
        tuples: Spans of instructions that push a tuple of numbers, and their replacements.
        keys: Offset where a dictionary's key is pushed → the new key.
        cuts: Instructions to leave out; each span has no net effect on the stack.

    Raises:
        CannotWrite: It cannot be edited without changing something else.
    """
    splices = {span.start: (span.end, new) for span, new in tuples}
    left_out = sorted((span.start, span.end) for span in cuts)
    framed = protocol_of(data) >= 4
    if not keys and not left_out and not framed:
        return spliced(data, splices)
    splices = {start: splice for start, splice in splices.items() if not _inside(start, left_out)}
    if keys or left_out:
        splices |= _Memos(data, _instructions(data), keys or {}, left_out).splices
    if framed:
        frames = [frame for frame in _instructions(data) if frame.code == "\x95" and not _inside(frame.start, left_out)]
        # Frames are optional; those that begin or end inside a cut cannot be kept, so all are dropped.
        without = {frame.start: (frame.end, b"") for frame in frames}
        splices = splices | without if left_out else _framed(frames, splices, data)
    return spliced(data, splices)


def protocol_of(data: bytes) -> int:
    """The pickle's protocol; 0 for protocols 0 and 1, which are not recorded in the stream."""
    return data[1] if data[:1] == b"\x80" and len(data) > 1 else 0


class _Instruction(NamedTuple):
    code: str
    arg: Any
    start: int
    end: int


def _instructions(data: bytes) -> Iterator[_Instruction]:
    before: Instruction | None = None
    try:
        for instruction in instructions(data):
            if before is not None:
                yield _Instruction(*before, instruction[2])
            before = instruction
    except Undecodable:
        raise BrokenFile("its pickle is malformed", "get the file again, or save it again") from None
    if before is not None:
        yield _Instruction(*before, before[2] + 1)


def _inside(at: int, spans: list[tuple[int, int]]) -> bool:
    return any(start <= at < end for start, end in spans)


# ------------------------------------------------------------------------------------------------- the memos

_STRINGS = frozenset("UTVXS\x8c\x8d")
_LARGE = 255
_FRAME = 9
"""Bytes of a frame's header."""

_Value = bytes | int
"""Content of a memo's slot: the instructions that push it again, or an id for a value that they cannot reproduce."""


class _Memos:
    """Splices for changed keys, and for instructions that must change because the memo does.

    Args:
        data: The stream.
        every: All of its instructions.
        keys: Offset of an instruction that pushes a key → the new key.
        cuts: Runs of instructions that are left out.
    """

    def __init__(
        self,
        data: bytes,
        every: Iterable[_Instruction],
        keys: Mapping[int, str],
        cuts: list[tuple[int, int]],
    ) -> None:
        self.splices: Splices = {start: (end, b"") for start, end in cuts}
        self._data, self._keys = data, keys
        # From protocol 4 on the memo's slots are numbered implicitly.
        self._framed = protocol_of(data) >= 4
        self._old: dict[int, _Value] = {}
        self._new: dict[int, _Value] = {}
        self._slots: dict[int, int] = {}
        """Slot in the old stream → in the new one; they differ once items of a framed stream are left out."""
        self._top: tuple[_Value, _Value, int] | None = None
        """The value pushed last in the old and the new stream, and where; None once it is not on top of the stack."""
        self._strings: list[tuple[_Value, _Value]] = []
        left = iter([*cuts, (1 << 63, 1 << 63)])
        cut = next(left)
        for instruction in every:
            while instruction.start >= cut[1]:
                cut = next(left)
            self._step(instruction, kept=instruction.start < cut[0])
        if not all(start in self.splices for start in keys):
            raise CannotWrite("a name in its pickle is not written as a string, so it cannot be changed")

    def _step(self, instruction: _Instruction, kept: bool) -> None:
        code = instruction.code
        if code in "qrp\x94":
            self._put(instruction, kept)
        if code in "qrp\x94\x95":
            return
        top: tuple[_Value, _Value, int] | None = None
        if code in _STRINGS:
            old = self._data[instruction.start : instruction.end]
            top = (old, self._renamed(instruction, old, kept), instruction.start)
        elif code in "hjg":
            top = self._get(instruction, kept)
        elif code == "c":
            raw = self._data[instruction.start : instruction.end]
            top = (raw, raw, instruction.start)
        elif code == "\x93" and len(self._strings) == 2:
            (old_module, new_module), (old_name, new_name) = self._strings
            if isinstance(old_module, bytes) and isinstance(old_name, bytes):
                if (new_module, new_name) != (old_module, old_name):
                    raise CannotWrite("a name in its pickle is a class's too, so it cannot be changed")
                raw = old_module + old_name + b"\x93"
                top = (raw, raw, instruction.start)
        elif code in "02":
            # After DUP or POP the top of the stack is unknown here. Picklers of tensor dictionaries write neither.
            raise CannotWrite("its pickle copies or drops values by itself, so names in it cannot be changed safely")
        self._top = top
        self._strings = [*self._strings[-1:], top[:2]] if top is not None and code != "\x93" else []

    def _renamed(self, instruction: _Instruction, old: bytes, kept: bool) -> bytes:
        if instruction.start not in self._keys or not kept:
            return old
        new = _string(self._keys[instruction.start], instruction.code, self._framed)
        self.splices[instruction.start] = (instruction.end, new)
        return new

    def _put(self, instruction: _Instruction, kept: bool) -> None:
        slot = len(self._old) if instruction.code == "\x94" else int(instruction.arg)
        again = slot in self._old
        old, new, start = self._top or (instruction.start, instruction.start, -1)
        self._old[slot] = old
        if not kept:
            return
        place = self._slots.get(slot)
        if again and place is not None and start >= 0 and self._new.get(place) == new and instruction.code != "\x94":
            # The value is in the memo already, so an earlier renaming pushed it again; fetch it instead.
            self.splices[start] = (instruction.end, _fetch(place))
            return
        if place is None:
            place = self._slots[slot] = len(self._new) if self._framed else slot
        if instruction.code != "\x94" and place != slot:
            self.splices[instruction.start] = (instruction.end, _put_at(place))
        self._new[place] = new

    def _get(self, instruction: _Instruction, kept: bool) -> tuple[_Value, _Value, int]:
        slot = int(instruction.arg)
        if slot not in self._old:
            raise BrokenFile("its pickle fetches what it never put", "save it again")
        old = self._old[slot]
        new = old
        if not kept:
            return old, old, -1
        if instruction.start in self._keys:
            if not isinstance(old, bytes) or chr(old[0]) not in _STRINGS:
                raise CannotWrite("a name in its pickle is not written as a string, so it cannot be changed")
            new = _string(self._keys[instruction.start], chr(old[0]), self._framed)
        place = self._slots.get(slot)
        if place is not None and self._new.get(place) == new:
            if place != slot or instruction.start in self._keys:
                self.splices[instruction.start] = (instruction.end, _fetch(place))
            return old, new, -1
        if not isinstance(new, bytes):
            raise CannotWrite("an object in what would be left out is used elsewhere in the file too")
        if place is None:
            place = self._slots[slot] = len(self._new) if self._framed else slot
            put = b"\x94" if self._framed else _put_at(place)
        else:
            put = _put_at(place)
        self.splices[instruction.start] = (instruction.end, new + put)
        self._new[place] = new
        return old, new, -1


def _string(text: str, like: str, framed: bool) -> bytes:
    """The instruction that pushes a string, in the style of the pickler that wrote `like`."""
    if like in "UTS" and text.isascii():
        return _string_opcode("U" if len(text) <= _LARGE else "T", text.encode())
    raw = text.encode("utf-8", "surrogatepass")
    return _string_opcode("\x8c" if framed and len(raw) <= _LARGE else "X", raw)


def _string_opcode(code: str, raw: bytes) -> bytes:
    return code.encode("latin-1") + len(raw).to_bytes(1 if code in "U\x8c" else 4, "little") + raw


def _fetch(slot: int) -> bytes:
    return b"h" + slot.to_bytes(1, "little") if slot <= _LARGE else b"j" + slot.to_bytes(4, "little")


def _put_at(slot: int) -> bytes:
    return b"q" + slot.to_bytes(1, "little") if slot <= _LARGE else b"r" + slot.to_bytes(4, "little")


# ------------------------------------------------------------------------------------------------- the frames


def _framed(frames: list[_Instruction], splices: Splices, data: bytes) -> Splices:
    """The splices, split at frames' headers, and splices that write each frame's new length."""
    headers = [frame.start for frame in frames]
    parted: Splices = {}
    for start, (end, new) in splices.items():
        header = next(iter(headers[bisect_right(headers, start) :]), end)
        if header < end:
            before, after = _parted(data[start:header], new)
            parted |= {start: (header, before), header + _FRAME: (end, after)}
        else:
            parted[start] = (end, new)
    grown = [0] * len(frames)
    for start, (end, new) in parted.items():
        index = bisect_right(headers, start) - 1
        # Long strings are stored between frames.
        if index >= 0 and start < frames[index].end + frames[index].arg:
            grown[index] += len(new) - (end - start)
    lengths = [frame.arg + more for frame, more in zip(frames, grown, strict=True)]
    return parted | {
        frame.start: (frame.end, b"\x95" + length.to_bytes(8, "little"))
        for frame, length in zip(frames, lengths, strict=True)
    }


def _parted(old: bytes, new: bytes) -> tuple[bytes, bytes]:
    """Split new instructions for a tuple after as many as preceded a frame's header."""
    count = sum(1 for _ in instructions(old + b".")) - 1
    places = [at for _, _, at in instructions(new + b".")]
    # The last instruction (before the stop) builds the tuple, so it stays in the second part.
    at = places[min(count, len(places) - 2)]
    return new[:at], new[at:]
