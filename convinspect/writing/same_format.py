"""Save edits as a new checkpoint: written beside the target, checked, and only then renamed to it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from convinspect.checkpoint import Checkpoint
from convinspect.errors import BrokenFile, CannotWrite, Option, Wording
from convinspect.formats import read_contents
from convinspect.formats.files import File, check_unchanged
from convinspect.formats.journal import journal_of
from convinspect.formats.places import name_of
from convinspect.formats.sources import INSIDE, is_plain, member_of
from convinspect.records import Container, Edit, Root, Tensor, Version, contiguous
from convinspect.writing.atomic import new_file, reporting_changes
from convinspect.writing.beside import roots_beside
from convinspect.writing.moving import Place, new_sums
from convinspect.writing.pieces import Piece
from convinspect.writing.rewrite import Changes, pieces_for, write_file
from convinspect.writing.shards import Beside, in_several, pieces_of_files, save_distributed, save_folder

if TYPE_CHECKING:
    from convinspect.ranks.group import Group

Progress = Callable[[int], None]


def save_edits(
    checkpoint: Checkpoint,
    edits: Iterable[Edit],
    target: Path,
    progress: Progress,
    drop_optimizer: bool = False,
    parameters: Mapping[str, str] | None = None,
    others: Mapping[str, Mapping[str, str]] | None = None,
    beside: Beside | None = None,
    force: bool = False,
    group: Group | None = None,
    in_place: bool = False,
) -> str:
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
        beside: What else goes into a new folder; None for a file, or the folder of an index.
        force: Replace a folder that exists.
        group: The ranks that write a folder together, each its share of the files; rank 0 writes a file alone.
        in_place: Edit the source, which is the target, without a copy if that can be done.

    Returns:
        Why the source was replaced by a copy though it was to be edited; else "".

    Raises:
        ConvInspectError: It cannot be written; the target is then unchanged.
    """
    edits = tuple(edits)
    others = others or {}
    if checkpoint.container is Container.DISTRIBUTED:
        changes = Changes(edits, parameters=parameters or {}, others=others)
        return _save_distributed(checkpoint, changes, target, progress, beside or Beside(), force, group, in_place)
    whole = beside is None and not in_several(checkpoint)
    if whole and group is not None and group.rank:
        return ""
    source, versions = checkpoint.path, checkpoint.versions
    sums = new_sums(edits)
    expected = _expected(checkpoint.roots, edits, drop_optimizer, sums) + _facts_of_others(checkpoint.roots, others)
    changes = Changes(edits, drop_optimizer, parameters or {}, others, checkpoint.pickles.get(source), sums)
    beside = beside or Beside()
    reason = _edit_in_place(checkpoint, changes, expected, target, beside, not whole) if in_place else ""
    if in_place and not reason:
        return ""
    if whole:
        in_archive = _wraps(source, target)
        # Of an archive the same member is looked at, which need not be its only checkpoint.
        member = f"{INSIDE}{member_of(source)}" if in_archive else ""
        with (
            _saying_why(reason),
            reporting_changes(versions),
            new_file(target, lambda new: approve(Path(f"{new}{member}"), expected, versions)) as temporary,
        ):
            write_file(source, changes, temporary, progress, in_archive)
        return reason
    if reason and not target.is_dir():
        remedy = Wording("give a new folder with ", Option("target", None))
        raise CannotWrite(f"it cannot be edited in place ({reason})", remedy, target)
    opened = "" if source.is_dir() else name_of(source)
    all_versions = {**versions, **(beside.carried.versions if beside.carried is not None else {})}

    def check(new: Path) -> None:
        approve(new / opened, expected, all_versions, beside=beside.optimizers)

    with _saying_why(reason):
        save_folder(checkpoint, changes, target, progress, check, beside, force, group)
    return reason


@contextmanager
def _saying_why(reason: str) -> Iterator[None]:
    """Where no copy can be written either, say why there must be one.

    Args:
        reason: Why the source cannot be edited in place; "" where that was not asked for.
    """
    try:
        yield
    except CannotWrite as error:
        if reason:
            error.problem = Wording(f"it must be copied ({reason}), and ", error.problem)
        raise


def _edit_in_place(
    checkpoint: Checkpoint,
    changes: Changes,
    expected: Sequence[Facts],
    target: Path,
    beside: Beside,
    several: bool,
) -> str:
    """Edit the source without a copy; why that cannot be done, or "" once it is."""
    source = checkpoint.path

    def check() -> None:
        approve(source, expected, {}, beside=beside.optimizers)

    if several:
        return _edit_folder(target, pieces_of_files(checkpoint, changes, beside), checkpoint.versions, check)
    # What is edited is the file that a link names.
    place = Path(os.path.realpath(source))
    with File(source) as file:
        pieces = pieces_for(file, changes)
    return _edited(journal_of(place), {place: pieces}, checkpoint.versions, check)


def _edit_folder(
    target: Path, pieces: Mapping[Path, Sequence[Piece]], versions: Mapping[Path, Version], check: Callable[[], None]
) -> str:
    """Edit files of a folder without a copy, under one journal; why that cannot be done, or "" once it is."""
    folder = Path(os.path.realpath(target if target.is_dir() else target.parent))
    for path in pieces:
        # Who opens a file alone looks for a journal beside it.
        if Path(os.path.realpath(path)) != folder / path.name:
            return "its files are links to others, or lie in further folders"
    files = {Path(os.path.realpath(path)): new for path, new in pieces.items()}
    return _edited(journal_of(folder), files, versions, check)


def _edited(
    journal: Path,
    files: Mapping[Path, Sequence[Piece]],
    versions: Mapping[Path, Version],
    check: Callable[[], None],
) -> str:
    # Imported here, as what a new file does without.
    from convinspect.writing.in_place.edit import edit_in_place

    return edit_in_place(journal, files, versions, check)


def _wraps(source: Path, target: Path) -> bool:
    if is_plain(source):
        return False
    from convinspect.writing.archived import wraps

    return wraps(source, target)


def _save_distributed(
    checkpoint: Checkpoint,
    changes: Changes,
    target: Path,
    progress: Progress,
    beside: Beside,
    force: bool,
    group: Group | None,
    in_place: bool,
) -> str:
    """As `save_edits`, of a distributed checkpoint."""
    from convinspect.formats.torch.distributed import METADATA
    from convinspect.writing.distributed.files import pieces_by_file, whole_edits

    edits = whole_edits(checkpoint, changes.edits)

    def facts(tensor: Tensor) -> Facts:
        # What lies in its files is compared chunk by chunk.
        return tensor.key, tensor.dtype, tensor.shape

    shapes = {edit.tensor.key: edit.shape for edit in edits}
    opened = METADATA if checkpoint.path.name == METADATA else ""

    def check(new: Path, keys: Mapping[str, str], versions: Mapping[Path, Version] = checkpoint.versions) -> None:
        expected = [
            (keys.get(tensor.key, tensor.key), tensor.dtype, shapes.get(tensor.key, tensor.shape))
            for root in checkpoint.roots
            for tensor in root.tensors
        ]
        approve(new / opened, expected, versions, facts)

    reason = ""
    if in_place:
        files = pieces_by_file(checkpoint, changes.edits, changes.others, changes.parameters)

        def check_edited() -> None:
            files.check(files.folder)
            check(files.folder, files.new_keys, {})

        reason = _edit_folder(files.folder, files, {**files.versions, **checkpoint.versions}, check_edited)
        if not reason:
            return ""
    with _saying_why(reason):
        save_distributed(checkpoint, changes, target, progress, check, beside, force, group)
    return reason


Facts: TypeAlias = tuple[object, ...]
"""The properties of a tensor that are compared, its key first."""


def approve(
    written: Path,
    expected: Sequence[Facts],
    versions: Mapping[Path, Version],
    facts_of: Callable[[Tensor], Facts] | None = None,
    beside: Sequence[str] = (),
) -> None:
    """Check what was written, immediately before it is renamed to the target.

    Args:
        written: The new file or folder.
        expected: The expected facts of each tensor.
        versions: The source files' versions when they were read. They are also checked last, so that a source that the
            new file replaces is still the one that was read.
        facts_of: Gives the facts to compare, if not all of them; tensors may then be in any order.
        beside: Names of the optimizer files beside it whose tensors are expected too.

    Raises:
        BrokenFile: Something differs from what is expected.
        ChangedMeanwhile: A source has changed.
    """
    check_unchanged(versions)
    _compare(written, expected, facts_of, beside)
    check_unchanged(versions)


def _compare(
    written: Path, expected: Sequence[Facts], facts_of: Callable[[Tensor], Facts] | None, beside: Sequence[str]
) -> None:
    new = read_contents(written)
    folder = written if written.is_dir() else written.parent
    roots = (*new.roots, *roots_beside(folder, beside))
    facts = [(facts_of or _facts)(tensor) for root in roots for tensor in root.tensors]
    if facts_of is None:
        facts += _facts_of_others(roots, {})
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


def _expected(roots: Iterable[Root], edits: Sequence[Edit], drop: bool, sums: Mapping[Place, int]) -> list[Facts]:
    """The expected facts of each tensor in the new file."""
    shapes = {
        _place(edit.tensor): edit for edit in edits
        if edit.shape != edit.tensor.shape or edit.transposed or edit.moved is not None
    }  # fmt: skip
    names = {(_place(edit.tensor), edit.tensor.key): edit.key for edit in edits if edit.key is not None}
    return [
        _facts(_after(tensor, shapes.get(_place(tensor)), names.get((_place(tensor), tensor.key))))
        for root in roots
        for tensor in ((_with_sum(one, sums) for one in root.tensors) if sums else root.tensors)
        if not (drop and root.role == "optimizer" and tensor.key.startswith("state."))
    ]


def _with_sum(tensor: Tensor, sums: Mapping[Place, int]) -> Tensor:
    """The tensor with the new checksum of its storage, where numbers change places there."""
    storage = tensor.storage
    if storage is None or (storage.file, storage.key) not in sums:
        return tensor
    return tensor._replace(storage=storage._replace(crc=sums[storage.file, storage.key]))


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
    return (file, tensor.key) if tensor.spans is None else (file, tensor.spans_at + tensor.spans[0])


def _after(tensor: Tensor, edit: Edit | None, name: str | None) -> Tensor:
    renamed = tensor if name is None else tensor._replace(key=name)
    if name is not None and tensor.storage is not None and tensor.spans is None:
        # safetensors knows bytes by their tensor's name.
        renamed = renamed._replace(storage=tensor.storage._replace(key=name))
    if edit is None:
        return renamed
    stride = contiguous(edit.shape) if tensor.spans is None else edit.stride
    return renamed._replace(shape=edit.shape, stride=stride)


def _facts(tensor: Tensor) -> Facts:
    """All that must stay the same for a tensor, without its position in the file."""
    storage = tensor.storage
    stored = None if storage is None else (storage.key, storage.nbytes, storage.available, storage.crc)
    return (
        tensor.key, tensor.dtype, tensor.shape, tensor.stride, tensor.offset, stored, tensor.requires_grad,
        tensor.device, tensor.layout, tensor.subclass,
    )  # fmt: skip
