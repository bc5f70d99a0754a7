"""Whether a torch zip is whole: every CRC-32, every header against the directory. PyTorch checks neither."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from convinspect.checking.findings import Log, Place
from convinspect.errors import BrokenFile
from convinspect.formats.files import File
from convinspect.formats.zip.ends import Ends, read_ends
from convinspect.formats.zip.layout import Entry, Extent, entries_of, extent_of
from convinspect.formats.zip.limits import PIECE, inflated, is_bomb, pieces_of
from convinspect.formats.zip.structures import DEFLATED, STORED

_MANY_NAMED = 3


@dataclass(frozen=True, slots=True)
class Record:
    """A record whose bytes can be read.

    Attributes:
        name: Below the archive's folder.
        entry: What the directory says of it.
        payload: Offset of its first byte.
        sound: Whether its bytes lie in the file and unpack to what its directory and its CRC-32 say.
        unsummed: Whether its CRC-32 was not computed: it is 0, and that of its bytes is not.
    """

    name: str
    entry: Entry
    payload: int
    sound: bool
    unsummed: bool = False


def scan_zip(file: File, log: Log, within: str = "") -> list[Record]:
    """Note whatever is wrong with a zip's bytes; its records, those of one name all.

    Args:
        file: The archive, which may be a part of another file.
        log: Takes the findings.
        within: The record of the outer archive that this one is, with what sets it apart; "" for a file of its own.

    Raises:
        BrokenFile: Its end records are gone, so nothing can be told.
    """
    ends = read_ends(file)
    if ends is None:
        raise BrokenFile("its zip directory is gone", "download or copy it again")
    entries, wrong = entries_of(file, ends)
    for told in (*ends.wrong, *([wrong] if wrong else [])):
        log.add("end-records", file.path, told, _at(file, ends.end, within))
    _look_at_names(file, entries, log, within)
    extents = [(entry, extent_of(file, entry)) for entry in entries]
    found = [_record(file, entry, extent, log, within) for entry, extent in extents]
    _look_between(file, ends, [extent for _, extent in extents if extent is not None], log, within)
    _note_unsummed(file, [one for one in found if one is not None], log, within)
    folder = common_folder([entry.name for entry in entries])
    log.looked["records"] += len(found)
    return [
        Record(one.name.removeprefix(folder), one.entry, one.payload, one.sound)
        for one in found
        # Archivers keep an entry for each folder, which holds nothing.
        if one is not None and not (one.name.endswith("/") and not one.entry.size)
    ]


def common_folder(names: list[str]) -> str:
    """The one folder that all records lie in, with its slash; the first record's where they lie in several."""
    return f"{names[0].partition('/')[0]}/" if names and "/" in names[0] else ""


def _at(file: File, offset: int, within: str, length: int | None = None) -> Place:
    return Place(within, offset, length, file.start + offset)


def _look_at_names(file: File, entries: list[Entry], log: Log, within: str) -> None:
    counts = Counter(entry.name for entry in entries)
    # PyTorch finds records whatever the case of their letters is.
    lowered = Counter(entry.name.lower() for entry in entries)
    told: set[str] = set()
    for name, number in counts.items():
        if number > 1:
            log.add("duplicate-name", file.path, f"{number} records are named {name!r}", Place(within + name))
        elif lowered[name.lower()] > 1 and name.lower() not in told:
            log.add("duplicate-name", file.path, f"records are named {name!r} in more than one spelling, which are one"
                    " name to PyTorch", Place(within + name))  # fmt: skip
        told.add(name.lower())
        parts = re.split(r"[/\\]", name)
        if ".." in parts or name.startswith(("/", "\\")) or re.match(r"^[A-Za-z]:", name) or "\0" in name:
            log.add("record-name", file.path, f"record {name!r} leads outside", Place(within + name))
    pickles = [name for name in counts if re.fullmatch(r"([^/]*/)?data\.pkl", name)]
    if len(pickles) > 1:
        log.add("several-pickles", file.path, f"it holds {' and '.join(map(repr, pickles[:_MANY_NAMED]))}",
                Place(within + pickles[1]))  # fmt: skip


def _record(file: File, entry: Entry, extent: Extent | None, log: Log, within: str) -> Record | None:
    name = within + entry.name
    if extent is None:
        log.add("record-outside", file.path, f"there is no header at byte {entry.offset:,} for {entry.name!r}",
                Place(name, None, None, entry.offset))  # fmt: skip
        return None
    place = Place(name, None, None, file.start + extent.start)
    if extent.differs:
        log.add("header-differs", file.path, f"its own header has {'; '.join(extent.differs)}", place)
    hidden = extent.hidden + entry.hidden
    if hidden:
        log.add("gap", file.path, f"{hidden:,} bytes in its headers are neither padding nor of any use", place)
    if extent.payload + entry.packed > file.size:
        there = max(0, file.size - extent.payload)
        log.add("record-outside", file.path, f"{there:,} of its {entry.packed:,} bytes are in the file", place)
        return Record(entry.name, entry, extent.payload, False)
    crc = _summed(file, entry, extent, log, place)
    return Record(entry.name, entry, extent.payload, crc is not None, bool(crc) and not entry.crc)


def _summed(file: File, entry: Entry, extent: Extent, log: Log, place: Place) -> int | None:
    """The CRC-32 of the record's bytes; None when they are not what the directory says."""
    why = _unreadable(entry)
    if why:
        log.add("not-unpacked", file.path, why, place)
        return None
    crc, size = 0, 0
    try:
        for piece in unpacked(file, entry, extent.payload, log) if entry.packed + entry.size else ():
            crc, size = zlib.crc32(piece, crc), size + len(piece)
    except zlib.error:
        log.add("not-unpacked", file.path, "its compressed bytes are damaged", place)
        return None
    log.looked["bytes"] += size
    if size != entry.size:
        log.add("not-unpacked", file.path, f"it unpacks to {size:,} bytes, not to {entry.size:,}", place)
        return None
    log.looked["crcs"] += bool(entry.crc) or not crc
    if crc != entry.crc and entry.crc:
        log.add("wrong-crc", file.path, f"its bytes give the CRC-32 {crc:08x}, stored is {entry.crc:08x}",
                replace(place, offset=0, length=entry.size, in_file=file.start + extent.payload))  # fmt: skip
        return None
    return crc


def _unreadable(entry: Entry) -> str:
    if entry.encrypted:
        return "it is encrypted, which PyTorch cannot read"
    if entry.method not in (STORED, DEFLATED):
        return f"it is compressed by method {entry.method}, which PyTorch cannot read"
    if entry.method == STORED and entry.size != entry.packed:
        return f"it is not compressed, and yet {entry.packed:,} bytes are to be {entry.size:,}"
    if entry.method == DEFLATED and is_bomb(entry.packed, entry.size):
        return f"{entry.packed:,} bytes would unpack to {entry.size:,}, which may be meant to exhaust whoever opens it"
    return ""


def unpacked(file: File, entry: Entry, payload: int, log: Log) -> Iterator[bytes]:
    """A record's bytes in pieces, one more than it claims at most.

    Raises:
        zlib.error: They cannot be unpacked.
    """
    chunks = _counted(pieces_of(file, payload, entry.packed), log)
    yield from chunks if entry.method == STORED else inflated(chunks, entry.size + 1)


def _counted(chunks: Iterator[bytes], log: Log) -> Iterator[bytes]:
    for chunk in chunks:
        log.advance(len(chunk))
        yield chunk


def _look_between(file: File, ends: Ends, extents: list[Extent], log: Log, within: str) -> None:
    """Bytes that two records share, and bytes of none."""
    reached = 0
    for extent in sorted(extents, key=lambda one: one.start):
        if extent.start < reached:
            log.add("overlap", file.path, f"two records share the bytes from {extent.start:,} on",
                    _at(file, extent.start, within))  # fmt: skip
        elif extent.start > reached:
            _look_at_gap(file, reached, extent.start, log, within)
        reached = max(reached, extent.end)
    if reached > ends.start:
        log.add("overlap", file.path, "a record reaches into the directory", _at(file, ends.start, within))
    elif reached < ends.start:
        _look_at_gap(file, reached, ends.start, log, within)
    if ends.start + ends.size > ends.end:
        log.add("end-records", file.path, "its directory reaches into the end records", _at(file, ends.end, within))
    elif ends.start + ends.size < ends.end:
        _look_at_gap(file, ends.start + ends.size, ends.end, log, within)
    if ends.comment:
        log.add("trailing-bytes", file.path, f"a comment of {ends.comment:,} bytes follows, which PyTorch never writes",
                _at(file, ends.after - ends.comment, within, ends.comment))  # fmt: skip
    if ends.after < file.size:
        log.add("trailing-bytes", file.path, f"{file.size - ends.after:,} bytes follow its end record",
                _at(file, ends.after, within, file.size - ends.after))  # fmt: skip


def _look_at_gap(file: File, start: int, end: int, log: Log, within: str) -> None:
    """Bytes of no record hide something unless they are zero, as alignment leaves them."""
    for at in range(start, end, PIECE):
        if file.read(at, min(PIECE, end - at)).strip(b"\0"):
            where = "come before its first record" if start == 0 else "belong to no record"
            log.add("gap", file.path, f"{end - start:,} bytes {where}", _at(file, start, within, end - start))
            return


def _note_unsummed(file: File, records: list[Record], log: Log, within: str) -> None:
    """One finding for all records without a CRC-32: PyTorch leaves out all or none."""
    without = [one.entry for one in records if one.unsummed]
    if not without:
        return
    filled = sum(1 for one in records if one.entry.size)
    which = "none of its records has" if len(without) == filled else f"{len(without):,} of {filled:,} records lack"
    log.add("no-crc", file.path, f"{which} a CRC-32, the first {without[0].name!r}, so damage in them would not show",
            Place(within + without[0].name, None, None, file.start + without[0].offset))  # fmt: skip
