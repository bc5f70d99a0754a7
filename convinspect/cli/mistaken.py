"""A text of a loader's error that is given where a checkpoint belongs: the command that it belongs to."""

from __future__ import annotations

from contextlib import suppress
from shlex import quote

from convinspect.errors import ConvInspectError, NotACheckpoint, named
from convinspect.remote.addresses import Address

_MOST = 1 << 18
"""Bytes of a file that is looked into: whole logs are texts of something else."""


def pointed(error: ConvInspectError) -> ConvInspectError:
    """The error to tell: another one where the file that is no checkpoint holds the text of a loader's error."""
    path = error.path
    if not isinstance(error, NotACheckpoint) or path is None or isinstance(path, Address):
        return error
    with suppress(OSError, ConvInspectError):
        if path.is_file() and path.stat().st_size <= _MOST:
            from convinspect.diffing.load_error import error_text, read_error

            read_error(error_text(path))
            way = f"convinspect diff CHECKPOINT --error {quote(named(path))}"
            what = "it holds the text of a loader's error, not a checkpoint"
            return NotACheckpoint(what, f"{way} says what fixes it", path)
    return error
