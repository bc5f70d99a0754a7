"""Layers whose numbers are not in the file: empty weights, and storages that nobody wrote."""

from __future__ import annotations

from collections.abc import Iterable

from convinspect.checkpoint import Checkpoint
from convinspect.records import Layer
from convinspect.text import first_few, plural

GATHER = "save them gathered, or make the file whole with DeepSpeed's zero_to_fp32.py"
"""What to do about empty weights."""


def is_emptied(layer: Layer) -> bool:
    """Whether its weight has shape (0,), as ZeRO-3 leaves parts that were not gathered."""
    return layer.weight.shape == (0,) and layer.kind in ("Empty", "BatchNorm")


def emptied_line(layers: Iterable[Layer]) -> str:
    """That some weights are empty, as a line; "" where none is."""
    names = [layer.name or "(root)" for layer in layers if is_emptied(layer)]
    if not names:
        return ""
    have = "has an empty weight" if len(names) == 1 else "have empty weights"
    what = f"{plural(len(names), 'layer')} ({first_few(names)}) {have} of shape (0,), as ZeRO-3 parts that were not"
    return f"{what} gathered: {'its' if len(names) == 1 else 'their'} numbers are not in this file"


def lines_on_numbers(checkpoint: Checkpoint, layers: Iterable[Layer]) -> tuple[str, ...]:
    """Lines that say which of the numbers are not, or may not be, in the file."""
    return tuple(line for line in (emptied_line(layers), checkpoint.unwritten) if line)
