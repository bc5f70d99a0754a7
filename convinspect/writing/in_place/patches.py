"""How a file becomes another without a copy: a shift at most, and few bytes that are written over others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from convinspect.formats.files import File
from convinspect.writing.in_place.file_ranges import Shift
from convinspect.writing.pieces import BLOCK, Made, Piece, Range, size_of

MOST_BYTES = 32 << 20
"""Bytes that are written over others, and kept to undo it. Where more change, a whole copy is as good."""
_LARGE = 1 << 16
"""A range of fewer bytes may as well be written again at another place."""


class Run(NamedTuple):
    """Bytes at a place of a file."""

    at: int
    data: bytes

    @property
    def end(self) -> int:
        """The first place behind them."""
        return self.at + len(self.data)


class Patch(NamedTuple):
    """How a file becomes another.

    Attributes:
        size: Bytes of the file.
        new_size: Bytes that it has in the end.
        shift: Room that is made or taken first.
        new: What is written then, at places of the new file, in order and apart from each other.
        old: The bytes of the old file that are lost, at their places in it.
    """

    size: int
    new_size: int
    shift: Shift | None
    new: tuple[Run, ...]
    old: tuple[Run, ...]

    @property
    def shifted_size(self) -> int:
        """Bytes that it has after the shift."""
        return self.size + (0 if self.shift is None else self.shift.by)

    @property
    def idle(self) -> bool:
        """Nothing changes."""
        return self.shift is None and not self.new and self.size == self.new_size

    @property
    def nbytes(self) -> int:
        """Bytes that are written."""
        return sum(len(run.data) for run in self.new)


def patch_of(file: File, pieces: Sequence[Piece]) -> Patch | None:
    """How a file becomes what pieces say; None where too much would lie elsewhere.

    Args:
        file: The file, to whose bytes the ranges refer.
        pieces: All of the new file.

    Raises:
        BrokenFile: It cannot be read.
    """
    placed = list(_placed(pieces))
    new_size = sum(map(size_of, pieces))
    found, change = _shift_of(placed)
    if not found:
        return None
    changed = list(_changed(placed, change))
    if sum(size_of(piece) for _, piece in changed) > MOST_BYTES:
        return None
    new = [_trimmed(run, file, change) for run in _joined((at, _bytes_of(file, piece)) for at, piece in changed)]
    new = [run for run in new if run.data]
    # In order of the old file; what a shift takes out lies behind what was there before it, and in front of the rest.
    lost = sorted(_lost(new, change, file.size, new_size))
    old = tuple(Run(at, file.read(at, end - at)) for at, end in _merged(lost))
    return Patch(file.size, new_size, change, tuple(new), old)


def _placed(pieces: Iterable[Piece]) -> Iterator[tuple[int, Piece]]:
    """Each piece with its place in the new file."""
    at = 0
    for piece in pieces:
        yield at, piece
        at += size_of(piece)


def _shift_of(placed: Sequence[tuple[int, Piece]]) -> tuple[bool, Shift | None]:
    """Whether the large ranges stay, all but those behind one place, which move together; and their shift."""
    moves = [
        (piece.start, at - piece.start)
        for at, piece in placed
        if isinstance(piece, Range) and size_of(piece) >= _LARGE and at != piece.start
    ]
    if not moves:
        return True, None
    by = moves[0][1]
    if by % BLOCK or any(other != by for _, other in moves):
        return False, None
    at = (min(start for start, _ in moves) + min(by, 0)) // BLOCK * BLOCK
    return at >= 0, Shift(at, by)


def _changed(placed: Iterable[tuple[int, Piece]], change: Shift | None) -> Iterator[tuple[int, Piece]]:
    """What is not where it belongs already, once the shift is done."""
    for at, piece in placed:
        if not isinstance(piece, Range):
            yield at, piece
            continue
        cuts = [piece.start, piece.end]
        if change is not None and piece.start < change.first < piece.end:
            cuts.insert(1, change.first)
        for start, end in pairwise(cuts):
            place = at + start - piece.start
            # What lies where room is taken from is behind `at` of the shift, and is lost.
            gone = change is not None and change.at <= start < change.first
            if gone or (start if change is None else change.new_place(start)) != place:
                yield place, Range(start, end)


def _bytes_of(file: File, piece: Piece) -> bytes:
    if isinstance(piece, Range):
        return file.read(piece.start, piece.end - piece.start)
    return b"".join(piece.blocks()) if isinstance(piece, Made) else piece


def _joined(parts: Iterable[tuple[int, bytes]]) -> list[Run]:
    """Parts that touch each other as one run; empty ones are left out."""
    runs: list[tuple[int, list[bytes]]] = []
    end = -1
    for at, data in parts:
        if not data:
            continue
        if at == end:
            runs[-1][1].append(data)
        else:
            runs.append((at, [data]))
        end = at + len(data)
    return [Run(at, b"".join(parts)) for at, parts in runs]


def _trimmed(run: Run, file: File, change: Shift | None) -> Run:
    """The run without the bytes at both ends that are there already."""
    if change is not None and run.end > change.at:
        return run
    old, new = file.read(run.at, len(run.data)), run.data
    if len(old) < len(new):
        return run
    start, end = 0, len(new)
    while start < end and old[start : start + BLOCK] == new[start : start + BLOCK]:
        start += BLOCK
    while start < end and old[max(start, end - BLOCK) : end] == new[max(start, end - BLOCK) : end]:
        end -= BLOCK
    return Run(run.at + start, new[start:end]) if start < end else Run(run.at, b"")


def _lost(new: Iterable[Run], change: Shift | None, size: int, new_size: int) -> Iterator[tuple[int, int]]:
    """Ranges of the old file that are overwritten, taken out or cut off."""
    shifted = size + (0 if change is None else change.by)
    for at, end in (*((run.at, run.end) for run in new), (new_size, shifted)):
        yield from old_places(at, min(end, shifted), change)
    if change is not None and change.by < 0:
        yield change.at, change.first


def old_places(at: int, end: int, change: Shift | None) -> Iterator[tuple[int, int]]:
    """Where in the old file the bytes `at:end` of the shifted one come from; new room comes from nowhere."""
    if change is None:
        parts = [(at, end)]
    elif change.by > 0:
        room = change.at + change.by
        parts = [(at, min(end, change.at)), (max(at, room) - change.by, end - change.by)]
    else:
        parts = [(at, min(end, change.at)), (max(at, change.at) - change.by, end - change.by)]
    return ((start, stop) for start, stop in parts if start < stop)


def _merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for at, end in ranges:
        if merged and at <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((at, end))
    return merged
