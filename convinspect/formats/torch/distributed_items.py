"""One piece of a distributed checkpoint: where its numbers lie in its file, and whether it is what `.metadata` says."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from convinspect.errors import BrokenFile, CannotShow, ConvInspectError, CutShort
from convinspect.formats.files import File
from convinspect.formats.pieces import SHARDING, Where, begins_in
from convinspect.formats.safetensors import is_safetensors, read_safetensors
from convinspect.formats.sources import is_plain, member_of, outermost
from convinspect.formats.torch.archive import walked
from convinspect.formats.torch.tensors import tensor_of
from convinspect.formats.zip.archive import Archive
from convinspect.formats.zip.structures import is_zip
from convinspect.records import Storage, Tensor, Version

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convinspect.formats.torch.distributed_pieces import Chunk, ChunkedTensor, Place

_TO_ONE_FILE = "write it as one file first: python -m torch.distributed.checkpoint.format_utils dcp_to_torch"
_DAMAGED = "copy the folder again"
_AGAIN = "save it again"


def to_one_file(folder: Path) -> str:
    """What to do to get at the numbers by PyTorch alone."""
    if not is_plain(folder) and outermost(folder) != folder:
        return f"unpack the archive first, then: {_TO_ONE_FILE} {quote(member_of(folder).lstrip('/') or '.')} model.pt"
    return f"{_TO_ONE_FILE} {quote(str(folder))} model.pt"


def begins_safetensors(file: File, start: int) -> bool:
    """Whether a whole safetensors file can begin at this place of a `*.distcp`."""
    head = file.read(start, min(64, max(file.size - start, 0)))
    return is_safetensors(head) and 8 + int.from_bytes(head[:8], "little") <= file.size - start


def item_of(file: File, tensor: ChunkedTensor, chunk: Chunk) -> Tensor:
    """The tensor that is stored as a chunk, as its own header describes it, with its own strides.

    Args:
        file: The chunk's file, open.
        tensor: The whole tensor.
        chunk: One of its chunks, which has a place.

    Raises:
        BrokenFile: It is cut short or malformed, or something else than `.metadata` says.
        CannotShow: It has no plain numbers, or only PyTorch undoes what was done to its bytes.
        RefusedFile: Its header asks for what no honest file asks for.
    """
    place = chunk.place
    assert place is not None
    if place.transforms:
        raise transformed(tensor.key, place)
    with _naming(tensor.key, place):
        return _checked(_found(file, tensor, chunk, place), tensor, chunk, place)


def transformed(key: str, place: Place) -> CannotShow:
    """The error for a piece whose bytes went through an extension of PyTorch's writer."""
    what = f"the bytes of tensor {key!r} went through {', '.join(place.transforms)}, which PyTorch alone undoes"
    return CannotShow(what, to_one_file(place.file.parent))


@contextmanager
def _naming(key: str, place: Place) -> Iterator[None]:
    """Errors raised inside say of which piece they are."""
    try:
        yield
    except ConvInspectError as error:
        problem = f"the piece of {key!r} at byte {place.offset:,}: {error.problem}"
        raise type(error)(problem, error.remedy, place.file) from None


def _found(file: File, tensor: ChunkedTensor, chunk: Chunk, place: Place) -> Tensor:
    if place.offset + place.length > file.size:
        missing = place.offset + place.length - file.size
        raise CutShort(f"its file ends {min(missing, place.length):,} bytes before it does", _DAMAGED)
    if is_zip(file.read(place.offset, 4)):
        return _in_zip(file.within(place.offset, place.length), tensor.key)
    if begins_safetensors(file, place.offset):
        # The file's handle may be another's by the next call, so this one is opened anew.
        found, begins = _in_safetensors(file.path, place.offset, file.version)
        if tensor.key not in found:
            raise BrokenFile("the safetensors file there does not hold it", _AGAIN)
        begin = begins.get(tensor.key, ())
        if begin != chunk.begin[: len(begin)] or any(chunk.begin[len(begin) :]):
            # Of several pieces of one tensor, PyTorch writes the last alone, under the tensor's key.
            raise BrokenFile(f"the safetensors file there holds another piece, which begins at {list(begin)}", _AGAIN)
        return found[tensor.key]
    raise BrokenFile("no file of torch.save begins there", _DAMAGED)


def _in_zip(part: File, key: str) -> Tensor:
    tensor = in_zip(part, key)
    if tensor is None:
        raise BrokenFile("it holds no tensor", _AGAIN)
    return tensor


def in_zip(part: File, key: str) -> Tensor | None:
    """The tensor that is all of a `torch.save` file; None where that is something else.

    Raises:
        BrokenFile: It is malformed.
    """
    archive = Archive(part)
    if "data.pkl" not in archive.records:
        raise BrokenFile("it is a zip without a pickle", _DAMAGED)
    byteorder = archive.byteorder()

    def storage_of(name: str, nbytes: int) -> Storage:
        return archive.storage(f"data/{name}", nbytes, byteorder, name)

    return tensor_of(walked(archive).value, key, storage_of)


@lru_cache(maxsize=8)
def _in_safetensors(path: Path, start: int, version: Version) -> tuple[Mapping[str, Tensor], Mapping[str, Where]]:
    """The tensors of the safetensors file at this place, and where in the whole each begins; it is read once for all.

    Raises:
        BrokenFile: It is malformed.
    """
    with File(path, start) as file:
        contents = read_safetensors(file)
    begins = begins_in(contents.metadata.get(SHARDING, "{}"))
    if begins is None:
        raise BrokenFile(f"its {SHARDING} is malformed", _AGAIN)
    return {tensor.key: tensor for tensor in contents.roots[0].tensors}, begins


def _checked(found: Tensor, tensor: ChunkedTensor, chunk: Chunk, place: Place) -> Tensor:
    """The piece, once it is seen to be what `.metadata` says, and to have plain numbers, all of them.

    Raises:
        BrokenFile: It is not, or they are missing.
        CannotShow: It has none.
    """
    if (found.dtype, found.shape) != (tensor.dtype, chunk.shape):
        own, said = f"{found.dtype} {found.shape}", f"{tensor.dtype} {chunk.shape}"
        raise BrokenFile(f"it holds {own}, where .metadata says {said}", _AGAIN)
    if found.layout != "strided" or found.storage is None:
        what = (found.subclass or "").rpartition(".")[2] or f"of the layout {found.layout}"
        raise CannotShow(f"it is {what}, of which only the shape can be shown")
    if found.storage.byteorder != "little":
        raise CannotShow("its numbers are big-endian", to_one_file(place.file.parent))
    if found.storage.packed_nbytes is not None:
        raise CannotShow("its numbers are deflated", to_one_file(place.file.parent))
    # PyTorch's writer copies what is a view of more or fewer bytes, so an expanded tensor has all of its numbers.
    if not found.whole or found.storage.available < found.nbytes:
        raise CutShort("its numbers are not all there", _DAMAGED)
    return found._replace(key=tensor.key)
