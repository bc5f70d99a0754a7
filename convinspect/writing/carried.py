"""What a new folder takes from the old one as it is: files, and links within it. No link out of it is followed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from convinspect.errors import unreadable
from convinspect.formats.sources import version_of
from convinspect.records import Version
from convinspect.remote.addresses import Address
from convinspect.writing.pieces import copy_whole

_ANOTHER_CHECKPOINT = re.compile(r"checkpoint-\d+")
"""Folders that Trainer keeps beside the weights, each a checkpoint of its own."""


class Item(NamedTuple):
    """Something in the old folder that the conversion does not write.

    Attributes:
        name: Its path in the folder, with slashes.
        version: Of a file that is copied, what it was when it was listed.
        link: Of a link within the folder, what it points to, from where it lies; else "".
        left: Why it is left out; "" if it is not.
    """

    name: str
    version: Version = ()
    link: str = ""
    left: str = ""


class Carried(NamedTuple):
    """What a folder holds beside its converted files.

    Attributes:
        folder: The old folder.
        items: In order of their names, folder by folder.
    """

    folder: Path
    items: tuple[Item, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All that the new folder gets."""
        return tuple(item.name for item in self.items if not item.left)

    @property
    def left(self) -> tuple[Item, ...]:
        """What the new folder does not get."""
        return tuple(item for item in self.items if item.left)

    @property
    def versions(self) -> dict[Path, Version]:
        """The files to copy, as they were when they were listed."""
        return {self.folder / item.name: item.version for item in self.items if item.version}

    @property
    def nbytes(self) -> int:
        """Bytes of all files to copy."""
        return sum(version[2] for version in self.versions.values())


def folder_of(path: Path) -> Path:
    """The folder that a checkpoint lies in, which may have been opened by a file there."""
    return path if path.is_dir() else path.parent


def carried_along(folder: Path, written: Collection[str], without: Collection[str], target: Path | None) -> Carried:
    """List what a folder holds beside the files that a conversion writes; no file is opened.

    Of a folder that lies elsewhere that is nothing: what was asked for is fetched, and no more.

    Args:
        folder: The folder.
        written: Paths in it of the files that are written anew, with slashes.
        without: Names in it of what is left out on request.
        target: The new folder, which may lie in the old one; None for a dry run.

    Raises:
        BrokenFile: A folder in it cannot be listed.
    """
    if isinstance(folder, Address):
        return Carried(folder)
    inside = os.path.realpath(folder)
    passed = {os.path.join(inside, *name.split("/")) for name in written}
    if target is not None:
        passed.add(os.path.realpath(target))
    passed.update(os.path.join(inside, name) for name in without)
    left = (Item(name, left="optimizer state") for name in sorted(without))
    return Carried(folder, (*left, *_listed(Path(inside), "", passed, _Bounds(inside, _blobs(inside)))))


class _Bounds(NamedTuple):
    """Where links may lead: the folder, and the files of the model hub's cache that it is a view of, or None."""

    folder: str
    blobs: str | None


def _blobs(folder: str) -> str | None:
    """The files that a snapshot in the cache of huggingface_hub consists of links to: `snapshots/REVISION/` lies beside
    `blobs/`.
    """
    above, name = os.path.split(os.path.dirname(folder))
    blobs = os.path.join(above, "blobs")
    return blobs if name == "snapshots" and os.path.isdir(blobs) and not os.path.islink(blobs) else None


def leads_out(folder: Path, name: str) -> bool:
    """Whether what lies at a path in a folder is a link to elsewhere."""
    inside = os.path.realpath(folder)
    real, blobs = os.path.realpath(os.path.join(inside, name)), _blobs(inside)
    return not (_is_in(real, inside) or (blobs is not None and _is_in(real, blobs)))


def _listed(folder: Path, prefix: str, passed: Collection[str], bounds: _Bounds) -> Iterator[Item]:
    try:
        with os.scandir(folder) as scanned:
            entries = sorted(scanned, key=lambda entry: entry.name)
    except OSError as error:
        raise unreadable(error, folder) from None
    for entry in entries:
        name = prefix + entry.name
        if entry.path in passed:
            continue
        if entry.is_symlink():
            yield _link(name, entry, bounds)
        elif entry.is_dir(follow_symlinks=False):
            why = _why_left(entry.name, top=not prefix)
            if why:
                yield Item(name, left=why)
            else:
                yield from _listed(folder / entry.name, f"{name}/", passed, bounds)
        elif entry.is_file(follow_symlinks=False):
            yield Item(name, version_of(os.stat(entry.path)))
        else:
            yield Item(name, left="a pipe or device")


def _why_left(name: str, top: bool) -> str:
    """Why a folder in the folder is left out; "" if it is not."""
    if name.startswith("."):
        return "a hidden folder"
    return "a checkpoint of its own" if top and _ANOTHER_CHECKPOINT.fullmatch(name) else ""


def _link(name: str, entry: os.DirEntry[str], bounds: _Bounds) -> Item:
    real = os.path.realpath(entry.path)
    if not os.path.exists(real):
        return Item(name, left="a link to nothing")
    if _is_in(real, bounds.folder):
        return Item(name, link=os.path.relpath(real, os.path.dirname(entry.path)))
    if bounds.blobs is not None and _is_in(real, bounds.blobs) and os.path.isfile(real):
        return Item(name, version_of(os.stat(real)))
    return Item(name, left="a link out of the folder")


def _is_in(path: str, folder: str) -> bool:
    return path.startswith(os.path.join(folder, ""))


def copy_item(item: Item, folder: Path, new: Path, progress: Callable[[int], None]) -> None:
    """Copy a file byte by byte, or make a link again.

    Args:
        item: What to copy, which is not left out. Whether the file is still the one that was listed is left to the
            caller.
        folder: The old folder.
        new: Its path in the new one.
        progress: Called now and then with the number of bytes that were written since the last call.

    Raises:
        ConvInspectError: The file cannot be read.
        OSError: The target cannot be written.
    """
    if item.link:
        os.symlink(item.link, new)
    else:
        copy_whole(folder / item.name, new, progress)
