"""Edit a distributed checkpoint: its `.metadata`, and of each chunk that changes the `torch.save` file within its file.

No number is read. A chunk keeps its length where its new pickle fits into the padding behind the old one; else all that
lies behind it in its file moves, by a multiple of a file system's block, and `.metadata` says where to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from convinspect.arrays.views import is_channels_last
from convinspect.checkpoint import Checkpoint
from convinspect.errors import BrokenFile, CannotConvert, ChangedMeanwhile, NotACheckpoint
from convinspect.formats.files import File
from convinspect.formats.pickle.machine import Walk, reader, walk
from convinspect.formats.sources import version_of
from convinspect.formats.torch.archive import SMALL_STORAGE
from convinspect.formats.torch.distributed import METADATA
from convinspect.formats.torch.distributed_items import to_one_file
from convinspect.formats.torch.distributed_pieces import Chunk, ChunkedTensor, Place, is_metadata, pieces_in
from convinspect.records import Edit, Version
from convinspect.text import first_few
from convinspect.writing.carried import folder_of
from convinspect.writing.distributed.boxes import Box, Shape, Steps, after_steps, steps_of, stride_after
from convinspect.writing.distributed.items import (
    AGAIN,
    Stored,
    facts,
    listed_names,
    reshaped,
    shifted,
    stored,
    with_names,
)
from convinspect.writing.distributed.metadata import Change, Edits, Moved, edited
from convinspect.writing.distributed.parts import (
    Part,
    lists_of_names,
    names_in_optimizers,
    names_of_others,
    parts_by_file,
)
from convinspect.writing.pieces import Piece, Range, size_of

_MOST_KERNELS = 32
"""Kernels whose memory format is asked for, where a Linear becomes a convolution."""


class Rewritten(Mapping[Path, list[Piece]]):
    """The files of a distributed checkpoint that change, `.metadata` last, each with the pieces of the new one.

    The pieces of a file are found when they are asked for, and are not kept; those of `.metadata` need what became of
    the other files, of which only changed lengths are remembered.

    Args:
        folder: The checkpoint's.
        edits: New shapes and names; the tensors' keys are those in `.metadata`.
        others: New keys of objects, by key.
        parameters: Old → new name, for the parameter names by which optimizers keep their state.

    Attributes:
        new_keys: New keys by key, of tensors and of objects.
        names: Names of all files that `.metadata` refers to, and last its own, relative to the folder.
        versions: These files, as they are now.

    Raises:
        BrokenFile: `.metadata` and the other files contradict each other, or it is in an unknown form.
        CannotConvert: A chunk cannot take part.
    """

    def __init__(
        self,
        folder: Path,
        edits: Iterable[Edit] = (),
        others: Mapping[str, str] | None = None,
        parameters: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self._data, self._tree = _read(folder)
        _check_form(folder, self._tree)
        pieces = pieces_in(self._tree, folder)
        self._places = pieces.places()
        self.versions = _checked(folder, self._places)
        self.names = tuple(path.relative_to(folder).as_posix() for path in self.versions)
        edits = tuple(edits)
        self._parameters = parameters or {}
        self.new_keys = {edit.tensor.key: edit.key for edit in edits if edit.key is not None}
        self.new_keys |= dict(names_of_others(pieces, others or {}))
        self.new_keys |= dict(names_in_optimizers(pieces, self._parameters))
        self._steps = {edit.tensor.key: steps_of(edit) for edit in edits if _is_shaped(edit)}
        self._tensors = {tensor.key: tensor for tensor in pieces.tensors if tensor.key in self._steps}
        self._shapes = {key: _change(self._tensors.get(key), steps, folder) for key, steps in self._steps.items()}
        self._by_file = parts_by_file(pieces, self._steps, lists_of_names(pieces, self._parameters))
        self._all, self._last = pieces.tensors, dict[int, bool]()
        self._grown: dict[Path, dict[int, int]] = {}
        self._facts: dict[tuple[Path, int], int] = {}
        self._new_metadata: bytes | None = None

    def __iter__(self) -> Iterator[Path]:
        yield from self._by_file
        if self._by_file or self.new_keys:
            yield self.folder / METADATA

    def __contains__(self, path: object) -> bool:
        return any(one == path for one in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, path: Path) -> list[Piece]:
        if path == self.folder / METADATA and (self._by_file or self.new_keys):
            return [self._metadata()]
        return self._pieces(path)

    def grown(self, path: Path) -> Mapping[int, int]:
        """By how many bytes chunks of a file become longer, by their offsets, without those that keep their length.

        `.metadata` needs this of all files. Who writes only some of them tells the others' by `set_grown`.
        """
        if path not in self._grown:
            self._pieces(path)
        return self._grown[path]

    def set_grown(self, path: Path, grown: Mapping[int, int]) -> None:
        """Take from another process what `grown` said there."""
        self._grown[path] = dict(grown)

    def _pieces(self, path: Path) -> list[Piece]:
        pieces: list[Piece] = []
        grown: dict[int, int] = {}
        at = 0
        for one in self._by_file[path]:
            place, new = one.place, self._part(one)
            pieces += [Range(at, place.offset), *new]
            at = place.offset + place.length
            longer = sum(map(size_of, new)) - place.length
            if longer:
                grown[place.offset] = longer
        self._grown[path] = grown
        return [*pieces, Range(at, self.versions[path][2])]

    def _part(self, part: Part) -> list[Piece]:
        """The pieces of the new `torch.save` file of one part within its file."""
        place, tensor, chunk = part.place, part.tensor, part.chunk
        with File(place.file, place.offset, place.length) as file:
            if tensor is None or chunk is None:
                names = (self._parameters.get(name, name) for name in listed_names(file, part.key))
                self._facts[place.file, place.offset] = hash(tuple(names))
                pieces = with_names(file, part.key, self._parameters)
            else:
                found = stored(file, tensor, chunk.shape)
                shape, stride = self._view(found, tensor, chunk)
                self._facts[place.file, place.offset] = facts(found, shape, stride)
                pieces = reshaped(file, found, shape, stride)
        return [shifted(piece, place.offset) for piece in pieces]

    def _view(self, found: Stored, tensor: ChunkedTensor, chunk: Chunk) -> tuple[Shape, Shape]:
        """A chunk's new shape and strides."""
        stride = stride_after(found.tensor.stride, Box(chunk.begin, chunk.shape), self._steps[tensor.key])
        if stride is None:
            problem = f"tensor {tensor.key!r}: its numbers would have to move within its chunks"
            raise CannotConvert(problem, to_one_file(self.folder))
        shape = self._shapes[tensor.key].boxes[chunk.begin].shape
        if len(chunk.shape) == 2 and stride[:2] == (shape[1], 1) and set(shape[2:]) == {1}:
            last = self._channels_last(len(shape))
            stride = (*stride[:2], *(shape[1:2] * len(shape[2:]))) if last else stride
        return shape, stride

    def _channels_last(self, dims: int) -> bool:
        """Whether the kernels of so many dimensions that stay as they are, or the first of many, are channels-last."""
        if dims not in self._last:
            staying = (one for one in self._all if len(one.shape) == dims and one.key not in self._steps and one.chunks)
            found: set[bool | None] = set()
            for tensor in islice(staying, _MOST_KERNELS):
                chunk = tensor.chunks[0]
                if chunk.place is not None and not chunk.place.transforms:
                    with File(chunk.place.file, chunk.place.offset, chunk.place.length) as file:
                        found.add(is_channels_last(chunk.shape, stored(file, tensor, chunk.shape).tensor.stride))
            self._last[dims] = found - {None} == {True}
        return self._last[dims]

    def _metadata(self) -> bytes:
        if self._new_metadata is None:
            self._new_metadata = self._edited_metadata()
        return self._new_metadata

    def _edited_metadata(self) -> bytes:
        moved: dict[tuple[str, int], Moved] = {}
        longer = [path for path in self._by_file if self.grown(path)]
        places = {(place.file, place.offset): place for place in self._places if place.file in longer} if longer else {}
        by: dict[Path, int] = dict.fromkeys(longer, 0)
        for (path, offset), place in sorted(places.items()):
            more = self.grown(path).get(offset, 0)
            name = path.relative_to(self.folder).as_posix()
            moved[name, offset] = Moved(offset + by[path], place.length + more)
            by[path] += more
        return edited(self._data, self._tree, Edits(self._shapes, moved, self.new_keys))

    def check(self, folder: Path) -> None:
        """Check what was written of it, by the headers alone.

        Raises:
            BrokenFile: It is not what it should be.
        """
        if len(self) and (folder / METADATA).read_bytes() != self._metadata():
            raise _differs(METADATA)
        for path, parts in self._by_file.items():
            grown, new, by = self.grown(path), folder / path.relative_to(self.folder), 0
            for part in parts:
                more = grown.get(part.place.offset, 0)
                self._check_part(part, Place(new, part.place.offset + by, part.place.length + more))
                by += more
            if new.stat().st_size != self.versions[path][2] + by:
                raise _differs(new.name)

    def _check_part(self, part: Part, place: Place) -> None:
        tensor, chunk, old = part.tensor, part.chunk, part.place
        if (old.file, old.offset) not in self._facts:
            # Another process wrote it.
            self._part(part)
        with File(place.file, place.offset, place.length) as file:
            if tensor is None or chunk is None:
                told = hash(listed_names(file, part.key))
            else:
                found = stored(file, tensor, self._shapes[part.key].boxes[chunk.begin].shape)
                told = facts(found, found.tensor.shape, found.tensor.stride)
        if told != self._facts[old.file, old.offset]:
            raise _differs(self.new_keys.get(part.key, part.key))


def pieces_by_file(
    checkpoint: Checkpoint,
    edits: Iterable[Edit] = (),
    others: Mapping[str, Mapping[str, str]] | None = None,
    parameters: Mapping[str, str] | None = None,
) -> Rewritten:
    """The files of a distributed checkpoint that edits change, each with the pieces of the new one, by path.

    Args:
        checkpoint: The source.
        edits: New shapes and names of its tensors.
        others: New keys of what is no tensor, by the path of its root.
        parameters: Old → new name, for the parameter names by which optimizers keep their state.

    Raises:
        ConvInspectError: It cannot be changed.
    """
    front = _front(checkpoint)
    named = {
        (front if path == checkpoint.root.path else "") + old: (front if path == checkpoint.root.path else "") + new
        for path, names in (others or {}).items()
        for old, new in names.items()
    }
    return Rewritten(folder_of(checkpoint.path), whole_edits(checkpoint, edits), named, parameters)


def whole_edits(checkpoint: Checkpoint, edits: Iterable[Edit]) -> list[Edit]:
    """Edits with keys as they are in `.metadata`: a root may be only the beginning of keys (`root="model"`)."""
    front = _front(checkpoint)
    own = set(map(id, checkpoint.root.tensors)) if front else set()

    def whole(edit: Edit) -> Edit:
        if id(edit.tensor) not in own:
            return edit
        tensor = edit.tensor._replace(key=front + edit.tensor.key)
        return edit._replace(tensor=tensor, key=None if edit.key is None else front + edit.key)

    return list(map(whole, edits))


def _front(checkpoint: Checkpoint) -> str:
    """What the keys of the root in use lack; "" where they are whole."""
    root = checkpoint.root
    return "" if any(one is root for one in checkpoint.roots) or not root.path else f"{root.path}."


def _read(folder: Path) -> tuple[bytes, Walk]:
    nbytes = sum(entry.stat().st_size for entry in folder.iterdir() if entry.is_file())
    with File(folder / METADATA) as file:
        data = file.read(0, file.size)
    return data, walk(reader(data), 0, len(data), nbytes // SMALL_STORAGE)


def _checked(folder: Path, places: Iterable[Place]) -> dict[Path, Version]:
    """The files that places are in, and last `.metadata`, as they are now.

    Raises:
        BrokenFile: One is not there, or ends before what is said to lie in it.
    """
    ends: dict[Path, int] = {}
    for place in places:
        ends[place.file] = max(ends.get(place.file, 0), place.offset + place.length)
    versions: dict[Path, Version] = {}
    for path in (*ends, folder / METADATA):
        name = path.relative_to(folder).as_posix()
        try:
            versions[path] = version_of(path.stat())
        except OSError:
            raise BrokenFile(f"{name} is not there, in which .metadata says that tensors lie", AGAIN) from None
        if versions[path][2] < ends.get(path, 0):
            size = f"{versions[path][2]:,} of {ends[path]:,}"
            raise BrokenFile(f"{name} has {size} bytes that .metadata says lie in it", AGAIN)
    return versions


def _check_form(folder: Path, tree: Walk) -> None:
    """Refuse what PyTorch does not load.

    Raises:
        NotACheckpoint: It is no metadata of a distributed checkpoint.
        CannotConvert: Each rank has metadata of its own.
    """
    if not is_metadata(tree.value):
        raise NotACheckpoint("its .metadata is not that of a distributed checkpoint", "give the folder that has one")
    # Not by `glob`, which an address does not have.
    own = sorted(path.name for path in folder.iterdir() if path.name.startswith("__") and path.name.endswith(METADATA))
    if own:
        problem = f"{first_few(own)} beside .metadata says for one rank what lies where, and would no longer be true"
        raise CannotConvert(problem, "save it again, with use_collectives=True")


def _is_shaped(edit: Edit) -> bool:
    return edit.shape != edit.tensor.shape or edit.transposed or edit.moved is not None


def _change(tensor: ChunkedTensor | None, steps: Steps, folder: Path) -> Change:
    """A tensor's new shape, and where its chunks lie then.

    Raises:
        ChangedMeanwhile: It is not the one that was to change.
        CannotConvert: Its chunks cannot take part.
    """
    if tensor is None or tensor.shape != steps.before:
        raise ChangedMeanwhile("it changed while it was converted", "try again", folder)
    boxes: dict[tuple[int, ...], Box] = {}
    for chunk in tensor.chunks:
        if chunk.place is None:
            raise BrokenFile(f"its .metadata does not say where a chunk of {tensor.key!r} lies", AGAIN)
        if chunk.place.transforms:
            how = ", ".join(chunk.place.transforms)
            problem = f"the chunks of {tensor.key!r} went through {how} when they were written"
            raise CannotConvert(problem, "save it again without extensions")
        box = after_steps(Box(chunk.begin, chunk.shape), steps)
        if box is None:
            where = f"at {list(chunk.begin)} of shape {chunk.shape}"
            problem = f"tensor {tensor.key!r} {tensor.shape} is cut into chunks, and the one {where} is none of"
            raise CannotConvert(f"{problem} {steps.after}", to_one_file(folder))
        boxes[chunk.begin] = box
    return Change(steps.after, boxes)


def _differs(what: str) -> BrokenFile:
    problem = f"the new folder differs in {what!r} from what it should be, so it was discarded"
    return BrokenFile(problem, "please report this file's kind")
