"""Edit a distributed checkpoint: its `.metadata`, and of each chunk that changes the `torch.save` file within its file.

No number is read. A chunk keeps its length where its new pickle fits into the padding behind the old one; else all that
lies behind it in its file moves, by a multiple of a file system's block, and `.metadata` says where to.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from shlex import quote
from typing import TypeAlias

from convinspect.checkpoint import Checkpoint
from convinspect.errors import BrokenFile, CannotConvert, ChangedMeanwhile, ConvInspectError, NotACheckpoint
from convinspect.formats.files import File, version_of
from convinspect.formats.pickle.machine import Walk, reader, walk
from convinspect.formats.torch.archive import SMALL_STORAGE, read_torch_zip
from convinspect.formats.torch.distributed import METADATA, TO_ONE_FILE
from convinspect.formats.torch.distributed_pieces import Chunk, ChunkedTensor, Pieces, Place, is_metadata, pieces_in
from convinspect.formats.zip.structures import is_zip
from convinspect.records import Edit, Tensor, Version
from convinspect.text import first_few
from convinspect.writing.boxes import Box, Steps, after_steps, steps_of, stride_after
from convinspect.writing.carried import folder_of
from convinspect.writing.distributed_metadata import Change, Edits, Moved, edited
from convinspect.writing.pieces import Piece, Range, size_of
from convinspect.writing.rewrite import Changes, pieces_for

_AGAIN = "copy all of the folder again, or save it again"


_Part: TypeAlias = tuple[ChunkedTensor, Chunk, Place]
"""A chunk that changes, its tensor, and where it lies."""


class Rewritten(Mapping[Path, list[Piece]]):
    """The files of a distributed checkpoint that change, `.metadata` last, each with the pieces of the new one.

    The pieces of a file are found when they are asked for, and are not kept; those of `.metadata` need what became of
    the other files, of which only changed lengths are remembered.

    Args:
        folder: The checkpoint's.
        edits: New shapes and names; the tensors' keys are those in `.metadata`.
        others: New keys of objects, by key.

    Attributes:
        names: Names of all files that `.metadata` refers to, and last its own, relative to the folder.
        versions: These files, as they are now.

    Raises:
        BrokenFile: `.metadata` and the other files contradict each other, or it is in an unknown form.
        CannotConvert: A chunk cannot take part.
    """

    def __init__(self, folder: Path, edits: Iterable[Edit] = (), others: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self._data, self._tree = _read(folder)
        _check_form(folder, self._tree)
        pieces = pieces_in(self._tree, folder)
        self._places = pieces.places()
        self.versions = _checked(folder, self._places)
        self.names = tuple(path.relative_to(folder).as_posix() for path in self.versions)
        edits = tuple(edits)
        self._names = {edit.tensor.key: edit.key for edit in edits if edit.key is not None}
        self._names |= dict(_names_of_others(pieces, others or {}))
        self._steps = {edit.tensor.key: steps_of(edit) for edit in edits if _is_shaped(edit)}
        self._tensors = {tensor.key: tensor for tensor in pieces.tensors if tensor.key in self._steps}
        self._shapes = {key: _change(self._tensors.get(key), steps, folder) for key, steps in self._steps.items()}
        self._by_file = _parts_by_file(pieces, self._steps)
        self._grown: dict[Path, dict[int, int]] = {}
        self._new_metadata: bytes | None = None

    def __iter__(self) -> Iterator[Path]:
        yield from self._by_file
        if self._shapes or self._names:
            yield self.folder / METADATA

    def __contains__(self, path: object) -> bool:
        return any(one == path for one in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, path: Path) -> list[Piece]:
        if path == self.folder / METADATA and (self._shapes or self._names):
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
        for tensor, chunk, place in self._by_file[path]:
            new = self._chunk(tensor, chunk, place)
            pieces += [Range(at, place.offset), *new]
            at = place.offset + place.length
            longer = sum(map(size_of, new)) - place.length
            if longer:
                grown[place.offset] = longer
        self._grown[path] = grown
        return [*pieces, Range(at, self.versions[path][2])]

    def _chunk(self, tensor: ChunkedTensor, chunk: Chunk, place: Place) -> list[Piece]:
        """The pieces of the new `torch.save` file of one chunk within its file."""
        with File(place.file, place.offset, place.length) as part:
            stored = _stored(part, tensor, chunk)
            pieces = pieces_for(part, Changes((self._edit(stored, tensor, chunk),)))
        return [_shifted(piece, place.offset) for piece in pieces]

    def _edit(self, stored: Tensor, tensor: ChunkedTensor, chunk: Chunk) -> Edit:
        stride = stride_after(stored.stride, Box(chunk.begin, chunk.shape), self._steps[tensor.key])
        if stride is None:
            problem = f"tensor {tensor.key!r}: its numbers would have to move within its chunks"
            raise CannotConvert(problem, to_one_file(self.folder))
        return Edit(stored, self._shapes[tensor.key].boxes[chunk.begin].shape, stride)

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
        return edited(self._data, self._tree, Edits(self._shapes, moved, self._names))

    def check(self, folder: Path) -> None:
        """Check what was written of it, by the headers alone.

        Raises:
            BrokenFile: It is not what it should be.
        """
        data, tree = _read(folder)
        pieces = pieces_in(tree, folder)
        _checked(folder, pieces.places())
        new = {tensor.key: tensor for tensor in pieces.tensors}
        if data != self._metadata():
            raise _differs(METADATA)
        for tensor, chunk, place in chain.from_iterable(self._by_file.values()):
            name = self._names.get(tensor.key, tensor.key)
            box = self._shapes[tensor.key].boxes[chunk.begin]
            after = next((one for one in new[name].chunks if (one.begin, one.shape) == box), None)
            if after is None or after.place is None:
                raise _differs(name)
            with (
                File(place.file, place.offset, place.length) as old_part,
                File(after.place.file, after.place.offset, after.place.length) as part,
            ):
                wanted = self._edit(_stored(old_part, tensor, chunk), tensor, chunk)
                if _facts(_stored(part, new[name], after)) != _facts(wanted.tensor, wanted):
                    raise _differs(name)


def pieces_by_file(
    checkpoint: Checkpoint, edits: Iterable[Edit] = (), others: Mapping[str, Mapping[str, str]] | None = None
) -> Rewritten:
    """The files of a distributed checkpoint that edits change, each with the pieces of the new one, by path.

    Args:
        checkpoint: The source.
        edits: New shapes and names of its tensors.
        others: New keys of what is no tensor, by the path of its root.

    Raises:
        ConvInspectError: It cannot be changed.
    """
    front = _front(checkpoint)
    named = {
        (front if path == checkpoint.root.path else "") + old: (front if path == checkpoint.root.path else "") + new
        for path, names in (others or {}).items()
        for old, new in names.items()
    }
    return Rewritten(folder_of(checkpoint.path), whole_edits(checkpoint, edits), named)


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


def to_one_file(folder: Path) -> str:
    """The way out of what cannot be done in this form."""
    return f"{TO_ONE_FILE} {quote(str(folder))} model.pt"


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
            raise BrokenFile(f"{name} is not there, in which .metadata says that tensors lie", _AGAIN) from None
        if versions[path][2] < ends.get(path, 0):
            size = f"{versions[path][2]:,} of {ends[path]:,}"
            raise BrokenFile(f"{name} has {size} bytes that .metadata says lie in it", _AGAIN)
    return versions


def _check_form(folder: Path, tree: Walk) -> None:
    """Refuse what PyTorch does not load.

    Raises:
        NotACheckpoint: It is no metadata of a distributed checkpoint.
        CannotConvert: Each rank has metadata of its own.
    """
    if not is_metadata(tree.value):
        raise NotACheckpoint("its .metadata is not that of a distributed checkpoint", "give the folder that has one")
    own = sorted(path.name for path in folder.glob(f"__*{METADATA}"))
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
            raise BrokenFile(f"its .metadata does not say where a chunk of {tensor.key!r} lies", _AGAIN)
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


def _parts_by_file(pieces: Pieces, changing: Container[str]) -> dict[Path, list[_Part]]:
    """The chunks that change, by file, in the order of their places.

    Raises:
        BrokenFile: One shares bytes with something else.
    """
    by_file: dict[Path, dict[int, _Part]] = {}
    for tensor in pieces.tensors:
        for chunk in tensor.chunks if tensor.key in changing else ():
            assert chunk.place is not None
            by_file.setdefault(chunk.place.file, {})[chunk.place.offset] = (tensor, chunk, chunk.place)
    ordered = {path: [part for _, part in sorted(parts.items())] for path, parts in by_file.items()}
    for key, begin, place in _owners(pieces):
        parts = ordered.get(place.file, [])
        after = bisect_right(parts, place.offset, key=lambda part: part[2].offset)
        for tensor, chunk, other in parts[max(after - 1, 0) : after + 1]:
            apart = place.offset + place.length <= other.offset or other.offset + other.length <= place.offset
            if not apart and (tensor.key, chunk.begin) != (key, begin):
                raise BrokenFile(f".metadata says that {key!r} and {tensor.key!r} lie in the same bytes", _AGAIN)
    return ordered


def _owners(pieces: Pieces) -> Iterator[tuple[str, tuple[int, ...] | None, Place]]:
    """All that lies in the files."""
    for tensor in pieces.tensors:
        for chunk in tensor.chunks:
            if chunk.place is not None:
                yield tensor.key, chunk.begin, chunk.place
    for one in pieces.objects:
        if one.place is not None:
            yield one.key, None, one.place


def _names_of_others(pieces: Pieces, others: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """New keys of objects; a dictionary that is no tensor lies there in parts, under its own key and theirs."""
    for one in pieces.objects:
        for old, new in others.items():
            if one.key == old or one.key.startswith(f"{old}."):
                yield one.key, new + one.key[len(old) :]


def _stored(part: File, tensor: ChunkedTensor, chunk: Chunk) -> Tensor:
    """A chunk's tensor, as its own `torch.save` file describes it.

    Raises:
        BrokenFile: It is no such file, or holds another tensor than `.metadata` says.
    """
    what = f"a chunk of {tensor.key!r} in {part.path.name} at byte {part.start:,}"
    if not is_zip(part.read(0, 4)):
        raise BrokenFile(f"{what} is no torch.save file", _AGAIN, part.path)
    try:
        tensors = [one for root in read_torch_zip(part).roots for one in root.tensors]
    except ConvInspectError as error:
        raise BrokenFile(f"{what}: {error.problem}", error.remedy, part.path) from None
    if len(tensors) != 1 or (tensors[0].shape, tensors[0].dtype) != (chunk.shape, tensor.dtype):
        found = f"{tensors[0].dtype} {tensors[0].shape}" if len(tensors) == 1 else f"{len(tensors)} tensors"
        problem = f"{what} is {found}, and .metadata says {tensor.dtype} {chunk.shape}"
        raise BrokenFile(problem, _AGAIN, part.path)
    return tensors[0]


def _facts(tensor: Tensor, edit: Edit | None = None) -> tuple[object, ...]:
    shape, stride = (tensor.shape, tensor.stride) if edit is None else (edit.shape, edit.stride)
    storage = tensor.storage
    kept = None if storage is None else (storage.key, storage.nbytes, storage.available, storage.crc)
    return shape, stride, tensor.dtype, tensor.offset, kept, tensor.layout, tensor.requires_grad


def _shifted(piece: Piece, by: int) -> Piece:
    return Range(piece.start + by, piece.end + by) if isinstance(piece, Range) else piece


def _differs(what: str) -> BrokenFile:
    problem = f"the new folder differs in {what!r} from what it should be, so it was discarded"
    return BrokenFile(problem, "please report this file's kind")
