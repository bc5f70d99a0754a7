"""Random access to the bytes of a storage, stored, deflated or written as text, in a zip member or anywhere in a file.

Files are read, never mapped into memory. If a file is truncated while it is open, reading raises an error instead of
a signal, and its pages do not count as memory of this process.
"""

from __future__ import annotations

import os
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader, FileIO
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from convinspect.errors import BrokenFile, NotThere, RefusedFile
from convinspect.formats.files import File, Stream
from convinspect.formats.sources import is_plain
from convinspect.formats.zip.limits import PIECE, Incomplete, inflated, is_bomb, is_impossible
from convinspect.formats.zip.structures import LOCAL_SIZE, parse_local
from convinspect.records import Storage

if TYPE_CHECKING:
    from convinspect.arrays.gathered import Gathered, PieceFiles
    from convinspect.formats.torch.distributed_pieces import ChunkedTensor

Fetch = Callable[[int, memoryview], None]
"""(position, buffer): fills the buffer with the storage's bytes from that position."""

DAMAGED = "download or copy the file again"

AHEAD = 1 << 16
"""Bytes that are read at once where storages are smaller: neighbours' headers and data come with them."""
_MOST_OPEN = 16
_File: TypeAlias = FileIO | BufferedReader


@contextmanager
def opened(storage: Storage, sums: bool = False) -> Iterator[Fetch]:
    """Open the storage's file, and yield a function that reads its bytes.

    Args:
        storage: What to read.
        sums: Of one in pieces, compare the CRC-32 of each that is read from its beginning to its end. Of all others
            the caller knows the CRC-32.

    Raises:
        NotThere: The file cannot be opened.
        BrokenFile: A zip header or bytes are missing, or the bytes cannot be unpacked (the function raises it too).
        RefusedFile: The record claims an impossible offset, or unpacks to far more than weights do.
    """
    if storage.pieces is not None:
        # Imported here, as what one format alone needs.
        from convinspect.arrays.gathered import gathered

        with gathered(storage.pieces, sums) as whole:
            yield whole.fetch
        return
    with _opened(storage.file) as file:
        yield _fetch_of(file, storage)


class Files:
    """Files that stay open while many of their storages are read one after the other, by one thread.

    Opening a file and reading a header cost more than a small tensor's bytes.
    """

    def __init__(self) -> None:
        self._open: dict[tuple[Path, int, bool], _File] = {}
        self._of_pieces: dict[int, PieceFiles] = {}
        self._last: dict[int, Gathered] = {}

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all of them."""
        for file in self._open.values():
            file.close()
        for files in self._of_pieces.values():
            files.close()
        self._open.clear()
        self._of_pieces.clear()
        self._last.clear()

    def fetch(self, storage: Storage, size: int, side: int = 0) -> Fetch:
        """As `opened` yields it, valid until the next call for the same side.

        Args:
            storage: What is read.
            size: How many bytes of it; few are read together with what follows them in the file.
            side: Storages that are read in turn have a handle each.

        Raises:
            As `opened`.
        """
        if storage.pieces is not None:
            return self._gathered(storage.pieces, side)
        key = (storage.file, side, size < AHEAD)
        file = self._open.get(key)
        if file is None:
            if len(self._open) >= _MOST_OPEN:
                for other in [other for other in self._open if other[1] == side]:
                    self._open.pop(other).close()
            file = self._open[key] = _opened(storage.file, AHEAD if size < AHEAD else 0)
        return _fetch_of(file, storage)

    def _gathered(self, pieces: ChunkedTensor, side: int) -> Fetch:
        """Reads a tensor in pieces. Where it is the one before, its pieces are not looked for again."""
        from convinspect.arrays.gathered import Gathered, PieceFiles

        last = self._last.get(side)
        if last is None or last.tensor is not pieces:
            last = self._last[side] = Gathered(pieces, self._of_pieces.setdefault(side, PieceFiles()))
        return last.fetch


def _opened(path: Path, ahead: int = 0) -> _File:
    if not is_plain(path):
        # A member's bytes may be in memory or far away: they are fetched ahead in any case.
        return BufferedReader(Stream(File(path)), max(ahead, AHEAD))
    try:
        file = FileIO(path)
    except OSError as error:
        raise NotThere(f"the file cannot be opened: {error.strerror}", path=path) from None
    return BufferedReader(file, ahead) if ahead else file


def _fetch_of(file: _File, storage: Storage) -> Fetch:
    if storage.runs:
        return _in_runs(file, storage)
    start = _data_start(file, storage)
    if storage.packed_nbytes is None:
        return _stored(file, storage, start)
    return _inflated(file, storage, start, storage.packed_nbytes)


def data_start(storage: Storage) -> int:
    """Offset in the file of the first byte of a storage that is not deflated and not in pieces.

    Raises:
        NotThere: The file cannot be opened.
        BrokenFile: The file has no zip header at the claimed offset.
    """
    assert storage.pieces is None, "numbers in pieces have no one beginning"
    with _opened(storage.file) as file:
        return _data_start(file, storage)


def _data_start(file: _File, storage: Storage) -> int:
    """Offset of the data, after the record's local header if it has one."""
    start = cast(int, storage.start)
    if not storage.local_header:
        return start
    _seek(file, start, storage)
    header = parse_local(file.read(LOCAL_SIZE))
    if header is None:
        raise BrokenFile(f"record {storage.key} has no zip header at byte {start}", DAMAGED, storage.file)
    return start + header.length


def _seek(file: _File, position: int, storage: Storage) -> None:
    try:
        file.seek(position)
    except (OSError, OverflowError, ValueError):
        raise RefusedFile(f"record {storage.key} claims to lie at byte {position}", path=storage.file) from None


def _in_runs(file: _File, storage: Storage) -> Fetch:
    """Reads bytes that lie in several runs, as if these lay one after the other."""
    ends = list(accumulate(run.nbytes for run in storage.runs))
    # One run at a time: what is unpacked goes on where the file was left.
    last: tuple[int, Fetch] | None = None

    def fetch(begin: int, into: memoryview) -> None:
        nonlocal last
        done = 0
        while done < len(into):
            at = bisect_right(ends, begin + done)
            if at == len(ends):
                raise _ended(storage, begin + done)
            if last is None or last[0] != at:
                last = at, _fetch_of(file, storage.runs[at])
            count = min(len(into) - done, ends[at] - begin - done)
            first = ends[at] - storage.runs[at].nbytes
            last[1](begin + done - first, into[done : done + count])
            done += count

    return fetch


def _stored(file: _File, storage: Storage, start: int) -> Fetch:
    def fetch(begin: int, into: memoryview) -> None:
        _seek(file, start + begin, storage)
        done = 0
        while done < len(into):
            count = file.readinto(into[done:])
            if not count:
                raise _ended(storage, begin + done)
            done += count

    return fetch


def _ended(storage: Storage, count: int) -> BrokenFile:
    return BrokenFile(
        f"record {storage.key}: the file ends after {count} of its {storage.nbytes} bytes",
        DAMAGED,
        storage.file,
    )


def _inflated(file: _File, storage: Storage, start: int, packed: int) -> Fetch:
    if storage.encoding:
        return _unpacking(storage, lambda: _decode(file, storage, start, packed))
    if is_bomb(packed, storage.nbytes):
        raise RefusedFile(
            f"record {storage.key} of {packed:,} bytes would unpack to {storage.nbytes:,}",
            "do not load it elsewhere either",
            storage.file,
        )
    return _unpacking(storage, lambda: _inflate(file, storage, start, packed))


def _unpacking(storage: Storage, unpack: Callable[[], Iterator[bytes]]) -> Fetch:
    """Reads what can only be unpacked from its beginning on."""
    pieces: Iterator[bytes] = iter(())
    position, left = -1, memoryview(b"")

    def fetch(begin: int, into: memoryview) -> None:
        nonlocal pieces, position, left
        begin += storage.skipped
        if position < 0 or begin < position:
            pieces, position, left = unpack(), 0, memoryview(b"")
        done = 0
        while done < len(into):
            if not left:
                left = memoryview(next(pieces, b""))
                if not left:
                    raise _ended(storage, max(0, position - storage.skipped))
            skipped = min(begin - position, len(left)) if position < begin else 0
            taken = min(len(left) - skipped, len(into) - done)
            into[done : done + taken] = left[skipped : skipped + taken]
            left, position, done = left[skipped + taken :], position + skipped + taken, done + taken

    return fetch


def _inflate(file: _File, storage: Storage, start: int, packed: int) -> Iterator[bytes]:
    """The unpacked bytes in pieces, never more than the storage claims."""
    _seek(file, start, storage)
    try:
        yield from inflated(_chunks(file, packed), storage.skipped + storage.nbytes)
    except Incomplete:
        return  # The caller reports how many bytes are available.
    except zlib.error:
        raise BrokenFile(f"record {storage.key} is damaged: it cannot be unpacked", DAMAGED, storage.file) from None


def _decode(file: _File, storage: Storage, start: int, packed: int) -> Iterator[bytes]:
    """The bytes that a pickle wrote as a text, in pieces."""
    from convinspect.formats.pickle.byte_strings import decoded

    _seek(file, start, storage)
    try:
        yield from filter(None, decoded(_chunks(file, packed), storage.encoding, storage.nbytes))
    except UnicodeError:
        problem = f"record {storage.key} is damaged: its text is none of bytes"
        raise BrokenFile(problem, DAMAGED, storage.file) from None


def _chunks(file: _File, size: int) -> Iterator[bytes]:
    while size and (chunk := file.read(min(PIECE, size))):
        yield chunk
        size -= len(chunk)


def check_range(storage: Storage, where: str, begin: int, size: int) -> None:
    """Check that the storage claims `size` bytes from `begin` on, and that the file has them.

    Raises:
        RefusedFile: They reach outside the storage, or it claims more bytes than its deflated data can unpack to.
        BrokenFile: The file is truncated before their end.
    """
    if begin + size > storage.nbytes:
        raise RefusedFile(
            f"{where} reaches to byte {begin + size} of a record of {storage.nbytes} bytes", path=storage.file
        )
    if storage.packed_nbytes is not None and is_impossible(storage.packed_nbytes, storage.nbytes):
        raise RefusedFile(
            f"record {storage.key} claims to unpack from {storage.packed_nbytes} to {storage.nbytes} bytes",
            path=storage.file,
        )
    if begin + size > storage.available:
        present = max(0, storage.available - begin)
        if storage.pieces is not None:
            raise BrokenFile(f"{where}: {_lost(storage.pieces)}", "copy the whole folder", storage.file)
        raise BrokenFile(f"{where}: only {present} of its {size} bytes are in the file", DAMAGED, storage.file)


def _lost(pieces: ChunkedTensor) -> str:
    """What is missing of a tensor whose pieces are not all there; their files hold more than its bytes."""
    files = (chunk.place.file for chunk in pieces.chunks if chunk.place is not None)
    name = next((file.name for file in files if not os.path.exists(file)), None)
    return "not all of it is in the folder's files" if name is None else f"{name}, which holds some of it, is not there"


def fetch_bytes(fetch: Fetch, storage: Storage, begin: int, size: int) -> npt.NDArray[np.uint8]:
    """Bytes of the storage. Their CRC-32 is checked if they are the whole storage."""
    raw = np.empty(size, np.uint8)
    fetch(begin, raw.data)
    if storage.crc and size == storage.nbytes:
        compare_crc(storage, zlib.crc32(raw.data))
    return raw


def compare_crc(storage: Storage, crc: int) -> None:
    """Raise BrokenFile if `crc`, computed over the whole storage, is not the record's CRC-32."""
    if crc != storage.crc:
        raise BrokenFile(f"record {storage.key} is damaged: its CRC-32 does not match", DAMAGED, storage.file)
