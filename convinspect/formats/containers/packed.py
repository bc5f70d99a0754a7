"""Compressed files and members: unpacked as a whole, into memory or a temporary file, within limits."""

from __future__ import annotations

import bz2
import lzma
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import IO, Protocol

from convinspect.errors import BrokenFile, CannotWrite, RefusedFile
from convinspect.formats import sources
from convinspect.formats.containers.member import Member
from convinspect.formats.files import File
from convinspect.formats.sources import InMemory, Source, read_at, read_at_into
from convinspect.formats.zip.limits import LARGEST_RATIO, PIECE, pieces_of
from convinspect.records import Version

IN_MEMORY = 64 << 20
"""Bytes of an unpacked file that are held in memory; a larger one goes to a temporary file."""
MOST_UNPACKED = 16 << 30
"""Bytes of an unpacked file at most."""
_XZ_MEMORY = 1 << 28
"""Bytes of memory that unpacking an xz file may take, as its header demands: 256 MiB."""


class _Unpacker(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Deflate:
    """`zlib`'s object with the interface of the others', which keep what they have not taken yet."""

    def __init__(self, wbits: int) -> None:
        self._inner, self._left = zlib.decompressobj(wbits), b""

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        out = self._inner.decompress(self._left + data, max_length)
        self._left = self._inner.unconsumed_tail
        return out


class _Lz4:
    """`lz4`'s object, whose errors become those of the standard library's.

    Raises:
        ImportError: The package is not installed.
    """

    def __init__(self) -> None:
        self._inner: _Unpacker = import_module("lz4.frame").LZ4FrameDecompressor()

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data or b""

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        try:
            return self._inner.decompress(data, max_length)
        except RuntimeError as error:
            raise ValueError(str(error)) from None


UNPACKERS: dict[str, Callable[[], _Unpacker]] = {
    "deflate": lambda: _Deflate(-zlib.MAX_WBITS),
    "zlib": lambda: _Deflate(zlib.MAX_WBITS),
    "gzip": lambda: _Deflate(16 + zlib.MAX_WBITS),
    "bzip2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(memlimit=_XZ_MEMORY),
    "lzma": lambda: lzma.LZMADecompressor(memlimit=_XZ_MEMORY),
    "lz4": _Lz4,
}
"""Compressions that are unpacked, by name: by the standard library, but for lz4."""
DAMAGED = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError)
"""What these raise for bytes that are damaged, or ask for too much memory."""


class _Temporary:
    """An unpacked file, in a temporary file without a name; it vanishes with the last who holds it."""

    within = ""

    def __init__(self, file: IO[bytes], size: int, version: Version) -> None:
        self._file, self.size, self.version = file, size, version

    def read(self, offset: int, size: int) -> bytes:
        return read_at(self._file.fileno(), size, offset)

    def read_into(self, offset: int, into: memoryview) -> int:
        return read_at_into(self._file.fileno(), into, offset)

    def range_of(self) -> tuple[int, int] | None:
        return self._file.fileno(), 0

    def close(self) -> None:
        # It is read again under the same name.
        pass


def unpacked(file: File, start: int, member: Member, name: str, command: str) -> Source:
    """The bytes of a member, unpacked as a whole.

    Args:
        file: The archive.
        start: Offset of the member's packed bytes.
        member: What the archive says of it.
        name: Its name.
        command: What unpacks it without convinspect.

    Raises:
        BrokenFile: It is damaged.
        RefusedFile: It unpacks to more than is unpacked here.
        CannotWrite: There is no room for it.
    """
    # Trained weights hardly pack at all; only a bomb is large and packs like zeros.
    most = min(max(LARGEST_RATIO * member.packed, IN_MEMORY), MOST_UNPACKED)
    if member.size > most:
        raise _too_large(name, most, command)
    with sources.watching(member.packed, "unpacking") as advance:
        packed = _told(pieces_of(file, start, member.packed), advance)
        source, crc = _collected(_unpacked(packed, member.compression, name), most, file.version, name, command)
    if member.size >= 0 and source.size != member.size:
        what = f"{name} unpacks to {source.size:,} bytes instead of {member.size:,}"
        raise BrokenFile(what, "download or copy it again")
    if member.crc is not None and crc != member.crc:
        raise BrokenFile(f"{name} is damaged: its CRC-32 does not match", "download or copy it again")
    return source


def _told(pieces: Iterable[bytes], advance: Callable[[int], None]) -> Iterator[bytes]:
    for piece in pieces:
        yield piece
        advance(len(piece))


def _unpacked(packed: Iterable[bytes], compression: str, name: str) -> Iterator[bytes]:
    """The unpacked bytes in pieces. Streams may follow each other, as those of `cat a.gz b.gz` do."""
    make = UNPACKERS[compression]
    unpacker, started = make(), False
    try:
        for data in packed:
            while data or (started and not unpacker.eof):
                if unpacker.eof:
                    # What follows the last stream may be padding.
                    if compression in ("deflate", "zlib") or not data.strip(b"\0"):
                        return
                    unpacker, started = make(), False
                piece = unpacker.decompress(data, PIECE)
                started, data = True, unpacker.unused_data if unpacker.eof else b""
                if piece:
                    yield piece
                if len(piece) < PIECE and not unpacker.eof:
                    break
    except DAMAGED as error:
        raise BrokenFile(f"{name} cannot be unpacked ({error})", "download or copy it again") from None
    if not unpacker.eof:
        raise BrokenFile(f"{name} is truncated: its compressed bytes end too early", "download or copy it again")


def _collected(pieces: Iterator[bytes], most: int, version: Version, name: str, command: str) -> tuple[Source, int]:
    """All pieces as one source, and their CRC-32."""
    held: list[bytes] = []
    size = crc = 0
    file: IO[bytes] | None = None
    try:
        for piece in pieces:
            size, crc = size + len(piece), zlib.crc32(piece, crc)
            if size > most:
                raise _too_large(name, most, command)
            if file is not None:
                file.write(piece)
            else:
                held.append(piece)
            if file is None and size > IN_MEMORY:
                file = tempfile.TemporaryFile()  # noqa: SIM115
                file.writelines(held)
                held.clear()
        if file is None:
            return InMemory(b"".join(held), version), crc
        file.flush()
    except OSError as error:
        what = f"there is no room to unpack {name} in {tempfile.gettempdir()} ({error.strerror})"
        raise CannotWrite(what, f"make room, or unpack it elsewhere: {command}") from None
    return _Temporary(file, size, version), crc


def _too_large(name: str, most: int, command: str) -> RefusedFile:
    what = f"{name} unpacks to more than {most:,} bytes, which is the most that is unpacked here for its size"
    return RefusedFile(what, f"where you trust it, unpack it first: {command}")
