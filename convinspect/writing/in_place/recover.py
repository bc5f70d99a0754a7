"""Undo an edit in place, of which any part was done: the old bytes come back from the journal, and are checked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from convinspect.errors import BrokenFile, CannotWrite, NotThere
from convinspect.formats.journal import journal_of, journals_of
from convinspect.formats.sources import read_at
from convinspect.writing.atomic import sync
from convinspect.writing.in_place.file_ranges import END, Shift, extents, moved_from, shift
from convinspect.writing.in_place.journal import Entry, digest_of, read_journal
from convinspect.writing.in_place.open_files import many_open
from convinspect.writing.in_place.patches import Patch, Run, old_places


class Recovered(NamedTuple):
    """What was restored.

    Attributes:
        path: The file or folder that was asked for.
        files: The files that are again as they were before the edit.
        nbytes: Bytes that were written back.
    """

    path: Path
    files: tuple[Path, ...]
    nbytes: int


def recover(path: Path) -> Recovered:
    """Undo an interrupted edit of a file or folder in place.

    All files are checked before the first of them changes. It may be interrupted too, and repeated.

    Raises:
        NotThere: There is nothing to undo, or a file is gone.
        BrokenFile: The journal is damaged, or belongs to other files than those that are there.
        CannotWrite: The edit is still under way, or a file cannot be written to.
    """
    journal = next(filter(os.path.lexists, journals_of(path)), None)
    if journal is None:
        raise NotThere("no edit of it in place was interrupted, so there is nothing to recover", _inside(path), path)
    entries = read_journal(journal)
    files = [_place(journal, entry) for entry in entries]
    with ExitStack() as stack:
        stack.enter_context(many_open(len(files)))
        handles = [stack.enter_context(locked(file)) for file in files]
        # It may have been that of an edit that was under way, and has ended since.
        if not os.path.lexists(journal) or read_journal(journal) != entries:
            raise _under_way(path)
        for handle, entry, file in zip(handles, entries, files, strict=True):
            check_ours(handle, entry, file, journal)
        for handle, entry, file in zip(handles, entries, files, strict=True):
            restore(handle, entry, file, journal)
        # Still locked, so that no new edit begins under the old journal.
        remove(journal)
    return Recovered(path, tuple(files), sum(len(run.data) for entry in entries for run in entry.patch.old))


def _inside(path: Path) -> str:
    """What to do if it is a folder in which the edit of one file was interrupted; "" if it is none."""
    journal = next(iter(sorted(path.glob(f".?*{journal_of(path).name}"))), None) if path.is_dir() else None
    return "" if journal is None else f"that of a file in it was: give {path / read_journal(journal)[0].name}"


def _place(journal: Path, entry: Entry) -> Path:
    """The file that an entry is about.

    Raises:
        BrokenFile: It is not one that this journal can be about.
    """
    file = journal.parent / entry.name
    of_folder = journal == journal_of(journal.parent)
    inside = Path(os.path.realpath(journal.parent)) in Path(os.path.realpath(file)).parents
    if not inside or not (of_folder or journal_of(file) == journal):
        raise BrokenFile("the journal names another file than the one that it lies beside", _leave(journal), journal)
    return file


def _leave(journal: Path) -> str:
    return f"if the file is right as it is, remove {journal}"


def can_lock() -> bool:
    """Whether this system has the locks of `locked`; Windows has none."""
    try:
        import fcntl  # noqa: F401
    except ImportError:
        return False
    return True


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """A file that is opened for reading and writing, while no other edit in place has it.

    Raises:
        NotThere: It is not there.
        CannotWrite: It cannot be written to, or another edit is under way.
    """
    try:
        import fcntl
    except ImportError:
        problem = "this system cannot lock a file against other edits"
        raise CannotWrite(problem, "do it on the system that edited it", path) from None
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NotThere("the file is not there", path=path) from None
    except BlockingIOError:
        # The lease of another edit.
        raise _under_way(path) from None
    except OSError as error:
        raise CannotWrite(f"it cannot be written ({error.strerror or error})", "make it writable first", path) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _under_way(path) from None
        except OSError:
            # Not every file system has locks.
            pass
        yield handle
    finally:
        os.close(handle)


def _under_way(path: Path) -> CannotWrite:
    return CannotWrite("another edit of it is under way", "wait until it has ended", path)


def remove(journal: Path) -> None:
    """Remove a journal, for good.

    Raises:
        CannotWrite: It cannot be removed.
    """
    with naming_refusals(journal):
        journal.unlink()
        sync(journal.parent)


@contextmanager
def naming_refusals(path: Path) -> Iterator[None]:
    """Name the file in an error of the system.

    Raises:
        CannotWrite: The block raised an `OSError`.
    """
    try:
        yield
    except OSError as error:
        problem = f"it cannot be written ({error.strerror or error})"
        raise CannotWrite(problem, "make it writable, or room on the disk, and try again", path) from None


def check_ours(handle: int, entry: Entry, path: Path, journal: Path) -> None:
    """Check that a file is in a state that the edit, or its undoing, can have left.

    Raises:
        BrokenFile: It is another file, or was changed since.
    """
    patch = entry.patch
    cut = _cut(handle, entry)
    right = _size_fits(os.fstat(handle).st_size, patch) and all(
        any(digest_of(_read(handle, at, sample.size)) == sample.digest for at in _places(sample.at, patch, cut))
        for sample in entry.samples
    )
    # Bytes are written over others only once everything is shifted.
    if right and (patch.shift is None or cut == _done(patch.shift)):
        right = all(_is_mixed(handle, run, patch) for run in patch.new)
    if not right:
        raise _foreign(path, journal)


def _foreign(path: Path, journal: Path) -> BrokenFile:
    return BrokenFile("it is not the file that was edited, or it was changed since", _leave(journal), path)


def _size_fits(size: int, patch: Patch) -> bool:
    sizes = patch.shifted_size, patch.new_size
    return size == patch.size or min(sizes) <= size <= max(sizes)


def _places(old: int, patch: Patch, cut: int) -> tuple[int, ...]:
    """Where a byte of the old file may lie."""
    if patch.shift is None:
        return (old,)
    new = patch.shift.new_place(old)
    if cut == _done(patch.shift):
        return (new,)
    return (old,) if cut == _nothing_done(patch.shift) else (old, new)


def _done(change: Shift) -> int:
    """What `moved_from` says once a shift is carried out."""
    return change.first if change.by > 0 else END


def _nothing_done(change: Shift) -> int:
    """What `moved_from` says before a shift."""
    return END if change.by > 0 else change.first


def _cut(handle: int, entry: Entry) -> int:
    """As `moved_from`; where the places on the disk do not tell, all or nothing was shifted, as the size says."""
    change = entry.patch.shift
    if change is None:
        return 0
    status = os.fstat(handle)
    starts = [max(one.start, change.first) for one in entry.extents or () if one.start + one.size > change.first]
    if entry.extents is not None and starts and status.st_ino == entry.inode:
        now = extents(handle)
        cut = None if now is None else moved_from(entry.extents, now, change)
        if cut is not None:
            # In front of the first extent there is nothing that could move.
            return change.first if cut == min(starts) else cut
    return _nothing_done(change) if status.st_size == entry.patch.size else _done(change)


def _is_mixed(handle: int, run: Run, patch: Patch) -> bool:
    """Whether each byte where the run belongs is the new one, or the old one that lay there after the shift."""
    now = _read(handle, run.at, len(run.data))
    if now == run.data:
        return True
    # Room that was made held nothing, so that anything may be there.
    old = bytearray(now)
    for start, end in old_places(run.at, min(run.end, patch.shifted_size), patch.shift):
        place = (start if patch.shift is None else patch.shift.new_place(start)) - run.at - start
        for lost in patch.old:
            left, right = max(start, lost.at), min(end, lost.end)
            if left < right:
                old[place + left : place + right] = lost.data[left - lost.at : right - lost.at]
    return all(one in (was, new) for one, was, new in zip(now, old, run.data, strict=False))


def restore(handle: int, entry: Entry, path: Path, journal: Path) -> None:
    """Give a file its old bytes back, whatever part of the edit was done, and check them.

    Raises:
        CannotWrite: It cannot be written.
        BrokenFile: It is then not what it was.
    """
    patch = entry.patch
    with naming_refusals(path):
        if patch.shift is not None:
            _shift_back(handle, patch, _cut(handle, entry))
        for run in patch.old:
            # What was not reached need not be written, which might fail where the edit did.
            if _read(handle, run.at, len(run.data)) != run.data:
                write_at(handle, run)
        if os.fstat(handle).st_size != patch.size:
            os.ftruncate(handle, patch.size)
        os.fsync(handle)
    back = all(_read(handle, run.at, len(run.data)) == run.data for run in patch.old)
    if not back or any(digest_of(_read(handle, one.at, one.size)) != one.digest for one in entry.samples):
        raise _foreign(path, journal)
    with suppress(OSError):
        os.utime(handle, ns=(os.fstat(handle).st_atime_ns, entry.modified))


def _shift_back(handle: int, patch: Patch, cut: int) -> None:
    """Undo a shift that was carried out as a whole, in part or not at all."""
    assert patch.shift is not None
    at, by = patch.shift
    if cut == _nothing_done(patch.shift):
        return
    if by > 0:
        shift(handle, Shift(cut, -by))
        return
    if cut != END:
        # What moved in part is moved as a whole first.
        shift(handle, Shift(cut + by, by))
    os.ftruncate(handle, patch.shifted_size)
    shift(handle, Shift(at, -by))


def write_at(handle: int, run: Run) -> None:
    """Write a run of bytes at its place in an open file."""
    view, at = memoryview(run.data), run.at
    while view:
        done = os.pwrite(handle, view, at)
        view, at = view[done:], at + done


def _read(handle: int, at: int, size: int) -> bytes:
    parts = []
    while size > 0 and (part := read_at(handle, size, at)):
        parts.append(part)
        at, size = at + len(part), size - len(part)
    return b"".join(parts)
