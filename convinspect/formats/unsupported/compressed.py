"""Looks at the first bytes inside a compressed file, to say how it is unpacked and what comes out."""

from __future__ import annotations

from importlib.util import find_spec
from shlex import quote

from convinspect.errors import installing
from convinspect.formats.unsupported.kinds import COMPRESSIONS, ZLIB, Compression, Kind
from convinspect.formats.unsupported.tar import is_tar

_INSIDE = 1024


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
    command = f"unpack it first: {found.command} {quote(name)} > {quote(unpacked)}"
    if found.name == "lz4" and find_spec("lz4") is None:
        command = f"{installing('lz4')}, which reads it here; or {command}"
    return Kind(f"{found.name}-compressed", command)


def compression_of(head: bytes) -> Compression | None:
    """The compression of a whole file, by its first bytes."""
    found = next((one for one in COMPRESSIONS if head.startswith(one.magic)), None)
    if found is not None and found.name == "lzma" and not first_bytes(found, head):
        # Its beginning is no magic number, and something else may have it.
        found = None
    # RFC 1950: no magic number, but two bytes whose sum is a multiple of 31.
    may_be_zlib = len(head) >= 2 and head[0] == 0x78 and int.from_bytes(head[:2], "big") % 31 == 0
    return found or (ZLIB if may_be_zlib and first_bytes(ZLIB, head) else None)


def first_bytes(compression: Compression, head: bytes) -> bytes:
    """The first bytes that come out; empty where the standard library has no means, or the file is damaged."""
    # Imported here, since few files are compressed and others open faster without what unpacks them.
    from convinspect.formats.containers.packed import DAMAGED, UNPACKERS

    make = UNPACKERS.get(compression.name)
    try:
        return b"" if make is None else make().decompress(head, _INSIDE)
    except (*DAMAGED, MemoryError, ImportError):
        return b""
