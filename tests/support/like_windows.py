"""This process as if it ran on Windows: what is missing there is taken away, and what is refused there is refused.

Of a file system like FAT, too, which has no hard links. `pytest --like-windows` runs tests so. Real Windows differs in
more: this is about what reads and writes files.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

VARIABLE = "CONVINSPECT_TESTS_LIKE_WINDOWS"
"""Set for the programs that tests start."""

MISSING = (
    *("pread", "preadv", "pwrite", "pwritev", "fork", "forkpty", "copy_file_range", "posix_fallocate", "sendfile"),
    *("posix_fadvise", "splice", "O_DIRECTORY", "link", "chown", "fchown", "statvfs", "fstatvfs", "fchmod"),
    *("O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK", "O_NOATIME", "mkfifo", "memfd_create"),
)
"""Names that `os` lacks. Those that tests and their tools need themselves are left, such as `getuid`."""
MISSING_MODULES = ("fcntl", "resource", "pwd", "grp", "termios")

Call = Callable[..., Any]


def take_away(patch: pytest.MonkeyPatch) -> None:
    """Make this process such a one, until the patch is undone."""
    _keep_what_python_needs(patch)
    patch.setattr(os, "open", _opening(os.open))
    patch.setattr(os, "fsync", _syncing(os.fsync))
    patch.setattr(os, "replace", _moving(os.replace, replaces=True))
    patch.setattr(os, "rename", _moving(os.rename, replaces=False))
    for name in ("unlink", "remove"):
        patch.setattr(os, name, _removing(getattr(os, name)))
    for name in MISSING:
        patch.delattr(os, name, raising=False)
    for name in MISSING_MODULES:
        patch.setitem(sys.modules, name, None)


@contextmanager
def like_windows() -> Iterator[None]:
    """The same for a while."""
    with pytest.MonkeyPatch.context() as patch:
        take_away(patch)
        yield


def _keep_what_python_needs(patch: pytest.MonkeyPatch) -> None:
    """Python's own modules chose their means when they were imported."""
    patch.setattr(shutil, "_use_fd_functions", False)
    patch.setattr(shutil, "_USE_CP_SENDFILE", False)
    room = os.statvfs
    patch.setattr(shutil, "disk_usage", lambda path: _usage(room(path)))
    load = ctypes.CDLL.__init__

    def loading(self: ctypes.CDLL, name: str | None, *rest: Any, **options: Any) -> None:
        if name is None:
            raise TypeError("bad argument type for built-in operation")
        load(self, name, *rest, **options)

    patch.setattr(ctypes.CDLL, "__init__", loading)


def _usage(room: os.statvfs_result) -> Any:
    block = room.f_frsize
    total, free = room.f_blocks * block, room.f_bavail * block
    return shutil._ntuple_diskusage(total, (room.f_blocks - room.f_bfree) * block, free)


def _refusal(path: object) -> PermissionError:
    return PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))  # type: ignore[call-overload]


def _opening(original: Call) -> Call:
    def opened(path: Any, *rest: Any, **options: Any) -> int:
        if os.path.isdir(path):
            raise _refusal(path)
        handle: int = original(path, *rest, **options)
        return handle

    return opened


def _syncing(original: Call) -> Call:
    """A handle that only reads cannot be synced."""

    def synced(file: Any) -> None:
        handle = file if isinstance(file, int) else file.fileno()
        flags = int(Path(f"/proc/self/fdinfo/{handle}").read_text().partition("flags:")[2].split()[0], 8)
        if flags & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        original(file)

    return synced


def _moving(original: Call, replaces: bool) -> Call:
    def moved(old: Any, new: Any, **options: Any) -> None:
        if os.path.lexists(new) and not replaces:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(new))
        if os.path.isdir(new) or is_open(old) or is_open(new):
            raise _refusal(new)
        original(old, new, **options)

    return moved


def _removing(original: Call) -> Call:
    def removed(path: Any, **options: Any) -> None:
        if "dir_fd" not in options and is_open(path):
            raise _refusal(path)
        original(path, **options)

    return removed


def is_open(path: Any) -> bool:
    """Whether this process has a file open or mapped, or one in the folder."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    real = os.path.realpath(path)
    if stat.S_ISDIR(found.st_mode):
        return any(file.startswith(f"{real}{os.sep}") for file in _open_files())
    return stat.S_ISREG(found.st_mode) and any(_same(file, found) for file in _open_files())


def _open_files() -> set[str]:
    files = set()
    with os.scandir("/proc/self/fd") as handles:
        for handle in handles:
            try:
                files.add(os.readlink(handle.path))
            except OSError:
                continue
    mapped = (line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines())
    return files | {fields[5] for fields in mapped if len(fields) == 6 and fields[5].startswith("/")}


def _same(file: str, found: os.stat_result) -> bool:
    try:
        return file.startswith("/") and os.path.samestat(os.stat(file), found)
    except OSError:
        return False
