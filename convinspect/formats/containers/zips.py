"""Zip archives that are no checkpoint themselves: which member lies where."""

from __future__ import annotations

from convinspect.formats.containers.member import Inside, Member
from convinspect.formats.containers.tar import clean
from convinspect.formats.files import File
from convinspect.formats.zip.archive import Archive
from convinspect.formats.zip.structures import DEFLATED, ENCRYPTED, STORED, Record


def members_of(file: File) -> Inside:
    """The members of a zip archive.

    Raises:
        ConvInspectError: Its directory is missing, malformed or hostile.
    """
    archive = Archive(file)
    named = zip(archive.names(), archive.records.values(), strict=True)
    # `unzip` knows fewer methods of compression than Python, which asks for no password.
    is_encrypted = any(record.flags & ENCRYPTED for record in archive.records.values())
    command = "unzip {}" if is_encrypted else "python -m zipfile -e {} ."
    return Inside("a zip archive", {clean(name): _member(record) for name, record in named}, command)


def _member(record: Record) -> Member:
    unreadable = ""
    if record.flags & ENCRYPTED:
        unreadable = "it is encrypted"
    elif record.method not in (STORED, DEFLATED):
        unreadable = f"it is compressed by method {record.method}, which is not read here"
    compression = "" if record.method == STORED else "deflate"
    crc = record.crc if record.has_sum else None
    return Member(record.offset, record.size, record.packed, compression, crc, True, unreadable)
