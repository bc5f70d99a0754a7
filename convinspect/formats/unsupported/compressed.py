"""Looks at the first bytes inside a compressed file, to say how it is unpacked and what comes out."""

from __future__ import annotations

from shlex import quote

from convinspect.formats.unsupported.kinds import COMPRESSIONS, ZLIB, Compression, Kind
from convinspect.formats.unsupported.tar import is_tar

_INSIDE = 1024
_XZ_MEMORY = 1 << 28
"""Bytes of memory that unpacking the first bytes of an xz file may take, as its header demands: 256 MiB."""


def kind_of_compressed(head: bytes, name: str) -> Kind | None:
    """What a compressed file is.

    Args:
        head: Its first bytes, some thousands.
        name: Its name, for the command that unpacks it.
    """
    found = compression_of(head)
    if found is None:
        return None
    inside = first_bytes(found, head)
    if is_tar(inside):
        what = f"a tar archive, {found.name}-compressed"
        return Kind(what, f"unpack it ({found.tar} {quote(name)}) and open the checkpoint inside")
    unpacked = name.removesuffix(found.suffix) if name.endswith(found.suffix) else f"{name}.unpacked"
    return Kind(f"{found.name}-compressed", f"unpack it first: {found.command} {quote(name)} > {quote(unpacked)}")


def compression_of(head: bytes) -> Compression | None:
    """The compression of a whole file, by its first bytes."""
    found = next((one for one in COMPRESSIONS if head.startswith(one.magic)), None)
    if found is not None and found.name == "lzma" and not first_bytes(found, head):
        # Its beginning is no magic number, and something else may have it.
        found = None
    return found or (ZLIB if _unzlib(head) else None)


def first_bytes(compression: Compression, head: bytes) -> bytes:
    """The first bytes that come out; empty where the standard library has no means, or the file is damaged."""
    import bz2
    import lzma
    import zlib

    try:
        if compression.name == "gzip":
            return zlib.decompressobj(wbits=31).decompress(head, _INSIDE)
        if compression.name in ("xz", "lzma"):
            return lzma.LZMADecompressor(memlimit=_XZ_MEMORY).decompress(head, _INSIDE)
        if compression.name == "zlib":
            return _unzlib(head)
        if compression.name == "bzip2":
            return bz2.BZ2Decompressor().decompress(head, _INSIDE)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, MemoryError):
        pass
    return b""


def _unzlib(head: bytes) -> bytes:
    """The first bytes of a zlib stream (RFC 1950); empty for anything else."""
    import zlib

    if len(head) < 2 or head[0] != 0x78 or int.from_bytes(head[:2], "big") % 31:
        return b""
    try:
        return zlib.decompressobj().decompress(head, _INSIDE)
    except zlib.error:
        return b""
