"""One file (`*.distcp`) of a distributed checkpoint by itself: pieces one behind another, each a `torch.save` file.

Which tensor a piece is of, and where in it, stands in `.metadata` alone. Where that lies beside the file, it gives the
names; else the pieces are found by the end records of their zips, or of a file that is cut short by what their pickles
say, and called by their number and place.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from convinspect.errors import CannotShow, ConvInspectError, NotACheckpoint, NotThere
from convinspect.formats.files import File
from convinspect.formats.pickle.machine import Walk, walk
from convinspect.formats.pieces import alone
from convinspect.formats.places import files_in
from convinspect.formats.safetensors import read_safetensors
from convinspect.formats.sources import folder_of
from convinspect.formats.torch.archive import SMALL_STORAGE, missing_records
from convinspect.formats.torch.distributed import walked_metadata
from convinspect.formats.torch.distributed_items import begins_safetensors, in_zip, item_of
from convinspect.formats.torch.distributed_pieces import Chunk, ChunkedTensor, Pieces, is_metadata, pieces_in
from convinspect.formats.torch.distributed_roots import split
from convinspect.formats.torch.tensors import tensor_of
from convinspect.formats.torch.truncated import name_of, places_in, record_at, sizes_of
from convinspect.formats.zip.structures import (
    END64_SIZE,
    END_SIGNATURE,
    END_SIZE,
    LOCATOR64_SIZE,
    is_zip,
    parse_end,
    parse_end64,
    parse_locator64,
)
from convinspect.records import Container, Contents, Problem, Root, Storage, Tensor, contiguous
from convinspect.text import plural

SUFFIX = ".distcp"
_DIRECTORY = 1 << 16
"""Bytes that the directory of a piece takes at most: it has some seven records."""
_MOST_PIECES = 1 << 20
PARTS = "it holds parts of tensors, and the shapes are the parts' own"
_EMPTY = "it is a file of a distributed checkpoint that holds no piece of a tensor"
_WHOLE = "give the folder, with .metadata in it, for whole tensors"


class Part(NamedTuple):
    """A piece in the file.

    Attributes:
        start: Offset of its first byte.
        size: Its bytes there; of the last one of a file that is cut short fewer than it had.
        kind: "zip" or "safetensors".
        whole: Whether it is all there.
    """

    start: int
    size: int
    kind: str = "zip"
    whole: bool = True


def is_part(file: File) -> bool:
    """True for a file of a distributed checkpoint: by its name, since each piece is like any file of `torch.save`."""
    return file.path.suffix == SUFFIX and is_zip(file.read(0, 4))


def read_part(file: File) -> Contents:
    """List the pieces in a file of a distributed checkpoint.

    Raises:
        NotACheckpoint: It holds no piece of a tensor.
        ConvInspectError: Its first piece is malformed.
    """
    listed, why = listed_beside(file.path)
    if listed is not None:
        return _named(file, listed)
    tensors: list[Tensor] = []
    named: Contents | None = None
    objects, problems = 0, list[Problem]()
    for number, part in enumerate(parts_of(file)):
        if part.kind == "safetensors":
            named = alone(read_safetensors(file.within(part.start, part.size)))
            continue
        tensor = _tensor(file, number, part)
        tensors += [] if tensor is None else [tensor]
        objects += part.whole and tensor is None
        if not part.whole:
            what = f"from its piece {number} on, at byte {part.start:,} of {file.size:,}, it is cut short or malformed"
            problems.append(Problem(what, "copy the folder again"))
    if not tensors and named is None:
        raise NotACheckpoint(_EMPTY, _WHOLE)
    lines = [f"{plural(len(tensors), 'piece')} of tensors, called by number and byte, since {why}; {_WHOLE}"]
    if named is not None:
        lines = [f"the names are those of the safetensors file within it, since {why}; {_WHOLE}", *named.notes]
        tensors, problems = [*tensors, *named.roots[0].tensors], [*problems, *named.problems]
    if objects:
        lines.append(f"not listed: {plural(objects, 'pickled object')}, as it has beside tensors")
    root = Root("", "model", tuple(tensors))
    problems = problems or [*missing_records((root,))]
    return Contents(file.path, Container.DISTRIBUTED_PART, (root,), file.size, tuple(problems), tuple(lines))


def listed_beside(path: Path) -> tuple[Pieces | None, str]:
    """What the `.metadata` beside a file lists; or None, and why there is nothing, as a clause."""
    folder = folder_of(path)
    try:
        nbytes = sum(size for size, _ in files_in(folder).values())
        tree = walked_metadata(folder, nbytes)
        listed = pieces_in(tree, folder) if is_metadata(tree.value) else None
    except (NotThere, FileNotFoundError, NotADirectoryError):
        return None, "no .metadata is beside it"
    except (ConvInspectError, OSError):
        return None, "the .metadata beside it cannot be read"
    if listed is None or not any(place.file.name == path.name for place in listed.places()):
        return None, "the .metadata beside it is that of other files"
    return listed, ""


# --- with .metadata


def _named(file: File, listed: Pieces) -> Contents:
    """List the pieces in a file by the names that `.metadata` gives them."""
    tensors: list[Tensor] = []
    problems: list[Problem] = []
    partial = False
    here = 0
    for tensor in listed.tensors:
        chunks = [
            chunk for chunk in tensor.chunks if chunk.place is not None and chunk.place.file.name == file.path.name
        ]
        here += bool(chunks)
        for chunk in chunks:
            partial = partial or chunk.shape != tensor.shape
            try:
                found = _item(file, tensor, chunk)
            except ConvInspectError as error:
                problems.append(Problem(error.problem, error.remedy))
                continue
            at = ",".join(map(str, chunk.begin))
            tensors.append(_alone(found, f"{tensor.key}@{at}" if len(chunks) > 1 else tensor.key, chunk))
    if partial:
        problems.append(Problem(PARTS, "open the folder with all of its files"))
    notes = (f"it has {here:,} of the {plural(len(listed.tensors), 'tensor')} of its folder; {_WHOLE}",)
    roots = tuple(split(tensors, (), [one.key for one in listed.objects]))
    if not roots and not problems:
        raise NotACheckpoint(_EMPTY, _WHOLE)
    return Contents(file.path, Container.DISTRIBUTED_PART, roots, file.size, tuple(problems), notes)


def _item(file: File, tensor: ChunkedTensor, chunk: Chunk) -> Tensor:
    """A piece, without its numbers where only PyTorch reads them.

    Raises:
        ConvInspectError: It is malformed.
    """
    try:
        return item_of(file, tensor, chunk)
    except CannotShow:
        return Tensor(tensor.key, tensor.dtype, chunk.shape, contiguous(chunk.shape))


def _alone(tensor: Tensor, key: str, chunk: Chunk) -> Tensor:
    """A piece under a key of its own, and its storage, which each piece calls "0"."""
    storage = tensor.storage
    if storage is not None and storage.local_header and chunk.place is not None:
        storage = storage._replace(key=f"{chunk.place.offset}/{storage.key}")
    return tensor._replace(key=key, storage=storage)


# --- without


def parts_of(file: File) -> Iterator[Part]:
    """The pieces in a file, found without `.metadata`, up to the first that is malformed or cut."""
    backwards = _by_ends(file)
    if backwards is not None:
        yield from backwards
        return
    start = 0
    for _ in range(_MOST_PIECES):
        if start >= file.size:
            return
        if begins_safetensors(file, start):
            yield Part(start, file.size - start, "safetensors")
            return
        size = _length(file.within(start, file.size - start)) if is_zip(file.read(start, 4)) else None
        if size is None:
            yield Part(start, file.size - start, whole=False)
            return
        yield Part(start, size)
        start += size


def _by_ends(file: File) -> list[Part] | None:
    """The pieces by the end record of each, from the last one on; None where that does not lead to the beginning."""
    parts: list[Part] = []
    end, room = file.size, END64_SIZE + LOCATOR64_SIZE + END_SIZE
    while end > 0 and len(parts) < _MOST_PIECES:
        tail = file.read(max(0, end - room), min(room, end))
        start = _start_by(tail, end)
        if start is None or not is_zip(file.read(start, 4)):
            return None
        parts.append(Part(start, end - start))
        end = start
    return parts[::-1] if end == 0 else None


def _start_by(tail: bytes, end: int) -> int | None:
    """Where a zip begins whose end records are the last bytes before `end`; None where they are none."""
    at = len(tail) - END_SIZE
    if at < 0 or not tail.startswith(END_SIGNATURE, at):
        return None
    said = parse_end(tail, at)
    if said.comment_length:
        return None
    first, size, start = end - END_SIZE, said.size, said.start
    if parse_locator64(tail, at - LOCATOR64_SIZE) is not None and at >= LOCATOR64_SIZE + END64_SIZE:
        large = parse_end64(tail, at - LOCATOR64_SIZE - END64_SIZE)
        if large is None:
            return None
        first, size, start = first - LOCATOR64_SIZE - END64_SIZE, large.size, large.start
    begins = first - size - start
    return begins if 0 <= begins < end else None


class _Beginning(NamedTuple):
    """What a zip tells without its directory: its pickle, where that ends, and the storages whose records are there.

    Attributes:
        tree: The pickle.
        end: Offset behind it.
        sizes: Bytes of each storage that it names.
        places: Where the bytes of those begin whose record is there.
    """

    tree: Walk
    end: int
    sizes: dict[str, int]
    places: dict[str, int]


def _beginning(part: File) -> _Beginning | None:
    """What the zip at the beginning of a part tells; None where it begins with no pickle, or a malformed one."""
    first = record_at(part, 0)
    if first is None or not name_of(first).endswith("data.pkl"):
        return None
    try:
        tree = walk(part.part(first.payload), 0, part.size - first.payload, part.size // SMALL_STORAGE)
        sizes = sizes_of(tree)
    except ConvInspectError:
        return None
    end, folder = first.payload + tree.end, name_of(first).removesuffix("data.pkl")
    records = places_in(part, f"{folder}data/", end, sizes)
    return _Beginning(tree, end, sizes, {key: record.payload for key, record in records.items()})


def _length(part: File) -> int | None:
    """Bytes of the zip at the beginning of a part, by its pickle and its records; None where it is cut or malformed."""
    found = _beginning(part)
    if found is None:
        return None
    last = max([found.end, *(place + found.sizes[key] for key, place in found.places.items())])
    window = part.read(last, _DIRECTORY)
    at = window.find(END_SIGNATURE)
    while at >= 0:
        end = last + at + END_SIZE
        room = min(end, END64_SIZE + LOCATOR64_SIZE + END_SIZE)
        if _start_by(part.read(end - room, room), end) == 0:
            return end
        at = window.find(END_SIGNATURE, at + 1)
    return None


def _tensor(file: File, number: int, part: Part) -> Tensor | None:
    """The tensor in a piece; None of an object.

    Raises:
        ConvInspectError: It is malformed.
    """
    key, inner = f"piece{number}@{part.start}", file.within(part.start, part.size)
    tensor = in_zip(inner, key) if part.whole else _in_cut(inner, key)
    if tensor is None or tensor.storage is None:
        return tensor
    # Each piece calls its storage "0".
    return tensor._replace(storage=tensor.storage._replace(key=f"{part.start}/{tensor.storage.key}"))


def _in_cut(part: File, key: str) -> Tensor | None:
    """The tensor in the last piece of a file that is cut short, as far as it is described."""
    found = _beginning(part)
    if found is None:
        return None

    def storage_of(name: str, nbytes: int) -> Storage:
        place = found.places.get(name)
        if place is None:
            return Storage(part.path, name, nbytes, 0, None)
        available = max(0, min(nbytes, part.size - place))
        return Storage(part.path, name, nbytes, available, part.start + place)

    return tensor_of(found.tree.value, key, storage_of)
