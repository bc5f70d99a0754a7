"""How the records of a zip lie in it, without trusting its directory.

PyTorch believes the directory; what stands beside it, in each record's own header and behind its bytes, is read here to
be compared with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from convinspect.formats.zip.ends import Ends, read_directory
from convinspect.formats.zip.structures import (
    DESCRIPTOR64_SIZE,
    DESCRIPTOR_SIZE,
    ENCRYPTED,
    MANY,
    NAME_FIELD,
    OPEN_ENDED,
    PADDING_FIELD,
    ZIP64_FIELD,
    DirectoryEntry,
    Source,
    decode_name,
    descriptor_length,
    entries_in,
    extra_fields,
    has_descriptor_signature,
    read_local,
    record_of,
    widened,
)

_LONGEST_ZIP64, _MOST_EXTRA = 28, 96
"""Bytes of the zip64 field, and of all others that archivers keep of one record: times (13), owners (15), NTFS's (36),
alignment (6), encryption (11)."""


class Entry(NamedTuple):
    """What the directory says of a record.

    Attributes:
        name: As text.
        raw_name: As it is stored.
        flags: As the format numbers them.
        method: How it is compressed.
        crc: The CRC-32 of its bytes; 0 also where none was computed.
        packed: Its bytes in the archive.
        size: Its bytes once they are unpacked.
        offset: Of its own header in the archive.
        hidden: Bytes beside it that mean nothing to anyone who reads the record: its comment, and odd extra fields.
    """

    name: str
    raw_name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    offset: int
    hidden: int = 0

    @property
    def encrypted(self) -> bool:
        """Whether its bytes are said to be encrypted."""
        return bool(self.flags & ENCRYPTED)


class Extent(NamedTuple):
    """Where a record lies.

    Attributes:
        start: Offset of its own header.
        payload: Offset of its bytes.
        end: Offset behind its bytes and the data descriptor that may follow.
        differs: What its own header says otherwise than the directory, each a clause.
        hidden: Bytes in its header that mean nothing to anyone who reads the record, padding aside.
    """

    start: int
    payload: int
    end: int
    differs: tuple[str, ...]
    hidden: int


def entries_of(source: Source, ends: Ends) -> tuple[list[Entry], str]:
    """The directory's entries as far as they can be read, and what is wrong with it ("" when nothing is).

    Raises:
        RefusedFile: It is larger than that of any honest file.
    """
    directory = read_directory(source, ends)
    entries: list[Entry] = []
    end = 0
    for entry in entries_in(directory):
        entries.append(_entry(entry))
        end = entry.end
    if end != len(directory) or len(directory) != ends.size:
        return entries, f"its directory breaks off after {len(entries):,} entries"
    # The plain end record counts in 16 bits.
    if len(entries) % (MANY + 1) != ends.entries % (MANY + 1):
        return entries, f"its end record counts {ends.entries:,} entries, its directory has {len(entries):,}"
    return entries, ""


def _entry(entry: DirectoryEntry) -> Entry:
    header, record = entry.header, record_of(entry)
    hidden = header.comment_length
    if entry.extra:
        hidden += _hidden(extra_fields(entry.extra), header.name_length)
    return Entry(
        decode_name(entry.name, header.flags), entry.name, header.flags, header.method, header.crc,
        record.packed, record.size, record.offset, hidden,
    )  # fmt: skip


def _hidden(fields: Sequence[tuple[int, bytes]], name_length: int) -> int:
    """Bytes of a record's extra fields, if they are more than padding and what archivers keep there.

    All count together, those of zero bytes aside, so that nothing can be spread over many small fields.
    """
    total, allowed, has_zip64, odd = 0, _MOST_EXTRA, False, 0
    for kind, content in fields:
        if kind == PADDING_FIELD:
            odd += len(content) if content.strip(b"Z\0") else 0
            continue
        if kind == ZIP64_FIELD and len(content) <= _LONGEST_ZIP64 and not has_zip64:
            has_zip64 = True
            continue
        if kind == NAME_FIELD:
            # The name again in UTF-8, where the other one is of an older code of one byte a letter.
            allowed = _MOST_EXTRA + 9 + 3 * name_length
        total += 4 + len(content.rstrip(b"\0"))
    return odd + (total if total > allowed else 0)


def extent_of(source: Source, entry: Entry) -> Extent | None:
    """Where a record lies and how its own header differs from the directory; None when there is no header."""
    local = read_local(source, entry.offset)
    if local is None:
        return None
    header = local.header
    fields = extra_fields(local.extra) if header.extra_length else []
    size, packed = widened(fields, header.size, header.packed)
    differs = []
    if local.name != entry.raw_name:
        differs.append(f"the name {local.name.decode('utf-8', 'replace')!r}")
    if header.method != entry.method:
        differs.append(f"method {header.method}, not {entry.method}")
    if header.flags != entry.flags:
        differs.append(f"flags {header.flags:#x}, not {entry.flags:#x}")
    given = (("a CRC-32", header.crc, entry.crc), ("a packed size", packed, entry.packed), ("a size", size, entry.size))
    # With a data descriptor behind the bytes these are 0 here.
    open_ended = bool(header.flags & OPEN_ENDED)
    differs += [f"{what} of {a:,}, not {b:,}" for what, a, b in given if a != b and not (open_ended and not a)]
    end = local.payload + entry.packed
    if open_ended:
        length, wrong = _descriptor(source, entry, end)
        end += length
        differs += [wrong] if wrong else []
    return Extent(entry.offset, local.payload, end, tuple(differs), _hidden(fields, header.name_length))


def _descriptor(source: Source, entry: Entry, at: int) -> tuple[int, str]:
    """Bytes of the data descriptor at `at`, and what it says otherwise than the directory."""
    data = source.read(at, DESCRIPTOR64_SIZE)
    length = descriptor_length(data, entry.crc, entry.packed, entry.size)
    if length is not None:
        return length, ""
    if has_descriptor_signature(data):
        return DESCRIPTOR_SIZE, "another sum or size behind its bytes"
    return 0, "none behind its bytes, where it claims one"
