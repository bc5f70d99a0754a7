"""What the text of a loading error says, as plain data."""

from __future__ import annotations

from dataclasses import dataclass

from convinspect.text import Word, plural

Shape = tuple[int, ...]


class Trouble(Word):
    """What a loader says of a key."""

    SIZE_MISMATCH = "size mismatch"
    MISSING = "missing"
    UNEXPECTED = "unexpected"
    NOT_COPIED = "not copied"


@dataclass(frozen=True, slots=True)
class LoadErrorItem:
    """One thing that an error says.

    Attributes:
        trouble: What is wrong.
        key: The state_dict key.
        checkpoint: The shape in the checkpoint that was loaded; None where the error does not say it.
        model: The shape in the model.
        partial: The loader gives the last part of the key only ("weight").
        folded: The loader gives several keys as one ("layers.{0...11}.weight") and the shapes of one of them, so that
            it is not certain that this key has the trouble, with these shapes.
    """

    trouble: Trouble
    key: str
    checkpoint: Shape | None = None
    model: Shape | None = None
    partial: bool = False
    folded: bool = False


@dataclass(frozen=True, slots=True)
class LoadError:
    """What an error's text says.

    Attributes:
        items: Each thing once, in the order of the text.
        unread: Lines that look like complaints of a loader and were not understood.
        stops: The loader that wrote it, if it stops at the first thing that it does not like; "" of one that tells all.
        endless: A table ends without the notes that its loader writes below it, so that rows may be missing.
        headless: It begins in the middle: what such an error begins with is not there.
    """

    items: tuple[LoadErrorItem, ...]
    unread: tuple[str, ...] = ()
    stops: str = ""
    headless: bool = False
    endless: bool = False

    def __repr__(self) -> str:
        return (
            f"<load error: {plural(len(self.items), 'thing')} said, {plural(len(self.unread), 'line')} not understood>"
        )
