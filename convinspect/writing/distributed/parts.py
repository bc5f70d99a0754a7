"""What of a distributed checkpoint changes with an edit: which chunks and objects in which file, and which keys."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Container, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypeAlias

from convinspect.errors import BrokenFile
from convinspect.formats.files import File
from convinspect.formats.torch.distributed_pieces import Chunk, ChunkedTensor, Pieces, Place
from convinspect.formats.torch.distributed_roots import optimizer_of
from convinspect.writing.distributed.items import AGAIN, listed_names


class Part(NamedTuple):
    """What changes in a file: a chunk of a tensor, or without one an object that lists names."""

    key: str
    place: Place
    tensor: ChunkedTensor | None = None
    chunk: Chunk | None = None


def parts_by_file(pieces: Pieces, changing: Container[str], lists: Iterable[Part]) -> dict[Path, list[Part]]:
    """What changes, by file, in the order of the places.

    Args:
        pieces: All that the checkpoint lists.
        changing: Keys of the tensors that get another shape.
        lists: Objects that list parameters' names.

    Raises:
        BrokenFile: A part shares bytes with something else.
    """
    by_file: dict[Path, dict[int, Part]] = {}
    chunks = (
        Part(tensor.key, chunk.place, tensor, chunk)
        for tensor in pieces.tensors
        if tensor.key in changing
        for chunk in tensor.chunks
        if chunk.place is not None
    )
    for part in chain(chunks, lists):
        by_file.setdefault(part.place.file, {})[part.place.offset] = part
    ordered = {path: [part for _, part in sorted(parts.items())] for path, parts in by_file.items()}
    for key, begin, place, *_ in owners(pieces):
        parts = ordered.get(place.file, [])
        after = bisect_right(parts, place.offset, key=lambda part: part.place.offset)
        for part in parts[max(after - 1, 0) : after + 1]:
            other, other_begin = part.place, None if part.chunk is None else part.chunk.begin
            apart = place.offset + place.length <= other.offset or other.offset + other.length <= place.offset
            if not apart and (part.key, other_begin) != (key, begin):
                raise BrokenFile(f".metadata says that {key!r} and {part.key!r} lie in the same bytes", AGAIN)
    return ordered


Owner: TypeAlias = tuple[str, tuple[int, ...] | None, Place, ChunkedTensor | None, Chunk | None]


def owners(pieces: Pieces) -> Iterator[Owner]:
    """All that lies in the files: its key, where it begins in its tensor, and its place."""
    for tensor in pieces.tensors:
        for chunk in tensor.chunks:
            if chunk.place is not None:
                yield tensor.key, chunk.begin, chunk.place, tensor, chunk
    for one in pieces.objects:
        if one.place is not None:
            yield one.key, None, one.place, None, None


def names_in_optimizers(pieces: Pieces, parameters: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """New keys of what optimizers keep by parameters' names."""
    every = (*(one.key for one in pieces.tensors), *(one.key for one in pieces.objects))
    for key in every if parameters else ():
        front = optimizer_of(key)
        below = key[len(front) + 1 :] if front else ""
        part, _, rest = below.partition(".")
        name = rest.rpartition(".")[0]
        while name and name not in parameters:
            name = name.rpartition(".")[0]
        if name:
            yield key, f"{front}.{part}.{parameters[name]}{rest[len(name) :]}"


_LIST_OF_NAMES = re.compile(r"param_groups\.\d+\.(params|param_names)")


def lists_of_names(pieces: Pieces, parameters: Mapping[str, str]) -> Iterator[Part]:
    """The objects in which groups of optimizers list some of these names."""
    for one in pieces.objects if parameters else ():
        front = optimizer_of(one.key)
        if one.place is None or not front or not _LIST_OF_NAMES.fullmatch(one.key[len(front) + 1 :]):
            continue
        with File(one.place.file, one.place.offset, one.place.length) as file:
            if not parameters.keys().isdisjoint(listed_names(file, one.key)):
                yield Part(one.key, one.place)


def names_of_others(pieces: Pieces, others: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """New keys of objects; a dictionary that is no tensor lies there in parts, under its own key and theirs."""
    for one in pieces.objects:
        for old, new in others.items():
            if one.key == old or one.key.startswith(f"{old}."):
                yield one.key, new + one.key[len(old) :]
