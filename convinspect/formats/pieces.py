"""Shards of tensors: safetensors files of which each holds a part of each tensor, as one process had it.

`torch.distributed.checkpoint.HuggingFaceStorageWriter(save_distributed=True)` writes them. Where in the whole a part
begins stands in the metadata, `DCP_SHARDING_INFO`: JSON `{name: {"saved_offsets": [0, …]}}`; shapes are the parts' own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import add
from pathlib import Path
from typing import NamedTuple

from convinspect.errors import BrokenFile
from convinspect.formats.sources import read_each
from convinspect.records import Container, Contents, Problem, Root, Tensor, Version, contiguous
from convinspect.text import plural

SHARDING = "DCP_SHARDING_INFO"
OFFSETS = "saved_offsets"
LAYOUT = "pieces"
"""Layout of a tensor that is put together from `parts`, in the order of where they begin."""

_SAVE_ALL = "save it again with save_distributed=True, or give the writer the full state_dict"
_NAMED = re.compile(r"shard-(\d+)-.*\.safetensors")
_MAY_BE_FIRST = (
    f"its {SHARDING} has every tensor begin at 0, as a save by one process and the first shard of several have it:"
    " if several processes wrote it, the shapes are those of parts"
)
_MOST_COMPARED = 300
"""Of a tensor with more pieces that are cut along several dimensions, only the sum of their sizes is compared."""

Where = tuple[int, ...]


class Box(NamedTuple):
    """Where in a tensor a part of it begins, and the part's shape."""

    begin: Where
    shape: tuple[int, ...]

    @property
    def end(self) -> Where:
        """The first index beyond it, in each dimension."""
        return tuple(map(add, self.begin, self.shape))

    @property
    def numel(self) -> int:
        """Elements in it."""
        return math.prod(self.shape)


class Piece(NamedTuple):
    """A part of a tensor, and where in the whole it begins."""

    begin: Where
    tensor: Tensor

    @property
    def box(self) -> Box:
        """The same without what it holds."""
        return Box(self.begin, self.tensor.shape)


def names_of_pieces(names: Sequence[str]) -> tuple[str, ...]:
    """Those of a folder's files that are named as shards of tensors."""
    return tuple(name for name in names if _NAMED.fullmatch(name))


def is_piece(contents: Contents) -> bool:
    """Whether a single file says where in others its tensors begin."""
    return SHARDING in contents.metadata


def of_an_index(contents: Contents) -> Contents:
    """A shard of an index, whose tensors must be whole: with a problem where they begin within others.

    Raises:
        BrokenFile: The metadata are malformed.
    """
    if not is_piece(contents) or not any(map(any, _begins(contents).values())):
        return contents
    problem = Problem("it holds parts of tensors, where the index promises whole ones", _SAVE_ALL)
    return contents._replace(problems=(*contents.problems, problem))


def lost(metadata: Sequence[Mapping[str, str]], told: str) -> list[Problem]:
    """What it means that the shards of an index hold other bytes than it says (`told`): where PyTorch's distributed
    writer made them, processes wrote their parts into one file, each over the others'.
    """
    if not any(SHARDING in one for one in metadata):
        return []
    return [Problem(f"{told}: parts of tensors are missing", _SAVE_ALL)]


def begins_in(info: str) -> dict[str, Where] | None:
    """Where each tensor of a file begins, by its metadata; zeros at the end, which follow the rank, are left out."""
    import json

    try:
        begins = {str(key): list(entry[OFFSETS]) for key, entry in json.loads(info).items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    for begin in begins.values():
        while begin and begin[-1] == 0:
            begin.pop()
    return {key: tuple(begin) for key, begin in begins.items()}


def alone(contents: Contents) -> Contents:
    """One shard that was opened by itself: with a problem, unless nothing shows that others belong to it."""
    begins = _begins(contents)
    others = names_of_pieces([one.name for one in contents.path.parent.iterdir()])
    if not any(map(any, begins.values())) and len(others) < 2:
        # The first shard of several looks so too, where its siblings are not beside it.
        return contents._replace(notes=(*contents.notes, _MAY_BE_FIRST))
    problem = Problem("it holds parts of tensors, and the shapes are the parts' own", "open the folder with all shards")
    return contents._replace(problems=(*contents.problems, problem))


def _begins(contents: Contents) -> dict[str, Where]:
    """Where each tensor begins.

    Raises:
        BrokenFile: The metadata are malformed.
    """
    import json

    try:
        info = json.loads(contents.metadata[SHARDING])
        begins = {str(key): tuple(entry[OFFSETS]) for key, entry in info.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BrokenFile(f"its {SHARDING} is malformed", "save it again", contents.path) from None
    if not all(type(at) is int and 0 <= at < 2**63 for begin in begins.values() for at in begin):
        raise BrokenFile(f"its {SHARDING} is malformed", "save it again", contents.path)
    return begins


def read_pieces(folder: Path, names: Sequence[str], read_file: Callable[[Path], Contents]) -> Contents:
    """The whole tensors of a folder of shards.

    Raises:
        ConvInspectError: A shard cannot be read, or its metadata are malformed.
    """
    pieces: dict[str, list[Piece]] = {}
    versions: dict[Path, Version] = {}
    problems: list[Problem] = _gaps(names)
    metadata: dict[str, str] = {}
    size = 0
    reads = read_each([folder / name for name in names], read_file, [0] * len(names))
    for name, read in zip(names, reads, strict=True):
        contents = read()
        begins = _begins(contents) if is_piece(contents) else {}
        size, versions = size + contents.nbytes_on_disk, {**versions, **contents.versions}
        metadata |= contents.metadata
        problems += [Problem(f"shard {name}: {problem.what}", problem.remedy) for problem in contents.problems]
        for tensor in contents.roots[0].tensors:
            begin = begins.get(tensor.key, (0,) * len(tensor.shape))
            if len(begin) != len(tensor.shape):
                problems.append(Problem(f"shard {name}: {tensor.key!r} begins at {list(begin)}, shape {tensor.shape}"))
                continue
            pieces.setdefault(tensor.key, []).append(Piece(begin, tensor))
    metadata.pop(SHARDING, None)
    tensors = [_joined(found) for found in pieces.values()]
    for found in pieces.values():
        problems += _faults(found)
    note = f"put together from the pieces in {plural(len(names), 'shard')}, as {SHARDING} says"
    root = Root("", "model", tuple(tensors))
    return Contents(
        folder, Container.SAFETENSORS, (root,), size, tuple(problems), (note,), metadata, (), versions, len(names)
    )


def _gaps(names: Sequence[str]) -> list[Problem]:
    """A problem for each number below the largest that no shard has."""
    there = {int(match[1]) for name in names if (match := _NAMED.fullmatch(name))}
    lost = [number for number in range(1, max(there, default=0)) if number not in there] if max(there) < 10**6 else []
    return [Problem(f"shard {number} is not there", "get it too") for number in lost[:100]]


def _joined(pieces: Sequence[Piece]) -> Tensor:
    """The whole tensor."""
    if len(pieces) == 1 and not any(pieces[0].begin):
        return pieces[0].tensor
    first = pieces[0].tensor
    shape = _whole(pieces)
    in_order = sorted(pieces, key=lambda piece: piece.begin)
    parts = tuple(piece.tensor for piece in in_order if len(piece.begin) == len(shape))
    return Tensor(first.key, first.dtype, shape, contiguous(shape), layout=LAYOUT, parts=parts)


def _whole(pieces: Sequence[Piece]) -> tuple[int, ...]:
    dims = min(len(piece.begin) for piece in pieces)
    return tuple(max(piece.box.end[axis] for piece in pieces) for axis in range(dims))


def _faults(pieces: Sequence[Piece]) -> list[Problem]:
    """What is wrong with the pieces of one tensor: other dtypes or dimensions, overlaps, holes."""
    key = pieces[0].tensor.key
    if len({(piece.tensor.dtype, len(piece.begin)) for piece in pieces}) > 1:
        return [Problem(f"pieces of {key!r} differ in dtype or number of dimensions", "save it again")]
    wrong = no_whole(key, [piece.box for piece in pieces], _whole(pieces), "get the other shards too")
    return [] if wrong is None else [wrong]


def no_whole(key: str, boxes: Sequence[Box], shape: tuple[int, ...], gaps: str = "save it again") -> Problem | None:
    """Why boxes do not make a tensor of this shape, each number once; None where they do.

    Args:
        key: The tensor's.
        boxes: Of as many dimensions.
        shape: The tensor's.
        gaps: What to do about numbers that are in no box.
    """
    filled = sorted(box for box in boxes if box.numel)
    if len(filled) == 1 and filled[0].shape == shape and not any(filled[0].begin):
        return None
    for box in filled:
        if len(box.shape) != len(shape) or any(end > size for end, size in zip(box.end, shape, strict=True)):
            return Problem(f"a piece of {key!r} ends at {list(box.end)}, outside its shape {shape}", "save it again")
    if len(filled) <= _MOST_COMPARED or sum(size > 1 for size in shape) < 2:
        for before, after in _neighbours(filled):
            corners = zip(before.begin, before.end, after.begin, after.end, strict=True)
            if all(begin < other_end and other < end for begin, end, other, other_end in corners):
                places = f"{list(before.begin)} and {list(after.begin)}"
                return Problem(f"pieces of {key!r} overlap, those that begin at {places}", "save it again")
    missing = math.prod(shape) - sum(box.numel for box in filled)
    return Problem(f"pieces of {key!r} leave {missing:,} of its numbers out", gaps) if missing else None


def _neighbours(boxes: Sequence[Box]) -> Iterator[tuple[Box, Box]]:
    """Pairs that may overlap: in order, each with those that begin before it ends in the first dimension."""
    for at, box in enumerate(boxes):
        for other in boxes[at + 1 :]:
            if other.begin[:1] >= box.end[:1]:
                break
            yield box, other


def axis_of(tensor: Tensor) -> int | None:
    """The one dimension along which its parts follow each other; None if it is cut along several, or some are lost."""
    axes = {axis for part in tensor.parts for axis, size in enumerate(part.shape) if size != tensor.shape[axis]}
    axis = next(iter(axes), 0)
    whole = len(axes) < 2 and sum(part.shape[axis] for part in tensor.parts) == tensor.shape[axis]
    return axis if whole else None


def with_new_ranks(info: str, shapes: Mapping[str, tuple[int, ...]], names: Mapping[str, str]) -> str:
    """The metadata's JSON after tensors got or lost dimensions of size 1 at their end, or other names."""
    import json

    entries = json.loads(info)
    for key, shape in shapes.items():
        begin = entries[key][OFFSETS] if key in entries else None
        if begin is not None:
            entries[key][OFFSETS] = [*begin[: len(shape)], *([0] * (len(shape) - len(begin)))]
    plain = info.isascii()
    return json.dumps({names.get(key, key): entry for key, entry in entries.items()}, ensure_ascii=plain)
