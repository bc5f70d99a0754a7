"""What the pickle machine holds between instructions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from convinspect.formats.pickle.values import EMPTY, Global, Memo
from convinspect.records import Span

EXTENSION = "extension registry code "
"""What stands before a number that the stream asks for in place of a name."""


class State:
    """The machine's stack, memo and marks, and what it met so far.

    Args:
        left: Instructions that may be carried out.
    """

    def __init__(self, left: int) -> None:
        self.left = left
        """Instructions that may still follow."""
        self.stack: list[Any] = []
        self.starts: list[int] = []
        """Where each value on the stack was pushed."""
        self.marks: list[tuple[list[Any], list[int], int]] = []
        """Below each open mark, the stack and its starts; and where the mark is."""
        self.memo = Memo()
        self.globals: dict[str, Span] = {}
        self.rare: dict[str, int] = {}
        """The first place of each instruction that no pickler of state_dicts writes."""
        self.persistent: list[Sequence[Any]] = []
        self.none = EMPTY
        """Every empty tuple, as it is one object in Python."""
        self.position = -1
        """Offset of the last instruction looked at."""

    def push(self, value: Any, start: int) -> None:
        """Put a value on the stack that was pushed at `start`."""
        self.stack.append(value)
        self.starts.append(start)

    def pop(self) -> Any:
        """Take the topmost value off the stack."""
        self.starts.pop()
        return self.stack.pop()

    def pop_mark(self) -> tuple[list[Any], int]:
        """Everything above the topmost mark, and the mark's own place."""
        items = self.stack
        self.stack, self.starts, at = self.marks.pop()
        return items, at

    def named(self, module: str, name: str, span: Span) -> Global:
        """The stand-in for a name that the stream asks for."""
        value = Global(module, name)
        self.globals.setdefault(value.qualified, span)
        return value


def two_names(arg: Any) -> tuple[str, str]:
    """GLOBAL's and INST's argument: `genops` joins the two lines by a space."""
    module, _, name = str(arg).partition(" ")
    return module, name


def line_span(arg: Any, at: int) -> Span:
    """Where GLOBAL or INST at `at` lies: its code and two lines."""
    return Span(at, at + 2 + len(str(arg).encode("utf-8", "surrogatepass")))
