"""Write a new file or folder atomically.

It is written in a temporary folder beside the target, checked, and only then renamed to the target.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

from convinspect.errors import CannotWrite, ChangedMeanwhile, ConvInspectError, Option, Wording, unreadable
from convinspect.formats.files import version_of
from convinspect.records import Version


def check_unchanged(versions: Mapping[Path, Version]) -> None:
    """Check that files have not changed.

    Raises:
        ChangedMeanwhile: A file was changed, replaced or removed.
    """
    for path, version in versions.items():
        try:
            now = version_of(os.stat(path))
        except FileNotFoundError:
            raise ChangedMeanwhile("it vanished while it was read", "try again", path) from None
        except OSError as error:
            raise unreadable(error, path) from None
        if now != version:
            raise ChangedMeanwhile("it changed while it was read", "wait until it is written, and try again", path)


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
        _sync(temporary)
        check(temporary)
        _take_name(temporary, place, old is not None)


@contextmanager
def new_folder(target: Path, check: Check, replace: bool = False) -> Iterator[Path]:
    """The same for a folder, which exists when the block starts; it replaces an empty folder, or with `replace` any."""
    with _beside(target) as (temporary, place):
        temporary.mkdir()
        yield temporary
        for entry in temporary.rglob("*"):
            if not entry.is_symlink():
                _sync(entry)
        _sync(temporary)
        check(temporary)
        if replace and place.is_dir() and any(place.iterdir()):
            _swap(temporary, place)
        else:
            _take_name(temporary, place, False)


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
        folder.mkdir(0o700)
        yield folder / place.name, place
    except OSError as error:
        raise CannotWrite(f"it cannot be written ({error.strerror or error})", _remedy(error), target) from None
    except ConvInspectError as error:
        if error.path is not None and (error.path == folder or folder in error.path.parents):
            error.path = target
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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


def _take_name(temporary: Path, target: Path, replacing: bool) -> None:
    """Rename what was written to the target; unless `replacing`, only if the target does not exist.

    On a file system without hard links, a file that was created meanwhile is replaced.
    """
    try:
        if replacing or temporary.is_dir() or not _linked(temporary, target):
            os.replace(temporary, target)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise CannotWrite(
                "another program has made it meanwhile",
                Wording("look at it, or give another ", Option("target", None)),
                target,
            ) from None
        raise
    _sync(target.parent)


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
    _sync(old.parent)


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
    except OSError:
        return False
    return True


def _remedy(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room on the disk, or write elsewhere"
    return "choose another place"


def _sync(path: Path) -> None:
    """Sync what was written to the disk before it is renamed; not every system can sync folders."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        if path.is_dir():
            return
        raise
    try:
        os.fsync(handle)
    except OSError:
        if not stat.S_ISDIR(os.fstat(handle).st_mode):
            raise
    finally:
        os.close(handle)


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
