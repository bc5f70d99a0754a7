"""The undo journal of an edit in place: what the files were, and what they become.

A line that names the format; the length of a JSON text in 8 bytes; the text, which has an entry for each file; the
runs of bytes that are lost, and those that are written, in the order of the entries; SHA-256 of all that. It is written
whole and synced before the first byte of a file changes, and removed once the last one is synced.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from convinspect.errors import BrokenFile, unreadable
from convinspect.formats.files import File
from convinspect.writing.atomic import new_file
from convinspect.writing.in_place.file_ranges import Extent, Shift
from convinspect.writing.in_place.patches import Patch, Run

_MAGIC = b"convinspect undo 1\n"
_SUM = 32
_LENGTH = 8
_SAMPLE = 4096
_SAMPLES = 16
_MOST = 2**61
"""No file has as many bytes, and sums of some such numbers are still places that the system takes."""


class Sample(NamedTuple):
    """Bytes of the old file that stay, by which it is known again.

    Attributes:
        at: Where they begin in the old file.
        size: Bytes.
        digest: Their SHA-256.
    """

    at: int
    size: int
    digest: str


class Entry(NamedTuple):
    """One file of a journal.

    Attributes:
        name: The file, relative to the journal's folder.
        patch: What is done to it.
        samples: Some of what stays.
        modified: When it was modified last, in nanoseconds.
        inode: Its number in the file system, as long as it is this very file.
        extents: Where its bytes lay on the disk; None where that is not told, or not needed.
    """

    name: str
    patch: Patch
    samples: tuple[Sample, ...]
    modified: int
    inode: int
    extents: tuple[Extent, ...] | None


def entry_of(file: File, name: str, patch: Patch, extents: Sequence[Extent] | None) -> Entry:
    """The entry of a file that is about to be edited."""
    status = os.stat(file.path)
    samples = tuple(Sample(at, size, digest_of(file.read(at, size))) for at, size in _sampled(patch))
    return Entry(name, patch, samples, status.st_mtime_ns, status.st_ino, None if extents is None else tuple(extents))


def digest_of(data: bytes) -> str:
    """What a sample's bytes are compared by."""
    return hashlib.sha256(data).hexdigest()


def _sampled(patch: Patch) -> list[tuple[int, int]]:
    """Places in the old file, with their sizes, at the ends of the longest runs that stay and between."""
    edges = [0, *(edge for run in patch.old for edge in (run.at, run.end)), patch.size]
    gaps = [(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True) if start < end]
    places = set()
    for start, end in sorted(gaps, key=lambda gap: gap[0] - gap[1])[: _SAMPLES // 4]:
        room = max(0, end - start - _SAMPLE)
        places |= {(start + room * part // 3, min(_SAMPLE, end - start)) for part in range(4)}
    return sorted(places)


def write_journal(place: Path, entries: Iterable[Entry], mode: int = 0o600) -> None:
    """Write a journal, synced and read back.

    Args:
        place: Where.
        entries: What it says of each file.
        mode: Its rights.

    Raises:
        CannotWrite: It cannot be written, or there is one.
    """
    entries = tuple(entries)
    text = json.dumps({"files": [_as_json(entry) for entry in entries]}).encode()
    digest = hashlib.sha256()

    def check(written: Path) -> None:
        if read_journal(written) != entries:
            raise BrokenFile("the journal is not what was written", "try again, or write elsewhere", written)

    with new_file(place, check) as temporary, open(temporary, "xb") as file:
        os.chmod(temporary, mode)
        runs = (run.data for entry in entries for run in (*entry.patch.old, *entry.patch.new))
        for part in (_MAGIC, len(text).to_bytes(_LENGTH, "little"), text, *runs):
            digest.update(part)
            file.write(part)
        file.write(digest.digest())


def _as_json(entry: Entry) -> dict[str, Any]:
    patch = entry.patch
    return {
        "name": entry.name,
        "size": patch.size,
        "new_size": patch.new_size,
        "shift": patch.shift,
        "old": [(run.at, len(run.data)) for run in patch.old],
        "new": [(run.at, len(run.data)) for run in patch.new],
        "samples": entry.samples,
        "modified": entry.modified,
        "inode": entry.inode,
        "extents": entry.extents,
    }


def read_journal(place: Path) -> tuple[Entry, ...]:
    """Read a journal.

    Raises:
        BrokenFile: It is none, or it is damaged.
    """
    try:
        # A pipe of this name would never end.
        data = place.read_bytes() if stat.S_ISREG(os.stat(place).st_mode) else b""
    except OSError as error:
        raise unreadable(error, place) from None
    body, digest = data[:-_SUM], data[-_SUM:]
    start = len(_MAGIC) + _LENGTH
    end = start + int.from_bytes(body[len(_MAGIC) : start], "little")
    if not body.startswith(_MAGIC) or end > len(body) or hashlib.sha256(body).digest() != digest:
        raise _malformed(place)
    try:
        entries, at = [], end
        for one in json.loads(body[start:end])["files"]:
            entry, at = _from_json(one, body, at)
            entries.append(entry)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise _malformed(place) from None
    if at != len(body) or not entries or len({entry.name for entry in entries}) < len(entries):
        raise _malformed(place)
    return tuple(entries)


def _malformed(place: Path) -> BrokenFile:
    remedy = "get the file that it lies beside from elsewhere, and remove this one"
    return BrokenFile("it is no undo journal, or it is damaged", remedy, place)


def _from_json(one: Mapping[str, Any], data: bytes, at: int) -> tuple[Entry, int]:
    """An entry, and the place behind its bytes.

    Raises:
        ValueError: Something in it is impossible.
        LookupError: Something is missing.
        TypeError: Something has another type.
    """
    name = PurePosixPath(one["name"])
    if name.is_absolute() or ".." in name.parts or not name.parts or b"\0" in os.fsencode(name):
        raise ValueError(one["name"])
    runs: list[list[Run]] = []
    for places in (one["old"], one["new"]):
        found: list[Run] = []
        for start, size in places:
            found.append(Run(_size(start), data[at : at + _size(size)]))
            at += size
        if any(before.end > after.at for before, after in pairwise(found)):
            raise ValueError("runs overlap")
        runs.append(found)
    shift = None if one["shift"] is None else Shift(_size(one["shift"][0]), _number(one["shift"][1], -_MOST, _MOST))
    extents = one["extents"]
    patch = Patch(_size(one["size"]), _size(one["new_size"]), shift, tuple(runs[1]), tuple(runs[0]))
    samples = tuple(Sample(_size(start), _size(size), str(digest)) for start, size, digest in one["samples"])
    known = None if extents is None else tuple(Extent(*map(_size, extent)) for extent in extents)
    # Before 1970 it is negative; some file systems number files with all 64 bits.
    modified, inode = _number(one["modified"], -(2**63), 2**63), _number(one["inode"], 0, 2**64)
    return Entry(str(name), patch, samples, modified, inode, known), at


def _size(number: Any) -> int:
    return _number(number, 0, _MOST)


def _number(number: Any, least: int, end: int) -> int:
    if type(number) is not int or not least <= number < end:
        raise ValueError(number)
    return number
