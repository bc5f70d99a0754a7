"""What lies in the files of a distributed checkpoint, each a `torch.save` file of its own: chunks and objects."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from convinspect.errors import BrokenFile, ConvInspectError
from convinspect.formats.files import File
from convinspect.formats.pickle.machine import reader, walk
from convinspect.formats.torch.distributed_pieces import ChunkedTensor
from convinspect.formats.torch.tensors import no_storage, tensor_of
from convinspect.formats.zip.archive import Archive
from convinspect.formats.zip.structures import is_zip
from convinspect.records import Edit, Tensor
from convinspect.writing.pickle import edited
from convinspect.writing.pickle_keys import pushed_strings
from convinspect.writing.pieces import Piece, Range
from convinspect.writing.torch_save import with_other_tuples
from convinspect.writing.zip import pieces_with_record

AGAIN = "copy all of the folder again, or save it again"
_PICKLE = "data.pkl"


class Stored(NamedTuple):
    """A chunk as its own `torch.save` file describes it.

    Attributes:
        archive: That file.
        data: Its pickle.
        tensor: The chunk, as the pickle describes it.
    """

    archive: Archive
    data: bytes
    tensor: Tensor


def stored(part: File, tensor: ChunkedTensor, shape: tuple[int, ...]) -> Stored:
    """Read a chunk's own `torch.save` file.

    Args:
        part: That file.
        tensor: The tensor that it is a chunk of.
        shape: The chunk's shape, as `.metadata` says.

    Raises:
        BrokenFile: It is no such file, or holds another tensor than `.metadata` says.
    """
    what = f"a chunk of {tensor.key!r} in {part.path.name} at byte {part.start:,}"
    if not is_zip(part.read(0, 4)):
        raise BrokenFile(f"{what} is no torch.save file", AGAIN, part.path)
    try:
        archive = Archive(part)
        data = archive.read(_PICKLE)
        found = _tensor_in(data)
    except ConvInspectError as error:
        raise BrokenFile(f"{what}: {error.problem}", error.remedy, part.path) from None
    if found is None or (found.shape, found.dtype) != (shape, tensor.dtype):
        other = "no tensor" if found is None else f"{found.dtype} {found.shape}"
        problem = f"{what} is {other}, and .metadata says {tensor.dtype} {shape}"
        raise BrokenFile(problem, AGAIN, part.path)
    return Stored(archive, data, found)


# Chunks of one shape and dtype have the same pickle, which names no tensor.
@lru_cache(1024)
def _tensor_in(data: bytes) -> Tensor | None:
    return tensor_of(walk(reader(data), 0, len(data)).value, "", no_storage)


@lru_cache(1024)
def _reshaped(data: bytes, shape: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    tensor = _tensor_in(data)
    assert tensor is not None
    return with_other_tuples(data, 0, (Edit(tensor, shape, stride),))


def reshaped(part: File, chunk: Stored, shape: tuple[int, ...], stride: tuple[int, ...]) -> list[Piece]:
    """The pieces of a chunk's file with another shape and strides, as offsets in the part."""
    return pieces_with_record(part, chunk.archive, _PICKLE, _reshaped(chunk.data, shape, stride))


def facts(chunk: Stored, shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """A number for all that a chunk's file says once it has this shape and these strides; others have another."""
    tensor = chunk.tensor
    key = "" if tensor.storage is None else tensor.storage.key
    record = chunk.archive.records.get(f"data/{key}")
    kept = None if record is None else (record.size, record.packed, record.crc)
    of_tensor = tensor.dtype, tensor.offset, tensor.layout, tensor.requires_grad, tensor.subclass
    return hash((shape, stride, of_tensor, key, kept))


def listed_names(part: File, key: str) -> tuple[str, ...]:
    """The names that an object lists, as an optimizer's group lists its parameters; () where it is no list of names.

    Args:
        part: Its `torch.save` file.
        key: What it is called.

    Raises:
        BrokenFile: It cannot be read.
    """
    items = _object(part, key)[1]
    named = isinstance(items, list) and all(isinstance(one, str) for one in items)
    return tuple(items) if named else ()


def with_names(part: File, key: str, names: Mapping[str, str]) -> list[Piece]:
    """The pieces of the same file with other names, as offsets in the part."""
    data, items = _object(part, key)
    head = 2 if data[:1] == b"\x80" else 0
    starts = [head + at for at in pushed_strings(data[head:])]
    if len(starts) != len(items):
        raise BrokenFile(f"{key!r} lists names in an unusual way, so they cannot be renamed", AGAIN, part.path)
    keys = {at: names[name] for at, name in zip(starts, items, strict=True) if name in names}
    return pieces_with_record(part, Archive(part), _PICKLE, edited(data, (), keys))


def _object(part: File, key: str) -> tuple[bytes, Any]:
    try:
        data = Archive(part).read(_PICKLE)
        return data, walk(reader(data), 0, len(data)).value
    except ConvInspectError as error:
        raise BrokenFile(f"{key!r} in {part.path.name}: {error.problem}", error.remedy, part.path) from None


def shifted(piece: Piece, by: int) -> Piece:
    """A piece of a part of a file, as one of the file."""
    return Range(piece.start + by, piece.end + by) if isinstance(piece, Range) else piece
