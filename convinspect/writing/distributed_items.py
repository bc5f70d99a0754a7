"""What lies in the files of a distributed checkpoint, each a `torch.save` file of its own: chunks and objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convinspect.errors import BrokenFile, ConvInspectError
from convinspect.formats.files import File
from convinspect.formats.pickle.machine import reader, walk
from convinspect.formats.torch.archive import read_torch_zip
from convinspect.formats.torch.distributed_pieces import Chunk, ChunkedTensor
from convinspect.formats.zip.archive import Archive
from convinspect.formats.zip.structures import is_zip
from convinspect.records import Edit, Tensor
from convinspect.writing.pickle import edited
from convinspect.writing.pickle_keys import pushed_strings
from convinspect.writing.pieces import Piece, Range
from convinspect.writing.zip import pieces_with_record

AGAIN = "copy all of the folder again, or save it again"
_PICKLE = "data.pkl"


def stored(part: File, tensor: ChunkedTensor, chunk: Chunk) -> Tensor:
    """A chunk's tensor, as its own `torch.save` file describes it.

    Raises:
        BrokenFile: It is no such file, or holds another tensor than `.metadata` says.
    """
    what = f"a chunk of {tensor.key!r} in {part.path.name} at byte {part.start:,}"
    if not is_zip(part.read(0, 4)):
        raise BrokenFile(f"{what} is no torch.save file", AGAIN, part.path)
    try:
        tensors = [one for root in read_torch_zip(part).roots for one in root.tensors]
    except ConvInspectError as error:
        raise BrokenFile(f"{what}: {error.problem}", error.remedy, part.path) from None
    if len(tensors) != 1 or (tensors[0].shape, tensors[0].dtype) != (chunk.shape, tensor.dtype):
        found = f"{tensors[0].dtype} {tensors[0].shape}" if len(tensors) == 1 else f"{len(tensors)} tensors"
        problem = f"{what} is {found}, and .metadata says {tensor.dtype} {chunk.shape}"
        raise BrokenFile(problem, AGAIN, part.path)
    return tensors[0]


def facts(tensor: Tensor, edit: Edit | None = None) -> tuple[object, ...]:
    """All that a chunk's file says of its tensor, after an edit."""
    shape, stride = (tensor.shape, tensor.stride) if edit is None else (edit.shape, edit.stride)
    storage = tensor.storage
    kept = None if storage is None else (storage.key, storage.nbytes, storage.available, storage.crc)
    return shape, stride, tensor.dtype, tensor.offset, kept, tensor.layout, tensor.requires_grad


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
