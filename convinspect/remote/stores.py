"""Files in whatever fsspec knows: object stores, the Hub, archives of its own, memory."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from functools import lru_cache, partial
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from convinspect.remote import failures
from convinspect.remote.facts import Facts, version_from

if TYPE_CHECKING:
    from convinspect.remote.addresses import Address

_PATIENCE = 120.0
"""Seconds for one request to a store, in which its library tries again by itself."""
_MARKS = (
    "ETag", "etag", "generation", "md5Hash", "content_md5", "xet_hash", "blob_id", "mtime", "LastModified",
    "last_modified", "updated", "modified", "created",
)  # fmt: skip
"""What stores tell versions of a file apart by; the first that is there counts."""
_HUB = Lock()
_SAME_VERSION = 30.0
"""Seconds without a question after which a repository's revision is looked up anew."""


class Holder(Protocol):
    """Who holds one file."""

    def first(self, size: int) -> tuple[Facts, bytes]:
        """What is known of the file as it is now, and up to `size` of its first bytes."""

    def fetch(self, start: int, size: int) -> bytes:
        """The bytes from `start`, all of which the file has."""

    def fetch_all(self, ranges: list[tuple[int, int]]) -> list[bytes]:
        """Several ranges at once, each its start and size."""


class Entry(NamedTuple):
    """One of a folder.

    Attributes:
        name: What it is called there.
        is_folder: Whether it is a folder itself.
        facts: Its size and version.
    """

    name: str
    is_folder: bool
    facts: Facts


class StoredFile:
    """A file in a store that fsspec has a file system for.

    Args:
        path: The address.
    """

    def __init__(self, path: Address) -> None:
        self._path = path
        self._fs, self._name = _found(path)
        self._size = 0

    def first(self, size: int) -> tuple[Facts, bytes]:
        facts = self._facts()
        self._size = facts.size
        return facts, self.fetch(0, min(size, facts.size))

    def fetch(self, start: int, size: int) -> bytes:
        if not size:
            return b""
        data = _called(self._path, self._fs, "cat_file", self._name, start=start, end=start + size)
        if len(data) != size:
            raise failures.other_bytes(self._path, f"{len(data):,} of {size:,}")
        return bytes(data)

    def fetch_all(self, ranges: list[tuple[int, int]]) -> list[bytes]:
        starts, ends = [start for start, _ in ranges], [start + size for start, size in ranges]
        names = [self._name] * len(ranges)
        pieces = _called(self._path, self._fs, "cat_ranges", names, starts, ends, max_gap=None, on_error="raise")
        for piece, (_, size) in zip(pieces, ranges, strict=True):
            if len(piece) != size:
                raise failures.other_bytes(self._path, f"{len(piece):,} of {size:,}")
        return [bytes(piece) for piece in pieces]

    def _facts(self) -> Facts:
        info = _called(self._path, self._fs, "info", self._name)
        if info.get("type") == "directory":
            raise IsADirectoryError
        if type(info.get("size")) is not int:
            raise failures.other_bytes(self._path, "nobody says how many there are")
        return _facts_of(info)


def _facts_of(info: Mapping[str, Any]) -> Facts:
    size = int(info.get("size") or 0)
    mark = next((info[key] for key in _MARKS if info.get(key)), "")
    # A time may be text or a number of seconds in a folder's list, and a time of a file alone.
    if isinstance(mark, float):
        mark = datetime.fromtimestamp(mark, timezone.utc)
    return Facts(size, version_from(size, mark.isoformat() if isinstance(mark, datetime) else mark))


def holder_of(path: Address) -> Holder:
    """Who holds the file at an address.

    Raises:
        ConvInspectError: Its scheme is not known, or the package for it is not installed.
    """
    try:
        if path.scheme in ("http", "https") and "::" not in path.typed:
            from convinspect.remote.http import HttpFile

            return HttpFile(path, path.typed, {})
        if path.scheme == "hf":
            return _of_hub(path)
        return StoredFile(path)
    except Exception as error:
        raise failures.of_exception(error, path) from None


def entries_of(path: Address) -> list[Entry]:
    """What lies in a folder.

    Raises:
        ConvInspectError: It cannot be listed.
    """
    try:
        fs, name = _found(path)
        listed = _called(path, fs, "ls", name, detail=True)
    except Exception as error:
        raise failures.of_exception(error, path) from None
    own = name.rstrip("/")
    rows = [(str(entry["name"]).rstrip("/"), entry) for entry in listed]
    return [
        Entry(whole.rpartition("/")[2], entry.get("type") == "directory", _facts_of(entry))
        for whole, entry in rows
        if whole.lstrip("/") != own.lstrip("/")
    ]


def is_folder(path: Address) -> bool:
    """Whether an address is that of a folder; of the Hub, that of a whole repository too.

    Raises:
        ConvInspectError: It cannot be asked for.
    """
    try:
        fs, name = _found(path)
        return bool(_called(path, fs, "info", name).get("type") == "directory")
    except FileNotFoundError:
        return False
    except Exception as error:
        raise failures.of_exception(error, path) from None


def _of_hub(path: Address) -> Holder:
    """A file of the Hub is read from where its own library would download it, in ranges."""
    from huggingface_hub.utils import build_hf_headers

    from convinspect.remote.http import HttpFile

    fs, name = _found(path)
    with _HUB:
        found = fs.resolve_path(name)
        if not found.path_in_repo:
            raise IsADirectoryError
        from huggingface_hub import hf_hub_url

        repository = (found.repo_type, found.repo_id, found.revision)
        url = hf_hub_url(
            found.repo_id,
            found.path_in_repo,
            repo_type=found.repo_type,
            revision=_COMMITS.of(repository) or found.revision,
            endpoint=fs.endpoint,
        )
        return HttpFile(path, url, build_hf_headers(token=fs.token), partial(_COMMITS.keep, repository))


class _Commits:
    """Of which commit the files of a repository are read: that of the first, so that a push in between mixes none."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], tuple[str, float]] = {}

    def of(self, repository: tuple[Any, ...]) -> str | None:
        """The commit that was read from a moment ago; None where nothing was."""
        commit, asked = self._known.get(repository, (None, 0.0))
        if commit is None or time.monotonic() - asked > _SAME_VERSION:
            return None
        self._known[repository] = (commit, time.monotonic())
        return commit

    def keep(self, repository: tuple[Any, ...], commit: str) -> None:
        """Read from this commit for a while, unless another one was chosen a moment ago."""
        if self.of(repository) is None:
            self._known[repository] = (commit, time.monotonic())


_COMMITS = _Commits()


def _found(path: Address) -> tuple[Any, str]:
    """The file system of an address, and what the file is called there."""
    if path.scheme == "hf" and "::" not in path.typed:
        return _hub(os.getpid()), path.typed
    from fsspec.core import url_to_fs

    fs, name = url_to_fs(path.typed)
    return fs, str(name)


@lru_cache(maxsize=1)
def _hub(process: int) -> Any:
    """The Hub's file system: one for all threads, of which each would ask for the same repository again."""
    import fsspec

    return fsspec.filesystem("hf")


def _called(path: Address, fs: Any, what: str, *args: Any, **options: Any) -> Any:
    """What a method of a file system returns, within a time where it can be told to keep one."""
    from fsspec.asyn import AsyncFileSystem, sync

    if isinstance(fs, AsyncFileSystem) and not fs.asynchronous:
        return sync(fs.loop, getattr(fs, f"_{what}"), *args, timeout=_PATIENCE, **options)
    if path.scheme == "hf":
        with _HUB:
            return getattr(fs, what)(*args, **options)
    return getattr(fs, what)(*args, **options)
