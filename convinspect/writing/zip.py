"""A `torch.save` zip with another `data.pkl`: everything else is moved, not changed.

`data.pkl` comes first and changes its length, so what follows moves; so it does behind records that are left out.
Each record is aligned by padding in its own header, as PyTorch's `PyTorchStreamWriter` makes it: a field "FB" in the
local extra. Padding the very next record anew makes the whole move a multiple of the alignment, so all records after
it stay aligned with the padding that they have, and one copy of all their bytes does. Field layouts are those of
PKWARE's APPNOTE.TXT.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

from convinspect.errors import BrokenFile, CannotWrite
from convinspect.formats.files import File
from convinspect.formats.zip.archive import Archive, Record, find_directory
from convinspect.writing.pieces import Piece, Range, size_of

_LOCAL, _ENTRY = 30, 46
_DESCRIPTOR = b"PK\x07\x08"
_PADDING_FIELD = 0x4246
_ZIP64_FIELD = 1
_FULL, _MANY = 0xFFFFFFFF, 0xFFFF
_ALIGNMENT = 64


def pieces_with_record(file: File, archive: Archive, name: str, data: bytes, gone: Collection[str] = ()) -> list[Piece]:
    """The archive with the bytes of record `name` replaced, and some records left out.

    Args:
        file: The archive's file.
        archive: Its records.
        name: A record below the archive's folder.
        data: Its new bytes, unpacked.
        gone: Records below the archive's folder that the new file is not to have.

    Raises:
        CannotWrite: The zip is laid out in a way that PyTorch does not write and that cannot be edited safely.
    """
    ends = find_directory(file)
    if ends is None:
        raise BrokenFile("its zip directory is gone", "download or copy it again")
    entries = _entries(file.read(ends.start, ends.size))
    left_out = {archive.records[one].header_offset for one in gone}
    edited = archive.records[name]
    packed = data if edited.compress_type == zipfile.ZIP_STORED else _deflated(data)
    sums = (zlib.crc32(data), len(packed), len(data))
    starts = [*sorted(entry.offset for entry in entries), ends.start]
    pieces: list[Piece] = [Range(0, starts[0])]
    places: dict[int, int] = {}
    at = starts[0]
    for start, end in pairwise(starts):
        if start in left_out:
            continue
        if start == edited.header_offset:
            data_start = archive.payload(name)
            gap = file.read(data_start + edited.compress_size, end - data_start - edited.compress_size)
            head = _summed_header(file.read(start, data_start - start), edited, sums)
            made: list[Piece] = [head, packed, _descriptor(gap, edited, sums)]
        else:
            head, skipped = _moved_header(file, start, at)
            made = [head, Range(start + skipped, end)]
        places[start] = at
        pieces += made
        at += sum(map(size_of, made))
    directory = b"".join(
        _moved_entry(one, places[one.offset], sums if one.offset == edited.header_offset else None)
        for one in entries
        if one.offset not in left_out
    )
    tail = file.read(ends.end, file.size - ends.end)
    return [*_joined(pieces), directory, _end_records(tail, at, len(directory), len(left_out))]


def _joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Neighbouring ranges as one, so that one copy does."""
    joined: list[Piece] = []
    for piece in pieces:
        last = joined[-1] if joined else b""
        if isinstance(piece, Range) and isinstance(last, Range) and last.end == piece.start:
            joined[-1] = Range(last.start, piece.end)
        elif size_of(piece):
            joined.append(piece)
    return joined


def _odd(what: str) -> CannotWrite:
    return CannotWrite(f"its zip {what}, which cannot be edited safely", "torch.save it again, then convert that")


def _end_records(old: bytes, start: int, size: int, fewer: int) -> bytes:
    """The end records, pointing at the moved directory, which has `fewer` entries than before."""
    tail = bytearray(old)
    if tail[:4] == b"PK\x06\x06":
        counts = [count - fewer for count in struct.unpack_from("<QQ", tail, 24)]
        struct.pack_into("<QQQQ", tail, 24, *counts, size, start)
        struct.pack_into("<Q", tail, tail.find(b"PK\x06\x07") + 8, start + size)
    end = tail.rfind(b"PK\x05\x06")
    counts = [count if count == _MANY else count - fewer for count in struct.unpack_from("<HH", tail, end + 8)]
    struct.pack_into("<HH", tail, end + 8, *counts)
    if struct.unpack_from("<L", tail, end + 16)[0] != _FULL:
        if start >= _FULL or size >= _FULL:
            raise _odd("would grow past what its end record can say")
        struct.pack_into("<LL", tail, end + 12, size, start)
    return bytes(tail)


def _summed_header(old: bytes, info: Record, sums: tuple[int, int, int]) -> bytes:
    head = bytearray(old)
    if info.flag_bits & 8:
        return bytes(head)
    if struct.unpack_from("<LL", head, 18) == (_FULL, _FULL):
        raise _odd("keeps a small record as a large one")
    struct.pack_into("<LLL", head, 14, *sums)
    return bytes(head)


def _descriptor(gap: bytes, info: Record, sums: tuple[int, int, int]) -> bytes:
    """What stands between a record's bytes and the next record: its data descriptor, where it has one."""
    if not info.flag_bits & 8:
        return gap
    if gap[:4] != _DESCRIPTOR or len(gap) not in (16, 24):
        raise _odd("has an unusual data descriptor")
    return _DESCRIPTOR + struct.pack("<LLL" if len(gap) == 16 else "<LQQ", *sums)


def _moved_header(file: File, old: int, new: int) -> tuple[bytes, int]:
    """A record's header for its new place, and how many of the old bytes it stands for; none where it can stay."""
    moved = (new - old) % _ALIGNMENT
    if not moved and (new == old or max(old, new) < _FULL):
        return b"", 0
    head = file.read(old, _LOCAL)
    name_length, extra_length = struct.unpack_from("<HH", head, 26)
    body = file.read(old + _LOCAL, name_length + extra_length)
    name, fields = body[:name_length], _fields(body[name_length:])
    length = _LOCAL + len(body)
    for index, (kind, value) in enumerate(fields):
        if kind == _ZIP64_FIELD and value[-8:] == struct.pack("<Q", old):
            # Behind 4 GB PyTorch's writer notes a record's place in the record itself, too.
            fields[index] = (kind, value[:-8] + struct.pack("<Q", new))
        if kind == _PADDING_FIELD and moved and (old + length) % _ALIGNMENT == 0:
            bare = length - len(value)
            fields[index] = (kind, b"Z" * (-(new + bare) % _ALIGNMENT))
    extra = b"".join(struct.pack("<HH", kind, len(value)) + value for kind, value in fields)
    return head[:28] + struct.pack("<H", len(extra)) + name + extra, length


def _fields(extra: bytes) -> list[tuple[int, bytes]]:
    fields, at = [], 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        fields.append((kind, extra[at + 4 : at + 4 + length]))
        at += 4 + length
    if at != len(extra):
        raise _odd("has a malformed extra field")
    return fields


@dataclass(frozen=True, slots=True)
class _Entry:
    """A record's entry in the directory: its bytes, the lengths of its parts, and where the record lies."""

    raw: bytes
    lengths: tuple[int, ...]
    offset: int

    def fields(self) -> list[tuple[int, bytes]]:
        """The extra fields."""
        name, extra, _ = self.lengths
        return _fields(self.raw[_ENTRY + name : _ENTRY + name + extra])


def _entries(directory: bytes) -> list[_Entry]:
    entries, at = [], 0
    while at < len(directory):
        if directory[at : at + 4] != b"PK\x01\x02":
            raise _odd("has a malformed directory")
        lengths = struct.unpack_from("<HHH", directory, at + 28)
        length = _ENTRY + sum(lengths)
        entry = _Entry(directory[at : at + length], lengths, struct.unpack_from("<L", directory, at + 42)[0])
        if entry.offset == _FULL:
            entry = replace(entry, offset=struct.unpack("<Q", dict(entry.fields())[_ZIP64_FIELD][-8:])[0])
        entries.append(entry)
        at += length
    return entries


def _moved_entry(entry: _Entry, offset: int, sums: tuple[int, int, int] | None) -> bytes:
    """The entry with the record's new place and, where it was edited, its sums."""
    head = bytearray(entry.raw[:_ENTRY])
    fields = entry.fields()
    values = dict(fields).get(_ZIP64_FIELD, b"")
    sizes = values[:-8] if struct.unpack_from("<L", head, 42)[0] == _FULL else values
    if sums is not None:
        if sizes:
            raise _odd("keeps a small record as a large one")
        struct.pack_into("<LLL", head, 16, *sums)
    struct.pack_into("<L", head, 42, min(offset, _FULL))
    rest = [field for field in fields if field[0] != _ZIP64_FIELD]
    kept = sizes + (struct.pack("<Q", offset) if offset >= _FULL else b"")
    return _with_extra(head, entry.raw, entry.lengths, ([(_ZIP64_FIELD, kept)] if kept else []) + rest)


def _with_extra(head: bytearray, entry: bytes, lengths: tuple[int, ...], fields: Iterable[tuple[int, bytes]]) -> bytes:
    name_length, extra_length, _ = lengths
    extra = b"".join(struct.pack("<HH", kind, len(value)) + value for kind, value in fields)
    struct.pack_into("<H", head, 30, len(extra))
    name = entry[_ENTRY : _ENTRY + name_length]
    return bytes(head) + name + extra + entry[_ENTRY + name_length + extra_length :]


def _deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()
