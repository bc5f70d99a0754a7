"""Replace `data.pkl` in a `torch.save` zip: everything else is moved, not changed.

`data.pkl` comes first and its length changes, so all that follows moves; so does what follows records that are left
out. Each record is aligned by padding in its own header, as PyTorch's `PyTorchStreamWriter` writes it: a field "FB" in
the local extra. The next record is padded again so that the rest moves by whole blocks, most often by none: all records
after it stay aligned with the padding that they have, and their bytes can be copied in one go, or stay where they are.

The alignment is the one that the archive names: from it PyTorch may calculate where the storages lie."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from convinspect.errors import BrokenFile, CannotWrite
from convinspect.formats.files import File
from convinspect.formats.zip.alignment import USUAL_ALIGNMENT
from convinspect.formats.zip.archive import STORAGE, Archive
from convinspect.formats.zip.ends import find_directory, read_directory
from convinspect.formats.zip.structures import (
    DESCRIPTOR64_SIZE,
    DESCRIPTOR_SIZE,
    END_SIGNATURE,
    FULL,
    LOCATOR64_SIGNATURE,
    MANY,
    NO_FIELD,
    OPEN_ENDED,
    PADDING_FIELD,
    STORED,
    ZIP64_FIELD,
    DirectoryEntry,
    Local,
    Memory,
    Record,
    build_descriptor,
    build_end,
    build_end64,
    build_entry,
    build_fields,
    build_local,
    build_locator64,
    build_place,
    entries_in,
    extra_fields,
    has_descriptor_signature,
    parse_end,
    parse_end64,
    parse_locator64,
    read_local,
    record_of,
    with_sum,
)
from convinspect.records import Edit
from convinspect.writing.moving import moved_pieces
from convinspect.writing.pieces import BLOCK, Piece, Range, size_of

_MOST_EXTRA = 0xFFFF
"""Bytes that the extra fields of a header can have."""
_STORAGE_NAME = re.compile(rb"(?:^|/)data/\d+$")


class Sums(NamedTuple):
    """Checksum and sizes in an edited record's header."""

    crc: int
    packed: int
    size: int


class Content(NamedTuple):
    """The new bytes of a record, whose ranges are of the archive's file, and their CRC-32."""

    pieces: Sequence[Piece]
    crc: int


class Numbers(NamedTuple):
    """The edits of tensors in a record whose numbers change places, and the record's new checksum."""

    edits: list[Edit]
    crc: int


def pieces_with_record(
    file: File,
    archive: Archive,
    name: str,
    data: bytes | Content,
    gone: Collection[str] = (),
    moving: Mapping[str, Numbers] | None = None,
) -> list[Piece]:
    """The archive with the bytes of record `name` replaced, some records left out, and numbers moved in others.

    Args:
        file: The archive's file.
        archive: Its records.
        name: A record below the archive's folder.
        data: Its new bytes, unpacked; pieces only of a record that is not compressed.
        gone: Records below the archive's folder to leave out of the new file.
        moving: Records below the archive's folder that keep their size, and in which numbers change places.

    Raises:
        CannotWrite: The zip is laid out in a way that PyTorch does not write and that cannot be edited safely.
    """
    ends = find_directory(file)
    if ends is None:
        raise BrokenFile("its zip directory is gone", "download or copy it again")
    entries = _entries(read_directory(file, ends))
    left_out = {archive.records[record].offset for record in gone}
    moves = {archive.records[record].offset: (archive.records[record], it) for record, it in (moving or {}).items()}
    edited = archive.records[name]
    content = data if isinstance(data, Content) else Content([data], zlib.crc32(data))
    if isinstance(data, bytes) and edited.method != STORED:
        content = content._replace(pieces=[_deflated(data)])
    alignment = _alignment(file, archive)
    # Where much is left out, the rest may as well lie close together.
    step = alignment if left_out else _step(alignment)
    size = sum(map(size_of, data.pieces)) if isinstance(data, Content) else len(data)
    sums = Sums(content.crc if edited.has_sum else 0, sum(map(size_of, content.pieces)), size)
    starts = [*sorted(entry.offset for entry in entries), ends.start]
    pieces: list[Piece] = [Range(0, starts[0])]
    places: dict[int, int] = {}
    at = starts[0]
    for start, end in pairwise(starts):
        if start in left_out:
            continue
        if start == edited.offset:
            moved = _edited_record(file, edited, end, content.pieces, sums)
        elif start in moves:
            moved = _record_with_numbers(file, moves[start], end, _moved_header(file, start, at, alignment, step)[0])
        else:
            header, skipped = _moved_header(file, start, at, alignment, step)
            moved = [header, Range(start + skipped, end)]
        places[start] = at
        pieces += moved
        at += sum(map(size_of, moved))
    directory = b"".join(
        _moved_entry(_with_sum(entry, moves), places[entry.offset], sums if entry.offset == edited.offset else None)
        for entry in entries
        if entry.offset not in left_out
    )
    tail = file.read(ends.end, file.size - ends.end)
    return [*_joined(pieces), directory, _end_records(tail, at, len(directory), len(left_out))]


def _joined(pieces: Iterable[Piece]) -> list[Piece]:
    """The pieces with adjacent ranges merged, so that one copy is enough."""
    joined: list[Piece] = []
    for piece in pieces:
        last = joined[-1] if joined else b""
        if isinstance(piece, Range) and isinstance(last, Range) and last.end == piece.start:
            joined[-1] = Range(last.start, piece.end)
        elif size_of(piece):
            joined.append(piece)
    return joined


def _unsafe(what: str) -> CannotWrite:
    return CannotWrite(f"its zip {what}, which cannot be edited safely", "torch.save it again, then convert that")


def _end_records(old: bytes, start: int, size: int, fewer: int) -> bytes:
    """The end records for the moved directory, which has fewer entries than before by `fewer`."""
    tail = bytearray(old)
    large = parse_end64(old)
    if large is not None:
        here, entries = large.entries_here - fewer, large.entries - fewer
        _overwrite(tail, 0, build_end64(large._replace(entries_here=here, entries=entries, size=size, start=start)))
        at = old.find(LOCATOR64_SIGNATURE)
        locator = parse_locator64(old, at)
        if locator is not None:
            _overwrite(tail, at, build_locator64(locator._replace(offset=start + size)))
    at = old.rfind(END_SIGNATURE)
    end = parse_end(old, at)
    here, entries = (number if number == MANY else number - fewer for number in (end.entries_here, end.entries))
    end = end._replace(entries_here=here, entries=entries)
    if end.start != FULL:
        if start >= FULL or size >= FULL:
            raise _unsafe("would grow past what its end record can say")
        end = end._replace(size=size, start=start)
    _overwrite(tail, at, build_end(end))
    return bytes(tail)


def _overwrite(data: bytearray, at: int, new: bytes) -> None:
    data[at : at + len(new)] = new


# --- records


def _edited_record(file: File, record: Record, end: int, packed: Sequence[Piece], sums: Sums) -> list[Piece]:
    """The record with new bytes; `end` is the start of the next record."""
    local = _local(file, record.offset)
    old_end = local.payload + record.packed
    gap = file.read(old_end, end - old_end)
    header, extra = local.header, local.extra
    if not record.flags & OPEN_ENDED:
        if (header.packed, header.size) == (FULL, FULL):
            header, extra = header._replace(crc=sums.crc), _with_sizes(extra, sums)
        elif max(sums.packed, sums.size) >= FULL:
            raise _unsafe("has a record that would grow past what its header can say")
        else:
            header = header._replace(**sums._asdict())
    elif not has_descriptor_signature(gap) or len(gap) not in (DESCRIPTOR_SIZE, DESCRIPTOR64_SIZE):
        raise _unsafe("has an unusual data descriptor")
    else:
        gap = build_descriptor(*sums, wide=len(gap) == DESCRIPTOR64_SIZE)
    return [build_local(header, local.name, extra), *packed, gap]


def _with_sizes(extra: bytes, sums: Sums) -> bytes:
    """Extra fields of a local header, whose zip64 field has both sizes [4.5.3], with other sizes."""
    fields = _whole_fields(extra)
    at = next((at for at, (kind, content) in enumerate(fields) if kind == ZIP64_FIELD and len(content) >= 16), None)
    if at is None:
        raise _unsafe("lacks the sizes of a large record")
    fields[at] = (ZIP64_FIELD, build_place(sums.size) + build_place(sums.packed) + fields[at][1][16:])
    return build_fields(fields)


def _record_with_numbers(file: File, moves: tuple[Record, Numbers], end: int, header: bytes) -> list[Piece]:
    """A storage's record in which numbers change places.

    Args:
        file: The archive's file.
        moves: The record, and what changes in it.
        end: The start of the next record.
        header: The record's header for its new place; b"" where the old one can stay.
    """
    record, (edits, crc) = moves
    local = _local(file, record.offset)
    storage = edits[0].tensor.storage
    if record.method != STORED or storage is None or storage.available != record.packed:
        raise _unsafe("keeps numbers compressed")
    gap = file.read(local.payload + record.packed, end - local.payload - record.packed)
    if header:
        local = read_local(Memory(header), 0) or local
    fixed = local.header
    if not record.flags & OPEN_ENDED:
        fixed = fixed._replace(crc=crc)
    elif has_descriptor_signature(gap):
        gap = with_sum(gap, crc)
    else:
        raise _unsafe("has an unusual data descriptor")
    payload = _local(file, record.offset).payload
    return [build_local(fixed, local.name, local.extra), *moved_pieces(payload, storage, edits), gap]


def _local(file: File, start: int) -> Local:
    local = read_local(file, start)
    if local is None:
        raise _unsafe("has a record without a header")
    return local


def _alignment(file: File, archive: Archive) -> int:
    """The alignment that the archive names if its first storage has it, else PyTorch's usual one, in bytes."""
    alignment = archive.storage_alignment()
    if alignment == USUAL_ALIGNMENT:
        return alignment
    first = min((record.offset for name, record in archive.records.items() if STORAGE.fullmatch(name)), default=None)
    is_kept = first is None or _local(file, first).payload % alignment == 0
    return alignment if is_kept else USUAL_ALIGNMENT


def _step(alignment: int) -> int:
    """What the bytes behind an edited record move by a multiple of.

    Whole blocks can be inserted into a file, or shared with another, without a copy. Padding that is counted modulo
    the step is what it was once the edit is undone.
    """
    step = math.lcm(alignment, BLOCK)
    return step if step <= _MOST_EXTRA // 2 else alignment


def _moved_header(file: File, old: int, new: int, alignment: int, step: int) -> tuple[bytes, int]:
    """A record's header at its new offset, and how many old bytes it replaces; (b"", 0) if the header can stay.

    Args:
        file: The archive's file.
        old: Offset of the record.
        new: Its new offset.
        alignment: Of the records' bytes.
        step: A multiple of the alignment by which what follows may move.
    """
    moved = (new - old) % step
    if not moved and (new == old or max(old, new) < FULL):
        return b"", 0
    local = _local(file, old)
    length = local.header.length
    fields = _whole_fields(local.extra)
    for index, (kind, content) in enumerate(fields):
        if kind == ZIP64_FIELD and content.endswith(build_place(old)):
            # Beyond 4 GB PyTorch's writer also stores a record's offset in its local header.
            fields[index] = (kind, content[: -len(build_place(old))] + build_place(new))
        if kind == PADDING_FIELD and moved and local.payload % alignment == 0:
            padding = len(content) // step * step + (len(content) - moved) % step
            if local.header.extra_length - len(content) + padding <= _MOST_EXTRA:
                fields[index] = (kind, b"Z" * padding)
            elif _STORAGE_NAME.search(local.name):
                raise _unsafe("needs more padding than a header can hold")
            # Any other record may lie anywhere; the one behind it is aligned instead.
    return build_local(local.header, local.name, build_fields(fields)), length


def _whole_fields(extra: bytes) -> list[tuple[int, bytes]]:
    fields = extra_fields(extra)
    if fields and fields[-1][0] == NO_FIELD:
        raise _unsafe("has a malformed extra field")
    return fields


# --- the directory


class _Entry(NamedTuple):
    """A record's entry in the directory, with its comment and the record's offset."""

    entry: DirectoryEntry
    comment: bytes
    offset: int


def _entries(directory: bytes) -> list[_Entry]:
    entries, end = [], 0
    for entry in entries_in(directory):
        end = entry.end
        comment = directory[end - entry.header.comment_length : end]
        entries.append(_Entry(entry, comment, record_of(entry).offset))
    if end != len(directory):
        raise _unsafe("has a malformed directory")
    return entries


def _moved_entry(old: _Entry, offset: int, sums: Sums | None) -> bytes:
    """The entry with the record's new offset and, if it was edited, its checksum and sizes."""
    header, fields = old.entry.header, _whole_fields(old.entry.extra)
    # The offset comes last in the zip64 field, and only if it does not fit in the header.
    sizes = dict(fields).get(ZIP64_FIELD, b"")
    if header.offset == FULL:
        sizes = sizes[: -len(build_place(0))]
    if sums is not None:
        # Those sizes that do not fit in the header are in the zip64 field, in this order.
        wide_sizes = [(header.size == FULL, sums.size), (header.packed == FULL, sums.packed)]
        if len(sizes) != len(build_place(0)) * sum(is_wide for is_wide, _ in wide_sizes):
            raise _unsafe("keeps the sizes of a record in a way of its own")
        if any(size >= FULL and not is_wide for is_wide, size in wide_sizes):
            raise _unsafe("has a record that would grow past what its directory can say")
        sizes = b"".join(build_place(size) for is_wide, size in wide_sizes if is_wide)
        packed, size = (FULL if is_wide else size for is_wide, size in reversed(wide_sizes))
        header = header._replace(crc=sums.crc, packed=packed, size=size)
    wide = sizes + (build_place(offset) if offset >= FULL else b"")
    others = [field for field in fields if field[0] != ZIP64_FIELD]
    extra = build_fields([(ZIP64_FIELD, wide), *others] if wide else others)
    return build_entry(header._replace(offset=min(offset, FULL)), old.entry.name, extra, old.comment)


def _with_sum(entry: _Entry, moves: Mapping[int, tuple[Record, Numbers]]) -> _Entry:
    """The entry with its new checksum, where numbers change places in its record."""
    if entry.offset not in moves:
        return entry
    header = entry.entry.header._replace(crc=moves[entry.offset][1].crc)
    return entry._replace(entry=entry.entry._replace(header=header))


def _deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()
