"""Write a new file or folder atomically.

It is written in a temporary folder beside the target, checked, and only then renamed to the target.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from convinspect.errors import CannotWrite, ConvInspectError, Option, Wording
from convinspect.formats.files import check_unchanged
from convinspect.records import Version

if TYPE_CHECKING:
    from convinspect.ranks.group import Group


@contextmanager
def reporting_changes(versions: Mapping[Path, Version]) -> Iterator[None]:
    """If the block fails and one of these files has changed, report the change instead.

    Raises:
        ChangedMeanwhile: The block raised an exception, and one of the files has changed.
    """
    try:
        yield
    except Exception:
        check_unchanged(versions)
        raise


Check: TypeAlias = Callable[[Path], None]
"""Raises if what was written, and is synced to the disk, is wrong."""


@contextmanager
def new_file(target: Path, check: Check) -> Iterator[Path]:
    """A path to write to; at the end the file is synced, checked and renamed to `target` atomically.

    A new file takes over the mode of the file that it replaces and, if the system allows it, its owner; otherwise its
    mode follows the umask. A symbolic link is followed, so that the link stays; other hard links of a replaced file
    keep the old content. A target that did not exist at first is not replaced if another program creates it meanwhile.

    Raises:
        CannotWrite: The folder cannot be written to, the disk is full, or another program created the target meanwhile.
        ConvInspectError: What `check` raises.
    """
    with _beside(target) as (temporary, place):
        old = os.stat(place) if os.path.lexists(place) else None
        yield temporary
        if old is not None:
            _hand_on(old, temporary)
        sync(temporary)
        check(temporary)
        _take_name(temporary, place, old is not None)


@contextmanager
def new_folder(target: Path, check: Check, replace: bool = False) -> Iterator[Path]:
    """The same for a folder, which exists when the block starts; it replaces an empty folder, or with `replace` any.

    With `replace`, what is in it takes over modes and owners by name, and so does the folder.
    """
    with _beside(target) as (temporary, place):
        temporary.mkdir()
        yield temporary
        if replace:
            _hand_on_all(place, temporary)
        sync_files(temporary.rglob("*"))
        sync(temporary)
        check(temporary)
        if replace and place.is_dir() and any(place.iterdir()):
            _swap(temporary, place)
        else:
            _take_name(temporary, place, False)


@contextmanager
def folder_of_ranks(target: Path, check: Check, replace: bool, group: Group) -> Iterator[Path]:
    """`new_folder` for several ranks, which may be on several machines: each writes its files into the same folder.

    Rank 0 makes it; when the blocks of all have ended it syncs, checks and renames it. What is to be written last,
    rank 0 writes after `group.exchange`, which the block of each rank calls once when its own files are written.

    Raises:
        CannotWrite: As `new_folder`, or a rank does not see the folder that rank 0 has made.
        OtherRankFailed: A rank has failed, or died.
        ConvInspectError: What `check` raises.
    """
    from convinspect.ranks.group import OtherRankFailed

    if group.rank:
        with _folder_of_rank_0(target, group) as temporary:
            yield temporary
        return
    with (
        new_folder(target, check, replace) as temporary,
        _telling(group),
        _naming_target(target, temporary.parent),
    ):
        group.exchange(os.fspath(temporary))
        group.exchange(None)
        yield temporary
    # It is in its place: what becomes of the others now changes nothing.
    with suppress(OtherRankFailed):
        group.exchange(None)


@contextmanager
def _folder_of_rank_0(target: Path, group: Group) -> Iterator[Path]:
    temporary = Path(group.exchange(None)[0])
    try:
        with _telling(group), _naming_target(target, temporary.parent):
            if not _seen(temporary):
                problem = f"rank 0 writes into {temporary.parent}, which is not there for rank {group.rank}"
                raise CannotWrite(problem, "write to a file system that all machines share", target)
            group.exchange(None)
            yield temporary
            group.exchange(None)
    except BaseException:
        _discard(temporary)
        raise


@contextmanager
def _telling(group: Group) -> Iterator[None]:
    """Tell the other ranks of a failure before anything of theirs is removed, so that they know its cause."""
    try:
        yield
    except BaseException as error:
        group.fail(error, None if isinstance(error, Exception) else _SECONDS_AFTER_A_SIGNAL)
        raise


_SECONDS_AFTER_A_SIGNAL = 3.0
_SECONDS_UNTIL_SEEN = 10.0
"""A folder that one machine has made may take some seconds to appear on another."""


def _seen(folder: Path) -> bool:
    end = time.monotonic() + _SECONDS_UNTIL_SEEN
    while not folder.is_dir():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def _discard(temporary: Path) -> None:
    """Remove what the ranks wrote, whether or not rank 0 lives to do so.

    Taken away in one step: rank 0, if it lives, either finds it whole or not at all. The folder around it goes only
    when it is empty, since one that is being replaced may lie there.
    """
    aside = temporary.with_name(f"{os.urandom(6).hex()}.discarded")
    with suppress(OSError):
        os.rename(temporary, aside)
    shutil.rmtree(aside, ignore_errors=True)
    with suppress(OSError):
        os.rmdir(temporary.parent)


_LONGEST_NAME = 100
"""Bytes of a target's name that the temporary name beside it keeps; file systems allow about 255 in all."""


@contextmanager
def _beside(target: Path) -> Iterator[tuple[Path, Path]]:
    """A path to write to, in a private folder beside the target, and the final path.

    The folder is removed at the end, with any files that libraries leave in it. Errors name the target.
    """
    place = Path(os.path.realpath(target))
    folder = place.with_name(f".{_shortened(place.name)}.{os.urandom(6).hex()}.partial")
    try:
        with _naming_target(target, folder):
            folder.mkdir(0o700)
            yield folder / place.name, place
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _naming_target(target: Path, folder: Path) -> Iterator[None]:
    """Errors of writing into the private folder name the target."""
    try:
        yield
    except OSError as error:
        raise CannotWrite(f"it cannot be written ({error.strerror or error})", _remedy(error), target) from None
    except ConvInspectError as error:
        if error.path is not None and (error.path == folder or folder in error.path.parents):
            error.path = target
        raise


def left_behind(target: Path) -> list[Path]:
    """Temporary folders beside `target`, of runs that were killed or are in progress."""
    place = Path(os.path.realpath(target))
    try:
        names = os.listdir(place.parent)
    except OSError:
        return []
    ours = re.compile(rf"\.{re.escape(_shortened(place.name))}\.[0-9a-f]{{12}}\.partial")
    return sorted(place.with_name(name) for name in names if ours.fullmatch(name))


def _shortened(name: str) -> str:
    name = name[:_LONGEST_NAME]
    while len(os.fsencode(name)) > _LONGEST_NAME:
        name = name[:-1]
    return name


def _hand_on(old: os.stat_result, new: Path) -> None:
    """Copy owner, group and mode, as far as the system and the file system allow."""
    for owner, group in ((-1, old.st_gid), (old.st_uid, -1)):
        with suppress(OSError, AttributeError):
            os.chown(new, owner, group)
    with suppress(OSError):
        os.chmod(new, stat.S_IMODE(old.st_mode) & 0o777)


def _hand_on_all(old: Path, new: Path) -> None:
    """The same for a folder, and for each file or folder in it that the old one has under its name; not for links."""
    for path in (*new.rglob("*"), new):
        with suppress(OSError):
            before = os.lstat(old / path.relative_to(new))
            if stat.S_IFMT(before.st_mode) == stat.S_IFMT(os.lstat(path).st_mode) != stat.S_IFLNK:
                _hand_on(before, path)


def _take_name(temporary: Path, target: Path, replacing: bool) -> None:
    """Rename what was written to the target; unless `replacing`, only if the target does not exist.

    On a file system without hard links, a file that was created meanwhile is replaced, but on Windows.
    """
    try:
        if temporary.is_dir():
            _replace_folder(temporary, target)
        elif replacing:
            os.replace(temporary, target)
        elif not _linked(temporary, target):
            os.rename(temporary, target)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise CannotWrite(
                "another program has made it meanwhile",
                Wording("look at it, or give another ", Option("target", None)),
                target,
            ) from None
        raise
    sync(target.parent)


def _replace_folder(new: Path, old: Path) -> None:
    """Rename a folder to one that does not exist, or is empty."""
    try:
        os.replace(new, old)
    except (PermissionError, FileExistsError):
        # Windows renames over no folder, not even over an empty one.
        if not old.is_dir():
            raise
        os.rmdir(old)
        os.replace(new, old)


def _swap(new: Path, old: Path) -> None:
    """Exchange two folders' names, in one step where the system can; the old one is then where the new one was."""
    if not _exchanged(new, old):
        aside = new.with_name(f"{new.name}.old")
        os.rename(old, aside)
        try:
            os.rename(new, old)
        except OSError:
            os.rename(aside, old)
            raise
    sync(old.parent)


_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def _exchanged(new: Path, old: Path) -> bool:
    """Whether Linux exchanged two names; Python has no function for it."""
    # Imported here, since only a folder that is replaced needs it.
    import ctypes

    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    return bool(renameat2(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(old), _RENAME_EXCHANGE) == 0)


def _linked(temporary: Path, target: Path) -> bool:
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except (OSError, AttributeError):
        return False
    return True


def _remedy(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room on the disk, or write elsewhere"
    return "choose another place"


def sync_files(paths: Iterable[Path]) -> None:
    """Sync files and folders to the disk, but no links; of a file, only the machine that wrote it can."""
    for path in paths:
        if not path.is_symlink():
            sync(path)


def sync(path: Path) -> None:
    """Sync what was written to the disk before it is renamed; not every system can sync folders."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        if path.is_dir():
            return
        raise
    try:
        os.fsync(handle)
    except OSError as error:
        if not stat.S_ISDIR(os.fstat(handle).st_mode) and error.errno != errno.EBADF:
            raise
        only_writers = error.errno == errno.EBADF
    else:
        only_writers = False
    finally:
        os.close(handle)
    if only_writers:
        _sync_as_writer(path)


def _sync_as_writer(path: Path) -> None:
    """On Windows only a handle that may write can be synced, and there is none of a read-only file."""
    mode = stat.S_IMODE(os.stat(path).st_mode)
    os.chmod(path, mode | stat.S_IWRITE)
    try:
        with open(path, "r+b", buffering=0) as file:
            os.fsync(file.fileno())
    finally:
        os.chmod(path, mode)


def check_room(target: Path, nbytes: int, written: Callable[[], int] | None = None) -> None:
    """Check before any writing that the disk has room.

    Args:
        target: The new file or folder.
        nbytes: Its bytes.
        written: Counts those that take room, where it shares blocks with its source; called only where there is not
            room for all.

    Raises:
        CannotWrite: Fewer are free in the target's folder.
    """
    place = Path(os.path.realpath(target))
    try:
        free = shutil.disk_usage(place.parent).free
    except OSError:
        return
    if free < nbytes and written is not None:
        nbytes = written()
    if free < nbytes:
        raise CannotWrite(
            f"the disk has {free:,} bytes free, {nbytes:,} are needed", "make room, or write elsewhere", place.parent
        )
