"""Scan arrays in NumPy's own format, by themselves or as records of an archive: their headers, and pickles in them."""

from __future__ import annotations

from collections.abc import Iterator

from convinspect.checking.findings import Finding, Note, Scan, finding
from convinspect.checking.pickles import Stream, scan_pickle
from convinspect.errors import ConvInspectError
from convinspect.formats.numpy_files.header import ArrayHeader, read_header
from convinspect.formats.pickle.machine import Read
from convinspect.formats.torch.archive import SMALL_STORAGE

_ONLY_TRUSTED = "numpy.load runs the pickles of its arrays of Python objects where it is given allow_pickle=True"


_ORDINARY = frozenset(
    {
        "numpy.ndarray",
        "numpy.dtype",
        *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    }
)
"""Names of what rebuilds the array that such a pickle is."""


def is_pickled(read: Read) -> bool:
    """Whether an array's elements are Python objects, in a pickle behind its header."""
    try:
        return read_header(read).pickled
    except ConvInspectError:
        return False


def scan_array(stream: Stream) -> Scan[None]:
    """Scan an array, of which no more than the header and a pickle behind it is read."""
    try:
        header = read_header(stream.read)
    except ConvInspectError as error:
        yield finding("unreadable", stream.path, error.problem, stream.place(0), remedy=error.remedy)
        return
    if header.pickled:
        yield Note(_ONLY_TRUSTED)
        objects = stream._replace(ordinary=_ORDINARY)
        seen = yield from scan_pickle(objects, header.size, stream.size // SMALL_STORAGE)
        if seen.error is not None:
            yield finding("unreadable", stream.path, seen.error.problem, stream.place(header.size))
    elif header.dtype is not None:
        yield from _scan_end(stream, header)


def _scan_end(stream: Stream, header: ArrayHeader) -> Iterator[Finding]:
    left = stream.size - header.size - header.nbytes
    if left > 0:
        message = f"{left:,} bytes follow the array's last element"
        yield finding("trailing-bytes", stream.path, message, stream.place(header.size + header.nbytes, left))
    elif left < 0 and stream.record:
        message = f"{max(0, stream.size - header.size):,} of the array's {header.nbytes:,} bytes are there"
        yield finding("storage-short", stream.path, message, stream.place(0))
