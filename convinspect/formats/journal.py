"""The journal beside a file that is edited in place: what shows that an edit was interrupted.

While `convert --in-place` edits a file, the bytes that it replaces lie in a file beside it. Where that file is still
there, the edit was interrupted or is under way, and the edited file must not be read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from shlex import quote

from convinspect.errors import BrokenFile, named

_SUFFIX = ".convinspect-undo"
_LONGEST_NAME = 200
_OWN_EDIT: ContextVar[bool] = ContextVar("own edit", default=False)


def journal_of(path: Path) -> Path:
    """Where the journal of an edit of this file or folder lies: beside the file, or within the folder."""
    return path / _SUFFIX if os.path.isdir(path) else path.with_name(f".{_shortened(path.name)}{_SUFFIX}")


def _shortened(name: str) -> str:
    """A file's name, such that one with the suffix can be made; file systems allow about 255 bytes in all."""
    # An index may give a name that no file can have.
    data = name.encode("utf-8", "surrogatepass")
    if len(data) <= _LONGEST_NAME:
        return name
    # Imported here, as no other file needs it.
    from hashlib import sha256

    return sha256(data).hexdigest()


def journals_of(path: Path) -> tuple[Path, ...]:
    """Where the journal of an edit that changes this file or folder may lie.

    A file may be edited alone, or with its folder. A link is followed, since the file that it names is edited.
    """
    place = Path(os.path.realpath(path)) if os.path.islink(path) else path
    own = journal_of(place)
    return (own,) if own.parent == place else (own, journal_of(place.parent))


def is_interrupted(path: Path) -> bool:
    """Whether an edit of a file or folder in place was interrupted, or is under way."""
    return any(map(os.path.lexists, journals_of(path)))


def way_back(path: Path) -> str:
    """What to do about an interrupted edit."""
    return f"to get it back as it was: convinspect recover {quote(named(path))}"


def check_no_journal(path: Path) -> None:
    """Check that no edit of a file or folder was interrupted.

    Raises:
        BrokenFile: One was, or is under way.
    """
    if is_interrupted(path) and not _OWN_EDIT.get():
        raise BrokenFile("an edit of it in place was interrupted, or is under way", way_back(path), path)


@contextmanager
def reading_own_edit() -> Iterator[None]:
    """Read files that have a journal, as an edit does to check itself."""
    token = _OWN_EDIT.set(True)
    try:
        yield
    finally:
        _OWN_EDIT.reset(token)
