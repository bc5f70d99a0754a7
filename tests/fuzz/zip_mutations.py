"""Zip archives whose fields may each say something else: local header, directory, descriptor, end records."""

from __future__ import annotations

import bz2
import io
import lzma
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

from pickle_mutations import number

_NAMES = (
    *(b"", b"/", b"archive/", b"archive/../data.pkl", b"/data.pkl", b"archive\\data.pkl", b"archive/data.pkl\0x"),
    *(b"archive/data.pkl", b"data.pkl", b"archive/byteorder", b"archive/data/0", b"archive/data/", b"\xff\xfe/x"),
    *(
        b"archive/code/__torch__.py",
        b"archive/constants.pkl",
        "archive/ü名".encode(),
        b"x" * 3_000,
        b"archive/\x1b[31m",
    ),
    *(b"archive/archive_format", b"archive/models/model.json", b"model.json", b"archive/version"),
)
_METHODS = (0, 8, 12, 14, 9, 93, 95, 99, 65535)
_FLAGS = (1, 1 << 3, 1 << 5, 1 << 6, 1 << 11, 1 << 13, 0xFFFF)
_EXTRAS = (b"\1\0", b"\1\0\xff\xff", b"\1\0\x08\0" + bytes(8), b"FB\x04\0ZZZZ", b"up\5\0\1abcd", b"\x99\x99\0\0", b"\0")


@dataclass(slots=True)
class Record:
    """One member; what is None is true to its bytes.

    Attributes:
        name: As it is stored.
        data: Unpacked.
        method: That packs it.
        claimed: Other values for fields, by "local" or "central" and the field's name.
        gap: Bytes before its local header.
        zip64: Its sizes stand in the extra field.
        descriptor: Its checksum and sizes follow its bytes.
    """

    name: bytes
    data: bytes
    method: int = 0
    claimed: dict[tuple[str, str], int] = field(default_factory=dict)
    extra: dict[str, bytes] = field(default_factory=dict)
    gap: bytes = b""
    zip64: bool = False
    descriptor: bytes | None = None


@dataclass(slots=True)
class Archive:
    """Members and what the end records claim other than the truth."""

    records: list[Record]
    end: dict[str, int] = field(default_factory=dict)
    end64: dict[str, int] | None = None
    comment: bytes = b""
    between: bytes = b""


def opened(content: bytes) -> Archive:
    """An honest archive, taken apart."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        infos = archive.infolist()
        return Archive([Record(one.filename.encode(), archive.read(one), min(one.compress_type, 8)) for one in infos])


def copied(archive: Archive) -> Archive:
    """One to change, over the same bytes."""
    return Archive([replace(one, claimed={}, extra={}) for one in archive.records])


def mutated(random: Random, archive: Archive) -> bytes:
    """The archive with one to five fields changed, in its own bytes."""
    for _ in range(random.choice((1, 1, 2, 2, 3, 5))):
        if archive.records:
            random.choice(_CHANGES)(random, archive)
    content = written(archive)
    if random.random() < 0.08:
        content = content[: random.randrange(len(content) + 1)]
    if random.random() < 0.05:
        content += random.choice((b"junk", content[-22:], bytes(70_000)))
    return content


def written(archive: Archive) -> bytes:
    """Its bytes."""
    body, directory = bytearray(), bytearray()
    for record in archive.records:
        body += record.gap
        start = len(body)
        packed = _packed(record.data, record.method)
        crc, size = zlib.crc32(record.data), len(record.data)
        truth = {"crc": crc, "packed": len(packed), "size": size, "offset": start, "method": record.method}
        body += _header(record, truth, "local") + packed
        if record.descriptor is not None:
            body += record.descriptor + struct.pack("<III", crc, len(packed), size)
        directory += _header(record, truth, "central")
    start, size = len(body), len(directory)
    return bytes(body + directory + archive.between) + _ends(archive, start, size)


def _packed(data: bytes, method: int) -> bytes:
    if method == 8:
        packer = zlib.compressobj(1, zlib.DEFLATED, -15)
        return packer.compress(data) + packer.flush()
    if method == 12:
        return bz2.compress(data, 1)
    if method == 14:
        return b"\x09\x04\x05\x00\x5d\x00\x00\x80\x00" + lzma.compress(
            data, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA1, "preset": 0}]
        )
    return data


def _header(record: Record, truth: dict[str, int], where: str) -> bytes:
    def value(key: str, width: int, usual: int = 0) -> bytes:
        found = record.claimed.get((where, key), truth.get(key, usual))
        return (found % (1 << 8 * width)).to_bytes(width, "little")

    later = where == "local" and record.descriptor is not None
    flags = value("flags", 2, 8 if record.descriptor is not None else 0)
    extra = record.extra.get(where, b"")
    if record.zip64:
        extra = b"\1\0\x10\0" + value("size", 8) + value("packed", 8) + extra
        sizes = b"\xff" * 8
    else:
        sizes = bytes(8) if later else value("packed", 4) + value("size", 4)
    fixed = value("version", 2, 45) + flags + value("method", 2) + value("time", 4, 33 << 16)
    fixed += (bytes(4) if later else value("crc", 4)) + sizes
    fixed += value("name_length", 2, len(record.name)) + value("extra_length", 2, len(extra))
    if where == "local":
        return b"PK\3\4" + fixed + record.name + extra
    rest = value("comment_length", 2) + value("disk", 2) + value("attributes", 6) + value("offset", 4)
    return b"PK\1\2\x2d\0" + fixed + rest + record.name + extra


def _ends(archive: Archive, start: int, size: int) -> bytes:
    count, comment = len(archive.records), archive.comment
    said = {"disk": 0, "start_disk": 0, "here": count, "count": count, "size": size, "start": start, **archive.end}
    found = b""
    if archive.end64 is not None:
        place = start + size + len(archive.between)
        said64 = {"here": count, "count": count, "size": size, "start": start, "place": place, "length": 44}
        said64 |= archive.end64
        big = [said64[key] % 2**64 for key in ("here", "count", "size", "start")]
        found += b"PK\6\6" + struct.pack("<QHHIIQQQQ", said64["length"] % 2**64, 45, 45, 0, 0, *big)
        found += b"PK\6\7" + struct.pack("<IQI", 0, said64["place"] % 2**64, 1)
    short = [said[key] % 2**16 for key in ("disk", "start_disk", "here", "count")]
    ends = struct.pack("<HHHHIIH", *short, said["size"] % 2**32, said["start"] % 2**32, len(comment) % 2**16)
    return found + b"PK\5\6" + ends + comment


def _order(random: Random, archive: Archive) -> None:
    records = archive.records
    one, other = random.randrange(len(records)), random.randrange(len(records))
    action = random.randrange(3)
    if action == 0:
        del records[one]
    elif action == 1:
        records.insert(other, replace(records[one]))
    else:
        records[one], records[other] = records[other], records[one]


def _field(random: Random, archive: Archive) -> None:
    """One field of a header, in one of the two places or both."""
    record = random.choice(archive.records)
    key = random.choice(
        ("crc", "packed", "size", "offset", "version", "time", "name_length", "extra_length", "disk", "comment_length")
    )
    near = random.choice((len(record.data) - 1, len(record.data) + 1, number(random), number(random)))
    for where in random.choice((("local",), ("central",), ("local", "central"))):
        record.claimed[where, key] = near


def _flag(random: Random, archive: Archive) -> None:
    record, flag = random.choice(archive.records), random.choice(_FLAGS)
    for where in random.choice((("local",), ("central",), ("local", "central"))):
        record.claimed[where, "flags"] = flag


def _method(random: Random, archive: Archive) -> None:
    record, method = random.choice(archive.records), random.choice(_METHODS)
    if random.random() < 0.5:
        record.method = method
    else:
        record.claimed[random.choice(("local", "central")), "method"] = method


def _name(random: Random, archive: Archive) -> None:
    record = random.choice(archive.records)
    record.name = random.choice((*_NAMES, random.choice(archive.records).name, record.name.upper(), record.name + b"/"))


def _overlap(random: Random, archive: Archive) -> None:
    """Another record's place, or inside it."""
    lengths = [30 + len(one.name) + len(one.data) for one in archive.records]
    at = random.randrange(len(lengths))
    record = random.choice(archive.records)
    record.claimed["central", "offset"] = sum(lengths[:at]) + random.choice((0, 0, 1, 30, -1))


def _extra(random: Random, archive: Archive) -> None:
    record = random.choice(archive.records)
    for where in random.choice((("local",), ("central",), ("local", "central"))):
        record.extra[where] = random.choice(_EXTRAS) * random.choice((1, 1, 2, 500))


def _zip64(random: Random, archive: Archive) -> None:
    random.choice(archive.records).zip64 = True
    archive.end64 = archive.end64 or {}


def _descriptor(random: Random, archive: Archive) -> None:
    for record in random.choice((archive.records, [random.choice(archive.records)])):
        record.descriptor = random.choice((b"PK\7\x08", b""))


def _gap(random: Random, archive: Archive) -> None:
    record = random.choice((archive.records[0], random.choice(archive.records)))
    record.gap = random.choice((b"\0", b"#!/bin/sh\n", bytes(4096), b"PK\3\4", record.data[:200], b"\x80\x02}."))


def _content(random: Random, archive: Archive) -> None:
    """A record longer or shorter than meant, or another's."""
    record = random.choice(archive.records)
    cut = random.randint(0, len(record.data))
    record.data = random.choice(
        (b"", record.data[:cut], record.data + b"\0" * 8, random.choice(archive.records).data, b"big", record.data * 2)
    )


def _end(random: Random, archive: Archive) -> None:
    where = archive.end
    if random.random() < 0.4:
        where = archive.end64 = archive.end64 or {}
    key = random.choice(("here", "count", "size", "start", "disk", "start_disk", "place", "length"))
    count = len(archive.records)
    where[key] = random.choice((0, count - 1, count + 1, 65535, 2**32 - 1, number(random)))


def _tail(random: Random, archive: Archive) -> None:
    archive.comment = random.choice((b"", b"comment", b"PK\5\6" + bytes(18), b"x" * 65535, bytes(100)))
    archive.between = random.choice((b"", b"", b"\0", b"PK\6\7" + bytes(16), b"x" * 100))


_CHANGES: tuple[Callable[[Random, Archive], None], ...] = (
    *(_order, _field, _field, _field, _flag, _method, _name, _name, _overlap, _extra, _zip64, _descriptor, _gap),
    *(_content, _end, _end, _tail),
)
