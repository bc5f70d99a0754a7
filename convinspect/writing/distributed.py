"""Edit a distributed checkpoint: its `.metadata`, and of each chunk that changes the `torch.save` file within its file.

No number is read. A chunk keeps its length where its new pickle fits into the padding behind the old one; else all that
lies behind it in its file moves, by a multiple of a file system's block, and `.metadata` says where to.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from convinspect.checkpoint import Checkpoint
from convinspect.errors import BrokenFile, CannotConvert, ChangedMeanwhile, ConvInspectError
from convinspect.formats.files import File
from convinspect.formats.pickle.machine import Walk, reader, walk
from convinspect.formats.torch.archive import SMALL_STORAGE, read_torch_zip
from convinspect.formats.torch.distributed import METADATA, TO_ONE_FILE
from convinspect.formats.zip.structures import is_zip
from convinspect.records import Edit, Tensor
from convinspect.writing.boxes import Box, Steps, after_steps, steps_of, stride_after
from convinspect.writing.distributed_metadata import Change, Item, Listed, edited, items_of, listed_tensors
from convinspect.writing.pieces import Piece, Range, size_of
from convinspect.writing.rewrite import Changes, pieces_for

_AGAIN = "copy all of the folder again, or save it again"


class Rewritten(Mapping[Path, list[Piece]]):
    """The files of a distributed checkpoint that change, `.metadata` last, each with the pieces of the new one.

    The pieces of a file are found when they are asked for, and not kept; those of `.metadata` need what became of all
    other files, of which only changed lengths are remembered.

    Args:
        folder: The checkpoint's.
        edits: New shapes and names; the tensors' keys are those in `.metadata`.
        others: New keys of what is no tensor, by key.

    Attributes:
        names: Names of all files that `.metadata` refers to and its own, relative to the folder.

    Raises:
        BrokenFile: `.metadata` and the other files contradict each other, or it is in an unknown form.
        CannotConvert: A chunk cannot take part.
    """

    def __init__(self, folder: Path, edits: Iterable[Edit], others: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        with File(folder / METADATA) as file:
            self._data = file.read(0, file.size)
        self._tree = walk(reader(self._data), 0, len(self._data), _nbytes(folder) // SMALL_STORAGE)
        self._items = items_of(self._tree)
        _check_files(folder, self._items)
        self.names = (*dict.fromkeys(item.name for item in self._items), METADATA)
        edits = tuple(edits)
        self._names = {edit.tensor.key: edit.key for edit in edits if edit.key is not None}
        self._names |= _renamed_others(self._items, others or {})
        shaped = {edit.tensor.key: edit for edit in edits if _is_shaped(edit)}
        self._steps = {key: steps_of(edit) for key, edit in shaped.items()}
        self._changes = _changes(self._tree, self._items, shaped, self._steps)
        self._by_file: dict[str, list[int]] = {}
        for number, item in enumerate(self._items):
            self._by_file.setdefault(item.name, []).append(number)
        self._grown: dict[str, dict[int, int]] = {}

    @property
    def changed(self) -> tuple[Path, ...]:
        """The files that change."""
        touched = dict.fromkeys(item.name for item in self._items if item.key in self._changes)
        return tuple(self._folder / name for name in (*touched, METADATA)) if touched or self._names else ()

    def __iter__(self) -> Iterator[Path]:
        return iter(self.changed)

    def __len__(self) -> int:
        return len(self.changed)

    def __getitem__(self, path: Path) -> list[Piece]:
        if path not in self.changed:
            raise KeyError(path)
        name = path.relative_to(self._folder).as_posix()
        return [self._metadata()] if name == METADATA else self._pieces(name)

    def grown(self, name: str) -> Mapping[int, int]:
        """By how many bytes what lies in a file gets longer, by its number in `.metadata`; what does not is left out.

        Whoever writes only some of the files tells the others' lengths by `set_grown`.
        """
        if name not in self._grown:
            self._pieces(name)
        return self._grown[name]

    def set_grown(self, name: str, grown: Mapping[int, int]) -> None:
        """Take the lengths of a file's parts from another process that wrote it."""
        self._grown[name] = dict(grown)

    def _pieces(self, name: str) -> list[Piece]:
        path = self._folder / name
        pieces: list[Piece] = []
        grown: dict[int, int] = {}
        at = 0
        for number in sorted(self._by_file[name], key=lambda number: self._items[number].start):
            item = self._items[number]
            if item.key not in self._changes or item.begin is None:
                continue
            new = self._chunk(path, item)
            pieces += [Range(at, item.start), *new]
            at = item.start + item.length
            longer = sum(map(size_of, new)) - item.length
            if longer:
                grown[number] = longer
        self._grown[name] = grown
        return [*pieces, Range(at, path.stat().st_size)]

    def _chunk(self, path: Path, item: Item) -> list[Piece]:
        """The pieces of one chunk's file within a file."""
        assert item.begin is not None
        steps, box = self._steps[item.key], _box_at(self._changes, item)
        with File(path, item.start, item.length) as part:
            tensor = _stored(part, item, box)
            stride = stride_after(tensor.stride, box, steps)
            if stride is None:
                raise CannotConvert(
                    f"tensor {item.key!r}: its numbers would have to move within its chunks", _one_file(self._folder)
                )
            new = self._changes[item.key].boxes[item.begin].shape
            pieces = pieces_for(part, Changes((Edit(tensor, new, stride),)))
        return [_shifted(piece, item.start) for piece in pieces]

    def _metadata(self) -> bytes:
        moved: dict[int, tuple[int, int]] = {}
        for name, numbers in self._by_file.items():
            touched = any(self._items[number].key in self._changes for number in numbers)
            grown = self.grown(name) if touched else {}
            by = 0
            # The same bytes may be listed twice; what is longer moves all that begins behind it.
            for number in sorted(numbers, key=lambda number: self._items[number].start) if grown else ():
                item = self._items[number]
                if by or number in grown:
                    moved[number] = (item.start + by, item.length + grown.get(number, 0))
                by += grown.get(number, 0)
        return edited(self._data, self._tree, self._changes, moved, self._names)


def pieces_by_file(
    checkpoint: Checkpoint, edits: Iterable[Edit], others: Mapping[str, Mapping[str, str]] | None = None
) -> Rewritten:
    """The files of a distributed checkpoint that edits change, each with the pieces of the new one, found when asked for.

    Args:
        checkpoint: The source.
        edits: New shapes and names of its tensors.
        others: New keys of what is no tensor, by the path of its root.

    Raises:
        ConvInspectError: It cannot be changed.
    """
    raise NotImplementedError


def _is_shaped(edit: Edit) -> bool:
    return edit.shape != edit.tensor.shape or edit.transposed or edit.moved is not None


def _nbytes(folder: Path) -> int:
    return sum(entry.stat().st_size for entry in folder.iterdir() if entry.is_file())
