"""What was fetched, kept in memory within a bound that all files share."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import OrderedDict
from threading import Lock

MOST = 24 << 20
"""Bytes that are kept. A single piece is kept up to a third of them: headers of safetensors may have megabytes."""


class Cache:
    """Pieces of files, each under the number of its file; the ones that were not asked for the longest go first.

    Args:
        most: Bytes that are kept.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most, self._held = most, 0
        self._pieces: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._starts: dict[int, list[int]] = {}
        self._lock = Lock()

    def get(self, file: int, offset: int, size: int) -> bytes:
        """Up to `size` bytes of a file from `offset` on; none where the first of them is not kept."""
        with self._lock:
            starts = self._starts.get(file, [])
            at = bisect_right(starts, offset) - 1
            if at < 0:
                return b""
            begin = starts[at]
            piece = self._pieces[file, begin]
            self._pieces.move_to_end((file, begin))
            return piece[offset - begin : offset - begin + size]

    def next_kept(self, file: int, offset: int, end: int) -> int:
        """Where the first piece behind `offset` begins, or `end` where there is none before it."""
        with self._lock:
            starts = self._starts.get(file, [])
            at = bisect_right(starts, offset)
            return min(starts[at], end) if at < len(starts) else end

    def keep(self, file: int, offset: int, piece: bytes) -> None:
        """Keep a piece, unless it is large."""
        if not piece or 3 * len(piece) > self._most:
            return
        with self._lock:
            old = self._pieces.get((file, offset))
            if old is None:
                insort(self._starts.setdefault(file, []), offset)
            elif len(old) >= len(piece):
                return
            self._pieces[file, offset] = piece
            self._pieces.move_to_end((file, offset))
            self._held += len(piece) - len(old or b"")
            while self._held > self._most:
                (other, start), gone = self._pieces.popitem(last=False)
                self._held -= len(gone)
                self._starts[other].remove(start)

    def forget(self, file: int) -> None:
        """Drop all pieces of a file."""
        with self._lock:
            for start in self._starts.pop(file, []):
                self._held -= len(self._pieces.pop((file, start)))
