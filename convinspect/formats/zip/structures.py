"""The structures that a zip is made of, byte by byte: the readers, the writer and `check` share them.

No other module has a signature, a size or a layout of them, but `alike`, which reads many entries at once. Layouts are
those of PKWARE's APPNOTE.TXT 6.3.10, whose sections are given in brackets. No field is believed: where bytes are
missing, a function returns None, or less than was claimed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from struct import Struct
from typing import NamedTuple, Protocol

MAGIC = b"PK"
"""What every signature begins with."""
LOCAL_SIGNATURE = b"PK\x03\x04"
END_SIGNATURE = b"PK\x05\x06"
END64_SIGNATURE = b"PK\x06\x06"
LOCATOR64_SIGNATURE = b"PK\x06\x07"
ENTRY_SIGNATURE = b"PK\x01\x02"
_DESCRIPTOR_SIGNATURE = b"PK\x07\x08"

_LOCAL = Struct("<4s5H3L2H")
_ENTRY = Struct("<4s6H3L5H2L")
_END = Struct("<4s4H2LH")
_END64 = Struct("<4sQ2H2L4Q")
_LOCATOR64 = Struct("<4sLQL")
_FIELD = Struct("<2H")
_PLACE = Struct("<Q")
_SUMS, _SUMS64 = Struct("<3L"), Struct("<L2Q")

FIELD_SIZE, PLACE_SIZE = _FIELD.size, _PLACE.size
"""Bytes that an extra field begins with, and of a number of 64 bits in one."""
FULL, MANY = 0xFFFFFFFF, 0xFFFF
"""What stands in a field of 32 or 16 bits whose value is in the zip64 form [4.4.1.4]."""
STORED, DEFLATED = 0, 8
"""The methods of compression that PyTorch reads [4.4.5]."""
ENCRYPTED, OPEN_ENDED, UTF8 = 1 << 0, 1 << 3, 1 << 11
"""Flags [4.4.4]: encrypted, sums in a data descriptor behind the bytes, the name in UTF-8."""
ZIP64_FIELD, PADDING_FIELD, NAME_FIELD = 1, 0x4246, 0x7075
"""Kinds of extra fields: sizes of 64 bits [4.5.3], PyTorch's padding ("FB"), the name in UTF-8 [4.6.9]."""
NO_FIELD = -1
"""The kind under which `extra_fields` gives the bytes behind the last whole field."""

# --- bytes


class Source(Protocol):
    """What a zip is read from: a file, a part of one, or bytes in memory."""

    size: int

    def read(self, offset: int, size: int, /) -> bytes:
        """Up to `size` bytes from `offset`; fewer only where the source ends."""


class Memory:
    """A source of bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self.size = len(data)
        self._data = data

    def read(self, offset: int, size: int) -> bytes:
        """As `Source` has it."""
        return self._data[offset : offset + size] if offset >= 0 else b""


# --- a record's own header


class LocalHeader(NamedTuple):
    """The fixed part of a record's own header [4.3.7], which its name and extra fields follow, and then its bytes."""

    signature: bytes
    version: int
    flags: int
    method: int
    time: int
    date: int
    crc: int
    packed: int
    size: int
    name_length: int
    extra_length: int

    @property
    def length(self) -> int:
        """Bytes of the whole header, with name and extra fields."""
        return LOCAL_SIZE + self.name_length + self.extra_length


LOCAL_SIZE = _LOCAL.size
"""Bytes of the fixed part."""
_USUAL_HEADER = 256
"""Bytes that most headers fit in: PyTorch pads to 64, and Python's own writer does not pad."""


class Local(NamedTuple):
    """A record's own header as a whole; `start` and `payload` are offsets of its first byte and of the one behind."""

    start: int
    header: LocalHeader
    name: bytes
    extra: bytes

    @property
    def payload(self) -> int:
        """Offset of the record's bytes."""
        return self.start + self.header.length


def is_zip(head: bytes) -> bool:
    """True for the first bytes of a zip archive."""
    return head[:4] in (LOCAL_SIGNATURE, END_SIGNATURE)


def parse_local(head: bytes) -> LocalHeader | None:
    """The fixed part of a record's own header; None when the bytes are none."""
    if len(head) < LOCAL_SIZE or not head.startswith(LOCAL_SIGNATURE):
        return None
    return LocalHeader._make(_LOCAL.unpack_from(head))


def read_local(source: Source, start: int) -> Local | None:
    """The header at `start`; None when there is none. Its name and extra fields may be cut where the source ends."""
    head = source.read(start, _USUAL_HEADER)
    header = parse_local(head)
    if header is None:
        return None
    if len(head) < header.length:
        head = source.read(start, header.length)
    name_end = LOCAL_SIZE + header.name_length
    return Local(start, header, head[LOCAL_SIZE:name_end], head[name_end : header.length])


def build_local(header: LocalHeader, name: bytes, extra: bytes) -> bytes:
    """The bytes of a header, with the lengths of what follows its fixed part."""
    return _LOCAL.pack(*header._replace(name_length=len(name), extra_length=len(extra))) + name + extra


def first_name(source: Source) -> str:
    """The name of the record that a zip begins with; "" when it begins with none."""
    local = read_local(source, 0)
    return "" if local is None else local.name.decode("utf-8", "replace")


# --- extra fields


def extra_fields(extra: bytes) -> list[tuple[int, bytes]]:
    """Kind and content of each extra field [4.5.1]; what follows the last whole one has the kind `NO_FIELD`."""
    fields = []
    at = 0
    while at + _FIELD.size <= len(extra):
        kind, length = _FIELD.unpack_from(extra, at)
        content = extra[at + _FIELD.size : at + _FIELD.size + length]
        if len(content) < length:
            break
        fields.append((kind, content))
        at += _FIELD.size + length
    return [*fields, (NO_FIELD, extra[at:])] if at < len(extra) else fields


def build_fields(fields: Iterable[tuple[int, bytes]]) -> bytes:
    """The bytes of extra fields."""
    return b"".join(_FIELD.pack(kind, len(content)) + content for kind, content in fields)


def widened(fields: Sequence[tuple[int, bytes]], *values: int) -> tuple[int, ...]:
    """Sizes and a place, in this order; those that do not fit 32 bits are taken from the zip64 field [4.5.3]."""
    if FULL not in values:
        return values
    content, at, wide = dict(fields).get(ZIP64_FIELD, b""), 0, []
    for value in values:
        if value == FULL and at + _PLACE.size <= len(content):
            value = int(_PLACE.unpack_from(content, at)[0])
            at += _PLACE.size
        wide.append(value)
    return tuple(wide)


def build_place(value: int) -> bytes:
    """A number of 64 bits, as the zip64 field holds it."""
    return _PLACE.pack(value)


# --- data descriptors


def build_descriptor(crc: int, packed: int, size: int, wide: bool) -> bytes:
    """The sums behind a record's bytes [4.3.9], with their signature; `wide` for sizes of 64 bits."""
    return _DESCRIPTOR_SIGNATURE + (_SUMS64 if wide else _SUMS).pack(crc, packed, size)


def with_sum(descriptor: bytes, crc: int) -> bytes:
    """A data descriptor that begins with its signature, with another checksum."""
    begin = len(_DESCRIPTOR_SIGNATURE)
    return descriptor[:begin] + crc.to_bytes(4, "little") + descriptor[begin + 4 :]


DESCRIPTOR_SIZE, DESCRIPTOR64_SIZE = 4 + _SUMS.size, 4 + _SUMS64.size
"""Bytes of a data descriptor with its signature, and of its zip64 form."""


def has_descriptor_signature(data: bytes) -> bool:
    """True for bytes that begin as a data descriptor with a signature."""
    return data.startswith(_DESCRIPTOR_SIGNATURE)


def descriptor_length(data: bytes, crc: int, packed: int, size: int) -> int | None:
    """Bytes of the data descriptor that `data` begins with; None when no form of it gives these sums."""
    signature = len(_DESCRIPTOR_SIGNATURE) if has_descriptor_signature(data) else 0
    for sums in (_SUMS, _SUMS64):
        length = signature + sums.size
        if len(data) >= length and sums.unpack_from(data, signature) == (crc, packed, size):
            return length
    return None


# --- the directory


class EntryHeader(NamedTuple):
    """The fixed part of a record's entry in the directory [4.3.12]."""

    signature: bytes
    made_by: int
    version: int
    flags: int
    method: int
    time: int
    date: int
    crc: int
    packed: int
    size: int
    name_length: int
    extra_length: int
    comment_length: int
    disk: int
    internal: int
    external: int
    offset: int


class DirectoryEntry(NamedTuple):
    """A record's entry in the directory.

    Attributes:
        header: Its fixed part.
        name: Of the record.
        extra: The extra fields.
        end: Offset in the directory behind the entry, its comment included.
    """

    header: EntryHeader
    name: bytes
    extra: bytes
    end: int


class Record(NamedTuple):
    """What the directory says of a record, with the sizes that the zip64 field holds.

    Attributes:
        offset: Of its own header in the archive.
        packed: Its bytes in the archive.
        size: Its bytes once they are unpacked.
        crc: Their CRC-32; 0 also where none was computed.
        method: How it is compressed.
        flags: As the format numbers them.
    """

    offset: int
    packed: int
    size: int
    crc: int
    method: int
    flags: int

    @property
    def has_sum(self) -> bool:
        """Whether a CRC-32 was computed; torch writes none under `config.save.compute_crc32 = False`."""
        return self.method != STORED or bool(self.crc)


def entries_in(directory: bytes, at: int = 0) -> Iterator[DirectoryEntry]:
    """The entries from `at` up to the first that is none; the last one's `end` tells whether these are all."""
    fixed, unpack = _ENTRY.size, _ENTRY.unpack_from
    # Half of what calling the class takes, of which a large archive has hundreds of thousands.
    make = tuple.__new__
    while at + fixed <= len(directory) and directory.startswith(ENTRY_SIGNATURE, at):
        header = make(EntryHeader, unpack(directory, at))
        name_start = at + fixed
        name_end = name_start + header.name_length
        extra_end = name_end + header.extra_length
        at = extra_end + header.comment_length
        yield make(DirectoryEntry, (header, directory[name_start:name_end], directory[name_end:extra_end], at))


def build_entry(header: EntryHeader, name: bytes, extra: bytes, comment: bytes) -> bytes:
    """The bytes of an entry, with the lengths of what follows its fixed part."""
    header = header._replace(name_length=len(name), extra_length=len(extra), comment_length=len(comment))
    return _ENTRY.pack(*header) + name + extra + comment


def record_of(entry: DirectoryEntry) -> Record:
    """What an entry says of its record."""
    header = entry.header
    size, packed, offset = header.size, header.packed, header.offset
    if FULL in (size, packed, offset):
        size, packed, offset = widened(extra_fields(entry.extra), size, packed, offset)
    return tuple.__new__(Record, (offset, packed, size, header.crc, header.method, header.flags))


def decode_name(name: bytes, flags: int, errors: str = "replace") -> str:
    """A record's name as text, which is of the code page 437 unless a flag says UTF-8 [4.4.4, appendix D]."""
    return name.decode("utf-8" if flags & UTF8 or name.isascii() else "cp437", errors)


# --- end records


class EndRecord(NamedTuple):
    """The fixed part of the end record [4.3.16], which the archive's comment follows."""

    signature: bytes
    disk: int
    directory_disk: int
    entries_here: int
    entries: int
    size: int
    start: int
    comment_length: int


class EndRecord64(NamedTuple):
    """The zip64 form of the end record [4.3.14]; `length` is that of what follows it."""

    signature: bytes
    length: int
    made_by: int
    version: int
    disk: int
    directory_disk: int
    entries_here: int
    entries: int
    size: int
    start: int


class Locator64(NamedTuple):
    """Where the zip64 form of the end record lies [4.3.15]."""

    signature: bytes
    disk: int
    offset: int
    disks: int


END_SIZE, END64_SIZE, LOCATOR64_SIZE = _END.size, _END64.size, _LOCATOR64.size


def parse_end(data: bytes, at: int = 0) -> EndRecord:
    """The end record at `at`."""
    return EndRecord._make(_END.unpack_from(data, at))


def parse_end64(data: bytes, at: int = 0) -> EndRecord64 | None:
    """The zip64 end record at `at`; None when there is none."""
    if len(data) < at + END64_SIZE or not data.startswith(END64_SIGNATURE, at):
        return None
    return EndRecord64._make(_END64.unpack_from(data, at))


def parse_locator64(data: bytes, at: int = 0) -> Locator64 | None:
    """The locator at `at`; None when there is none."""
    if len(data) < at + LOCATOR64_SIZE or not data.startswith(LOCATOR64_SIGNATURE, at):
        return None
    return Locator64._make(_LOCATOR64.unpack_from(data, at))


def build_end(record: EndRecord) -> bytes:
    """The bytes of an end record, without the comment."""
    return _END.pack(*record)


def build_end64(record: EndRecord64) -> bytes:
    """The bytes of a zip64 end record."""
    return _END64.pack(*record)


def build_locator64(locator: Locator64) -> bytes:
    """The bytes of a locator."""
    return _LOCATOR64.pack(*locator)
