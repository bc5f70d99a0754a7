"""Folders, on this machine, at an address, or in an archive: `ckpt.tar!step_100`, or `ckpt.tar!` for all of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from convinspect.formats.sources import INSIDE, folder_of, is_plain, outermost, statuses_in, version_at, version_of
from convinspect.records import Version


class Below(NamedTuple):
    """The files in a folder of an archive, and in the folders in it.

    Attributes:
        sizes: Their bytes by path below the folder; -1 if that is not known.
        within: What holds them, with its article: "a tar archive".
    """

    sizes: Mapping[str, int]
    within: str


list_within: Callable[[Path], Below | None] | None = None
"""Lists a folder of an archive; None where there is none. As `sources.open_within`, it is set from outside."""


def below(path: Path) -> Below | None:
    """The files of a folder in an archive; None of any other path.

    Raises:
        ConvInspectError: The archive cannot be read.
    """
    if list_within is None or is_plain(path) or outermost(path) == path:
        return None
    return list_within(path)


def is_folder(path: Path) -> bool:
    """Whether there is such a folder."""
    return path.is_dir() or below(path) is not None


def name_of(path: Path) -> str:
    """The name of a file, also where it lies at the top of an archive."""
    return path.name if is_plain(path) else path.name.rpartition(INSIDE)[2]


def is_file(path: Path) -> bool:
    """Whether there is such a file."""
    found = below(folder_of(path))
    return path.is_file() if found is None else path.name in found.sizes


def files_in(folder: Path) -> dict[Path, tuple[int, Version]]:
    """Size and version of each file in a folder, without those in the folders in it.

    Raises:
        OSError: It cannot be listed.
        ConvInspectError: Nor can one that lies elsewhere.
    """
    found = below(folder)
    if found is None and not is_plain(folder) and outermost(folder) != folder:
        return {}
    if found is None:
        return {path: (status.st_size, version_of(status)) for path, status in statuses_in(folder).items()}
    version = version_at(folder)
    return {folder / name: (size, version) for name, size in found.sizes.items() if "/" not in name}
