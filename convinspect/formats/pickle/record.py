"""What is kept of a pickle that was read, for whoever needs more of it than its tensors."""

from __future__ import annotations

from typing import NamedTuple

from convinspect.formats.pickle.machine import Walk


class Pickle(NamedTuple):
    """A file's object, once its pickle was read.

    Attributes:
        tree: The object; offsets in it count from where the file's record begins, or the file.
        start: Where the pickle begins, counted so.
        keys: In the format before 1.6, the pickle of the storages' keys, which lies behind.
    """

    tree: Walk
    start: int = 0
    keys: Walk | None = None
