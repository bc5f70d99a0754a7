"""What `pathlib` would ask the system about a path, asked of whoever holds the files at an address."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from convinspect.containers import ARCHIVES, ARRAYS, WEIGHTS
from convinspect.errors import NotThere
from convinspect.remote.stores import Entry, entries_of
from convinspect.remote.stores import is_folder as is_folder_there

if TYPE_CHECKING:
    from convinspect.remote.addresses import Address
    from convinspect.remote.facts import Version

T = TypeVar("T")

_SERVERS = ("http", "https")
"""Schemes that know no folders."""
_FILES = {*WEIGHTS, *ARRAYS, *ARCHIVES, ".json", ".distcp", ".msgpack", ".onnx", ".gguf", ".h5"}
"""Suffixes that say that a file is meant, so that nobody needs to be asked."""
_KEPT = 30.0
_MOST = 64
_listed: dict[Path, tuple[float, list[Entry]]] = {}
_folders: dict[Path, tuple[float, bool]] = {}


def is_folder(path: Address) -> bool:
    """Whether an address is that of a folder.

    Raises:
        ConvInspectError: It cannot be asked for.
    """
    is_named_so = path.suffix.lower() in _FILES or path.name == ".metadata" or "!" in path.typed
    if path.scheme in _SERVERS or is_named_so:
        return False
    known = _folders.get(path)
    if known is None or time.monotonic() - known[0] > _KEPT:
        known = (time.monotonic(), is_folder_there(path))
        _remember(_folders, path, known)
    return known[1]


def is_file(path: Address) -> bool:
    """Whether there is a file, known from its folder where that can be listed.

    Raises:
        ConvInspectError: It cannot be asked for.
    """
    if path.scheme not in _SERVERS:
        return any(entry.name == path.name and not entry.is_folder for entry in _entries(path.parent))
    from convinspect.remote.fetching import version_at

    try:
        version_at(path)
    except NotThere:
        return False
    return True


def entries(path: Address) -> Iterator[Path]:
    """What lies in a folder; nothing where servers do not tell.

    Raises:
        ConvInspectError: It cannot be asked for.
    """
    if path.scheme in _SERVERS:
        return iter(())
    return iter([path / entry.name for entry in _entries(path)])


def status(path: Address) -> os.stat_result:
    """Kind and size, as of a file that its owner alone may change.

    Raises:
        ConvInspectError: It cannot be asked for.
    """
    if is_folder(path):
        return _status(stat.S_IFDIR | 0o755, (0, 0, 0, 0))
    listed = None if path.scheme in _SERVERS else _listed.get(path.parent)
    facts = next((entry.facts for entry in (listed[1] if listed else ()) if entry.name == path.name), None)
    if facts is None:
        from convinspect.remote.fetching import RemoteSource

        return _status(stat.S_IFREG | 0o644, RemoteSource(path).version)
    return _status(stat.S_IFREG | 0o644, facts.version)


def _status(mode: int, version: Version) -> os.stat_result:
    """A status of which the parts that tell versions apart are these."""
    device, number, size, changed = version
    return os.stat_result((mode, number, device, 1, 0, 0, size, 0, 0, 0), {"st_mtime_ns": changed})


def _entries(path: Path) -> list[Entry]:
    known = _listed.get(path)
    if known is None or time.monotonic() - known[0] > _KEPT:
        known = (time.monotonic(), entries_of(cast("Address", path)))
        _remember(_listed, path, known)
    return known[1]


def _remember(where: dict[Path, tuple[float, T]], path: Path, what: tuple[float, T]) -> None:
    while len(where) >= _MOST:
        where.pop(next(iter(where)))
    where[path] = what
