"""The records of a torch zip: where each lies, and the bytes of those that are no storage.

The layout is that of PyTorch's `caffe2/serialize/inline_container.h`: every record lies below one folder,
`data.pkl` holds the object, `data/KEY` the bytes of storage KEY, `byteorder` the machine's byte order.
"""

from __future__ import annotations

import re
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence

from convinspect.errors import BrokenFile, RefusedFile
from convinspect.formats.files import File
from convinspect.formats.zip.alignment import (
    ALIGNMENT_RECORD,
    LONGEST_ALIGNMENT_TEXT,
    USUAL_ALIGNMENT,
    is_possible,
    parse_alignment,
)
from convinspect.formats.zip.alike import entries_alike
from convinspect.formats.zip.ends import Ends, find_directory, read_directory
from convinspect.formats.zip.limits import LARGEST_RATIO, inflated, is_too_large_in_memory, pieces_of
from convinspect.formats.zip.structures import (
    DEFLATED,
    ENCRYPTED,
    FULL,
    NO_FIELD,
    STORED,
    ZIP64_FIELD,
    Record,
    decode_name,
    entries_in,
    extra_fields,
    read_local,
    record_of,
)
from convinspect.records import Storage

STORAGE = re.compile(r"data/\d+")
"""Names of the records that are storages."""
_NEWEST_VERSION = 63
"""Ten times the version of the format that APPNOTE.TXT describes [4.4.3.2]: what a later one adds is not known."""
_AGAIN = "download or copy it again"


class Archive:
    """The records of a torch zip, by their name below its folder.

    Attributes:
        file: Where it lies.
        folder: The one folder of all records with its slash; "" when they do not share one.
        records: What the directory says of each, in its order.

    Raises:
        BrokenFile: The zip's directory is missing or malformed.
        RefusedFile: Two records share a name, or the directory is far too large.
    """

    def __init__(self, file: File) -> None:
        self.file = file
        ends = find_directory(file)
        if ends is None:
            raise _malformed("no end record says where it lies")
        if ends.is_split:
            raise _malformed("it lies on several disks")
        named = _named_records(file, ends)
        self._directory_start = ends.start
        self._offsets: list[int] = []
        self._outside: set[str] = set()
        self.folder = _common_folder(name for name, _ in named)
        names = [whole_name.removeprefix(self.folder) for whole_name, _ in named]
        self.records: dict[str, Record] = dict(zip(names, [record for _, record in named], strict=True))
        if len(self.records) < len(named):
            raise _named_twice(names, named)
        if self.folder:
            self._outside = {name for name, (whole_name, _) in zip(names, named, strict=True) if name == whole_name}

    @property
    def nbytes(self) -> int:
        """Bytes of the archive."""
        return self.file.size

    def names(self) -> list[str]:
        """Whole names of all records."""
        return [self._whole_name(name) for name in self.records]

    def _whole_name(self, name: str) -> str:
        return name if name in self._outside else self.folder + name

    def read(self, name: str) -> bytes:
        """The bytes of a record that is no storage, unpacked and checked against its CRC.

        Raises:
            BrokenFile: It is missing, damaged or truncated.
            RefusedFile: It unpacks to far more than it could honestly hold.
        """
        record = self.records.get(name)
        if record is None or STORAGE.fullmatch(name):
            raise BrokenFile(f"it lacks the record {name!r}", "save it again")
        if record.method != STORED and is_too_large_in_memory(record.packed, record.size):
            raise RefusedFile(
                f"record {name!r} of {record.packed:,} bytes would unpack to {record.size:,}",
                "do not load it elsewhere either",
            )
        data = self._unpacked(name, record) if record.has_sum else self.file.read(self.payload(name), record.size)
        if record.has_sum and zlib.crc32(data) != record.crc:
            raise _damaged(name, "its CRC-32 does not match")
        if len(data) != record.size:
            raise _incomplete(name, len(data), record)
        return data

    def _unpacked(self, name: str, record: Record) -> bytes:
        """A record's bytes, one more than it claims at most."""
        start = self._checked_payload(name, record)
        if record.method == STORED:
            return self.file.read(start, min(record.packed, record.size))
        if record.method != DEFLATED:
            raise _damaged(name, f"it is compressed by method {record.method}, which PyTorch cannot read")
        most = LARGEST_RATIO * self.file.size
        try:
            data = b"".join(inflated(pieces_of(self.file, start, record.packed), min(record.size, most) + 1))
        except zlib.error as error:
            raise BrokenFile(f"record {name!r} cannot be unpacked ({error})", "download it again") from None
        if most < len(data) < record.size:
            raise _incomplete(name, len(data), record)
        return data

    def _checked_payload(self, name: str, record: Record, apart: bool = False) -> int:
        """Offset of a record's first byte, of one that is what the directory says.

        Args:
            name: Of the record.
            record: What the directory says of it.
            apart: It is to share no bytes with others even where it is stored as it is.
        """
        if record.flags & ENCRYPTED:
            raise _damaged(name, "it is encrypted, which PyTorch cannot read")
        local = read_local(self.file, record.offset)
        if local is None:
            raise _damaged(name, "no header")
        if _text(local.name, record.flags, "replace") != self._whole_name(name):
            raise _damaged(name, f"its header names {local.name.decode('utf-8', 'replace')!r}")
        if (record.method != STORED or apart) and local.payload + record.packed > self._end_of(record):
            raise _damaged(name, "it shares bytes with another record")
        return local.payload

    def apart(self, name: str) -> int:
        """Offset of a record's first byte, of one that is what the directory says and shares no bytes with others.

        Raises:
            BrokenFile: It is not, or does.
        """
        return self._checked_payload(name, self.records[name], apart=True)

    def _end_of(self, record: Record) -> int:
        """Where the next record begins, or the directory: many records over the same bytes would unpack without end."""
        if not self._offsets:
            self._offsets = sorted(other.offset for other in self.records.values())
        after = bisect_right(self._offsets, record.offset)
        if after - bisect_left(self._offsets, record.offset) > 1:
            return record.offset
        return self._offsets[after] if after < len(self._offsets) else self._directory_start

    def payload(self, name: str) -> int:
        """Offset in the file of the first byte behind a record's local header."""
        local = read_local(self.file, self.records[name].offset)
        if local is None:
            raise _damaged(name, "no header")
        return local.payload

    def stored_at(self, name: str) -> int | None:
        """As `payload`; None where the record is compressed."""
        return self.payload(name) if self.records[name].method == STORED else None

    def storage(self, name: str, nbytes: int, byteorder: str, key: str | None = None) -> Storage:
        """The storage in record `name`, without reading it.

        Args:
            name: Of the record.
            nbytes: Its size, as the pickle says.
            byteorder: "little" or "big".
            key: What the pickle calls it; by default the last part of the record's name.
        """
        key = name.rpartition("/")[2] if key is None else key
        return self._storage(self.records.get(name), key, nbytes, byteorder)

    def storages(self, byteorder: str) -> Callable[[str, int], Storage]:
        """What gives the storage of a key, for its size in bytes as the pickle says, without reading it."""
        record_of, storage = self.records.get, self._storage
        return lambda key, nbytes: storage(record_of("data/" + key), key, nbytes, byteorder)

    def _storage(self, record: Record | None, key: str, nbytes: int, byteorder: str) -> Storage:
        if record is None:
            return Storage(self.file.path, key, nbytes, 0, None, byteorder=byteorder)
        offset, packed, size, crc, method, _ = record
        file = self.file
        packed_nbytes = None if method == STORED else packed
        # Half of what calling the class takes, of which there is one to a tensor.
        return tuple.__new__(
            Storage,
            (file.path, key, nbytes, size, file.start + offset, True, packed_nbytes, crc, byteorder, None, 0, "", ()),
        )

    def storage_alignment(self) -> int:
        """The alignment in bytes that the archive names for its storages; PyTorch's own where it names none."""
        record = self.records.get(ALIGNMENT_RECORD)
        if record is None or record.size > LONGEST_ALIGNMENT_TEXT:
            return USUAL_ALIGNMENT
        alignment = parse_alignment(self.read(ALIGNMENT_RECORD))
        return alignment if alignment is not None and is_possible(alignment) else USUAL_ALIGNMENT

    def byteorder(self) -> str:
        """Byte order of all storages; archives before PyTorch 2.1 do not say and are little-endian."""
        return "big" if "byteorder" in self.records and self.read("byteorder").strip() == b"big" else "little"


def _named_records(file: File, ends: Ends) -> list[tuple[str, Record]]:
    """The records with their whole names, without the entries that archivers keep for folders.

    Raises:
        BrokenFile: The directory breaks off.
        RefusedFile: It is far too large.
    """
    directory = read_directory(file, ends)
    named = list[tuple[str, Record]]()
    end = length = 0
    entries = entries_in(directory)
    try:
        while (entry := next(entries, None)) is not None:
            end = entry.end
            record = record_of(entry)
            if entry.header.version & 0xFF > _NEWEST_VERSION:
                raise _malformed(f"a record needs version {(entry.header.version & 0xFF) / 10} of the format")
            if entry.extra and _is_cut(extra_fields(entry.extra), record):
                raise _malformed("an extra field is cut")
            if not entry.name.endswith(b"/"):
                named.append((_text(entry.name, record.flags, "strict"), record))
            if length == len(entry.name) and (alike := entries_alike(directory, end, length)) is not None:
                named += alike.named
                end, entries = alike.end, entries_in(directory, alike.end)
            length = len(entry.name)
    except UnicodeDecodeError as error:
        raise _malformed(f"the name of a record is no text: {error}") from None
    if end < ends.size:
        raise _malformed(f"it breaks off after {len(named):,} records")
    return named


def _named_twice(names: Sequence[str], named: Sequence[tuple[str, Record]]) -> RefusedFile:
    """What is said of names of which one occurs twice."""
    first = {name: at for at, name in reversed([*enumerate(names)])}
    twice = next(whole_name for at, (whole_name, _) in enumerate(named) if first[names[at]] < at)
    return RefusedFile(
        f"it holds two records named {twice!r}, so what it says depends on who reads it",
        "do not load it elsewhere either",
    )


def _text(name: bytes, flags: int, errors: str) -> str:
    """A record's name up to its first zero byte, where many readers take it to end: to them two names may be one."""
    return decode_name(name, flags, errors).partition("\0")[0]


def _is_cut(fields: Sequence[tuple[int, bytes]], record: Record) -> bool:
    """Whether extra fields end in the middle of one, or the zip64 field lacks a size that the header leaves to it."""
    kinds = dict(fields)
    return len(kinds.get(NO_FIELD, b"")) >= 4 or (ZIP64_FIELD in kinds and FULL in record[:3])


def _common_folder(names: Iterable[str]) -> str:
    """The archive's one folder with its slash; "" when the records do not share one."""
    names = [name for name in names if "/" in name]
    # Among sorted names, all those between two that begin alike begin so too.
    folders = {name.partition("/")[0] for name in (min(names), max(names))} if names else set()
    return f"{folders.pop()}/" if len(folders) == 1 else ""


def _malformed(why: str) -> BrokenFile:
    return BrokenFile(f"its zip directory is malformed ({why})", _AGAIN)


def _incomplete(name: str, there: int, record: Record) -> BrokenFile:
    return BrokenFile(f"record {name!r} has {there:,} of {record.size:,} bytes", "download it again")


def _damaged(name: str, why: str) -> BrokenFile:
    return BrokenFile(f"record {name!r} is damaged ({why})", _AGAIN)
