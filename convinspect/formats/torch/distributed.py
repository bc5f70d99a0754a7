"""A distributed checkpoint (`torch.distributed.checkpoint`): a folder whose `.metadata` pickle lists the tensors.

A listing reads `.metadata` alone, and asks the system for the sizes of the files in which the numbers are distributed;
`arrays/gathered.py` reads these.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from convinspect.dtypes import nbytes_of
from convinspect.errors import ConvInspectError, NotACheckpoint
from convinspect.formats.files import File
from convinspect.formats.pickle.machine import Walk, walk
from convinspect.formats.pickle.record import Pickle
from convinspect.formats.pieces import no_whole
from convinspect.formats.places import below, files_in, is_file, is_folder, name_of
from convinspect.formats.sources import folder_of, version_of
from convinspect.formats.torch.archive import SMALL_STORAGE, foreign_globals
from convinspect.formats.torch.distributed_items import begins_safetensors
from convinspect.formats.torch.distributed_pieces import (
    ChunkedTensor,
    PickledObject,
    Pieces,
    boxes_of,
    is_metadata,
    pieces_in,
)
from convinspect.formats.torch.distributed_roots import optimizer_of, split
from convinspect.keys.others import EXTRA_STATE, UNREAD, Other, Value
from convinspect.records import Container, Contents, Problem, Storage, Tensor, Version, contiguous

METADATA = ".metadata"
_ALONE = "shapes only: no file with its numbers (*.distcp) is beside .metadata"
_AS_SAFETENSORS = (
    "its numbers lie as safetensors within each *.distcp (SerializationFormat.SAFETENSORS), which are read here, and"
    " which neither torch.distributed.checkpoint.load nor dcp_to_torch_save reads"
)
_MOST_PROBLEMS = 100
UNLISTED = 1 << 40
"""Bytes that a folder may have which cannot be listed."""


def is_distributed(path: Path) -> bool:
    """True for a distributed checkpoint's folder, or its `.metadata` file."""
    return is_file(path / METADATA) if is_folder(path) else name_of(path) == METADATA


def read_distributed(path: Path, pickle: Pickle | None = None, keep_pickle: bool = False) -> Contents:
    """List the tensors of a distributed checkpoint.

    Args:
        path: Its folder, or its `.metadata`.
        pickle: The pickle in `.metadata`, if it was read before.
        keep_pickle: Keep the tree of that pickle too.

    Raises:
        BrokenFile: Its `.metadata` is truncated or malformed.
        NotACheckpoint: Its `.metadata` is something else.
    """
    # Imported here, since this large table is not needed to list most other files.
    from convinspect.formats.pickle.safe_globals import DISTRIBUTED, classify_global

    folder = path if is_folder(path) else folder_of(path)
    found = files_in(folder)
    nbytes = sum(size for size, _ in found.values())
    tree = pickle.tree if pickle is not None else walked_metadata(folder, nbytes)
    if not is_metadata(tree.value):
        raise NotACheckpoint("its .metadata is not that of a distributed checkpoint", "give the folder that has one")
    pieces = pieces_in(tree, folder)
    files = _ends(pieces)
    there = {file: facts for file in files if (facts := found.get(file) or _facts(file)) is not None}
    sizes = {file: size for file, (size, _) in there.items()}
    nbytes = nbytes or sum(sizes.values()) + (folder / METADATA).stat().st_size
    inside = below(folder)
    metadata = folder / METADATA
    tensors = [_tensor(one, metadata, sizes) for one in pieces.tensors]
    return Contents(
        path,
        Container.DISTRIBUTED,
        tuple(split(tensors, tuple(_others(pieces.objects, tensors)), (one.key for one in pieces.objects))),
        nbytes,
        tuple(islice(_problems(pieces, files, sizes), _MOST_PROBLEMS)) if there else (),
        tuple(_notes(pieces, there)),
        {},
        tuple(name for name in foreign_globals(tree) if classify_global(name, DISTRIBUTED).kind != "admitted"),
        {file: version for file, (_, version) in there.items()},
        pickles={metadata: Pickle(tree)} if keep_pickle else {},
        within=inside.within if inside is not None else "",
    )


def walked_metadata(folder: Path, nbytes: int) -> Walk:
    with File(folder / METADATA) as file:
        # The pickle lists the pieces of each tensor by rank, so the limit grows with all files of the folder.
        return walk(file.read, 0, file.size, (nbytes or UNLISTED) // SMALL_STORAGE)


def _ends(pieces: Pieces) -> dict[Path, int]:
    """Where the last item ends in each file that is named."""
    ends: dict[Path, int] = {}
    for file, offset, length, *_ in pieces.places():
        ends[file] = max(ends.get(file, 0), offset + length)
    return ends


def _facts(file: Path) -> tuple[int, Version] | None:
    """Size and version of a file that does not lie in the folder itself; None where it is not there."""
    try:
        status = file.stat()
        return status.st_size, version_of(status)
    except (OSError, ValueError):
        return None


def _problems(pieces: Pieces, ends: Mapping[Path, int], sizes: Mapping[Path, int]) -> Iterator[Problem]:
    """What is wrong with the files, as far as their sizes tell, and with what is said of the pieces."""
    for file, end in ends.items():
        if file not in sizes:
            yield Problem(f"{file.name}, which holds some of it, is not there", "copy the whole folder")
        elif sizes[file] < end:
            missing = f"{end - sizes[file]:,} bytes are missing at the end of {file.name}"
            yield Problem(missing, "copy the folder again")
    yield from problems_of_tensors(pieces)


def problems_of_tensors(pieces: Pieces) -> Iterator[Problem]:
    """Tensors whose pieces do not make them, or of which it is not said where all of them lie."""
    # Layers of a model are cut alike, so few ways are looked at.
    seen: set[object] = set()
    for tensor in pieces.tensors:
        chunks = tensor.chunks
        if len(chunks) != 1 or chunks[0].shape != tensor.shape or any(chunks[0].begin):
            cut = (tensor.shape, *[chunk[:2] for chunk in chunks])
            if cut not in seen:
                wrong = no_whole(tensor.key, boxes_of(tensor), tensor.shape)
                if wrong is not None:
                    yield wrong
                    continue
                seen.add(cut)
        if None in [chunk.place for chunk in chunks]:
            yield Problem(f".metadata does not say where all of {tensor.key!r} lies", "save it again")


def _notes(pieces: Pieces, there: Collection[Path]) -> Iterator[str]:
    if not there and any(tensor.chunks for tensor in pieces.tensors):
        yield _ALONE
    elif _as_safetensors(pieces):
        yield _AS_SAFETENSORS
    through = {word: None for place in pieces.places() for word in place.transforms}
    if through:
        yield f"shapes only: its bytes went through {', '.join(through)}, which PyTorch alone undoes"


def holds_safetensors(path: Path) -> bool:
    """Whether the numbers of a distributed checkpoint, which was read before, are safetensors within its files."""
    folder = path if is_folder(path) else folder_of(path)
    nbytes = sum(size for size, _ in files_in(folder).values())
    return _as_safetensors(pieces_in(walked_metadata(folder, nbytes), folder))


def _as_safetensors(pieces: Pieces) -> bool:
    """Whether the first tensor's piece is a safetensors file, as `SerializationFormat.SAFETENSORS` has it written."""
    places = (chunk.place for tensor in pieces.tensors for chunk in tensor.chunks)
    place = next((place for place in places if place is not None), None)
    if place is None:
        return False
    try:
        with File(place.file) as file:
            return begins_safetensors(file, place.offset)
    except ConvInspectError:
        return False


def _others(objects: Sequence[PickledObject], tensors: Sequence[Tensor]) -> Iterator[Other]:
    """Keys of the model whose values are no tensors; they lie pickled in the `*.distcp` files.

    The checkpoint flattens dictionaries within a state_dict too: a module's extra state `{"a": 1}` is listed as
    `fc._extra_state.a`. What lies in a dictionary without tensors, such as a scheduler's state, is no key of a model.
    """
    beginnings = {tensor.key.partition(".")[0] for tensor in tensors}
    seen: set[str] = set()
    for one in objects:
        parts = one.key.split(".")
        if optimizer_of(one.key):
            continue
        if EXTRA_STATE in parts:
            parts = parts[: parts.index(EXTRA_STATE) + 1]
        elif len(parts) > 1 and parts[0] not in beginnings:
            continue
        name = ".".join(parts)
        if name not in seen:
            seen.add(name)
            yield Other(name, Value.OBJECT, UNREAD)


def _tensor(pieces: ChunkedTensor, metadata: Path, sizes: Mapping[Path, int]) -> Tensor:
    """The whole tensor. Its numbers are gathered from its pieces when they are asked for, row by row.

    Args:
        pieces: Where they lie.
        metadata: The folder's `.metadata`.
        sizes: Bytes of the files that are there.
    """
    key, dtype, shape, chunks, _ = pieces
    nbytes = nbytes_of(dtype, math.prod(shape))
    held, there = 0, False
    for chunk in chunks:
        if chunk.place is not None and (size := sizes.get(chunk.place.file)) is not None:
            there = True
            # What PyTorch compresses is never read here; what it does not takes the bytes of its numbers at least.
            held += nbytes if chunk.place.transforms else max(0, min(chunk.place.length, size - chunk.place.offset))
    storage = Storage(metadata, key, nbytes, min(nbytes, held), 0 if there else None, pieces=pieces)
    return Tensor(key, dtype, shape, contiguous(shape), 0, storage)
