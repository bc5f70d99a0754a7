"""Edit the `.metadata` of a distributed checkpoint: sizes, places of chunks, offsets in files, and keys.

The classes in it are those of PyTorch's `torch/distributed/checkpoint/metadata.py`. A size is `torch.Size` called with
a tuple. A pickler that meets the same object again fetches it from its memo, so that one size may stand for several
tensors, or for a chunk's place and the key under which its bytes are found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from convinspect.errors import BrokenFile, CannotWrite
from convinspect.formats.pickle.machine import Walk
from convinspect.formats.pickle.opcodes import instructions
from convinspect.formats.pickle.values import Call, Dict, Tuple
from convinspect.formats.torch.distributed_pieces import PACKAGE
from convinspect.formats.torch.nodes import function_name, plain
from convinspect.records import Span
from convinspect.writing import pickle as pickle_edit
from convinspect.writing.distributed.boxes import Box, Shape
from convinspect.writing.pickle import Splices
from convinspect.writing.torch_save import number_opcode, tuple_opcodes

_AGAIN = "save it again"


class Change(NamedTuple):
    """A tensor's new shape, and where its chunks lie then, by where they began."""

    shape: Shape
    boxes: Mapping[Shape, Box]


class Moved(NamedTuple):
    """What lies elsewhere in its file now, or is longer: its new offset and length."""

    offset: int
    length: int


class Edits(NamedTuple):
    """All changes of a `.metadata`.

    Attributes:
        shapes: By the tensor's key.
        moved: By the name of the file, and the old offset in it.
        names: New keys by key, of tensors and of objects.
    """

    shapes: Mapping[str, Change]
    moved: Mapping[tuple[str, int], Moved]
    names: Mapping[str, str]


class _Field(NamedTuple):
    """A value that is set on an object or in a dictionary, and the offset where the pickle pushes it."""

    value: Any
    start: int


def edited(data: bytes, tree: Walk, edits: Edits) -> bytes:
    """The pickle with these changes and no others.

    Args:
        data: The pickle, of which `formats.torch.distributed_pieces.pieces_in` tells what it lists.
        tree: The same, walked.
        edits: What to change.

    Raises:
        CannotWrite: It is written in a way that cannot be edited safely.
        BrokenFile: It is in an unknown form.
    """
    top = _fields(tree.value)
    tensors = [item for item in _items(top, "state_dict_metadata") if _is_tensor(item[2].value)]
    places = list(_items(top, "storage_data"))
    spans = dict(_sizes(data, _uses(tensors, places, edits.shapes))) if edits.shapes else {}
    spans |= _offsets(data, places, edits.moved) if edits.moved else {}
    keys = dict(_renamed(data, top, places, edits.names)) if edits.names else {}
    return pickle_edit.edited(data, [(Span(start, end), new) for start, (end, new) in sorted(spans.items())], keys)


# --- what stands where

_Item = tuple[Any, int, _Field]
"""A dictionary's key, where it is pushed, and its value."""


def _items(fields: Mapping[str, _Field], name: str) -> Iterator[_Item]:
    if name not in fields:
        raise _unknown(f"{name} is missing")
    return _placed(fields[name].value)


def _placed(node: Any) -> Iterator[_Item]:
    if not isinstance(node, Dict):
        raise _unknown("a dictionary is missing")
    places = [place for _, _, batch in node.places for place in batch]
    if len(places) != 2 * len(node.pairs):
        raise _unknown("it fills a dictionary in another way")
    for at, (key, value) in enumerate(node.pairs):
        yield key, places[2 * at], _Field(value, places[2 * at + 1])


def _fields(node: Any) -> dict[str, _Field]:
    """The attributes that are set on an object."""
    states = [state for state in node.states if isinstance(state, Dict)] if isinstance(node, Call) else []
    return {key: field for state in states for key, _, field in _placed(state) if isinstance(key, str)}


def _is_tensor(node: Any) -> bool:
    return function_name(node) == f"{PACKAGE}TensorStorageMetadata"


def _numbers(field: _Field) -> Shape:
    numbers = plain(field.value)
    if not isinstance(numbers, tuple):
        raise _unknown("a size is none")
    return numbers


def _unknown(what: str) -> BrokenFile:
    return BrokenFile(f"its .metadata is in an unknown form: {what}", _AGAIN)


def _odd() -> CannotWrite:
    return CannotWrite("its .metadata is written in a way that cannot be edited safely", _AGAIN)


# --- sizes

_Use = tuple[_Field, Shape, Shape]
"""Where a size is pushed, the size, and the new one."""
_Splice = tuple[int, tuple[int, bytes]]
"""Where instructions begin and end, and the new ones."""


def _uses(tensors: Iterable[_Item], places: Iterable[_Item], changes: Mapping[str, Change]) -> Iterator[_Use]:
    """Every size in the pickle; those that stay are among them, since one object may stand for one that stays and one
    that changes.
    """
    for key, _, field in tensors:
        change, fields = changes.get(key), _fields(field.value)
        old = _numbers(fields["size"])
        yield fields["size"], old, old if change is None else change.shape
        for chunk in fields["chunks"].value:
            of_chunk = _fields(chunk)
            box = Box(_numbers(of_chunk["offsets"]), _numbers(of_chunk["sizes"]))
            new = box if change is None else change.boxes[box.begin]
            yield of_chunk["offsets"], box.begin, new.begin
            yield of_chunk["sizes"], box.shape, new.shape
    for index, _, _ in places:
        of_index = _fields(index)
        if "offset" in of_index and of_index["offset"].value is not None:
            begin, change = _numbers(of_index["offset"]), changes.get(of_index["fqn"].value)
            yield of_index["offset"], begin, begin if change is None else change.boxes[begin].begin


def _sizes(data: bytes, uses: Iterable[_Use]) -> Iterator[_Splice]:
    """The tuples to replace.

    Where one object stands for sizes of which some stay, or change otherwise, those that fetch it from the memo are
    written out.
    """
    own: dict[int, tuple[Span, Shape, Shape]] = {}
    fetched: dict[int, list[_Use]] = {}
    for field, old, new in uses:
        span = _tuple_span(field.value)
        if span is not None and span.start >= field.start:
            own[span.start] = (span, old, new)
        else:
            fetched.setdefault(-1 if span is None else span.start, []).append((field, old, new))
    for start, (span, old, new) in own.items():
        if old != new:
            yield start, (span.end, tuple_opcodes(new))
        for field, _, wanted in fetched.pop(start, ()):
            if wanted != new:
                if data[field.start] not in _FETCHES:
                    raise _odd()
                yield field.start, (_end_of(data, field.start), _SIZE + tuple_opcodes(wanted) + b"\x85R")
    if any(old != new for rest in fetched.values() for _, old, new in rest):
        raise _odd()


_FETCHES = b"hj"
_SIZE = b"ctorch\nSize\n"
"""The instruction that pushes the class, in every protocol, without the memo."""
_LENGTHS = {"K": 2, "M": 3, "J": 5, "h": 2, "j": 5}
"""Bytes of an instruction with its argument."""


def _end_of(data: bytes, at: int) -> int:
    """The end of the instruction that pushes a number, or fetches from the memo."""
    code = chr(data[at])
    if code == "\x8a":
        return at + 2 + data[at + 1]
    if code not in _LENGTHS:
        raise _odd()
    return at + _LENGTHS[code]


def _tuple_span(node: Any) -> Span | None:
    """Where a size's tuple is pushed; None for an empty one, or what is no `torch.Size` of a tuple."""
    args = node.args.items if isinstance(node, Call) and isinstance(node.args, Tuple) else ()
    inner = args[0] if len(args) == 1 else node
    return Span(inner.start, inner.end) if isinstance(inner, Tuple) and inner.items else None


# --- places in files


def _offsets(data: bytes, places: Iterable[_Item], moved: Mapping[tuple[str, int], Moved]) -> Splices:
    splices: Splices = {}
    for _, _, info in places:
        fields = _fields(info.value)
        offset, length = fields["offset"], fields["length"]
        new = moved.get((fields["relative_path"].value, offset.value))
        for field, number in zip((offset, length), new or (), strict=False):
            if field.value != number:
                splices[field.start] = (_end_of(data, field.start), number_opcode(number))
    return splices


# --- names


def _renamed(
    data: bytes, top: Mapping[str, _Field], places: Iterable[_Item], names: Mapping[str, str]
) -> Iterator[tuple[int, str]]:
    """Offset where each changed key is pushed, or the part of a path that changes with it, and the new text."""
    for key, at, _ in _items(top, "state_dict_metadata"):
        if key in names:
            yield at, names[key]
    for index, _, _ in places:
        fqn = _fields(index)["fqn"]
        if fqn.value in names:
            yield fqn.start, names[fqn.value]
    if "planner_data" not in top or not isinstance(top["planner_data"].value, Dict):
        return
    for key, at, field in _items(top, "planner_data"):
        if key in names:
            yield at, names[key]
            yield _part_of_path(data, key, field, names[key])


def _part_of_path(data: bytes, key: str, field: _Field, new: str) -> tuple[int, str]:
    """The one part of a path, such as ("model", "conv.weight"), that changes with its key."""
    parts = plain(field.value)
    if not isinstance(parts, tuple) or ".".join(map(str, parts)) != key or field.value.start < field.start:
        raise _odd()
    for at in reversed(range(len(parts))):
        front = "".join(f"{part}." for part in parts[:at])
        back = "".join(f".{part}" for part in parts[at + 1 :])
        middle = new[len(front) : len(new) - len(back)]
        if isinstance(parts[at], str) and middle and new == front + middle + back:
            return _pushes(data, field.value)[at], middle
    raise CannotWrite(f"{key!r} lies in a dictionary of its own, and another name would take it elsewhere")


def _pushes(data: bytes, node: Tuple) -> list[int]:
    """Where each item of a tuple of texts and numbers is pushed."""
    codes = [(code, node.start + at) for code, _, at in instructions(data[node.start : node.end] + b".")]
    places = [at for code, at in codes if code not in "(\x94\x95qr\x85\x86\x87t."]
    if len(places) != len(node.items):
        raise _odd()
    return places
