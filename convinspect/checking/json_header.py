"""Check JSON headers: a safetensors header against its file, and duplicate names in an object."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from convinspect.checking.findings import NOWHERE, Finding, Note, Place, Progress, Scan, finding
from convinspect.formats.files import File
from convinspect.formats.safetensors import RESERVED, header_text, not_loaded
from convinspect.records import Contents

NO_CHECKSUMS = "the format keeps no checksums, so a changed number would not show"


def scan_safetensors(file: File) -> Scan[None]:
    """Header entries against each other and against the file; what makes it unreadable, its reader reports."""
    text = header_text(file)
    yield Note(NO_CHECKSUMS)
    yield Progress(file.size)
    try:
        header, repeated = parsed(text)
    except (ValueError, RecursionError):
        return
    for key in repeated:
        message = f"the header names {key!r} twice"
        yield finding("duplicate-name", file.path, message, second_place(text, key, 8))
    if isinstance(header, dict):
        metadata = header.pop(RESERVED, None)
        if not _is_metadata(metadata):
            message = "its __metadata__ holds more than strings, which safetensors refuses"
            yield finding("bad-metadata", file.path, message)
        yield from _scan_offsets(file, header, 8 + len(text))


def scan_not_loaded(contents: Contents) -> Iterator[Finding]:
    """Tensors of a safetensors file for which its own library refuses the file."""
    with File(contents.path) as file:
        base = 8 + int.from_bytes(file.read(0, 8), "little")
    for root in contents.roots:
        for key, why in not_loaded(root.tensors, base):
            yield finding("not-loaded", contents.path, f"{key!r}: {why}", subject=key)


def _is_metadata(value: Any) -> bool:
    """Whether safetensors takes it for a file's metadata: strings by name, or nothing, which `null` is too."""
    return value is None or (isinstance(value, dict) and all(isinstance(text, str) for text in value.values()))


def parsed(text: bytes) -> tuple[Any, list[str]]:
    """A JSON text's value, and the keys that occur more than once in an object.

    Raises:
        ValueError: It is not JSON.
        RecursionError: It nests too deeply.
    """
    repeated: dict[str, None] = {}

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(items)
        if len(values) < len(items):
            repeated.update((key, None) for key, number in Counter(key for key, _ in items).items() if number > 1)
        return values

    return json.loads(text, object_pairs_hook=pairs), list(repeated)


def second_place(text: bytes, key: str, base: int = 0) -> Place:
    """The place where a JSON text, which starts at byte `base`, repeats a key."""
    name = json.dumps(key).encode()
    first = text.find(name)
    at = text.find(name, first + 1) if first >= 0 else -1
    return NOWHERE if at < 0 else Place("", base + at, len(name), base + at)


def _scan_offsets(file: File, header: Mapping[str, Any], base: int) -> Iterator[Finding]:
    spans = []
    for key, entry in header.items():
        offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
        if isinstance(offsets, list) and len(offsets) == 2 and all(type(at) is int and at >= 0 for at in offsets):
            spans.append((offsets[0], offsets[1], key))
    reached, last = 0, ""
    for begin, end, key in sorted(spans):
        if end <= begin:
            continue
        if begin < reached:
            message = f"tensors {last!r} and {key!r} share bytes"
            yield finding("overlap", file.path, message, _span(base + begin, reached - begin))
        elif begin > reached:
            message = f"{begin - reached:,} bytes before tensor {key!r} belong to none"
            yield finding("gap", file.path, message, _span(base + reached, begin - reached))
        if end > reached:
            reached, last = end, key
    left = file.size - base - reached
    if left > 0:
        message = f"{left:,} bytes follow the last tensor"
        yield finding("trailing-bytes", file.path, message, _span(base + reached, left))


def _span(start: int, length: int) -> Place:
    return Place("", start, length, start)
