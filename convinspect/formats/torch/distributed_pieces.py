"""Where the pieces of a distributed checkpoint lie, as its `.metadata` says.

Its classes are those of PyTorch's `torch/distributed/checkpoint/metadata.py`, and `_StorageInfo` of `filesystem.py`. A
tensor is cut into chunks; each lies in one of the folder's files as a whole `torch.save` file (or, of
`SerializationFormat.SAFETENSORS`, within the safetensors file of all that one process had). Beside tensors there are
pickled objects. PyTorch finds a chunk by its tensor's key and by where it begins, as `MetadataIndex` says both.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from convinspect.dtypes import ITEMSIZE
from convinspect.errors import BrokenFile, RefusedFile
from convinspect.formats.pickle.machine import Walk
from convinspect.formats.pickle.values import Call, Dict, Global, Tuple
from convinspect.formats.pieces import Box
from convinspect.formats.sharded import check_inside
from convinspect.formats.torch.nodes import arguments, function_name, pairs_of, plain
from convinspect.records import Span

PACKAGE = "torch.distributed.checkpoint.metadata."

_AGAIN = "save it again"
_MOST_FIELDS = 16
"""Fields that an object of these classes may have; the largest of them has five."""
_LARGEST = 2**63


class Place(NamedTuple):
    """Where one item lies: `_StorageInfo`.

    Attributes:
        file: The file.
        offset: Of the item's first byte in it.
        length: Its bytes there. Where the file is one safetensors file of all tensors, `offset` is where that begins,
            for each of them, and `length` the bytes of the chunk's numbers.
        transforms: What its bytes went through when they were written (compression), by PyTorch's descriptors.
        offset_span: Where the pickle pushes the offset; None where spans are not asked for.
        length_span: Where it pushes the length.
    """

    file: Path
    offset: int
    length: int
    transforms: tuple[str, ...] = ()
    offset_span: Span | None = None
    length_span: Span | None = None


class Chunk(NamedTuple):
    """A part of a tensor: `ChunkStorageMetadata`, and what `storage_data` says of it.

    The spans are of tuples, `(4, 3)` in `torch.Size((4, 3))`; None where they are not asked for. Two equal spans are
    one object of the pickle that both refer to.

    Attributes:
        begin: Where in the tensor it begins.
        shape: Its own.
        place: Where it lies; None where `.metadata` does not say.
        begin_span: Of `ChunkStorageMetadata.offsets`.
        shape_span: Of `ChunkStorageMetadata.sizes`.
        index_span: Of `MetadataIndex.offset`.
    """

    begin: tuple[int, ...]
    shape: tuple[int, ...]
    place: Place | None
    begin_span: Span | None = None
    shape_span: Span | None = None
    index_span: Span | None = None


class ChunkedTensor(NamedTuple):
    """`TensorStorageMetadata`. Its chunks are in stored order, one that is named twice is there twice.

    Attributes:
        key: Its key in the flattened state_dict.
        dtype: PyTorch's name of the dtype.
        shape: Of the whole tensor.
        chunks: Its parts.
        shape_span: Of `TensorStorageMetadata.size`, as those of a chunk.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]
    shape_span: Span | None = None


class PickledObject(NamedTuple):
    """`BytesStorageMetadata`: an entry that is no tensor, as `torch.save` wrote it.

    Attributes:
        key: Its key in the flattened state_dict.
        place: Where it lies; None where `.metadata` does not say.
    """

    key: str
    place: Place | None


class Pieces(NamedTuple):
    """All that a `.metadata` lists, in stored order."""

    tensors: tuple[ChunkedTensor, ...]
    objects: tuple[PickledObject, ...]

    def places(self) -> list[Place]:
        """Where all of it lies, in stored order; chunks without a place are left out."""
        chunks = (chunk.place for tensor in self.tensors for chunk in tensor.chunks)
        return [place for place in (*chunks, *(one.place for one in self.objects)) if place is not None]


def boxes_of(tensor: ChunkedTensor) -> list[Box]:
    """Where its chunks lie in it. One that is named twice, as several processes may, is one."""
    return list(dict.fromkeys(Box(chunk.begin, chunk.shape) for chunk in tensor.chunks))


class _Found(NamedTuple):
    place: Place
    index_span: Span | None


_Index: TypeAlias = Mapping[tuple[str, tuple[int, ...] | None], _Found]
"""By key and begin, which is None of objects."""


def is_metadata(value: Any) -> bool:
    """Whether a pickle's value is the `Metadata` of a distributed checkpoint."""
    return (
        function_name(value) == f"{PACKAGE}Metadata" and pairs_of(_fields(value).get("state_dict_metadata")) is not None
    )


def listed_in(tree: Walk) -> list[tuple[Any, Any]]:
    """Keys and nodes of `state_dict_metadata`, of a pickle for which `is_metadata` holds."""
    return pairs_of(_fields(tree.value).get("state_dict_metadata")) or []


def pieces_in(tree: Walk, folder: Path, spans: bool = False) -> Pieces:
    """What the pickle in `.metadata` lists.

    Args:
        tree: The pickle, for which `is_metadata` holds.
        folder: Where its files lie.
        spans: Tell also where in the pickle the numbers stand that a change of shapes must change. A span may hold a
            FRAME instruction: who replaces one must leave out all frames of the pickle, or write them anew.

    Raises:
        BrokenFile: An entry is malformed.
        RefusedFile: It names a file outside the folder, or refers to the same parts over and over.
    """
    index = _index(tree, folder, spans)
    budget = 1000 + tree.steps
    tensors: list[ChunkedTensor] = []
    objects: list[PickledObject] = []
    for name, node in listed_in(tree):
        key, kind = str(name), function_name(node)
        if kind == f"{PACKAGE}TensorStorageMetadata":
            tensor = _tensor(key, node, index, spans, budget)
            budget -= len(tensor.chunks)
            tensors.append(tensor)
        elif kind == f"{PACKAGE}BytesStorageMetadata":
            found = index.get((key, None))
            objects.append(PickledObject(key, found.place if found is not None else None))
    return Pieces(tuple(tensors), tuple(objects))


def _fields(node: Any) -> dict[Any, Any]:
    """The fields of a dataclass's instance; empty for all else. An object may be asked for often, so they are few."""
    states = node.states if type(node) is Call else ()
    if len(states) != 1 or type(states[0]) is not Dict or len(states[0].pairs) > _MOST_FIELDS:
        return {}
    try:
        return dict(states[0].pairs)
    except TypeError:
        return {}


def _index(tree: Walk, folder: Path, spans: bool) -> _Index:
    """Where `storage_data` says that each chunk and each object lies."""
    found: dict[tuple[str, tuple[int, ...] | None], _Found] = {}
    files: dict[str, Path] = {}
    for index, info in pairs_of(_fields(tree.value).get("storage_data")) or ():
        names, fields = _fields(index), _fields(info)
        key, at = names.get("fqn"), names.get("offset")
        begin = None if at is None else _size(at)
        place = _place(fields, folder, files)
        if place is None or not isinstance(key, str) or (begin is None and at is not None):
            continue
        if spans:
            where = _value_span(info, "offset"), _value_span(info, "length")
            place = place._replace(offset_span=where[0], length_span=where[1])
        # As in Python's own dictionary, the last of equal keys counts.
        found[key, begin] = _Found(place, _size_span(at) if spans else None)
    return found


def _place(fields: Mapping[str, Any], folder: Path, files: dict[str, Path]) -> Place | None:
    """What the fields of a `_StorageInfo` say; `files` are those that were named before."""
    name, offset, length = fields.get("relative_path"), fields.get("offset"), fields.get("length")
    if not isinstance(name, str) or not isinstance(offset, int) or not isinstance(length, int):
        return None
    if not (_is_count(offset) and _is_count(length)):
        return None
    if name not in files:
        check_inside(name)
        files[name] = folder / name
    transforms = fields.get("transform_descriptors")
    return Place(files[name], offset, length, () if transforms is None else _words(transforms))


def _tensor(key: str, node: Any, index: _Index, spans: bool, most: int) -> ChunkedTensor:
    fields = _fields(node)
    shape, dtype = _size(fields.get("size")), _dtype(fields.get("properties"))
    if shape is None:
        raise BrokenFile(f"tensor {key!r}: its size is malformed", _AGAIN)
    if dtype is None:
        raise BrokenFile(f"tensor {key!r}: its dtype is not recorded", _AGAIN)
    listed = fields.get("chunks")
    listed = listed if isinstance(listed, list) else []
    if len(listed) > most:
        raise RefusedFile(
            "its pickle refers to the same parts over and over, more often than any checkpoint does",
            "do not load it elsewhere either",
        )
    chunks = tuple(_chunk(key, one, index, spans) for one in listed)
    return ChunkedTensor(key, dtype, shape, chunks, _size_span(fields.get("size")) if spans else None)


def _chunk(key: str, node: Any, index: _Index, spans: bool) -> Chunk:
    fields = _fields(node)
    begin, shape = _size(fields.get("offsets")), _size(fields.get("sizes"))
    if begin is None or shape is None or len(begin) != len(shape):
        raise BrokenFile(f"tensor {key!r}: its pieces are malformed", _AGAIN)
    found = index.get((key, begin))
    place, index_span = (None, None) if found is None else found
    if not spans:
        return Chunk(begin, shape, place)
    return Chunk(begin, shape, place, _size_span(fields["offsets"]), _size_span(fields["sizes"]), index_span)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _LARGEST


def _size(node: Any) -> tuple[int, ...] | None:
    """The numbers of a `torch.Size`, or of a plain tuple; None for all else."""
    inner = _tuple_in(node)
    try:
        numbers = inner.items if inner is not None else plain(node)
    except TypeError:
        return None
    if not isinstance(numbers, (tuple, list)) or len(numbers) > 64:
        return None
    # A loop of its own: sizes are most of what is read.
    for number in numbers:
        if type(number) is not int or not 0 <= number < _LARGEST:
            return None
    return tuple(numbers)


def _tuple_in(node: Any) -> Tuple | None:
    """The tuple that a `torch.Size` is made of."""
    if type(node) is not Call or type(node.function) is not Global or node.function.qualified != "torch.Size":
        return None
    items = node.args.items if type(node.args) is Tuple else ()
    return items[0] if len(items) == 1 and type(items[0]) is Tuple else None


def _size_span(node: Any) -> Span | None:
    """Where the tuple in a `torch.Size` is pushed; an empty one is a byte of its own, right before its call's tuple."""
    inner = _tuple_in(node)
    if inner is None:
        return None
    start = node.args.start
    if not inner.items:
        return Span(start, start + 1)
    # Pushed from the memo, it was built elsewhere, and others may mean it too.
    return Span(inner.start, inner.end)


def _value_span(node: Any, name: str) -> Span | None:
    """Where the pickle pushes a field's value, which is no container."""
    state = node.states[0]
    at = 0
    for _, end, places in state.places:
        for where in range(1, len(places), 2):
            if state.pairs[at][0] == name:
                following = places[where + 1] if where + 1 < len(places) else end - 1
                return Span(places[where], following)
            at += 1
    return None


def _words(node: Any) -> tuple[str, ...]:
    items = node.items if isinstance(node, Tuple) else node if isinstance(node, list) else ["?"]
    return tuple(item if isinstance(item, str) else "?" for item in items[:_MOST_FIELDS])


def _dtype(node: Any) -> str | None:
    """The dtype in `TensorProperties`, whose `__getstate__` is a tuple. Older versions store a dictionary."""
    dtype = _fields(node).get("dtype")
    if dtype is None and isinstance(node, Call):
        stored = [*arguments(node)[:_MOST_FIELDS]]
        stored += [item for state in node.states if isinstance(state, Tuple) for item in state.items[:_MOST_FIELDS]]
        dtype = next((item for item in stored if isinstance(item, Global) and item.name in ITEMSIZE), None)
    return dtype.name if isinstance(dtype, Global) and dtype.name in ITEMSIZE else None
