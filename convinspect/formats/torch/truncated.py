"""A truncated `torch.save` zip, without its directory. Its records are found by their local headers.

`torch.save` writes `data.pkl` first, then the storages in order. So the pickle of an incomplete download is usually
complete, and gives the size of each storage.
"""

from __future__ import annotations

from convinspect.dtypes import storage_nbytes
from convinspect.errors import ConvInspectError, NotACheckpoint
from convinspect.formats.files import File
from convinspect.formats.pickle.machine import Walk, walk
from convinspect.formats.torch.archive import SMALL_STORAGE, foreign_globals, headless, module_notes
from convinspect.formats.torch.storage_ids import storage_dtype
from convinspect.formats.torch.tree import find_roots
from convinspect.formats.zip.structures import LOCAL_SIGNATURE, Local, read_local
from convinspect.records import Container, Contents, Problem, Storage

_PADDING = 512
"""Bytes between two records at most: data descriptors, padding, and short records such as the byte order."""


def read_cut_zip(file: File) -> Contents:
    """List a zip without directory from its pickle; the problem says how much is missing.

    Raises:
        CutShort: It is truncated within the pickle, or does not begin with one.
    """
    problem = headless(file)
    first = record_at(file, 0)
    name = name_of(first)
    if isinstance(problem, NotACheckpoint) or first is None or not name.endswith("data.pkl"):
        raise problem
    try:
        tree = walk(file.part(first.payload), 0, file.size - first.payload, file.size // SMALL_STORAGE)
    except ConvInspectError:
        raise problem from None
    folder = name.removesuffix("data.pkl")
    places = places_in(file, f"{folder}data/", first.payload + tree.end, sizes_of(tree))
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
    problems = (Problem(problem.problem, problem.remedy),)
    notes, foreign = module_notes(roots), foreign_globals(tree)
    return Contents(
        file.path,
        Container.TORCH_ZIP,
        roots,
        file.size,
        problems,
        notes,
        foreign=foreign,
    )


def record_at(file: File, near: int) -> Local | None:
    """The record with the first local header from offset `near`."""
    gap = file.read(near, _PADDING + len(LOCAL_SIGNATURE)).find(LOCAL_SIGNATURE)
    return read_local(file, near + gap) if gap >= 0 else None


def name_of(record: Local | None) -> str:
    return record.name.decode("utf-8", "replace") if record is not None else ""


def sizes_of(tree: Walk) -> dict[str, int]:
    """Bytes of each storage that the pickle names."""
    sizes: dict[str, int] = {}
    for parts in tree.persistent:
        dtype = storage_dtype(parts)
        if dtype is not None:
            sizes[parts[2]] = storage_nbytes(dtype, parts[4])
    return sizes


def places_in(file: File, folder: str, position: int, sizes: dict[str, int]) -> dict[str, Local]:
    """The record of each storage, by key. The storages' sizes lead from each record to the next."""
    places: dict[str, Local] = {}
    for _ in range(len(sizes) + 16):
        record = record_at(file, position)
        if record is None:
            break
        name = name_of(record)
        key = name.removeprefix(folder)
        position = record.payload
        if name.startswith(folder) and key in sizes and key not in places:
            places[key] = record
            position += sizes[key]
    return places


def _byteorder(file: File, position: int) -> bytes:
    for _ in range(4):
        record = record_at(file, position)
        if record is None:
            break
        if record.name.endswith(b"byteorder"):
            return file.read(record.payload, 3)
        position = record.payload
    return b""
