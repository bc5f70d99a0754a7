"""How a zip lies in its file, byte by byte, without trusting any part of it. Field layouts are those of APPNOTE.TXT.

`zipfile` believes the directory, as PyTorch does; what stands beside it is read here, to be held against it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from convinspect.formats.files import File
from convinspect.formats.zip.archive import end_record

_LOCAL, _ENTRY, _END, _END64, _LOCATOR64 = 30, 46, 22, 56, 20
_FULL, _MANY = 0xFFFFFFFF, 0xFFFF
_ZIP64_FIELD, _PADDING_FIELD, _NAME_FIELD = 1, 0x4246, 0x7075
_LONGEST_ZIP64, _MOST_EXTRA = 28, 96
"""Bytes of the zip64 field, and of all others that archivers keep of one record: times (13), owners (15), NTFS's (36),
alignment (6), encryption (11)."""
STORED, DEFLATED = 0, 8


@dataclass(frozen=True, slots=True)
class Ends:
    """The records at a zip's end.

    Attributes:
        start: Offset of the directory.
        size: Its bytes.
        count: Its entries.
        end: Offset of the first of the end records.
        after: Offset behind the last of them, the archive's comment included.
        comment: Bytes of that comment.
        wrong: How they disagree, each a clause.
    """

    start: int
    size: int
    count: int
    end: int
    after: int
    comment: int
    wrong: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """What the directory says of a record.

    Attributes:
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
        return bool(self.flags & 1)


@dataclass(frozen=True, slots=True)
class Extent:
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


def ends_of(file: File) -> Ends | None:
    """The end records; None when there are none that a reader would find."""
    plain = end_record(file)
    if plain is None:
        return None
    disk, first, here, count, size, start, comment = struct.unpack("<HHHHLLH", file.read(plain + 4, _END - 4))
    wrong = []
    if disk or first or here != count:
        wrong.append("it claims to be one part of several")
    end = plain
    if file.read(plain - _LOCATOR64, 4) == b"PK\x06\x07":
        end = int(struct.unpack("<Q", file.read(plain - _LOCATOR64 + 8, 8))[0])
        record = file.read(end, _END64)
        if record[:4] != b"PK\x06\x06" or len(record) < _END64:
            return None
        large = struct.unpack_from("<QQQ", record, 32)
        wrong += [
            f"its two end records give {a:,} and {b:,} as the directory's {what}"
            for what, a, b, full in zip(
                ("entries", "size", "place"), large, (count, size, start), (_MANY, _FULL, _FULL), strict=True
            )
            if b not in (a, full)
        ]
        count, size, start = large
        if end + 12 + int(struct.unpack_from("<Q", record, 4)[0]) != plain - _LOCATOR64:
            wrong.append("its end records do not follow one another")
    return Ends(start, size, count, end, min(plain + _END + comment, file.size), comment, tuple(wrong))


def entries_of(file: File, ends: Ends) -> tuple[list[Entry], str]:
    """The directory's entries as far as they can be read, and what is wrong with it ("" when nothing is)."""
    directory = file.read(ends.start, ends.size)
    entries: list[Entry] = []
    at = 0
    while at + _ENTRY <= len(directory) and directory[at : at + 4] == b"PK\x01\x02":
        entry, at = _entry(directory, at)
        entries.append(entry)
    if at != len(directory) or len(directory) != ends.size:
        return entries, f"its directory breaks off after {len(entries):,} entries"
    if len(entries) % (_MANY + 1) != ends.count % (_MANY + 1):
        return entries, f"its end record counts {ends.count:,} entries, its directory has {len(entries):,}"
    return entries, ""


def _entry(directory: bytes, at: int) -> tuple[Entry, int]:
    flags, method = struct.unpack_from("<HH", directory, at + 8)
    crc, packed, size, name_length, extra_length, comment = struct.unpack_from("<LLLHHH", directory, at + 16)
    offset = struct.unpack_from("<L", directory, at + 42)[0]
    name = directory[at + _ENTRY : at + _ENTRY + name_length]
    extra = directory[at + _ENTRY + name_length : at + _ENTRY + name_length + extra_length]
    fields = _fields(extra) if extra else []
    size, packed, offset = _widened(fields, size, packed, offset)
    text = name.decode("utf-8" if flags & 0x800 else "cp437", "replace")
    entry = Entry(text, name, flags, method, crc, packed, size, offset, comment + _hidden(fields, name_length))
    return entry, at + _ENTRY + name_length + extra_length + comment


def _widened(fields: Sequence[tuple[int, bytes]], *values: int) -> tuple[int, ...]:
    """Sizes and offset, those that do not fit 32 bits taken from the zip64 field, which holds them in this order."""
    if _FULL not in values:
        return values
    field, at, found = dict(fields).get(_ZIP64_FIELD, b""), 0, []
    for value in values:
        if value == _FULL and at + 8 <= len(field):
            value = int(struct.unpack_from("<Q", field, at)[0])
            at += 8
        found.append(value)
    return tuple(found)


def _fields(extra: bytes) -> list[tuple[int, bytes]]:
    """Kind and content of each extra field; what follows the last whole one has the kind -1."""
    fields = []
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if at + 4 + length > len(extra):
            break
        fields.append((kind, extra[at + 4 : at + 4 + length]))
        at += 4 + length
    return [*fields, (-1, extra[at:])] if at < len(extra) else fields


def _hidden(fields: Sequence[tuple[int, bytes]], name_length: int) -> int:
    """Bytes of a record's extra fields, if they are more than padding and what archivers keep there.

    All count together, those of zero bytes aside, so that nothing can be spread over many small fields.
    """
    found, allowed, wide, odd = 0, _MOST_EXTRA, False, 0
    for kind, content in fields:
        if kind == _PADDING_FIELD:
            odd += len(content) if content.strip(b"Z\0") else 0
            continue
        if kind == _ZIP64_FIELD and len(content) <= _LONGEST_ZIP64 and not wide:
            wide = True
            continue
        if kind == _NAME_FIELD:
            # The name again in UTF-8, where the other one is of an older code of one byte a letter.
            allowed = _MOST_EXTRA + 9 + 3 * name_length
        found += 4 + len(content.rstrip(b"\0"))
    return odd + (found if found > allowed else 0)


def extent_of(file: File, entry: Entry) -> Extent | None:
    """Where a record lies and how its own header differs from the directory; None when there is no header."""
    head = file.read(entry.offset, _LOCAL + len(entry.raw_name) + 160)
    if len(head) < _LOCAL or head[:4] != b"PK\x03\x04":
        return None
    flags, method = struct.unpack_from("<HH", head, 6)
    crc, packed, size, name_length, extra_length = struct.unpack_from("<LLLHH", head, 14)
    payload = entry.offset + _LOCAL + name_length + extra_length
    if len(head) < _LOCAL + name_length + extra_length:
        head = file.read(entry.offset, _LOCAL + name_length + extra_length)
    name = head[_LOCAL : _LOCAL + name_length]
    fields = _fields(head[_LOCAL + name_length : _LOCAL + name_length + extra_length]) if extra_length else []
    size, packed = _widened(fields, size, packed)
    differs = []
    if name != entry.raw_name:
        differs.append(f"the name {name.decode('utf-8', 'replace')!r}")
    if method != entry.method:
        differs.append(f"method {method}, not {entry.method}")
    if flags != entry.flags:
        differs.append(f"flags {flags:#x}, not {entry.flags:#x}")
    given = (("a CRC-32", crc, entry.crc), ("a packed size", packed, entry.packed), ("a size", size, entry.size))
    # With a data descriptor behind the bytes these are 0 here.
    open_ended = bool(flags & 8)
    differs += [f"{what} of {a:,}, not {b:,}" for what, a, b in given if a != b and not (open_ended and not a)]
    end, told = _described(file, entry, payload + entry.packed) if open_ended else (payload + entry.packed, "")
    return Extent(entry.offset, payload, end, (*differs, *([told] if told else [])), _hidden(fields, name_length))


def _described(file: File, entry: Entry, at: int) -> tuple[int, str]:
    """Where the data descriptor at `at` ends, and what it says otherwise than the directory."""
    found = file.read(at, 24)
    signed = 4 if found[:4] == b"PK\x07\x08" else 0
    wanted = (entry.crc, entry.packed, entry.size)
    for form in ("<LLL", "<LQQ"):
        if len(found) >= signed + struct.calcsize(form) and struct.unpack_from(form, found, signed) == wanted:
            return at + signed + struct.calcsize(form), ""
    if signed:
        return at + 16, "another sum or size behind its bytes"
    return at, "none behind its bytes, where it claims one"
