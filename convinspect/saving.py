"""Edits → a new checkpoint: written beside the target, checked, and only then given its name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from convinspect.checkpoint import Checkpoint
from convinspect.errors import BrokenFile, CannotWrite
from convinspect.formats import read_contents
from convinspect.formats.files import File
from convinspect.formats.rewrite import pieces_for
from convinspect.formats.safetensors_file import contiguous
from convinspect.formats.writing import copy_whole, new_file, new_folder, room_for, size_of, unchanged, write_pieces
from convinspect.records import Edit, Root, Tensor

Progress = Callable[[int], None]


def check_target(source: Path, target: Path, in_place: bool, force: bool) -> None:
    """Whether the target may be written.

    Raises:
        CannotWrite: It is the source, it exists, or its folder does not.
    """
    same = os.path.exists(target) and os.path.samefile(source, target)
    if same and not in_place:
        raise CannotWrite("the target is the source itself", "use --in-place, or give another -o", target)
    if os.path.exists(target) and not same and not force:
        raise CannotWrite("the target exists", "use --force to overwrite it, or give another -o", target)
    if target.is_dir() and not same:
        raise CannotWrite("the target is a folder", "give the name of a file in it", target)
    if not target.parent.is_dir():
        raise CannotWrite("the target's folder does not exist", f"make {target.parent} first", target)


def save_edits(checkpoint: Checkpoint, edits: Iterable[Edit], target: Path, progress: Progress) -> None:
    """Write the checkpoint with other shapes to `target`, which `check_target` allowed.

    The new file is opened and every tensor's name, dtype, shape, strides and bytes are compared with what they
    should be before it gets its name.

    Raises:
        ConvInspectError: It cannot be written; the target is then as it was.
    """
    wanted = list(edits)
    source = checkpoint.path
    shards = {tensor.storage.file for root in checkpoint.roots for tensor in root.tensors if tensor.storage is not None}
    if source.is_dir() or source.suffix == ".json" or len(shards) > 1:
        _save_shards(checkpoint, wanted, target, progress)
    else:
        # In this order a source that changed is noticed before the new file gets its name.
        with new_file(target, lambda new: _compare(new, checkpoint.roots, wanted)) as temporary, unchanged(source):
            _write_one(source, wanted, temporary, progress)


def _write_one(source: Path, edits: list[Edit], target: Path, progress: Progress) -> None:
    with File(source) as file:
        pieces = pieces_for(file, edits)
        room_for(target.parent, sum(size_of(piece) for piece in pieces))
        write_pieces(source, pieces, target, progress)


def _compare(written: Path, roots: Iterable[Root], edits: Iterable[Edit]) -> None:
    """Hold the new file or folder against the old one's records.

    Raises:
        BrokenFile: Something else than the edits differs.
    """
    new = read_contents(written)
    changed = {edit.tensor: edit for edit in edits}
    expected = [_after(tensor, changed) for root in roots for tensor in root.tensors]
    found = [_facts(tensor) for root in new.roots for tensor in root.tensors]
    if found != expected or new.problems:
        bad = next((one[0] for one, other in zip(found, expected, strict=False) if one != other), "")
        raise BrokenFile(
            f"the new file differs in tensor {bad!r} from what it should be, so it was thrown away",
            "please report this file's kind",
        )


def _after(tensor: Tensor, changed: Mapping[Tensor, Edit]) -> tuple[object, ...]:
    edit = changed.get(tensor)
    if edit is None:
        return _facts(tensor)
    in_order = tensor.shape_span is None
    shape = edit.shape
    stride = contiguous(shape) if in_order else edit.stride
    return (tensor.key, tensor.dtype, shape, stride, *_facts(tensor)[4:])


def _facts(tensor: Tensor) -> tuple[object, ...]:
    """What of a tensor must survive, without its place in the file."""
    storage = tensor.storage
    held = None if storage is None else (storage.key, storage.nbytes, storage.available, storage.crc)
    return (
        tensor.key, tensor.dtype, tensor.shape, tensor.stride, tensor.offset, held, tensor.requires_grad,
        tensor.device, tensor.layout, tensor.subclass,
    )  # fmt: skip


# -------------------------------------------------------------------------------------------------- shards


def _save_shards(checkpoint: Checkpoint, edits: list[Edit], target: Path, progress: Progress) -> None:
    """Every shard and the index into a new folder, which appears whole or not at all."""
    if os.path.exists(target):
        raise CannotWrite("a sharded checkpoint is written to a new folder, and this exists", "give another -o", target)
    source = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    index = checkpoint.path.name if checkpoint.path.suffix == ".json" else ""
    with new_folder(target, lambda new: _compare(new / index, checkpoint.roots, edits)) as temporary:
        for name in _names(checkpoint):
            mine = [
                edit for edit in edits if edit.tensor.storage is not None and edit.tensor.storage.file == source / name
            ]
            with unchanged(source / name):
                if mine:
                    _write_one(source / name, mine, temporary / name, progress)
                else:
                    copy_whole(source / name, temporary / name, progress)


def _names(checkpoint: Checkpoint) -> list[str]:
    """Shards and indexes of a sharded checkpoint, by their names in its folder."""
    path = checkpoint.path
    folder = path if path.is_dir() else path.parent
    shards = {
        os.path.relpath(tensor.storage.file, folder)
        for root in checkpoint.roots
        for tensor in root.tensors
        if tensor.storage is not None
    }
    indexes = [path.name] if not path.is_dir() else [one.name for one in folder.glob("*.index.json")]
    return [*indexes, *sorted(shards)]
