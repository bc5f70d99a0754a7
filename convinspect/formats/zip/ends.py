"""The records at a zip's end, found from there, and the directory that they point at."""

from __future__ import annotations

from typing import NamedTuple

from convinspect.errors import RefusedFile
from convinspect.formats.zip.limits import LARGEST_DIRECTORY, MOST_RECORDS
from convinspect.formats.zip.structures import (
    END64_SIGNATURE,
    END64_SIZE,
    END_SIGNATURE,
    END_SIZE,
    ENTRY_SIGNATURE,
    FULL,
    LOCATOR64_SIZE,
    MANY,
    Source,
    parse_end,
    parse_end64,
    parse_locator64,
)

_REMEDY = "do not load it elsewhere either"


class Ends(NamedTuple):
    """The records at a zip's end, and what they say of its directory.

    Attributes:
        start: Offset of the directory.
        size: Its bytes.
        entries: How many it has.
        end: Offset of the first of the end records.
        after: Offset behind the last of them, the archive's comment included.
        comment: Bytes of that comment.
        wrong: How they disagree, each a clause.
        is_split: Whether its directory is said to lie on one of several disks.
    """

    start: int
    size: int
    entries: int
    end: int
    after: int
    comment: int
    wrong: tuple[str, ...]
    is_split: bool = False


def find_end(source: Source) -> int | None:
    """Where the end record begins: the last one that is long enough, as PyTorch reads it; None without one."""
    start = max(0, source.size - END_SIZE - MANY)
    tail = source.read(start, END_SIZE + MANY)
    # Bytes behind the archive may look like the beginning of another one.
    at = tail.rfind(END_SIGNATURE, 0, max(0, len(tail) - END_SIZE + len(END_SIGNATURE)))
    return start + at if at >= 0 else None


def read_ends(source: Source) -> Ends | None:
    """The end records; None when there are none that a reader would find."""
    plain = find_end(source)
    if plain is None:
        return None
    end = parse_end(source.read(plain, END_SIZE))
    wrong = []
    if end.disk or end.directory_disk or end.entries_here != end.entries:
        wrong.append("it claims to be one part of several")
    is_split, first, said = False, plain, (end.entries, end.size, end.start)
    locator = parse_locator64(source.read(plain - LOCATOR64_SIZE, LOCATOR64_SIZE))
    if locator is not None:
        is_split, first = bool(locator.disk or locator.disks > 1), locator.offset
        large = parse_end64(source.read(first, END64_SIZE))
        if large is None:
            return None
        wide = (large.entries, large.size, large.start)
        wrong += [
            f"its two end records give {a:,} and {b:,} as the directory's {what}"
            for what, a, b, full in zip(("entries", "size", "place"), wide, said, (MANY, FULL, FULL), strict=True)
            if b not in (a, full)
        ]
        said = wide
        # The length counts from behind itself on: 12 bytes are before.
        if first + 12 + large.length != plain - LOCATOR64_SIZE:
            wrong.append("its end records do not follow one another")
    after = min(plain + END_SIZE + end.comment_length, source.size)
    entries, size, start = said
    return Ends(start, size, entries, first, after, end.comment_length, tuple(wrong), is_split)


def find_directory(source: Source) -> Ends | None:
    """The end records of a zip whose directory lies where they say; None when it is gone.

    Of a file that is truncated, the end record of a zip stored inside it may be the last that is left, and its offsets
    are not this file's.
    """
    ends = read_ends(source)
    return ends if ends is not None and ends.start + ends.size == ends.end else None


def bytes_gone(source: Source) -> int:
    """How many bytes before the end records are missing, as these say; 0 or less where they do not say."""
    plain = find_end(source)
    if plain is None:
        return 0
    locator = parse_locator64(source.read(plain - LOCATOR64_SIZE, LOCATOR64_SIZE))
    if locator is not None:
        first = plain - LOCATOR64_SIZE - END64_SIZE
        is_there = source.read(first, len(END64_SIGNATURE)) == END64_SIGNATURE
        return locator.offset - first if is_there else 0
    end = parse_end(source.read(plain, END_SIZE))
    return end.start + end.size - plain


def read_directory(source: Source, ends: Ends) -> bytes:
    """The bytes of the directory; fewer than the end records say where the source ends.

    Raises:
        RefusedFile: It is larger, or has more entries, than that of any honest archive.
    """
    if ends.size > LARGEST_DIRECTORY and source.size - ends.start > LARGEST_DIRECTORY:
        raise RefusedFile(f"its zip directory takes {ends.size:,} bytes, which no model needs", _REMEDY)
    directory = source.read(ends.start, ends.size)
    if directory.count(ENTRY_SIGNATURE) > MOST_RECORDS:
        raise RefusedFile(f"its zip directory has more than {MOST_RECORDS:,} entries, which no model needs", _REMEDY)
    return directory
