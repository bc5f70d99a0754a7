"""What a checkpoint is called in a title."""

from __future__ import annotations

from convinspect.checkpoint import Checkpoint
from convinspect.formats.sources import short_name


def opened_name(checkpoint: Checkpoint) -> str:
    """The name of what was opened, a file or a folder, without the folder that it lies in."""
    opened = checkpoint.path if checkpoint.folder is None else checkpoint.folder
    # "." has no name.
    return short_name(opened) or short_name(opened.absolute())
