"""What is told while `verify` works."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[int], None]
"""Called with a number of bytes that were worked on."""
Bar: TypeAlias = Callable[[int, str], Progress]
"""(bytes, what): some work begins, of so many bytes; gives what is called with those that were done."""

COMPARING, RUNNING = "comparing", "running layers"
"""What the work is."""


def no_bar(nbytes: int, what: str) -> Progress:
    """Tells nothing of any work."""
    return lambda done: None
