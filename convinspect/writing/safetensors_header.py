"""Change shapes and names in a safetensors header; every other character of its JSON stays unchanged."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from convinspect.formats.pieces import SHARDING, with_new_ranks
from convinspect.formats.safetensors import RESERVED
from convinspect.records import Span
from convinspect.writing.pieces import BLOCK

_BLANK = re.compile(r"[ \t\r\n]*")
_NUMBER = re.compile(r"\d+")
_DECODER = json.JSONDecoder()


def edited_header(text: bytes, shapes: Mapping[str, tuple[int, ...]], names: Mapping[str, str]) -> bytes:
    """The header's length and text, padded so that the tensors' bytes stay, or move by whole blocks.

    Undoing the edits gives the same bytes, since blanks are counted modulo a block.

    Args:
        text: A valid header.
        shapes: New shapes by key.
        names: New keys by key.
    """
    encoding = json.detect_encoding(text)
    header = text.decode(encoding, "surrogatepass")
    plain = header.isascii() and "\\u" in header
    changes: list[tuple[Span, str]] = []
    for key, named, valued in _members(header, _BLANK.match(header).end()):  # type: ignore[union-attr]
        if key == RESERVED and header[valued.start] == "{":
            changes += _sharding(header, valued, shapes, names)
        if key in names:
            changes.append((named, json.dumps(names[key], ensure_ascii=plain)))
        if key in shapes:
            place = next(value for field, _, value in _members(header, valued.start) if field == "shape")
            changes.append((place, _list(header[place.start : place.end], shapes[key])))
    blanks = len(text) - len(text.rstrip(b" "))
    new = _with(header, changes).encode(encoding, "surrogatepass").rstrip(b" ")
    new += b" " * (blanks // BLOCK * BLOCK + (len(text) - len(new)) % BLOCK)
    return len(new).to_bytes(8, "little") + new


def _sharding(
    header: str, metadata: Span, shapes: Mapping[str, tuple[int, ...]], names: Mapping[str, str]
) -> list[tuple[Span, str]]:
    """The change of what the metadata say of where parts of tensors begin, which has a number for each dimension."""
    for key, _, value in _members(header, metadata.start):
        if key == SHARDING:
            info = str(_value(header, value.start)[0])
            new = with_new_ranks(info, shapes, names)
            return [(value, json.dumps(new, ensure_ascii=header.isascii()))]
    return []


def _members(text: str, at: int) -> Iterator[tuple[str, Span, Span]]:
    """Key, span of the key and span of the value of each member of the object that begins at `at`."""
    at = _after_blanks(text, at + 1)
    while text[at] == '"':
        key, end = _value(text, at)
        start = _after_blanks(text, _after_blanks(text, end) + 1)
        _, stop = _value(text, start)
        yield str(key), Span(at, end), Span(start, stop)
        at = _after_blanks(text, stop)
        if text[at] == ",":
            at = _after_blanks(text, at + 1)


def _after_blanks(text: str, at: int) -> int:
    blanks = _BLANK.match(text, at)
    return at if blanks is None else blanks.end()


def _value(text: str, at: int) -> tuple[Any, int]:
    return _DECODER.raw_decode(text, at)


def _list(old: str, numbers: tuple[int, ...]) -> str:
    """A list of numbers, formatted like the old one."""
    places = list(_NUMBER.finditer(old))
    if len(places) < 2:
        return json.dumps(numbers, separators=(",", ":"))
    between = old[places[0].end() : places[1].start()]
    return old[: places[0].start()] + between.join(map(str, numbers)) + old[places[-1].end() :]


def _with(text: str, changes: list[tuple[Span, str]]) -> str:
    parts, at = [], 0
    for span, new in changes:
        parts += [text[at : span.start], new]
        at = span.end
    return "".join([*parts, text[at:]])
