"""Save edits of a checkpoint in several files, or of a folder with all that lies in it, as a new folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from convinspect.checkpoint import Checkpoint
from convinspect.errors import CannotWrite, Option, Wording
from convinspect.formats import sources
from convinspect.formats.files import File, check_unchanged
from convinspect.formats.pieces import LAYOUT
from convinspect.formats.places import name_of
from convinspect.formats.sharded import totals
from convinspect.records import Container, Edit, Tensor, Version, contiguous
from convinspect.remote.addresses import Address
from convinspect.writing.atomic import check_room
from convinspect.writing.carried import Carried, copy_item, folder_of
from convinspect.writing.clones import nbytes_shared
from convinspect.writing.new_folder import Found, NewFile, write_new_folder
from convinspect.writing.pieces import Piece, copy_whole, write_pieces
from convinspect.writing.rewrite import Changes, pieces_for, write_file

if TYPE_CHECKING:
    from convinspect.formats.pickle.record import Pickle
    from convinspect.ranks.group import Group
    from convinspect.writing.distributed.files import Rewritten

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
    group: Group | None = None,
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
        group: The ranks that write it together.

    Raises:
        ConvInspectError: It cannot be written; the target is then unchanged.
    """
    source = _holder_of(checkpoint.path)
    names = [*own_names(checkpoint), *beside.optimizers]
    carried = beside.carried or Carried(source)
    _check_replaced(target, {*names, *carried.names}, force)
    right, keys = _right_totals(checkpoint, beside), _new_keys(changes)
    versions = {**checkpoint.versions, **carried.versions}
    _check_room(target, checkpoint.nbytes_on_disk + carried.nbytes, versions, group)
    files = []
    for name, old, of_file in _changes_by_file(checkpoint, changes, beside):
        if name.endswith(".json"):
            files.append(NewFile(name, 0, partial(_write_index, old, keys, right, progress), last=True))
            continue
        nbytes = versions[old][2] if old in versions else 0
        write = partial(write_file, old, of_file) if of_file else partial(copy_whole, old)
        files.append(NewFile(name, nbytes, partial(write, progress=progress)))
    write_new_folder(target, [*files, *_copies(carried, progress)], check, versions, force, group)


def _write_index(old: Path, keys: Mapping[str, str], right: tuple[int, int], progress: Progress, new: Path) -> None:
    with File(old) as file:
        text = file.read(0, file.size)
    write_pieces(old, [edited_index(text, keys, right)], new, progress)


def _copies(carried: Carried, progress: Progress) -> list[NewFile]:
    """What the new folder takes as it is."""
    return [
        NewFile(
            item.name,
            item.version[2] if item.version else 0,
            partial(copy_item, item, carried.folder, progress=progress),
        )
        for item in carried.items
        if not item.left
    ]


def _check_room(target: Path, nbytes: int, versions: Mapping[Path, Version], group: Group | None) -> None:
    """Check before any writing that the disk has room; other ranks may come here when rank 0 has begun to fill it.

    Raises:
        CannotWrite: It has not.
    """
    if group is None or not group.rank:
        folder = Path(os.path.realpath(target)).parent
        check_room(target, nbytes, lambda: nbytes - nbytes_shared(versions, folder))


def pieces_of_files(checkpoint: Checkpoint, changes: Changes, beside: Beside) -> dict[Path, list[Piece]]:
    """What each file of a checkpoint in several files becomes; those that stay as they are have no entry.

    Args:
        checkpoint: The source, with the roots of the optimizers beside it.
        changes: Of all its files.
        beside: What else lies in its folder.

    Raises:
        ConvInspectError: A file cannot be read, or its format cannot be changed.
    """
    right, keys = _right_totals(checkpoint, beside), _new_keys(changes)
    pieces: dict[Path, list[Piece]] = {}
    for name, old, of_file in _changes_by_file(checkpoint, changes, beside):
        if name.endswith(".json"):
            pieces[old] = [edited_index(old.read_bytes(), keys, right)]
        elif of_file:
            with File(old) as file:
                pieces[old] = pieces_for(file, of_file)
    return pieces


def _changes_by_file(checkpoint: Checkpoint, changes: Changes, beside: Beside) -> Iterator[tuple[str, Path, Changes]]:
    """Each file of a checkpoint in several files, by name and path, with what of the changes is about it."""
    source = _holder_of(checkpoint.path)
    by_file = _by_file(changes.edits)
    for name in [*own_names(checkpoint), *beside.optimizers]:
        old = source / name
        yield name, old, _of_file(name, changes, beside.optimizers, by_file.get(old, ()), checkpoint.pickles.get(old))


def _right_totals(checkpoint: Checkpoint, beside: Beside) -> tuple[int, int]:
    own = [root for root in checkpoint.roots if root.path.partition(":")[0] not in beside.optimizers]
    return totals(tensor for root in own for tensor in root.tensors)


def _new_keys(changes: Changes) -> dict[str, str]:
    return {edit.tensor.key: edit.key for edit in changes.edits if edit.key is not None}


def save_distributed(
    checkpoint: Checkpoint,
    changes: Changes,
    target: Path,
    progress: Progress,
    check: Callable[[Path, Mapping[str, str]], None],
    beside: Beside,
    force: bool,
    group: Group | None = None,
) -> None:
    """As `save_folder`, of a distributed checkpoint; `check` is told the new keys by key, too."""
    from convinspect.formats.torch.distributed import METADATA
    from convinspect.writing.distributed.files import pieces_by_file

    files = pieces_by_file(checkpoint, changes.edits, changes.others, changes.parameters)
    carried = beside.carried or Carried(files.folder)
    _check_replaced(target, {*files.names, *carried.names}, force)
    versions = {**checkpoint.versions, **files.versions, **carried.versions}
    _check_room(target, sum(version[2] for version in files.versions.values()) + carried.nbytes, versions, group)

    def check_all(new: Path) -> None:
        files.check(new)
        check(new, files.new_keys)
        check_unchanged(versions)

    new_files = []
    for name in files.names:
        old = files.folder / name
        write = partial(_write_edited, files, old) if old in files else partial(copy_whole, old)
        # Written last: it says where the others' bytes lie.
        last = old == files.folder / METADATA
        new_files.append(NewFile(name, files.versions[old][2], partial(write, progress=progress), last))

    def tell(names: Sequence[str]) -> dict[Path, dict[int, int]]:
        return {path: dict(files.grown(path)) for name in names if (path := files.folder / name) in files}

    def hear(told: Iterable[Mapping[Path, Mapping[int, int]]]) -> None:
        for path, grown in chain.from_iterable(one.items() for one in told):
            files.set_grown(path, grown)

    write_new_folder(
        target, [*new_files, *_copies(carried, progress)], check_all, versions, force, group, Found(tell, hear)
    )


def _write_edited(files: Rewritten, old: Path, new: Path, progress: Progress) -> None:
    write_pieces(old, files[old], new, progress)


def _check_replaced(target: Path, names: Collection[str], force: bool) -> None:
    """Check that nothing is lost with a folder that is replaced.

    Raises:
        CannotWrite: It is no folder, or it holds what the new one does not.
    """
    if not os.path.lexists(target):
        return
    another = Wording("give a new folder with ", Option("target", None))
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
        from convinspect.formats.torch.distributed import METADATA

        # Files that are not there are a problem, with which nothing is written.
        own = folder_of(path)
        return [*(file.relative_to(own).as_posix() for file in checkpoint.versions if file.name != METADATA), METADATA]
    folder = _holder_of(path)
    shards = {
        _name_in(folder, tensor.storage.file)
        for root in checkpoint.roots
        for whole in root.tensors
        for tensor in stored(whole)
        if tensor.storage is not None
    }
    names = sorted(entry.name for entry in folder.iterdir()) if path.is_dir() else []
    indexes = [name for name in names if name.endswith(".index.json")] if path.is_dir() else [name_of(path)]
    return list(dict.fromkeys([*indexes, *sorted(shards)]))


def _holder_of(path: Path) -> Path:
    """The folder of a checkpoint in several files; of an index in an archive, what is beside it there."""
    return path if path.is_dir() else sources.folder_of(path)


def _name_in(folder: Path, file: Path) -> str:
    return file.relative_to(folder).as_posix() if isinstance(file, Address) else os.path.relpath(file, folder)


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
