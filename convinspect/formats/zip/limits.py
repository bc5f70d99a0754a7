"""Bytes of records, unpacked within the limits that keep hostile archives small."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

from convinspect.formats.zip.structures import Source

MOST_RECORDS = 1 << 20
LARGEST_DIRECTORY = 1 << 28
"""Records of an archive, and bytes of its directory. A record takes about 500 bytes of memory; the largest models have
a hundredth of these, and PyTorch needs minutes for so many."""
LARGEST_UNPACKED = 1 << 26
"""Bytes of a compressed record that is unpacked into memory as a whole."""
MOST_INFLATION = 1032
"""Deflate cannot shrink data more than this many times (https://zlib.net/zlib_tech.html)."""
PIECE = 1 << 18
"""Bytes that are read or inflated at once: what fits the caches is summed fastest."""
LARGEST_RATIO = 100
"""How many times its size a record may unpack to: text and pickles pack 5 to 20 times."""
_SMALL = 1 << 20


def is_bomb(packed: int, size: int) -> bool:
    """True for a compressed record that is both large and packed more tightly than weights ever are.

    Trained weights hardly pack at all, and zeros pack a thousandfold; only a bomb is large and packed like these.

    Args:
        packed: Its bytes in the file.
        size: Bytes that it claims to unpack to.
    """
    return size > max(LARGEST_RATIO * packed, LARGEST_UNPACKED)


def is_too_large_in_memory(packed: int, size: int) -> bool:
    """True for a compressed record that is not to be unpacked as a whole."""
    return size > min(max(LARGEST_RATIO * packed, _SMALL), LARGEST_UNPACKED)


def is_impossible(packed: int, size: int) -> bool:
    """True if `packed` bytes of deflated data cannot unpack to `size` bytes, however well they compress.

    A bound of the compression method itself, for records of any size; `is_bomb` is a stricter policy for large ones.
    """
    return size > MOST_INFLATION * (packed + 1)


class Incomplete(zlib.error):
    """Deflated bytes end too early."""


def pieces_of(source: Source, start: int, size: int) -> Iterator[bytes]:
    """The bytes from `start` in pieces, fewer than `size` where the source ends."""
    end = start + size
    while start < end and (piece := source.read(start, min(PIECE, end - start))):
        yield piece
        start += len(piece)


def inflated(packed: Iterable[bytes], most: int) -> Iterator[bytes]:
    """Deflated bytes unpacked, in pieces; no more than `most` bytes together.

    Raises:
        zlib.error: They are damaged.
        Incomplete: They end before `most` bytes, without an end of their own.
    """
    unpack, left = zlib.decompressobj(-zlib.MAX_WBITS), most
    for chunk in packed:
        while left and not unpack.eof:
            room = min(PIECE, left)
            piece = unpack.decompress(chunk, room)
            chunk, left = unpack.unconsumed_tail, left - len(piece)
            if piece:
                yield piece
            # A full piece may leave more behind in the decompressor, even when it has taken all of the chunk.
            if not chunk and len(piece) < room:
                break
        if not left or unpack.eof:
            return
    raise Incomplete("incomplete")
