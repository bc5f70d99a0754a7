"""Check a torch zip: every CRC-32, and every header against the directory. PyTorch checks neither."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from convinspect.checking.findings import RESAVE, Finding, Item, Looked, Place, Progress, Scan, finding
from convinspect.errors import BrokenFile
from convinspect.formats.files import File
from convinspect.formats.sources import is_spared
from convinspect.formats.zip.ends import Ends, read_ends
from convinspect.formats.zip.layout import Entry, Extent, entries_of, extent_of
from convinspect.formats.zip.limits import PIECE, inflated, is_bomb, pieces_of
from convinspect.formats.zip.structures import DEFLATED, STORED

_MANY_NAMED = 3
_DESCRIBING = (".pkl", ".pt", ".py", ".json", ".npy")
_MUCH = 1 << 20
"""Bytes of any other record that are not fetched where only headers are."""
_STORAGE = re.compile(r"([^/]+/)?data/\d+")


class Record(NamedTuple):
    """A record whose bytes can be read.

    Attributes:
        name: Below the archive's folder.
        entry: Its entry in the directory.
        payload: Offset of its first byte.
        sound: Whether its bytes are in the file and unpack to the size and CRC-32 that the directory records.
        unsummed: Whether its CRC-32 was not computed: the recorded one is 0, and that of its bytes is not.
        fetched: Whether its header and bytes were looked at; where not, `payload` is the header's offset.
    """

    name: str
    entry: Entry
    payload: int
    sound: bool
    unsummed: bool = False
    fetched: bool = True


def whole_record(file: File, record: Record, within: str) -> Place:
    """All bytes of a record, as the place of a finding."""
    return Place(within + record.entry.name, 0, record.entry.size, file.start + record.payload)


def scan_zip(file: File, within: str = "") -> Scan[list[Record]]:
    """Find everything that is wrong with a zip's bytes.

    Args:
        file: The archive, which may be a part of another file.
        within: The outer archive's record that this one is, as a prefix for its record names; "" for a separate file.

    Returns:
        Its records, including all of those that share a name.

    Raises:
        BrokenFile: Its end records are missing, so nothing is known about it.
        RefusedFile: Its directory is larger than that of any legitimate file.
    """
    ends = read_ends(file)
    if ends is None:
        raise BrokenFile("its zip directory is gone", "download or copy it again")
    entries, wrong = entries_of(file, ends)
    for clause in (*ends.wrong, *([wrong] if wrong else [])):
        yield finding("end-records", file.path, clause, _at(file, ends.end, within))
    yield from _scan_names(file, entries, within)
    spared = [entry for entry in entries if _is_spared(entry)] if is_spared(file.path) else []
    records = [Record(entry.name, entry, entry.offset, True, fetched=False) for entry in spared]
    if spared:
        yield Looked("spared", sum(entry.packed for entry in spared))
        yield Looked("records", len(spared))
        entries = [entry for entry in entries if not _is_spared(entry)]
    extents: list[Extent | None] = []
    for entry in entries:
        # One after the other, as they lie in the file: from elsewhere they come along with the bytes before.
        extent = extent_of(file, entry)
        extents.append(extent)
        record = yield from _scan_record(file, entry, extent, within)
        if record is not None:
            records.append(record)
    if not spared:
        yield from _scan_gaps(file, ends, [extent for extent in extents if extent is not None], within)
        yield from _scan_missing_sums(file, records, within)
    yield Looked("records", len(entries))
    folder = common_folder([entry.name for entry in (*entries, *spared)])
    # Archivers write an entry for each folder, which has no bytes.
    kept = (record for record in records if not (record.name.endswith("/") and not record.entry.size))
    return [record._replace(name=record.name.removeprefix(folder)) for record in kept]


def _is_spared(entry: Entry) -> bool:
    """Whether a record's bytes are numbers, which need not be fetched to see what the archive holds."""
    if entry.method != STORED or entry.name.endswith(_DESCRIBING):
        return False
    return bool(_STORAGE.fullmatch(entry.name)) or entry.size >= _MUCH


def common_folder(names: Sequence[str]) -> str:
    """The folder of all records, with its slash; that of the first record if they are in several."""
    return f"{names[0].partition('/')[0]}/" if names and "/" in names[0] else ""


def _at(file: File, offset: int, within: str, length: int | None = None) -> Place:
    return Place(within, offset, length, file.start + offset)


def _scan_names(file: File, entries: Sequence[Entry], within: str) -> Iterator[Item]:
    counts = Counter(entry.name for entry in entries)
    # PyTorch finds records regardless of upper and lower case; NumPy does not, and W and w are two arrays.
    lowered = Counter(entry.name.lower() for entry in entries if not entry.name.endswith(".npy"))
    seen: set[str] = set()
    for name, number in counts.items():
        place = Place(within + name)
        if number > 1:
            yield finding("duplicate-name", file.path, f"{number} records are named {name!r}", place)
        elif lowered[name.lower()] > 1 and name.lower() not in seen:
            message = f"records are named {name!r} in more than one spelling, which are one name to PyTorch"
            yield finding("duplicate-name", file.path, message, place)
        seen.add(name.lower())
        parts = re.split(r"[/\\]", name)
        if ".." in parts or name.startswith(("/", "\\")) or re.match(r"^[A-Za-z]:", name) or "\0" in name:
            yield finding("record-name", file.path, f"record {name!r} leads outside", place)
    pickles = [name for name in counts if re.fullmatch(r"([^/]*/)?data\.pkl", name)]
    if len(pickles) > 1:
        message = f"it holds {' and '.join(map(repr, pickles[:_MANY_NAMED]))}"
        yield finding("several-pickles", file.path, message, Place(within + pickles[1]))


def _scan_record(file: File, entry: Entry, extent: Extent | None, within: str) -> Scan[Record | None]:
    """Scan one record's headers and bytes; returns None if it has no header."""
    name = within + entry.name
    if extent is None:
        message = f"there is no header at byte {entry.offset:,} for {entry.name!r}"
        yield finding("record-outside", file.path, message, Place(name, None, None, entry.offset))
        return None
    place = Place(name, None, None, file.start + extent.start)
    if extent.differs:
        message = f"its own header has {'; '.join(extent.differs)}"
        yield finding("header-differs", file.path, message, place)
    hidden = extent.hidden + entry.hidden
    if hidden:
        message = f"{hidden:,} bytes in its headers are neither padding nor of any use"
        yield finding("gap", file.path, message, place)
    if extent.payload + entry.packed > file.size:
        available = max(0, file.size - extent.payload)
        message = f"{available:,} of its {entry.packed:,} bytes are in the file"
        yield finding("record-outside", file.path, message, place)
        return Record(entry.name, entry, extent.payload, False)
    if entry.name.endswith(".npy") and is_spared(file.path) and entry.size >= _MUCH:
        yield Looked("spared", entry.packed)
        return Record(entry.name, entry, extent.payload, True)
    crc = yield from _scan_bytes(file, entry, extent, place)
    return Record(entry.name, entry, extent.payload, crc is not None, bool(crc) and not entry.crc)


def _scan_bytes(file: File, entry: Entry, extent: Extent, place: Place) -> Scan[int | None]:
    """The CRC-32 of the record's bytes; None if they do not match the directory."""
    obstacle = _obstacle(entry)
    if obstacle:
        yield finding("not-unpacked", file.path, obstacle, place)
        return None
    crc, size = 0, 0
    try:
        for piece in unpacked(file, entry, extent.payload) if entry.packed + entry.size else ():
            crc, size = zlib.crc32(piece, crc), size + len(piece)
            if entry.method == STORED:
                yield Progress(len(piece))
    except zlib.error:
        yield finding("not-unpacked", file.path, "its compressed bytes are damaged", place)
        return None
    if entry.method != STORED:
        yield Progress(entry.packed)
    yield Looked("bytes", size)
    if size != entry.size:
        message = f"it unpacks to {size:,} bytes, not to {entry.size:,}"
        yield finding("not-unpacked", file.path, message, place)
        return None
    if entry.crc or not crc:
        yield Looked("crcs")
    if crc != entry.crc and entry.crc:
        message = f"its bytes give the CRC-32 {crc:08x}, stored is {entry.crc:08x}"
        place = place._replace(offset=0, length=entry.size, in_file=file.start + extent.payload)
        yield finding("wrong-crc", file.path, message, place)
        return None
    return crc


def _obstacle(entry: Entry) -> str:
    """Why the record's bytes cannot be unpacked, as a clause; "" if they can."""
    if entry.encrypted:
        return "it is encrypted, which PyTorch cannot read"
    if entry.method not in (STORED, DEFLATED):
        return f"it is compressed by method {entry.method}, which PyTorch cannot read"
    if entry.method == STORED and entry.size != entry.packed:
        return f"it is not compressed, and yet {entry.packed:,} bytes are to be {entry.size:,}"
    if entry.method == DEFLATED and is_bomb(entry.packed, entry.size):
        return f"{entry.packed:,} bytes would unpack to {entry.size:,}, which may be meant to exhaust whoever opens it"
    return ""


def unpacked(file: File, entry: Entry, payload: int) -> Iterator[bytes]:
    """A record's bytes in pieces; at most one byte more than the record claims.

    Raises:
        zlib.error: They cannot be unpacked.
    """
    packed = pieces_of(file, payload, entry.packed)
    return packed if entry.method == STORED else inflated(packed, entry.size + 1)


def _scan_gaps(file: File, ends: Ends, extents: Sequence[Extent], within: str) -> Iterator[Item]:
    """Find bytes that belong to two records, and bytes that belong to none."""
    reached = 0
    for extent in sorted(extents, key=lambda extent: extent.start):
        if extent.start < reached:
            message = f"two records share the bytes from {extent.start:,} on"
            yield finding("overlap", file.path, message, _at(file, extent.start, within))
        elif extent.start > reached:
            yield from _scan_gap(file, reached, extent.start, within)
        reached = max(reached, extent.end)
    if reached > ends.start:
        yield finding("overlap", file.path, "a record reaches into the directory", _at(file, ends.start, within))
    elif reached < ends.start:
        yield from _scan_gap(file, reached, ends.start, within)
    directory_end = ends.start + ends.size
    if directory_end > ends.end:
        message = "its directory reaches into the end records"
        yield finding("end-records", file.path, message, _at(file, ends.end, within))
    elif directory_end < ends.end:
        yield from _scan_gap(file, directory_end, ends.end, within)
    if ends.comment:
        message = f"a comment of {ends.comment:,} bytes follows, which PyTorch never writes"
        place = _at(file, ends.after - ends.comment, within, ends.comment)
        yield finding("trailing-bytes", file.path, message, place)
    if ends.after < file.size:
        left = file.size - ends.after
        message = f"{left:,} bytes follow its end record"
        yield finding("trailing-bytes", file.path, message, _at(file, ends.after, within, left))


def _scan_gap(file: File, start: int, end: int, within: str) -> Iterator[Finding]:
    """Report bytes that belong to no record unless they are zero, as in alignment padding."""
    for at in range(start, end, PIECE):
        if file.read(at, min(PIECE, end - at)).strip(b"\0"):
            where = "come before its first record" if start == 0 else "belong to no record"
            yield finding("gap", file.path, f"{end - start:,} bytes {where}", _at(file, start, within, end - start))
            return


def _scan_missing_sums(file: File, records: Sequence[Record], within: str) -> Iterator[Finding]:
    """One finding for all records without a CRC-32: PyTorch leaves out all, none, or those of the storages."""
    without = [record.entry for record in records if record.unsummed]
    if not without:
        return
    storages = [record for record in records if record.entry.size and _STORAGE.fullmatch(record.entry.name)]
    with_sum = [record for record in records if record.entry.crc and record.entry.name.endswith("data.pkl")]
    if with_sum and len(storages) == len(without) and all(record.unsummed for record in storages):
        yield _not_written(file, storages, within)
        return
    filled = sum(1 for record in records if record.entry.size)
    which = "none of its records has" if len(without) == filled else f"{len(without):,} of {filled:,} records lack"
    first = without[0]
    message = f"{which} a CRC-32, the first {first.name!r}, so damage in them would not show"
    yield finding("no-crc", file.path, message, Place(within + first.name, None, None, file.start + first.offset))


def _not_written(file: File, storages: Sequence[Record], within: str) -> Finding:
    """The finding for storages of which none has a CRC-32, though the pickle has one; and whether they are zeros."""
    first = storages[0].entry
    pieces = (piece for record in storages for piece in pieces_of(file, record.payload, record.entry.packed))
    zeros = ", and all are zeros" if not any(piece.strip(b"\0") for piece in pieces) else ", and some hold numbers"
    message = f"none of its {len(storages):,} storages has a CRC-32, the first {first.name!r}{zeros}"
    place = Place(within + first.name, None, None, file.start + first.offset)
    remedy = RESAVE if zeros.endswith("numbers") else ""
    return finding("not-written", file.path, message, place, remedy=remedy)
