"""Frames of lz4 without its package, which not every machine has: literals as they are, and runs of one byte.

The layout is that of `lz4_Frame_format.md` and `lz4_Block_format.md` in lz4's repository; the checksum of the header is
xxHash's of 32 bits with seed 0, of an input shorter than 16 bytes.
"""

from __future__ import annotations

import struct

_MAGIC = b"\x04\x22\x4d\x18"
_DESCRIPTOR = b"\x60\x70"
"""Version 1, blocks independent of each other and of 4 MiB at most; no checksums but the header's, no size."""
_AS_IT_IS = 1 << 31
_BLOCK = 1 << 16


def lz4_frame(data: bytes, stored: bool = False, zeros: int = 0) -> bytes:
    """A frame that unpacks to `data`.

    Args:
        data: What is packed.
        stored: Its blocks are not packed.
        zeros: So many bytes 0 follow `data`, which take a 255th of that in the frame.
    """
    blocks = []
    for at in range(0, len(data), _BLOCK):
        block = data[at : at + _BLOCK]
        packed = block if stored else _sequence(block)
        blocks.append(struct.pack("<I", len(packed) | (_AS_IT_IS if stored else 0)) + packed)
    if zeros > 16:
        # A match may not end within the last 5 bytes of a block.
        run = _sequence(b"\0", zeros - 6) + _sequence(bytes(5))
        blocks.append(struct.pack("<I", len(run)) + run)
    check = bytes([_short_xxh32(_DESCRIPTOR) >> 8 & 0xFF])
    return b"".join((_MAGIC, _DESCRIPTOR, check, *blocks, bytes(4)))


def _sequence(literals: bytes, match: int = 0) -> bytes:
    """Literals, and `match` times the last of them."""
    first, behind = _length(len(literals))
    token, more = _length(match - 4) if match else (0, b"")
    return bytes([first << 4 | token]) + behind + literals + (b"\1\0" + more if match else b"")


def _length(count: int) -> tuple[int, bytes]:
    if count < 15:
        return count, b""
    full, rest = divmod(count - 15, 255)
    return 15, b"\xff" * full + bytes([rest])


def _short_xxh32(data: bytes) -> int:
    primes = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1)
    found = primes[4] + len(data)
    whole = len(data) - len(data) % 4
    for (word,) in struct.iter_unpack("<I", data[:whole]):
        found = _rotated(found + word * primes[2], 17) * primes[3]
    for byte in data[whole:]:
        found = _rotated(found + byte * primes[4], 11) * primes[0]
    found &= 0xFFFFFFFF
    found = (found ^ found >> 15) * primes[1] & 0xFFFFFFFF
    found = (found ^ found >> 13) * primes[2] & 0xFFFFFFFF
    return found ^ found >> 16


def _rotated(value: int, bits: int) -> int:
    value &= 0xFFFFFFFF
    return (value << bits | value >> 32 - bits) & 0xFFFFFFFF
