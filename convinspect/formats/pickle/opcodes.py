"""The bytes of a pickle → its instructions, as `pickletools.genops` gives them in three times the time.

Which instructions there are, and how their arguments are written, is what the standard library's own table says,
`pickletools.opcodes` (a test holds the two equal). The encodings that make up nearly all of a checkpoint are read here,
from the bytes in place; all others are left to the table's own readers, save those of GLOBAL's two names (until Python
3.13) and of STRING: they take no letters beyond ASCII, which unpickling does take.

Long runs of one number instruction are decoded at once: a checkpoint may hold the order of a data set's samples or
every loss of a training, millions of numbers in lists, none of which says anything of a tensor.
"""

from __future__ import annotations

import codecs
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from io import BytesIO
from struct import Struct
from typing import Any, Literal, TypeAlias

from convinspect.errors import BrokenFile, CutShort, RefusedFile

Instruction: TypeAlias = tuple[str, Any, int]
"""An instruction's code, its argument (None where it has none), and its offset."""

_NOTHING, _BYTE, _NUMBER, _TEXT, _OTHER, _STOP, _UNKNOWN = range(7)
"""What stands behind an instruction's code."""


class Undecodable(ValueError):
    """Bytes that are no instruction, or not all of one.

    Attributes:
        position: Where it begins.
        why: There is no such instruction, the bytes end within it, or its argument is not one of its kind.
    """

    def __init__(self, position: int, why: Literal["unknown", "short", "malformed"]) -> None:
        super().__init__(f"{why} instruction at byte {position:,}")
        self.position, self.why = position, why


def instructions(data: bytes, start: int = 0) -> Iterator[Instruction]:
    """The instructions from `start` on, up to the first STOP.

    Raises:
        Undecodable: At the first instruction that is none, or that the bytes end before.
    """
    codes, kinds, numbers = _CODES, _KINDS, _STRUCTS
    at = start
    try:
        while True:
            byte = data[at]
            kind = kinds[byte]
            if kind == _NOTHING:
                yield codes[byte], None, at
                at += 1
            elif kind == _BYTE:
                yield codes[byte], data[at + 1], at
                at += 2
            elif kind == _NUMBER:
                number = numbers[byte]
                yield codes[byte], number.unpack_from(data, at + 1)[0], at
                at += 1 + number.size
            elif kind == _TEXT:
                number = numbers[byte]
                first = at + 1 + number.size
                end = first + number.unpack_from(data, at + 1)[0]
                if end > len(data):
                    raise Undecodable(at, "short")
                yield codes[byte], str(data[first:end], "utf-8", "surrogatepass"), at
                at = end
            elif kind == _OTHER:
                argument, end = _read(data, at)
                yield codes[byte], argument, at
                at = end
            elif kind == _STOP:
                yield codes[byte], None, at
                return
            else:
                raise Undecodable(at, "unknown")
    except (IndexError, struct.error):
        raise Undecodable(at, "short") from None
    except UnicodeDecodeError:
        raise Undecodable(at, "malformed") from None


def _read(data: bytes, at: int) -> tuple[Any, int]:
    """The argument of the instruction at `at`, by its reader, and where the next instruction begins."""
    stream = BytesIO(data)
    stream.seek(at + 1)
    try:
        read = _two_lines if data[at] in _WITH_TWO_LINES else _quoted if data[at] == _STRING else _readers()[data[at]]
        return read(stream), stream.tell()
    except (ValueError, OverflowError, MemoryError):
        # All readers that miss something have read all there is.
        raise Undecodable(at, "short" if stream.tell() == len(data) else "malformed") from None


def _two_lines(stream: BytesIO) -> str:
    """Two lines joined by a space, as the table's reader does it.

    Raises:
        ValueError: There are no two, or they are not UTF-8.
    """
    first, second = stream.readline(), stream.readline()
    if not second.endswith(b"\n"):
        raise ValueError("a line does not end")
    return f"{str(first[:-1], 'utf-8')} {str(second[:-1], 'utf-8')}"


def _quoted(stream: BytesIO) -> str:
    """A string of Python 2 in its quotes, each byte of it a character: the table's reader takes none beyond ASCII.

    Raises:
        ValueError: It does not end, has no quotes, or an escape that is none.
    """
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise ValueError("a line does not end")
    text = line[:-1]
    if text[:1] not in (b'"', b"'") or text[-1:] != text[:1]:
        raise ValueError("no string in quotes")
    return str(codecs.escape_decode(text[1:-1])[0], "latin-1")


_STRING = ord("S")
_CODES = [chr(byte) for byte in range(256)]
_WITHOUT_ARGUMENT = b"\x97\x98N\x88\x89]ael)t\x85\x86\x87}dsu\x8f\x90\x9102(1\x94\x93Rbo\x81\x92Q"
_WITH_BYTE = b"Khq\x82\x80"
_WITH_NUMBER = {b"M\x83": "<H", b"J\x84": "<i", b"jr": "<I", b"\x95": "<Q", b"G": ">d"}
_WITH_TEXT = {b"\x8c": "<B", b"X": "<I", b"\x8d": "<Q"}
"""How the number is written, or the length before the text."""
_WITH_TWO_LINES = b"ci"
_WITH_OTHERS = b"IgpL\x8a\x8bSTUBC\x8e\x96VFP"


def _table() -> tuple[list[int], list[Struct]]:
    """By an instruction's code: what stands behind it, and how that, or its length, is written."""
    kinds, structs = [_UNKNOWN] * 256, [Struct("")] * 256
    kinds[ord(".")] = _STOP
    for kind, codes in ((_NOTHING, _WITHOUT_ARGUMENT), (_BYTE, _WITH_BYTE), (_OTHER, _WITH_TWO_LINES + _WITH_OTHERS)):
        for code in codes:
            kinds[code] = kind
    for kind, written in ((_NUMBER, _WITH_NUMBER), (_TEXT, _WITH_TEXT)):
        for codes, layout in written.items():
            for code in codes:
                kinds[code], structs[code] = kind, Struct(layout)
    return kinds, structs


_KINDS, _STRUCTS = _table()


@cache
def _readers() -> dict[int, Callable[[BytesIO], Any]]:
    """The library's readers of rarer arguments. Importing them takes longer than reading a checkpoint's pickle."""
    import pickletools

    readers = {ord(opcode.code): opcode.arg.reader for opcode in pickletools.opcodes if opcode.arg is not None}
    return {code: readers[code] for code in _WITH_OTHERS}


# --- runs of numbers

RUN = re.compile(
    rb"(?:K.){65,}|(?:M..){65,}|(?:J.{4}){65,}|(?:G.{8}){65,}|N{65,}|\x88{65,}|\x89{65,}", re.DOTALL
)  # fmt: skip
"""More of the same instruction than a tensor has dimensions, which are 64."""

_REPEATED = {b"N": None, b"\x88": True, b"\x89": False}
_FORMATS = {b"M": ("<", "xH", 3), b"J": ("<", "xi", 5), b"G": (">", "xd", 9)}
"""Byte order, one instruction and its length, as `struct` writes them."""


def values_of(run: bytes) -> tuple[Sequence[Any], int]:
    """What a run pushes, and how many bytes each instruction of it has."""
    code = run[:1]
    if code in _REPEATED:
        return [_REPEATED[code]] * len(run), 1
    if code == b"K":
        return run[1::2], 2
    order, one, width = _FORMATS[code]
    return struct.unpack(order + one * (len(run) // width), run), width


# --- what can be wrong with a pickle


def broken(position: int, reason: str) -> BrokenFile:
    """The error for an instruction that makes no sense where it stands."""
    return BrokenFile(f"its pickle is malformed at byte {position:,}: {reason}", "get the file again, or save it again")


def too_much() -> RefusedFile:
    """The error for a pickle whose work is out of proportion."""
    return RefusedFile(
        "its pickle builds far more than its tensors need, which may be meant to exhaust whoever opens it",
        "where you trust it, load it with torch and save its state_dict by itself",
    )


def undecodable(position: int, why: str, code: bytes) -> BrokenFile:
    """The error for an instruction that could not be decoded, from what `Undecodable` says of it."""
    if why == "unknown":
        return broken(position, f"0x{code.hex()} is no pickle instruction")
    if why == "short":
        return CutShort(f"its pickle ends in the middle, at byte {position:,}", "download or copy it again")
    return broken(position, "an instruction cannot be decoded")
