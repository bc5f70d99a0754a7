"""Says what a folder is that holds no checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from shlex import quote

from convinspect.containers import ARCHIVES, ARRAYS
from convinspect.errors import NotACheckpoint, named
from convinspect.formats.companions import is_companion
from convinspect.formats.unsupported.kinds import FOLDERS, Named
from convinspect.text import first_few

_PICKLES = tuple(suffix for suffix in ARRAYS if suffix != ".npy")
"""Without files of one array each, which are data rather than a model."""
_SHOWN = 3
_NESTED = "Data"
"""Where a Core ML package keeps its model."""


def unsupported_folder_error(path: Path) -> NotACheckpoint:
    """The error for a folder without a checkpoint: what it is, and what to do."""
    names = sorted(_names(path))
    *known, other = FOLDERS
    if (error := _of_kinds(path, names, known)) is not None:
        return error
    if found := _readable(names):
        paths = [quote(named(path / name)) for name in found]
        problem = f"the folder has no file with a usual name of weights, but {first_few(found, _SHOWN)}"
        return NotACheckpoint(problem, f"give {'one: ' if len(found) > 1 else ''}{first_few(paths, _SHOWN)}", path)
    if (error := _of_kinds(path, names, [other])) is not None:
        return error
    return NotACheckpoint("the folder holds no checkpoint", "give the file or folder that holds the weights", path)


def _of_kinds(path: Path, names: Sequence[str], kinds: Sequence[Named]) -> NotACheckpoint | None:
    for kind in kinds:
        found = next(filter(re.compile(kind.pattern).fullmatch, names), None)
        if found is not None:
            what = (
                f"it is {kind.what}" if kind.what else f"the folder holds no checkpoint that is read here, but {found}"
            )
            return NotACheckpoint(what, kind.remedy.replace("{name}", found), path)
    return None


def _readable(names: Sequence[str]) -> list[str]:
    """Files of other kinds that may hold a model, of the likeliest kind that there is any of."""
    for suffixes in (_PICKLES, ARCHIVES):
        found = [name for name in names if name.lower().endswith(suffixes) and not is_companion(name)]
        if found := [name for name in found if not name.startswith(".")]:
            return found
    return []


def _names(path: Path) -> Iterator[str]:
    for entry in path.iterdir():
        yield entry.name
        if entry.name == _NESTED and entry.is_dir():
            yield from (f"{_NESTED}/{inner.name}" for inner in entry.iterdir())
