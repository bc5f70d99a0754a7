"""Edit files in place: a journal of what is lost, the few bytes that change, a check, and the journal is removed.

A kill or a power cut at any moment leaves the old files, the new ones, or files with a journal beside them, from which
`recover` restores the old ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from convinspect.errors import BrokenFile, CannotWrite, ChangedMeanwhile
from convinspect.formats.files import File, check_unchanged
from convinspect.formats.journal import reading_own_edit
from convinspect.records import Version
from convinspect.writing.in_place.file_ranges import cannot_shift, extents, shift
from convinspect.writing.in_place.journal import Entry, entry_of, write_journal
from convinspect.writing.in_place.leases import leased
from convinspect.writing.in_place.open_files import many_open
from convinspect.writing.in_place.patches import patch_of
from convinspect.writing.in_place.recover import (
    can_lock,
    check_ours,
    locked,
    naming_refusals,
    remove,
    restore,
    write_at,
)
from convinspect.writing.pieces import Piece

_TOO_MUCH = "too much of it would lie elsewhere"
_NO_ROOM = "its header outgrows its room, and this file system cannot make room within a file"
_OPEN = "it is open, here or in another program"
_MAY_BE_OPEN = "its numbers would move, and this file system does not tell whether another program has it open"
_LINKS = "it has further hard links, which keep the old content"
_NOT_WRITABLE = "it may not be written to"
_NO_LOCKS = "this system cannot lock a file against other edits"


class _Cannot(Exception):
    """Why files cannot be edited in place; nothing has changed."""


def edit_in_place(
    journal: Path,
    files: Mapping[Path, Sequence[Piece]],
    versions: Mapping[Path, Version],
    check: Callable[[], None],
) -> str:
    """Edit files in place, all of them or none.

    Args:
        journal: Where the journal lies meanwhile, beside the file or in the folder of all of them.
        files: For each file what it becomes; ranges are of itself. None of them is a link.
        versions: The files' versions when they were read.
        check: Raises if what the files have become is wrong.

    Returns:
        Why they cannot be edited so, which changes nothing; "" once they are.

    Raises:
        ChangedMeanwhile: A file has changed since it was read.
        CannotWrite: Another edit is under way, or the disk refuses. The files are then as they were.
        ConvInspectError: What `check` raises. The files are then as they were.
    """
    try:
        with ExitStack() as stack:
            limit = stack.enter_context(many_open(len(files)))
            if limit is not None:
                raise _Cannot(f"it has {len(files):,} files, of which this system lets {limit:,} be open at once")
            handles = {path: stack.enter_context(_opened(path)) for path in files}
            check_unchanged(versions)
            entries = _entries(journal.parent, files, handles)
            if entries:
                _carry_out(journal, entries, handles, versions, check)
    except _Cannot as reason:
        return str(reason)
    return ""


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """As `locked`, of a file that may be edited in place.

    Raises:
        _Cannot: It may not.
        CannotWrite: Another edit is under way.
    """
    if not hasattr(os, "pwrite") or not can_lock():
        raise _Cannot(_NO_LOCKS)
    if not os.access(path, os.W_OK):
        raise _Cannot(_NOT_WRITABLE)
    with locked(path) as handle:
        if os.fstat(handle).st_nlink > 1:
            raise _Cannot(_LINKS)
        yield handle


def _entries(folder: Path, files: Mapping[Path, Sequence[Piece]], handles: Mapping[Path, int]) -> dict[Path, Entry]:
    """What the journal says of each file that changes.

    Raises:
        _Cannot: Too much of a file would lie elsewhere.
    """
    entries = {}
    for path, pieces in files.items():
        with File(path) as file:
            patch = patch_of(file, pieces)
            if patch is None:
                raise _Cannot(_TOO_MUCH)
            if patch.idle:
                continue
            where = None if patch.shift is None else extents(handles[path])
            entries[path] = entry_of(file, path.relative_to(folder).as_posix(), patch, where)
    return entries


def _carry_out(
    journal: Path,
    entries: Mapping[Path, Entry],
    handles: Mapping[Path, int],
    versions: Mapping[Path, Version],
    check: Callable[[], None],
) -> None:
    """Edit the files under a journal; on any failure they get their old bytes back.

    Raises:
        ChangedMeanwhile: Another program has written to one, or given its name to another file.
        _Cannot: Somebody has a file open, or the file system cannot make room in it.
        ConvInspectError: What `check` raises, or the disk refuses.
    """
    with ExitStack() as stack:
        for path, entry in entries.items():
            alone = stack.enter_context(leased(handles[path], path.parent))
            # Where nothing tells, a reader still finds its numbers if they stay where they are.
            if alone is False or (alone is None and entry.patch.shift is not None):
                raise _Cannot(_OPEN if alone is False else _MAY_BE_OPEN)
        # From here on nobody else can write to them.
        check_unchanged(versions)
        try:
            write_journal(journal, entries.values(), _mode(handles))
        except CannotWrite as error:
            raise CannotWrite(error.problem, error.remedy, _named(entries, journal)) from None
        try:
            for path, entry in entries.items():
                _apply(handles[path], entry, path)
            # A lease keeps this process from opening the files too.
            stack.close()
            with reading_own_edit():
                check()
            _check_in_place(handles)
        except BaseException:
            _undo(journal, entries, handles)
            raise
    remove(journal)


def _undo(journal: Path, entries: Mapping[Path, Entry], handles: Mapping[Path, int]) -> None:
    """Give the files their old bytes back, but for one that is another program's by now.

    Raises:
        ChangedMeanwhile: One is.
        CannotWrite: The disk refuses; the journal then stays.
    """
    others = []
    for path, entry in entries.items():
        try:
            check_ours(handles[path], entry, path, journal)
        except BrokenFile:
            others.append(path)
        else:
            restore(handles[path], entry, path, journal)
    remove(journal)
    if others:
        raise _changed(others[0])
    _check_in_place(handles)


def _mode(handles: Mapping[Path, int]) -> int:
    """The rights of who may read all of the files, since a journal holds some of their bytes."""
    mode = 0o666
    for handle in handles.values():
        mode &= os.fstat(handle).st_mode
    return mode


def _apply(handle: int, entry: Entry, path: Path) -> None:
    """Carry a patch out, on the disk.

    Raises:
        _Cannot: The file system cannot make room within the file.
        CannotWrite: The disk refuses.
    """
    patch = entry.patch
    with naming_refusals(path):
        if patch.shift is not None:
            try:
                shift(handle, patch.shift)
            except OSError as error:
                if cannot_shift(error):
                    raise _Cannot(_NO_ROOM) from None
                raise
            # Nothing is written over other bytes before all of them are where they belong.
            os.fsync(handle)
        for run in patch.new:
            write_at(handle, run)
        if os.fstat(handle).st_size != patch.new_size:
            os.ftruncate(handle, patch.new_size)
        os.fsync(handle)


def _check_in_place(handles: Mapping[Path, int]) -> None:
    """Check that the files are still those that are open: another program may have given their names to new ones.

    Raises:
        ChangedMeanwhile: One is not.
    """
    for path, handle in handles.items():
        try:
            same = os.path.samestat(os.stat(path), os.fstat(handle))
        except OSError:
            same = False
        if not same:
            raise _changed(path)


def _changed(path: Path) -> ChangedMeanwhile:
    return ChangedMeanwhile("it changed while it was edited", "look at it, and try again", path)


def _named(entries: Mapping[Path, Entry], journal: Path) -> Path:
    """The file that is edited, or the folder of several."""
    return next(iter(entries)) if len(entries) == 1 else journal.parent
