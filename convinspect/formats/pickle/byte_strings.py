"""Where a pickle keeps a byte string, and how it wrote it.

From protocol 3 on the bytes stand there as they are. Below, Python 3 writes `_codecs.encode(text, "latin1")`, so that
each byte is a character of a text: in UTF-8, or in protocol 0 as a line with escapes. Python 2 wrote its `str` as it
is, or in protocol 0 as a quoted line.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from convinspect.formats.pickle.machine import Read
from convinspect.formats.pickle.values import Blob, Call, Global, RawBytes, Tuple

UTF8, LINE, QUOTED = "utf-8", "raw_unicode_escape", "unicode_escape"
"""How bytes are written as text, by the names of Python's codecs."""

_RAW = {b"C": 1, b"B": 4, b"\x8e": 8, b"\x96": 8, b"U": 1, b"T": 4}
_TEXT = {b"\x8c": 1, b"X": 4, b"\x8d": 8}
"""Bytes of the length that follows the instruction's code."""
_LINES = {b"V": LINE, b"S": QUOTED}
_LONGEST_HEAD = 9
_PIECE = 1 << 18
_ENCODE = "_codecs.encode"
_LATIN = ("latin1", "latin-1")
_COPIES = ("builtins.bytearray", "builtins.bytes")
_DEEPEST = 4
_MOST_PER_BYTE = {"": 1, UTF8: 2, LINE: 6, QUOTED: 4}


class Octets(NamedTuple):
    """A byte string's place in a pickle.

    Attributes:
        start: Offset of its first byte in the stream.
        packed: How many bytes of the stream it takes.
        encoding: `UTF8`, `LINE` or `QUOTED`; "" where it stands there as it is.
        size: How many bytes it is, where that is known without reading it; else None.
    """

    start: int
    packed: int
    encoding: str
    size: int | None

    def may_have(self, size: int) -> bool:
        """Whether it may be of so many bytes; for certain where its size is known."""
        if self.size is not None:
            return self.size == size
        return size <= self.packed <= size * _MOST_PER_BYTE[self.encoding]


def octets_of(read: Read, value: Any, at: int, depth: int = 0) -> Octets | None:
    """The place of a value that is a byte string.

    Args:
        read: Gives the stream's bytes.
        value: What the pickle built.
        at: Offset of the instruction that pushed it.
        depth: How many calls it is inside of.

    Returns:
        Its place; None where it is no byte string, or was not written where it was pushed.
    """
    if isinstance(value, Call):
        return _of_call(read, value, at, depth) if depth < _DEEPEST else None
    if type(value) is RawBytes:
        return Octets(value.start, value.length, "", value.length)
    found = _written_at(read, at)
    if isinstance(value, Blob):
        if found is None or found.start != value.start:
            found = _of_blob(read, value)
        return found
    if found is None or not isinstance(value, (bytes, bytearray, str)):
        return None
    if isinstance(value, str) and found.encoding not in ("", QUOTED) and not depth:
        # A text is a byte string in Python 2 alone, or where it is encoded again.
        return None
    return found._replace(size=len(value)) if found.may_have(len(value)) else None


def _of_call(read: Read, call: Call, at: int, depth: int) -> Octets | None:
    """Of `_codecs.encode(text, "latin1")`, or of `bytearray(…)` and `bytes()` around it."""
    name = call.function.qualified if isinstance(call.function, Global) else ""
    args = call.args if isinstance(call.args, Tuple) else Tuple((), -1, -1)
    if name in _COPIES and not args.items:
        return Octets(at, 0, "", 0)
    if name in _COPIES and len(args.items) == 1:
        return octets_of(read, args.items[0], first_place(read, args), depth + 1)
    encodes = name == _ENCODE and len(args.items) == 2 and args.items[1] in _LATIN
    return octets_of(read, args.items[0], first_place(read, args), _DEEPEST) if encodes else None


def first_place(read: Read, items: Tuple) -> int:
    """Where a tuple's first item was pushed, which is a string or what a call gives."""
    # Below protocol 2, and of more than three items, a mark comes first.
    return items.start + 1 if items.start >= 0 and read(items.start, 1) == b"(" else items.start


def _written_at(read: Read, at: int) -> Octets | None:
    """The string that the instruction at `at` pushes; None where it pushes none."""
    head = read(at, _LONGEST_HEAD) if at >= 0 else b""
    code = head[:1]
    if code in _LINES:
        return _line(read, at + 1, _LINES[code])
    width = _RAW.get(code) or _TEXT.get(code)
    if width is None or len(head) <= width:
        return None
    length, start = int.from_bytes(head[1 : 1 + width], "little"), at + 1 + width
    return Octets(start, length, "", length) if code in _RAW else Octets(start, length, UTF8, None)


def _of_blob(read: Read, blob: Blob) -> Octets | None:
    """A long string that was pushed again from the memo."""
    for width in (4, 8):
        found = _written_at(read, blob.start - 1 - width)
        if found is not None and (found.start, found.packed) == (blob.start, blob.length):
            return found
    return None


def _line(read: Read, start: int, encoding: str) -> Octets | None:
    """A string that a line end closes, without its quotes if it has some."""
    end = start
    while True:
        piece = read(end, _PIECE)
        if not piece:
            return None
        newline = piece.find(b"\n")
        if newline >= 0:
            end += newline
            break
        end += len(piece)
    if encoding == QUOTED:
        start, end = start + 1, len(read(start, end - start).rstrip()) + start - 1
    return Octets(start, end - start, encoding, None) if end >= start else None


def pieces(read: Read, octets: Octets) -> Iterator[bytes]:
    """What the stream has of a byte string, in pieces, as it is written."""
    position, end = octets.start, octets.start + octets.packed
    while position < end and (piece := read(position, min(_PIECE, end - position))):
        yield piece
        position += len(piece)


def decoded(written: Iterable[bytes], encoding: str, most: int) -> Iterator[bytes]:
    """The bytes of a string that was written as text, in pieces; no more than `most`.

    Raises:
        UnicodeError: It is no such text.
    """
    decode = codecs.getincrementaldecoder(encoding)().decode
    for piece in written:
        octets = decode(piece).encode("latin-1")[:most]
        most -= len(octets)
        yield octets
        if not most:
            return


def first_bytes(read: Read, octets: Octets, most: int) -> bytes:
    """The first bytes of a string, at most so many.

    Raises:
        UnicodeError: It is written as text, and is none.
    """
    first = octets._replace(packed=min(octets.packed, most * _MOST_PER_BYTE[octets.encoding]))
    written = b"".join(pieces(read, first))
    return b"".join(decoded([written], octets.encoding, most)) if octets.encoding else written


def behind(read: Read, octets: Octets, count: int) -> Octets:
    """What follows a string's first `count` bytes.

    Raises:
        UnicodeError: It is written as text, and is none, or has fewer.
    """
    taken = count if not octets.encoding else _taken(read, octets, count)
    size = None if octets.size is None else octets.size - count
    return Octets(octets.start + taken, octets.packed - taken, octets.encoding, size)


def _taken(read: Read, octets: Octets, count: int) -> int:
    """Bytes of a text in which `count` characters are written."""
    decode = codecs.getincrementaldecoder(octets.encoding)().decode
    written = read(octets.start, min(octets.packed, count * _MOST_PER_BYTE[octets.encoding]))
    if octets.encoding == UTF8:
        text = decode(written)
        if len(text) < count:
            raise UnicodeError("fewer characters than asked for")
        return len(text[:count].encode())
    for taken in range(len(written)):
        if not count:
            return taken
        count -= len(decode(written[taken : taken + 1]))
    if count:
        raise UnicodeError("fewer characters than asked for")
    return len(written)
