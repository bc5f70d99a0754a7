"""Says what a folder is that holds no checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from convinspect.errors import NotACheckpoint
from convinspect.formats.unsupported.kinds import FOLDERS

_NESTED = "Data"
"""Where a Core ML package keeps its model."""


def unsupported_folder_error(path: Path) -> NotACheckpoint:
    """The error for a folder without a checkpoint: what it is, and what to do."""
    names = sorted(_names(path))
    for kind in FOLDERS:
        found = next(filter(re.compile(kind.pattern).fullmatch, names), None)
        if found is not None:
            what = (
                f"it is {kind.what}" if kind.what else f"the folder holds no checkpoint that is read here, but {found}"
            )
            return NotACheckpoint(what, kind.remedy.replace("{name}", found), path)
    return NotACheckpoint("the folder holds no checkpoint", "give the file or folder that holds the weights", path)


def _names(path: Path) -> Iterator[str]:
    for entry in path.iterdir():
        yield entry.name
        if entry.name == _NESTED and entry.is_dir():
            yield from (f"{_NESTED}/{inner.name}" for inner in entry.iterdir())
