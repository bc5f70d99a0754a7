"""The `.metadata` of a distributed checkpoint: where in its pickle each size and place stands, and how it is changed.

PyTorch's `torch/distributed/checkpoint/metadata.py` has the classes. A size is `torch.Size` called with a tuple. A pickler
that meets the same object again fetches it from its memo, so that one size may stand for several tensors, or for a
chunk's place and the key under which its bytes are found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from convinspect.errors import BrokenFile, CannotWrite
from convinspect.formats.pickle.machine import Walk
from convinspect.formats.pickle.opcodes import instructions
from convinspect.formats.pickle.values import Call, Dict, Tuple
from convinspect.formats.torch.tensors import function_name, plain
from convinspect.records import Span
from convinspect.writing import pickle as pickle_edit
from convinspect.writing.boxes import Box, Shape
from convinspect.writing.rewrite import number_opcode, tuple_opcodes

PACKAGE = "torch.distributed.checkpoint.metadata."
_AGAIN = "save it again"


class Item(NamedTuple):
    """What lies in a file of the checkpoint: a chunk of a tensor, or an object.

    Attributes:
        key: Of the tensor or object.
        begin: Where in its tensor the chunk begins; None for an object.
        name: Of the file, relative to the folder.
        start: Its offset in that file in bytes.
        length: Its bytes.
        packed: Its bytes are compressed, or else transformed.
        index: The record of its key and place, in the pickle.
        info: The record of its file and offset.
    """

    key: str
    begin: Shape | None
    name: str
    start: int
    length: int
    packed: bool
    index: Call
    info: Call


class Listed(NamedTuple):
    """A tensor as `.metadata` lists it.

    Attributes:
        shape: Its whole shape.
        chunks: Its parts.
        node: Its record in the pickle.
    """

    shape: Shape
    chunks: tuple[Box, ...]
    node: Call


class Change(NamedTuple):
    """A tensor's new shape, and where its chunks lie then, by where they began."""

    shape: Shape
    boxes: Mapping[Shape, Box]


class _Field(NamedTuple):
    """A value that is set on an object, and the offset where the pickle pushes it."""

    value: Any
    start: int


def fields_of(node: Any) -> dict[str, _Field]:
    """An object's attributes, each with where its value is pushed; {} for what is no object with attributes."""
    found: dict[str, _Field] = {}
    for state in node.states if isinstance(node, Call) else ():
        if isinstance(state, Dict):
            found |= {key: field for key, _, field in placed_items(state) if isinstance(key, str)}
    return found


def placed_items(node: Any) -> Iterator[tuple[Any, int, _Field]]:
    """A dictionary's keys, each with where it is pushed, and their values.

    Raises:
        BrokenFile: It is none.
    """
    if not isinstance(node, (Dict, Call)):
        raise _unknown("a dictionary is missing")
    places = [place for _, _, batch in node.places for place in batch]
    if len(places) != 2 * len(node.pairs):
        raise _unknown("it fills a dictionary in another way")
    for at, (key, value) in enumerate(node.pairs):
        yield key, places[2 * at], _Field(value, places[2 * at + 1])


def listed_tensors(tree: Walk) -> dict[str, Listed]:
    """The tensors that a `.metadata` lists, by key.

    Raises:
        BrokenFile: It does so in an unknown way.
    """
    every = fields_of(tree.value).get("state_dict_metadata")
    found = {}
    for key, _, field in placed_items(None if every is None else every.value):
        node = field.value
        if isinstance(key, str) and function_name(node) == f"{PACKAGE}TensorStorageMetadata":
            fields = fields_of(node)
            chunks = fields["chunks"].value if "chunks" in fields else None
            if not isinstance(chunks, list):
                raise _unknown(f"tensor {key!r} has no list of chunks")
            boxes = (Box(_numbers(fields_of(one), "offsets"), _numbers(fields_of(one), "sizes")) for one in chunks)
            found[key] = Listed(_numbers(fields, "size"), tuple(boxes), node)
    return found


def items_of(tree: Walk) -> list[Item]:
    """What `.metadata` says lies in the files, in its order.

    Raises:
        BrokenFile: It says so in an unknown way.
    """
    storage = fields_of(tree.value).get("storage_data")
    if storage is None:
        raise _unknown("it does not say what lies where")
    return [
        _item(index, field.value) for index, field in ((key, field) for key, _, field in placed_items(storage.value))
    ]


def _item(index: Any, info: Any) -> Item:
    names, places = fields_of(index), fields_of(info)
    try:
        key, name = names["fqn"].value, places["relative_path"].value
        start, length = places["offset"].value, places["length"].value
    except KeyError as error:
        raise _unknown(f"{error.args[0]!r} of what lies in its files is missing") from None
    begin = _numbers(names, "offset") if "offset" in names and names["offset"].value is not None else None
    whole = type(start) is int and type(length) is int and 0 <= start and 0 <= length
    if not (isinstance(key, str) and isinstance(name, str) and whole):
        raise _unknown("where something lies is no text and two numbers")
    packed = places["transform_descriptors"].value if "transform_descriptors" in places else None
    return Item(key, begin, name, start, length, bool(packed), index, info)


def _numbers(fields: Mapping[str, _Field], name: str) -> Shape:
    try:
        numbers = plain(fields[name].value)
    except (KeyError, TypeError):
        numbers = None
    if not isinstance(numbers, tuple) or not all(type(one) is int and 0 <= one < 2**63 for one in numbers):
        raise _unknown(f"{name!r} is no size")
    return numbers


def _unknown(what: str) -> BrokenFile:
    return BrokenFile(f"its .metadata is in an unknown form: {what}", _AGAIN)


# --- changes


def edited(
    data: bytes,
    tree: Walk,
    changes: Mapping[str, Change],
    moved: Mapping[int, tuple[int, int]],
    names: Mapping[str, str],
) -> bytes:
    """The pickle with tensors' sizes, places of chunks, and keys changed.

    Args:
        data: The pickle.
        tree: The same, walked.
        changes: New shapes by key.
        moved: New offset and length of what lies elsewhere in its file now, or is longer, by its number in `items_of`.
        names: New keys by key, of tensors and of objects.

    Raises:
        CannotWrite: It is written in a way that cannot be edited safely.
        BrokenFile: It is in an unknown form.
    """
    items = items_of(tree)
    spans = [*_sizes(data, _uses(tree, changes, items))] if changes else []
    for number, places in moved.items():
        info = fields_of(items[number].info)
        for name, old, new in zip(("offset", "length"), items[number][3:5], places, strict=True):
            if old != new:
                at = info[name].start
                spans.append((Span(at, _end_of_number(data, at)), number_opcode(new)))
    # One record may stand for several items, and be changed alike for each.
    every = {span.start: (span, new) for span, new in spans}
    keys = dict(_renamed(data, tree, items, names)) if names else {}
    return pickle_edit.edited(data, [every[start] for start in sorted(every)], keys)


_Use = tuple[_Field, Shape, Shape]
"""Where a size is pushed, the size, and the new one."""


def _uses(tree: Walk, changes: Mapping[str, Change], items: Iterable[Item]) -> Iterator[_Use]:
    """Every size in the pickle; those that stay are among them, since one object may be one that stays and one that
    changes.
    """
    for key, (shape, _, node) in listed_tensors(tree).items():
        change = changes.get(key)
        fields = fields_of(node)
        yield fields["size"], shape, shape if change is None else change.shape
        for chunk in fields["chunks"].value:
            places = fields_of(chunk)
            old = Box(_numbers(places, "offsets"), _numbers(places, "sizes"))
            new = old if change is None else change.boxes[old.begin]
            yield places["offsets"], old.begin, new.begin
            yield places["sizes"], old.shape, new.shape
    for item in items:
        change = changes.get(item.key)
        if item.begin is not None:
            new_begin = item.begin if change is None else change.boxes[item.begin].begin
            yield fields_of(item.index)["offset"], item.begin, new_begin


def _sizes(data: bytes, uses: Iterable[_Use]) -> Iterator[tuple[Span, bytes]]:
    """The spans to replace.

    Where one object stands for sizes of which some stay, or change otherwise, those that fetch it from the memo are
    written out instead, and what they had fetched stays as its own place needs it.
    """
    shared: dict[int, list[_Use]] = {}
    own: dict[int, tuple[Span, Shape, Shape]] = {}
    for use in uses:
        field, old, new = use
        span = _span(field.value)
        if span is not None and span.start >= field.start:
            own[span.start] = (span, old, new)
        else:
            shared.setdefault(-1 if span is None else span.start, []).append(use)
    for start, (span, old, new) in own.items():
        if old != new:
            yield span, tuple_opcodes(new)
        for field, _, wanted in shared.pop(start, ()):
            if wanted != new and data[field.start : field.start + 1] not in _FETCHES:
                raise _odd()
            if wanted != new:
                yield Span(field.start, _end_of_number(data, field.start)), _SIZE + tuple_opcodes(wanted) + b"\x85R"
    if any(old != new for rest in shared.values() for _, old, new in rest):
        raise _odd()


_FETCHES = (b"h", b"j")
_SIZE = b"ctorch\nSize\n"
"""The instruction that pushes the class, in every protocol, without the memo."""
_LENGTHS = {"K": 2, "M": 3, "J": 5, "h": 2, "j": 5}


def _end_of_number(data: bytes, at: int) -> int:
    """The end of the instruction that pushes a number, or fetches from the memo."""
    code = chr(data[at])
    if code == "\x8a":
        return at + 2 + data[at + 1]
    if code not in _LENGTHS:
        raise _odd()
    return at + _LENGTHS[code]


def _span(node: Any) -> Span | None:
    """Where a size's tuple is pushed; None for an empty one, or what is no `torch.Size` of a tuple."""
    args = node.args.items if isinstance(node, Call) and isinstance(node.args, Tuple) else ()
    inner = args[0] if len(args) == 1 else node
    return Span(inner.start, inner.end) if isinstance(inner, Tuple) and inner.items else None


def _odd() -> CannotWrite:
    return CannotWrite("its .metadata writes sizes in a way that cannot be edited safely", _AGAIN)


# --- names


def _renamed(
    data: bytes, tree: Walk, items: Iterable[Item], names: Mapping[str, str]
) -> Iterator[tuple[int, str]]:
    """Offset where each changed key is pushed, or the part of a path that changes with it, and the new text."""
    fields = fields_of(tree.value)
    for key, at, _ in placed_items(fields["state_dict_metadata"].value):
        if key in names:
            yield at, names[key]
    for item in items:
        if item.key in names:
            yield fields_of(item.index)["fqn"].start, names[item.key]
    planner = fields.get("planner_data")
    if planner is None or not isinstance(planner.value, Dict):
        return
    for key, at, field in placed_items(planner.value):
        if key in names:
            yield at, names[key]
            yield from _path(data, key, field, names[key])


def _path(data: bytes, key: str, field: _Field, new: str) -> Iterator[tuple[int, str]]:
    """The one part of a path, such as ("model", "conv.weight"), that changes with its key."""
    parts = plain(field.value)
    if not isinstance(parts, tuple) or ".".join(map(str, parts)) != key or not field.value.start >= field.start:
        raise _odd()
    for at in reversed(range(len(parts))):
        front = "".join(f"{part}." for part in parts[:at])
        back = "".join(f".{part}" for part in parts[at + 1 :])
        middle = new[len(front) : len(new) - len(back)]
        if isinstance(parts[at], str) and middle and new == front + middle + back:
            yield _pushes(data, field.value)[at], middle
            return
    raise CannotWrite(f"{key!r} lies in a dictionary of its own, and another name would take it elsewhere")


def _pushes(data: bytes, node: Tuple) -> list[int]:
    """Where each item of a tuple of texts and numbers is pushed."""
    codes = [(code, node.start + at) for code, _, at in instructions(data[node.start : node.end] + b".")]
    places = [at for code, at in codes if code not in "(\x94\x95qr\x85\x86\x87t."]
    if len(places) != len(node.items):
        raise _odd()
    return places
