"""Save edits as a new checkpoint: written beside the target, checked, and only then renamed to it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, TypeAlias

from convinspect.checkpoint import Checkpoint
from convinspect.errors import BrokenFile, CannotWrite, Option, Wording
from convinspect.formats import read_contents
from convinspect.formats.files import File
from convinspect.formats.pieces import LAYOUT
from convinspect.formats.sharded import totals
from convinspect.records import Edit, Root, Tensor, Version, contiguous
from convinspect.writing.atomic import check_room, check_unchanged, new_file, new_folder, reporting_changes
from convinspect.writing.pieces import copy_whole, size_of, write_pieces
from convinspect.writing.rewrite import Changes, pieces_for

Progress = Callable[[int], None]


def save_edits(
    checkpoint: Checkpoint,
    edits: Iterable[Edit],
    target: Path,
    progress: Progress,
    drop_optimizer: bool = False,
    parameters: Mapping[str, str] | None = None,
    others: Mapping[str, Mapping[str, str]] | None = None,
) -> None:
    """Write the checkpoint with other shapes and names to `target`, which must have passed `target.check_target`.

    The new file is opened, and every tensor's name, dtype, shape, strides and bytes are compared with what is expected,
    before it is renamed to the target.

    Args:
        checkpoint: The source.
        edits: New shapes and names.
        target: The new file or folder.
        progress: Called now and then with the number of bytes that were written since the last call.
        drop_optimizer: Leave every optimizer's state empty.
        parameters: Old → new name, for the parameter names that optimizers store.
        others: Old → new key of what is no tensor, by the path of its root.

    Raises:
        ConvInspectError: It cannot be written; the target is then unchanged.
    """
    edits = tuple(edits)
    others = others or {}
    source, versions = checkpoint.path, checkpoint.versions
    expected = _expected(checkpoint.roots, edits, drop_optimizer) + _facts_of_others(checkpoint.roots, others)
    tensors = [tensor for root in checkpoint.roots for tensor in root.tensors]
    shards = {part.storage.file for tensor in tensors for part in _stored(tensor) if part.storage is not None}
    if source.is_dir() or source.suffix == ".json" or len(shards) > 1:
        _save_shards(checkpoint, edits, target, progress, expected, others)
        return
    with (
        reporting_changes(versions),
        new_file(target, lambda new: approve(new, expected, versions)) as temporary,
    ):
        changes = Changes(edits, drop_optimizer, parameters or {}, others, checkpoint.pickles.get(source))
        _write_file(source, changes, temporary, progress)


def _write_file(source: Path, changes: Changes, target: Path, progress: Progress) -> None:
    with File(source) as file:
        pieces = pieces_for(file, changes)
        check_room(target, sum(map(size_of, pieces)))
        write_pieces(source, pieces, target, progress)


Facts: TypeAlias = tuple[object, ...]
"""The properties of a tensor that are compared, its key first."""


def approve(
    written: Path,
    expected: Sequence[Facts],
    versions: Mapping[Path, Version],
    facts_of: Callable[[Tensor], Facts] | None = None,
) -> None:
    """Check what was written, immediately before it is renamed to the target.

    Args:
        written: The new file or folder.
        expected: The expected facts of each tensor.
        versions: The source files' versions when they were read. They are also checked last, so that a source that the
            new file replaces is still the one that was read.
        facts_of: Gives the facts to compare, if not all of them; tensors may then be in any order.

    Raises:
        BrokenFile: Something differs from what is expected.
        ChangedMeanwhile: A source has changed.
    """
    check_unchanged(versions)
    _compare(written, expected, facts_of)
    check_unchanged(versions)


def _compare(written: Path, expected: Sequence[Facts], facts_of: Callable[[Tensor], Facts] | None) -> None:
    new = read_contents(written)
    facts = [(facts_of or _facts)(tensor) for root in new.roots for tensor in root.tensors]
    if facts_of is None:
        facts += _facts_of_others(new.roots, {})
    else:
        facts, expected = sorted(facts, key=_key), sorted(expected, key=_key)
    if facts == list(expected) and not new.problems:
        return
    pairs = zip_longest(facts, expected, fillvalue=("",))
    key = next((actual[0] or wanted[0] for actual, wanted in pairs if actual != wanted), "")
    problem = f"the new file differs in tensor {key!r} from what it should be, so it was discarded"
    raise BrokenFile(problem, "please report this file's kind")


def _key(facts: Facts) -> str:
    return str(facts[0])


def _expected(roots: Iterable[Root], edits: Sequence[Edit], drop: bool) -> list[Facts]:
    """The expected facts of each tensor in the new file."""
    shapes = {_place(edit.tensor): edit for edit in edits if edit.shape != edit.tensor.shape or edit.transposed}
    names = {(_place(edit.tensor), edit.tensor.key): edit.key for edit in edits if edit.key is not None}
    return [
        _facts(_after(tensor, shapes.get(_place(tensor)), names.get((_place(tensor), tensor.key))))
        for root in roots
        for tensor in root.tensors
        if not (drop and root.role == "optimizer" and tensor.key.startswith("state."))
    ]


def _facts_of_others(roots: Iterable[Root], names: Mapping[str, Mapping[str, str]]) -> list[Facts]:
    """The facts of what is no tensor, with new keys by the path of their root."""
    return [
        (names.get(root.path, {}).get(other.key, other.key), other.value, other.what, other.text)
        for root in roots
        for other in root.others
    ]


def _place(tensor: Tensor) -> tuple[object, ...]:
    """Identity of a tensor in a file: the position of its size, else its key.

    The key alone will not do: if several roots are opened as one, the same tensor has another key.
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
    """All that must stay the same for a tensor, without its position in the file."""
    storage = tensor.storage
    stored = None if storage is None else (storage.key, storage.nbytes, storage.available, storage.crc)
    return (
        tensor.key, tensor.dtype, tensor.shape, tensor.stride, tensor.offset, stored, tensor.requires_grad,
        tensor.device, tensor.layout, tensor.subclass,
    )  # fmt: skip


# -------------------------------------------------------------------------------------------------- shards


def _save_shards(
    checkpoint: Checkpoint,
    edits: Sequence[Edit],
    target: Path,
    progress: Progress,
    expected: Sequence[Facts],
    others: Mapping[str, Mapping[str, str]],
) -> None:
    """Write every shard and the index to a new folder, atomically."""
    if os.path.exists(target):
        remedy = Wording("give another ", Option("target", None))
        raise CannotWrite("a sharded checkpoint is written to a new folder, and this exists", remedy, target)
    source = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    opened = checkpoint.path.name if checkpoint.path.suffix == ".json" else ""
    names = {edit.tensor.key: edit.key for edit in edits if edit.key is not None}
    right = totals(tensor for root in checkpoint.roots for tensor in root.tensors)
    versions = checkpoint.versions
    by_shard: dict[Path, list[Edit]] = {}
    for edit in chain.from_iterable(map(_of_parts, edits)):
        if edit.tensor.storage is not None:
            by_shard.setdefault(edit.tensor.storage.file, []).append(edit)
    check_room(target, checkpoint.nbytes_on_disk)
    with (
        reporting_changes(versions),
        new_folder(target, lambda new: approve(new / opened, expected, versions)) as temporary,
    ):
        for name in _names(checkpoint):
            old, new = source / name, temporary / name
            new.parent.mkdir(parents=True, exist_ok=True)
            if old in by_shard or (others and not name.endswith(".json")):
                changes = Changes(tuple(by_shard.get(old, ())), others=others, pickle=checkpoint.pickles.get(old))
                _write_file(old, changes, new, progress)
            elif name.endswith(".json"):
                write_pieces(old, [edited_index(old.read_bytes(), names, right)], new, progress)
            else:
                copy_whole(old, new, progress)


def _stored(tensor: Tensor) -> tuple[Tensor, ...]:
    """The tensors in files that it is put together from; itself where it is in one."""
    return tensor.parts if tensor.layout == LAYOUT else (tensor,)


def _of_parts(edit: Edit) -> list[Edit]:
    """The edits of a tensor's pieces that change it as a whole.

    Raises:
        CannotWrite: Its pieces would have to be cut along other dimensions.
    """
    tensor = edit.tensor
    if tensor.layout != LAYOUT:
        return [edit]
    if edit.shape != tensor.shape and (edit.transposed or edit.shape[:2] != tensor.shape[:2]):
        raise CannotWrite(f"the pieces of {tensor.key!r} cannot be turned over", "write whole tensors first")
    added = edit.shape[2:]
    shapes = [part.shape if edit.shape == tensor.shape else part.shape[:2] + added for part in tensor.parts]
    return [Edit(part, new, contiguous(new), key=edit.key) for part, new in zip(tensor.parts, shapes, strict=True)]


def _names(checkpoint: Checkpoint) -> list[str]:
    """File names of a sharded checkpoint's shards and indexes in its folder."""
    path = checkpoint.path
    folder = path if path.is_dir() else path.parent
    shards = {
        os.path.relpath(tensor.storage.file, folder)
        for root in checkpoint.roots
        for whole in root.tensors
        for tensor in _stored(whole)
        if tensor.storage is not None
    }
    indexes = [index.name for index in folder.glob("*.index.json")] if path.is_dir() else [path.name]
    return [*indexes, *sorted(shards)]


def edited_index(text: bytes, names: Mapping[str, str], right: tuple[int, int]) -> bytes:
    """An index with other keys, and with a correct total if it was wrong; the JSON is formatted as before.

    Args:
        text: The index.
        names: New keys by key.
        right: Totals that count as correct.
    """
    index = json.loads(text)
    layouts: tuple[dict[str, Any], ...] = ({"indent": 2}, {"indent": 4}, {}, {"separators": (",", ":")})
    end = b"\n" if text.endswith(b"\n") else b""

    def written(layout: dict[str, Any], plain: bool) -> bytes:
        return json.dumps(index, ensure_ascii=plain, **layout).encode("utf-8", "surrogatepass") + end

    choices = [(layout, plain) for layout in layouts for plain in (True, False)]
    same = next((choice for choice in choices if written(*choice) == text), choices[0])
    metadata = index.get("metadata")
    stale = isinstance(metadata, dict) and metadata.get("total_size", right[0]) not in right
    if stale:
        metadata["total_size"] = right[0]
    if not stale and not names.keys() & index["weight_map"].keys():
        return text
    index["weight_map"] = {names.get(key, key): shard for key, shard in index["weight_map"].items()}
    return written(*same)
