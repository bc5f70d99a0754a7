"""A `torch.save` zip whose end is gone, and with it the directory: what there is, is found by the records' own headers.

`torch.save` writes `data.pkl` first, then the storages one after the other, so the pickle of a download that stopped
is whole and says how long each of them is.
"""

from __future__ import annotations

from dataclasses import dataclass

from convinspect.dtypes import storage_nbytes
from convinspect.errors import ConvInspectError
from convinspect.formats.files import File
from convinspect.formats.pickle.machine import Walk, walk
from convinspect.formats.torch.archive import SMALL_STORAGE, foreign_globals, headless, module_notes
from convinspect.formats.torch.tensors import storage_dtype
from convinspect.formats.torch.tree import find_roots
from convinspect.records import Container, Contents, Storage

_HEADER = b"PK\x03\x04"
_PADDING = 512
"""Bytes between two records at most: what ends one, and short records such as the byte order."""


@dataclass(frozen=True, slots=True)
class _Record:
    """A record's name, and where its header and its bytes begin."""

    name: str
    header: int
    payload: int


def read_cut_zip(file: File) -> Contents:
    """List a zip without directory from its pickle; the problem says how much is missing.

    Raises:
        CutShort: It is cut within the pickle, or does not begin with one.
    """
    problem = headless(file)
    first = _record_at(file, 0)
    if first is None or not first.name.endswith("data.pkl"):
        raise problem
    try:
        tree = walk(file.part(first.payload), 0, file.size - first.payload, file.size // SMALL_STORAGE)
    except ConvInspectError:
        raise problem from None
    folder = first.name.removesuffix("data.pkl")
    places = _places(file, f"{folder}data/", first.payload + tree.end, _sizes(tree))
    order = "big" if _byteorder(file, first.payload + tree.end) == b"big" else "little"

    def storage_of(key: str, nbytes: int) -> Storage:
        place = places.get(key)
        if place is None:
            return Storage(file.path, key, nbytes, 0, None, byteorder=order)
        available = max(0, min(nbytes, file.size - place.payload))
        return Storage(file.path, key, nbytes, available, file.start + place.payload, byteorder=order)

    roots = find_roots(tree, storage_of)
    if not any(root.tensors for root in roots):
        raise problem
    notes, foreign = module_notes(roots), foreign_globals(tree)
    return Contents(file.path, Container.TORCH_ZIP, roots, file.size, (str(problem),), notes, foreign=foreign)


def _record_at(file: File, near: int) -> _Record | None:
    """The record whose header is the next one behind `near`."""
    found = file.read(near, _PADDING + len(_HEADER)).find(_HEADER)
    if found < 0:
        return None
    start = near + found
    head = file.read(start, 30)
    if len(head) < 30:
        return None
    name_length, extra = int.from_bytes(head[26:28], "little"), int.from_bytes(head[28:30], "little")
    name = file.read(start + 30, name_length)
    return _Record(name.decode("utf-8", "replace"), start, start + 30 + name_length + extra)


def _sizes(tree: Walk) -> dict[str, int]:
    """Bytes of each storage that the pickle names."""
    sizes: dict[str, int] = {}
    for parts in tree.persistent:
        dtype = storage_dtype(parts)
        if dtype is not None:
            sizes[parts[2]] = storage_nbytes(dtype, parts[4])
    return sizes


def _places(file: File, folder: str, position: int, sizes: dict[str, int]) -> dict[str, _Record]:
    """Each storage's record by its key, going from one to the next as the sizes say."""
    places: dict[str, _Record] = {}
    for _ in range(len(sizes) + 16):
        record = _record_at(file, position)
        if record is None:
            break
        key = record.name.removeprefix(folder)
        position = record.payload
        if record.name.startswith(folder) and key in sizes and key not in places:
            places[key] = record
            position += sizes[key]
    return places


def _byteorder(file: File, position: int) -> bytes:
    for _ in range(4):
        record = _record_at(file, position)
        if record is None:
            break
        if record.name.endswith("byteorder"):
            return file.read(record.payload, 3)
        position = record.payload
    return b""
