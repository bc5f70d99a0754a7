"""The numbers of a tensor of a distributed checkpoint, put together from its pieces as they are asked for.

The whole tensor has no bytes of its own in any file. What is read of it is a run of its numbers, row by row; each piece
gives what it has of them. No more than such a run is in memory, but for pieces whose own order is another.
"""

from __future__ import annotations

import math
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from convinspect.dtypes import ITEMSIZE, nbytes_of
from convinspect.errors import BrokenFile, CannotShow
from convinspect.formats.files import File
from convinspect.formats.pieces import no_whole
from convinspect.formats.torch.distributed_items import item_of, transformed
from convinspect.formats.torch.distributed_pieces import Chunk, ChunkedTensor, boxes_of
from convinspect.formats.zip.structures import read_local
from convinspect.records import Storage, Tensor, contiguous

_MOST_OPEN = 32
"""Files that are open at once for one tensor: thousands of processes may have written a piece each."""
_WORDS = {1: "u1", 2: "u2", 4: "u4", 8: "u8", 16: "c16"}
"""numpy's types by which elements of so many bytes are moved, whatever they mean."""

_Bytes = npt.NDArray[np.uint8]


class PieceFiles:
    """The files that pieces lie in, of which a few are open at a time, for one thread."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, File] = OrderedDict()

    def at(self, path: Path) -> File:
        """The file, open until others were asked for many times.

        Raises:
            NotThere: It cannot be opened.
        """
        file = self._open.get(path)
        if file is None:
            file = self._open[path] = File(path)
            if len(self._open) > _MOST_OPEN:
                self._open.popitem(last=False)[1].__exit__()
        self._open.move_to_end(path)
        return file

    def close(self) -> None:
        """Close all that are open."""
        for file in self._open.values():
            file.__exit__()
        self._open.clear()


class _Run:
    """The numbers of one piece in order, row by row.

    Args:
        files: Where its file is opened.
        item: The piece as it is stored.
        sums: Compare the record's CRC-32, where its bytes are asked for one after the other.
    """

    def __init__(self, files: PieceFiles, item: Tensor, sums: bool) -> None:
        assert item.storage is not None
        self._files, self._storage = files, item.storage
        file = files.at(item.storage.file)
        self._start = run_start(file, item)
        self._values = None if _is_in_order(item) else _rearranged(file, self._start, item)
        whole = item.offset == 0 and item.nbytes == item.storage.nbytes
        self._summed = 0 if sums and whole and item.storage.crc and self._values is None else None
        self._crc = 0

    def read(self, begin: int, into: memoryview) -> None:
        """Fill the buffer with the bytes from `begin`.

        Raises:
            BrokenFile: Bytes are missing or damaged.
        """
        if self._values is not None:
            into[:] = self._values[begin : begin + len(into)].data
            return
        count = self._files.at(self._storage.file).read_into(self._start + begin, into)
        if count < len(into):
            raise BrokenFile(
                f"the file ends at byte {self._start + begin + count:,}", "copy it again", self._storage.file
            )
        if self._summed == begin:
            self._sum(into)

    def _sum(self, block: memoryview) -> None:
        assert self._summed is not None
        self._crc, self._summed = zlib.crc32(block, self._crc), self._summed + len(block)
        if self._summed == self._storage.nbytes and self._crc != self._storage.crc:
            what = f"the record of the piece at byte {self._start:,} is damaged: its CRC-32 does not match"
            raise BrokenFile(what, "copy it again", self._storage.file)


class _Box(NamedTuple):
    """A part of a tensor that is given by a run: where it begins in both, and its shape.

    Attributes:
        begin: Index of its first element in the tensor.
        shape: Its own.
        run: Its numbers.
        first: Its first element's place in the run.
    """

    begin: tuple[int, ...]
    shape: tuple[int, ...]
    run: _Run
    first: int

    def row(self, at: int) -> _Box:
        """What it has of the tensor's row `at`."""
        inner = self.first + (at - self.begin[0]) * math.prod(self.shape[1:])
        return _Box(self.begin[1:], self.shape[1:], self.run, inner)

    def has(self, at: int) -> bool:
        """Whether it reaches the tensor's row `at`."""
        return self.begin[0] <= at < self.begin[0] + self.shape[0]


class Gathered:
    """Reads the bytes of a tensor in pieces, as if these lay one after the other, row by row.

    Args:
        tensor: In which chunks it lies.
        files: Where the files are opened; the caller closes them.
        sums: Compare the pieces' CRC-32s, where all of them is read in order.

    Attributes:
        tensor: As given.

    Raises:
        BrokenFile: Its chunks do not make the whole.
        CannotShow: Several of its elements share a byte, or PyTorch alone undoes what was done to its bytes.
    """

    def __init__(self, tensor: ChunkedTensor, files: PieceFiles, sums: bool = False) -> None:
        self.tensor, self._files, self._sums = tensor, files, sums
        self._runs: dict[tuple[int, ...], _Run] = {}
        self._chunks = chunks_of(tensor)
        for place in (chunk.place for chunk in self._chunks if chunk.place is not None):
            if place.transforms:
                raise transformed(tensor.key, place)
        self._shape = tensor.shape or (1,)
        size = ITEMSIZE[tensor.dtype]
        if not isinstance(size, int):
            raise CannotShow(f"tensor {tensor.key!r}: several of its {tensor.dtype} share a byte")
        self._itemsize = size

    def fetch(self, begin: int, into: memoryview) -> None:
        """Fill the buffer with the tensor's bytes from `begin`.

        Raises:
            ConvInspectError: A file cannot be opened; bytes are missing, damaged or something else.
        """
        if len(self._chunks) == 1:
            self._run(self._chunks[0]).read(begin, into)
            return
        size = self._itemsize
        first, end = begin // size, -(-(begin + len(into)) // size)
        inside = begin - first * size
        if inside or (end - first) * size != len(into):
            around = np.empty((end - first) * size, np.uint8)
            self._fill(first, around)
            into[:] = around[inside : inside + len(into)].data
            return
        self._fill(first, np.frombuffer(into, np.uint8))

    def _fill(self, first: int, out: _Bytes) -> None:
        """Elements from `first` on."""
        row = math.prod(self._shape[1:])
        rows = range(first // row, -(-(first + len(out) // self._itemsize) // row))
        boxes = []
        for chunk in self._chunks:
            begin, shape = chunk.begin or (0,), chunk.shape or (1,)
            if begin[0] < rows.stop and rows.start < begin[0] + shape[0]:
                boxes.append(_Box(begin, shape, self._run(chunk), 0))
        _fill(self._shape, boxes, first, out.view(_WORDS[self._itemsize]))

    def _run(self, chunk: Chunk) -> _Run:
        run = self._runs.get(chunk.begin)
        if run is None:
            run = self._runs[chunk.begin] = _Run(self._files, self._located(chunk), self._sums)
        return run

    def _located(self, chunk: Chunk) -> Tensor:
        assert chunk.place is not None
        return item_of(self._files.at(chunk.place.file), self.tensor, chunk)


@contextmanager
def gathered(tensor: ChunkedTensor, sums: bool = False) -> Iterator[Gathered]:
    """A reader of the tensor's bytes, whose files are closed afterwards; arguments and errors are of `Gathered`."""
    files = PieceFiles()
    try:
        yield Gathered(tensor, files, sums)
    finally:
        files.close()


def chunks_of(tensor: ChunkedTensor) -> list[Chunk]:
    """The chunks that have numbers, each once.

    Raises:
        BrokenFile: They do not make the whole, or it is not said where one lies.
    """
    chunks = list({(chunk.begin, chunk.shape): chunk for chunk in tensor.chunks if math.prod(chunk.shape)}.values())
    wrong = no_whole(tensor.key, boxes_of(tensor), tensor.shape)
    if wrong is not None:
        raise BrokenFile(wrong.what, wrong.remedy)
    for chunk in chunks:
        if chunk.place is None:
            what = f".metadata does not say where the piece of {tensor.key!r} lies that begins at {list(chunk.begin)}"
            raise BrokenFile(what, "save it again")
    return chunks


def _fill(shape: Sequence[int], boxes: Sequence[_Box], first: int, out: npt.NDArray[np.generic]) -> None:
    """Fill `out` with the elements from `first` of the tensor that the boxes make.

    Whole rows are taken at once, of the parts of one row those of its own rows, and so on.
    """
    row = math.prod(shape[1:])
    done = 0
    while done < len(out):
        at, within = divmod(first + done, row)
        left = len(out) - done
        if within or left < row:
            count = min(row - within, left)
            _fill(shape[1:], [box.row(at) for box in boxes if box.has(at)], within, out[done : done + count])
        else:
            rows = left // row
            count = rows * row
            _fill_rows(at, boxes, out[done : done + count].reshape(rows, *shape[1:]))
        done += count


def _fill_rows(at: int, boxes: Sequence[_Box], out: npt.NDArray[np.generic]) -> None:
    """Fill `out` with the tensor's rows from `at`."""
    for box in boxes:
        begin, end = max(at, box.begin[0]), min(at + len(out), box.begin[0] + box.shape[0])
        if begin >= end:
            continue
        inside = [slice(first, first + size) for first, size in zip(box.begin[1:], box.shape[1:], strict=True)]
        place = (slice(begin - at, end - at), *inside)
        target = out[place]
        source = box.row(begin).first * out.itemsize
        if target.flags.c_contiguous:
            box.run.read(source, target.reshape(-1).view(np.uint8).data)
        else:
            values = np.empty(target.shape, out.dtype)
            box.run.read(source, values.reshape(-1).view(np.uint8).data)
            target[...] = values


def _is_in_order(item: Tensor) -> bool:
    """Whether the piece's numbers lie row by row."""
    steps = zip(item.shape, item.stride, contiguous(item.shape), strict=True)
    return all(size == 1 or own == due for size, own, due in steps)


def _rearranged(file: File, start: int, item: Tensor) -> _Bytes:
    """The bytes of all of a piece's numbers, row by row, whatever the order of its axes.

    Raises:
        BrokenFile: Some are missing.
    """
    size = item.nbytes // item.numel
    reach = 1 + sum((n - 1) * step for n, step in zip(item.shape, item.stride, strict=True))
    raw = file.read(start, reach * size)
    if len(raw) < reach * size:
        raise BrokenFile(f"the file ends at byte {start + len(raw):,}", "copy it again", file.path)
    values = np.ndarray(item.shape, _WORDS[size], raw, strides=[step * size for step in item.stride])
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)


def run_start(file: File, item: Tensor) -> int:
    """Offset in the file of the first of a piece's numbers.

    Raises:
        BrokenFile: Its record has no header there.
    """
    storage = item.storage
    assert storage is not None
    assert storage.start is not None
    start = storage.start
    if storage.local_header:
        local = read_local(file, start)
        if local is None:
            raise BrokenFile(f"record {storage.key} has no zip header at byte {start:,}", "copy it again", file.path)
        start = local.payload
    return start + nbytes_of(item.dtype, item.offset)


def in_one_run(storage: Storage) -> Storage:
    """The bytes of a tensor in a file of its own, where its one piece has them in order; else the storage itself.

    Raises:
        ConvInspectError: Its file cannot be read, or holds something else.
    """
    if storage.pieces is None:
        return storage
    chunks = chunks_of(storage.pieces)
    if len(chunks) != 1 or chunks[0].place is None:
        return storage
    with File(chunks[0].place.file) as file:
        item = item_of(file, storage.pieces, chunks[0])
        if not _is_in_order(item):
            return storage
        start = run_start(file, item)
    key = f"{storage.key} at {start}"
    return Storage(file.path, key, storage.nbytes, min(storage.nbytes, max(0, file.size - start)), start)
