"""Keys of the root in use that hold no plain tensor, as `shapes` shows them."""

from __future__ import annotations

from collections.abc import Iterator

from convinspect.checkpoint import Checkpoint
from convinspect.text import first_few

_WHAT = {
    "uninitialized": "a lazy layer's, which has no shape before its first call",
    "nested": "nested or jagged tensors, whose parts have several shapes",
}


def without_shapes(checkpoint: Checkpoint) -> dict[str, list[str]]:
    """Keys that would be a layer's and have no shape, by what they are."""
    found: dict[str, list[str]] = {}
    for other in checkpoint.root.others:
        what = other.value.name.lower()
        if what in _WHAT:
            found.setdefault(what, []).append(other.key)
    return found


def notes_on_tensorless(checkpoint: Checkpoint) -> Iterator[str]:
    """A line for each kind of them."""
    for what, keys in without_shapes(checkpoint).items():
        yield f"not listed: {first_few(keys)}: {_WHAT[what]}"
