"""Edits → a new checkpoint: written beside the target, checked, and only then given its name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

from convinspect.checkpoint import Checkpoint
from convinspect.errors import BrokenFile, CannotWrite
from convinspect.formats import read_contents
from convinspect.formats.files import File
from convinspect.formats.sharded import edited_index, totals
from convinspect.records import Edit, Root, Tensor, Version, contiguous
from convinspect.writing.atomic import (
    check_room,
    check_unchanged,
    copy_whole,
    new_file,
    new_folder,
    reporting_changes,
    size_of,
    write_pieces,
)
from convinspect.writing.rewrite import Changes, pieces_for

Progress = Callable[[int], None]


def save_edits(
    checkpoint: Checkpoint,
    edits: Iterable[Edit],
    target: Path,
    progress: Progress,
    drop_optimizer: bool = False,
    parameters: Mapping[str, str] | None = None,
) -> None:
    """Write the checkpoint with other shapes and names to `target`, which `target.check_target` allowed.

    The new file is opened and every tensor's name, dtype, shape, strides and bytes are compared with what they
    should be before it gets its name.

    Args:
        checkpoint: The source.
        edits: What changes.
        target: The new file or folder.
        progress: Told how many bytes were written, now and then.
        drop_optimizer: Leave every optimizer's state empty.
        parameters: New names for those that optimizers keep of their parameters.

    Raises:
        ConvInspectError: It cannot be written; the target is then as it was.
    """
    wanted = list(edits)
    source = checkpoint.path
    expected = _expected(checkpoint.roots, wanted, drop_optimizer)
    shards = {tensor.storage.file for root in checkpoint.roots for tensor in root.tensors if tensor.storage is not None}
    if source.is_dir() or source.suffix == ".json" or len(shards) > 1:
        _save_shards(checkpoint, wanted, target, progress, expected)
    else:
        versions = checkpoint.versions
        with (
            reporting_changes(versions),
            new_file(target, lambda new: _approve(new, expected, versions)) as temporary,
        ):
            changes = Changes(tuple(wanted), drop_optimizer, parameters or {}, checkpoint.pickles.get(source))
            _write_one(source, changes, temporary, progress)


def _write_one(
    source: Path,
    changes: Changes,
    target: Path,
    progress: Progress,
) -> None:
    with File(source) as file:
        pieces = pieces_for(file, changes)
        check_room(target, sum(size_of(piece) for piece in pieces))
        write_pieces(source, pieces, target, progress)


Facts: TypeAlias = tuple[object, ...]


def _approve(written: Path, expected: list[Facts], versions: Mapping[Path, Version]) -> None:
    """The last thing before the new file gets its name. Where that is the source's own, what is replaced is seen to be
    what was read.
    """
    check_unchanged(versions)
    _compare(written, expected)
    check_unchanged(versions)


def _compare(written: Path, expected: list[Facts]) -> None:
    """Hold the new file or folder against what it should be.

    Raises:
        BrokenFile: Something else than the edits differs.
    """
    new = read_contents(written)
    found = [_facts(tensor) for root in new.roots for tensor in root.tensors]
    if found != expected or new.problems:
        bad = next((one[0] for one, other in zip(found, expected, strict=False) if one != other), "")
        raise BrokenFile(
            f"the new file differs in tensor {bad!r} from what it should be, so it was thrown away",
            "please report this file's kind",
        )


def _expected(roots: Iterable[Root], edits: Iterable[Edit], drop: bool) -> list[Facts]:
    """What must be found in the new file, tensor by tensor."""
    wanted = list(edits)
    shapes = {_place(edit.tensor): edit for edit in wanted if edit.shape != edit.tensor.shape or edit.transposed}
    names = {(_place(edit.tensor), edit.tensor.key): edit.key for edit in wanted if edit.key is not None}
    return [
        _facts(_after(tensor, shapes.get(_place(tensor)), names.get((_place(tensor), tensor.key))))
        for root in roots
        for tensor in root.tensors
        if not (drop and root.role == "optimizer" and tensor.key.startswith("state."))
    ]


def _place(tensor: Tensor) -> tuple[object, ...]:
    """What tells a tensor of the file from all others: where its size stands, or else its key. With `--root .` the
    same tensor has another key.
    """
    file = None if tensor.storage is None else tensor.storage.file
    return (file, tensor.key) if tensor.shape_span is None else (file, tensor.shape_span.start)


def _after(tensor: Tensor, edit: Edit | None, name: str | None) -> Tensor:
    renamed = tensor if name is None else tensor._replace(key=name)
    if name is not None and tensor.storage is not None and tensor.shape_span is None:
        # safetensors knows bytes by their tensor's name.
        renamed = renamed._replace(storage=tensor.storage._replace(key=name))
    if edit is None:
        return renamed
    stride = contiguous(edit.shape) if tensor.shape_span is None else edit.stride
    return renamed._replace(shape=edit.shape, stride=stride)


def _facts(tensor: Tensor) -> Facts:
    """What of a tensor must survive, without its place in the file."""
    storage = tensor.storage
    held = None if storage is None else (storage.key, storage.nbytes, storage.available, storage.crc)
    return (
        tensor.key, tensor.dtype, tensor.shape, tensor.stride, tensor.offset, held, tensor.requires_grad,
        tensor.device, tensor.layout, tensor.subclass,
    )  # fmt: skip


# -------------------------------------------------------------------------------------------------- shards


def _save_shards(
    checkpoint: Checkpoint, edits: list[Edit], target: Path, progress: Progress, expected: list[Facts]
) -> None:
    """Every shard and the index into a new folder, which appears whole or not at all."""
    if os.path.exists(target):
        raise CannotWrite("a sharded checkpoint is written to a new folder, and this exists", "give another -o", target)
    source = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    opened = checkpoint.path.name if checkpoint.path.suffix == ".json" else ""
    names = {edit.tensor.key: edit.key for edit in edits if edit.key is not None}
    right = totals(tensor for root in checkpoint.roots for tensor in root.tensors)
    versions = checkpoint.versions
    mine: dict[Path, list[Edit]] = {}
    for edit in edits:
        if edit.tensor.storage is not None:
            mine.setdefault(edit.tensor.storage.file, []).append(edit)
    check_room(target, checkpoint.nbytes_on_disk)
    with (
        reporting_changes(versions),
        new_folder(target, lambda new: _approve(new / opened, expected, versions)) as temporary,
    ):
        for name in _names(checkpoint):
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            if source / name in mine:
                changes = Changes(tuple(mine[source / name]), pickle=checkpoint.pickles.get(source / name))
                _write_one(source / name, changes, temporary / name, progress)
            elif name.endswith(".json"):
                index = edited_index((source / name).read_bytes(), names, right)
                write_pieces(source / name, [index], temporary / name, progress)
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
