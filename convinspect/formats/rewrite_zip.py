"""A `torch.save` zip with another `data.pkl`: everything else is moved, not changed.

`data.pkl` comes first and changes its length, so what follows moves. Each following record is aligned by padding
in its own header, as PyTorch's `PyTorchStreamWriter` makes it: a field "FB" in the local extra. Padding the very
next record anew makes the whole move a multiple of the alignment, so all records after it stay aligned with the
padding that they have, and one copy of all their bytes does. Field layouts are those of PKWARE's APPNOTE.TXT.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterable

from convinspect.errors import BrokenFile, CannotWrite
from convinspect.formats.files import File
from convinspect.formats.torch_zip import Archive, Directory, find_directory
from convinspect.formats.writing import Piece, Range

_LOCAL, _ENTRY = 30, 46
_DESCRIPTOR = b"PK\x07\x08"
_PADDING_FIELD = 0x4246
_ZIP64_FIELD = 1
_FULL = 0xFFFFFFFF
_ALIGNMENT = 64


def pieces_with_record(file: File, archive: Archive, name: str, data: bytes) -> list[Piece]:
    """The archive with the bytes of record `name` replaced.

    Args:
        file: The archive's file.
        archive: Its records.
        name: A record below the archive's folder.
        data: Its new bytes, unpacked.

    Raises:
        CannotWrite: The zip is laid out in a way that PyTorch does not write and that cannot be edited safely.
    """
    info = archive.records[name]
    ends = find_directory(file)
    if ends is None:
        raise BrokenFile("its zip directory is gone", "download or copy it again")
    others = sorted(one.header_offset for one in archive.records.values())
    following = next((start for start in [*others, ends.start] if start > info.header_offset), ends.start)
    data_start = archive.payload(name)
    old_end = data_start + info.compress_size
    packed = data if info.compress_type == zipfile.ZIP_STORED else _deflated(data)
    crc = zlib.crc32(data)
    head = _local_header(file, info, data_start, crc, len(packed), len(data))
    gap = _descriptor(file.read(old_end, following - old_end), info, crc, len(packed), len(data))
    moved = len(packed) + len(gap) - (following - data_start)
    next_head, skipped = _padded_anew(file, following, moved, ends.start)
    shift = moved + len(next_head) - skipped
    directory = _directory(file.read(ends.start, ends.size), info.header_offset, following, moved, shift,
                           (crc, len(packed), len(data)))  # fmt: skip
    return [
        Range(0, info.header_offset),
        head,
        packed,
        gap,
        next_head,
        Range(following + skipped, ends.start),
        directory,
        _end_records(file.read(ends.end, file.size - ends.end), ends, shift, len(directory)),
    ]


def _odd(what: str) -> CannotWrite:
    return CannotWrite(f"its zip {what}, which cannot be edited safely", "torch.save it again, then convert that")


def _end_records(old: bytes, ends: Directory, shift: int, size: int) -> bytes:
    """The end records, pointing at the moved directory."""
    tail = bytearray(old)
    start = ends.start + shift
    grown = size - ends.size
    if tail[:4] == b"PK\x06\x06":
        struct.pack_into("<QQ", tail, 40, size, start)
        at = tail.find(b"PK\x06\x07")
        place = struct.unpack_from("<Q", tail, at + 8)[0]
        struct.pack_into("<Q", tail, at + 8, place + shift + grown)
    end = tail.rfind(b"PK\x05\x06")
    if struct.unpack_from("<L", tail, end + 16)[0] != _FULL:
        if start >= _FULL or size >= _FULL:
            raise _odd("would grow past what its end record can say")
        struct.pack_into("<LL", tail, end + 12, size, start)
    return bytes(tail)


def _local_header(file: File, info: zipfile.ZipInfo, data_start: int, crc: int, packed: int, size: int) -> bytes:
    head = bytearray(file.read(info.header_offset, data_start - info.header_offset))
    if info.flag_bits & 8:
        return bytes(head)
    if struct.unpack_from("<LL", head, 18) == (_FULL, _FULL):
        raise _odd("keeps a small record as a large one")
    struct.pack_into("<LLL", head, 14, crc, packed, size)
    return bytes(head)


def _descriptor(gap: bytes, info: zipfile.ZipInfo, crc: int, packed: int, size: int) -> bytes:
    """What stands between a record's bytes and the next record: its data descriptor, where it has one."""
    if not info.flag_bits & 8:
        return gap
    if gap[:4] != _DESCRIPTOR or len(gap) not in (16, 24):
        raise _odd("has an unusual data descriptor")
    return _DESCRIPTOR + struct.pack("<LLL" if len(gap) == 16 else "<LQQ", crc, packed, size)


def _padded_anew(file: File, at: int, moved: int, directory: int) -> tuple[bytes, int]:
    """The next record's header, padded for its new place, and how many of the old bytes it stands for."""
    if at >= directory:
        return b"", 0
    head = file.read(at, _LOCAL)
    name_length, extra_length = struct.unpack_from("<HH", head, 26)
    body = file.read(at + _LOCAL, name_length + extra_length)
    name, extra = body[:name_length], body[name_length:]
    fields = _fields(extra)
    padding = next((index for index, (kind, _) in enumerate(fields) if kind == _PADDING_FIELD), None)
    old_length = _LOCAL + len(body)
    if padding is None or (at + old_length) % _ALIGNMENT:
        return head + body, old_length
    fields[padding] = (_PADDING_FIELD, b"")
    bare = _LOCAL + name_length + sum(4 + len(value) for _, value in fields)
    fields[padding] = (_PADDING_FIELD, b"Z" * (-(at + moved + bare) % _ALIGNMENT))
    new_extra = b"".join(struct.pack("<HH", kind, len(value)) + value for kind, value in fields)
    return head[:28] + struct.pack("<H", len(new_extra)) + name + new_extra, old_length


def _fields(extra: bytes) -> list[tuple[int, bytes]]:
    fields, at = [], 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        fields.append((kind, extra[at + 4 : at + 4 + length]))
        at += 4 + length
    if at != len(extra):
        raise _odd("has a malformed extra field")
    return fields


def _directory(old: bytes, edited: int, following: int, moved: int, shift: int, sums: tuple[int, int, int]) -> bytes:
    """The directory with every offset that moved, and the edited record's sums."""
    parts, at = [], 0
    while at < len(old):
        if old[at : at + 4] != b"PK\x01\x02":
            raise _odd("has a malformed directory")
        lengths = struct.unpack_from("<HHH", old, at + 28)
        length = _ENTRY + sum(lengths)
        parts.append(_entry(old[at : at + length], lengths, edited, following, moved, shift, sums))
        at += length
    return b"".join(parts)


def _entry(
    entry: bytes,
    lengths: tuple[int, ...],
    edited: int,
    following: int,
    moved: int,
    shift: int,
    sums: tuple[int, int, int],
) -> bytes:
    head = bytearray(entry[:_ENTRY])
    name_length, extra_length, _ = lengths
    fields = _fields(entry[_ENTRY + name_length : _ENTRY + name_length + extra_length])
    large = next((index for index, (kind, _) in enumerate(fields) if kind == _ZIP64_FIELD), None)
    values = b"" if large is None else fields[large][1]
    short = struct.unpack_from("<L", head, 42)[0]
    offset = struct.unpack("<Q", values[-8:])[0] if short == _FULL else short
    sizes = values[:-8] if short == _FULL else values
    if offset == edited:
        if sizes:
            raise _odd("keeps a small record as a large one")
        struct.pack_into("<LLL", head, 16, *sums)
    offset += 0 if offset <= edited else moved if offset == following else shift
    struct.pack_into("<L", head, 42, min(offset, _FULL))
    rest = [field for field in fields if field[0] != _ZIP64_FIELD]
    kept = sizes + (struct.pack("<Q", offset) if offset >= _FULL else b"")
    return _with_extra(head, entry, lengths, ([(_ZIP64_FIELD, kept)] if kept else []) + rest)


def _with_extra(head: bytearray, entry: bytes, lengths: tuple[int, ...], fields: Iterable[tuple[int, bytes]]) -> bytes:
    name_length, extra_length, _ = lengths
    extra = b"".join(struct.pack("<HH", kind, len(value)) + value for kind, value in fields)
    struct.pack_into("<H", head, 30, len(extra))
    name = entry[_ENTRY : _ENTRY + name_length]
    return bytes(head) + name + extra + entry[_ENTRY + name_length + extra_length :]


def _deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()
