"""Save edits of a checkpoint in several files, or of a folder with all that lies in it, as a new folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from convinspect.checkpoint import Checkpoint
from convinspect.errors import CannotWrite, Option, Wording
from convinspect.formats.pieces import LAYOUT
from convinspect.formats.sharded import totals
from convinspect.records import Container, Edit, Tensor, contiguous
from convinspect.writing.atomic import check_room, check_unchanged, new_folder, reporting_changes
from convinspect.writing.carried import Carried, copy_carried
from convinspect.writing.clones import nbytes_shared
from convinspect.writing.pieces import copy_whole, write_pieces
from convinspect.writing.rewrite import Changes, write_file

if TYPE_CHECKING:
    from convinspect.formats.pickle.record import Pickle

Progress = Callable[[int], None]


class Beside(NamedTuple):
    """What goes into a new folder besides the checkpoint's own files.

    Attributes:
        optimizers: Names of the files whose optimizers were joined to the checkpoint as roots.
        carried: What is copied as it is; None if the source is no folder, but an index.
    """

    optimizers: tuple[str, ...] = ()
    carried: Carried | None = None


def in_several(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint is written as a folder because it lies in several files."""
    path = checkpoint.path
    tensors = [tensor for root in checkpoint.roots for tensor in root.tensors]
    files = {part.storage.file for tensor in tensors for part in stored(tensor) if part.storage is not None}
    return path.is_dir() or path.suffix == ".json" or len(files) > 1


def save_folder(
    checkpoint: Checkpoint,
    changes: Changes,
    target: Path,
    progress: Progress,
    check: Callable[[Path], None],
    beside: Beside,
    force: bool,
) -> None:
    """Write every file of a checkpoint, with its index, to a new folder, atomically.

    Args:
        checkpoint: The source, with the roots of the optimizers beside it.
        changes: Of all its files.
        target: The new folder.
        progress: Called now and then with the number of bytes that were written since the last call.
        check: Raises if the new folder, at the path that it is given, is wrong.
        beside: What else goes into it.
        force: Replace a folder of which all files are written anew.

    Raises:
        ConvInspectError: It cannot be written; the target is then unchanged.
    """
    source = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    names = [*own_names(checkpoint), *beside.optimizers]
    carried = beside.carried or Carried(source)
    _check_replaced(target, {*names, *carried.names}, force)
    own = [root for root in checkpoint.roots if root.path.partition(":")[0] not in beside.optimizers]
    right = totals(tensor for root in own for tensor in root.tensors)
    keys = {edit.tensor.key: edit.key for edit in changes.edits if edit.key is not None}
    by_file = _by_file(changes.edits)
    versions = {**checkpoint.versions, **carried.versions}
    nbytes = checkpoint.nbytes_on_disk + carried.nbytes
    check_room(target, nbytes, lambda: nbytes - nbytes_shared(versions, Path(os.path.realpath(target)).parent))
    with reporting_changes(versions), new_folder(target, check, force) as temporary:
        for name in names:
            old, new = source / name, temporary / name
            new.parent.mkdir(parents=True, exist_ok=True)
            of_file = _of_file(name, changes, beside.optimizers, by_file.get(old, ()), checkpoint.pickles.get(old))
            if name.endswith(".json"):
                write_pieces(old, [edited_index(old.read_bytes(), keys, right)], new, progress)
            elif of_file:
                write_file(old, of_file, new, progress)
            else:
                copy_whole(old, new, progress)
        copy_carried(carried, temporary, progress)


def save_distributed(
    checkpoint: Checkpoint,
    changes: Changes,
    target: Path,
    progress: Progress,
    check: Callable[[Path], None],
    beside: Beside,
    force: bool,
) -> None:
    """As `save_folder`, of a distributed checkpoint."""
    from convinspect.writing.distributed import pieces_by_file

    files = pieces_by_file(checkpoint, changes.edits, changes.others)
    carried = beside.carried or Carried(files.folder)
    _check_replaced(target, {*files.names, *carried.names}, force)
    versions = {**checkpoint.versions, **files.versions, **carried.versions}
    nbytes = sum(version[2] for version in files.versions.values()) + carried.nbytes
    check_room(target, nbytes, lambda: nbytes - nbytes_shared(versions, Path(os.path.realpath(target)).parent))

    def check_all(new: Path) -> None:
        files.check(new)
        check(new)

    with reporting_changes(versions), new_folder(target, check_all, force) as temporary:
        for name in files.names:
            old, new = files.folder / name, temporary / name
            new.parent.mkdir(parents=True, exist_ok=True)
            if old in files:
                write_pieces(old, files[old], new, progress)
            else:
                copy_whole(old, new, progress)
        copy_carried(carried, temporary, progress)
        check_unchanged(versions)


def _check_replaced(target: Path, names: Collection[str], force: bool) -> None:
    """Check that nothing is lost with a folder that is replaced.

    Raises:
        CannotWrite: It is no folder, or it holds what the new one does not.
    """
    if not os.path.lexists(target):
        return
    another = Wording("give another ", Option("target", None))
    if not os.path.isdir(target):
        raise CannotWrite("it is a file, and a folder is to be written", another, target)
    found = (
        Path(os.path.relpath(os.path.join(folder, name), target)).as_posix()
        for folder, folders, files in os.walk(target)
        for name in (*files, *(name for name in folders if os.path.islink(os.path.join(folder, name))))
    )
    lost = next((name for name in found if not force or name not in names), None)
    if lost is not None and force:
        raise CannotWrite(f"it holds {lost!r}, which the new folder does not, and which would be lost", another, target)
    if lost is not None:
        use = Wording("use ", Option("force"), " to overwrite it, or ", another)
        raise CannotWrite("the folder exists and is not empty", use, target)


def _of_file(
    name: str, changes: Changes, optimizers: Collection[str], edits: Sequence[Edit], pickle: Pickle | None
) -> Changes:
    """The changes of one file; paths of an optimizer's roots begin with the name of its file."""
    others = {path: new for path, new in changes.others.items() if path.partition(":")[0] not in optimizers}
    if name in optimizers:
        own = ((path.partition(":"), new) for path, new in changes.others.items())
        others = {inner: new for (file, _, inner), new in own if file == name}
    return replace(changes, edits=tuple(edits), others=others, pickle=pickle)


def _by_file(edits: Sequence[Edit]) -> dict[Path, list[Edit]]:
    by_file: dict[Path, list[Edit]] = {}
    for edit in chain.from_iterable(map(_of_parts, edits)):
        if edit.tensor.storage is not None:
            by_file.setdefault(edit.tensor.storage.file, []).append(edit)
    return by_file


def stored(tensor: Tensor) -> tuple[Tensor, ...]:
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
    turned = edit.transposed or edit.moved is not None
    if edit.shape != tensor.shape and (turned or edit.shape[:2] != tensor.shape[:2]):
        raise CannotWrite(f"the pieces of {tensor.key!r} cannot be turned over", "write whole tensors first")
    added = edit.shape[2:]
    shapes = [part.shape if edit.shape == tensor.shape else part.shape[:2] + added for part in tensor.parts]
    return [Edit(part, new, contiguous(new), key=edit.key) for part, new in zip(tensor.parts, shapes, strict=True)]


def own_names(checkpoint: Checkpoint) -> list[str]:
    """File names of a checkpoint's index and shards, or of its only file, in its folder."""
    path = checkpoint.path
    if checkpoint.container is Container.DISTRIBUTED:
        from convinspect.writing.distributed import pieces_by_file

        return list(pieces_by_file(checkpoint).names)
    folder = path if path.is_dir() else path.parent
    shards = {
        os.path.relpath(tensor.storage.file, folder)
        for root in checkpoint.roots
        for whole in root.tensors
        for tensor in stored(whole)
        if tensor.storage is not None
    }
    indexes = [index.name for index in folder.glob("*.index.json")] if path.is_dir() else [path.name]
    return list(dict.fromkeys([*indexes, *sorted(shards)]))


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
