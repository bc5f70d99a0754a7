"""What is to change in one file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from convinspect.records import Edit
from convinspect.writing.moving import Place

if TYPE_CHECKING:
    from convinspect.formats.pickle.record import Pickle


@dataclass(frozen=True, slots=True)
class Changes:
    """All changes of one file.

    Attributes:
        edits: Edits of its tensors.
        drop_optimizer: Leave every optimizer's `state` empty, and its numbers out of the file.
        parameters: Old → new name, for the parameter names that optimizers store.
        others: Old → new key of what is no tensor, by the path of its root.
        pickle: The file's parsed pickle, if it was kept when the file was opened, so that it is not read again.
        sums: The new CRC-32 of each storage in whose bytes numbers change places, by file and key.
    """

    edits: tuple[Edit, ...]
    drop_optimizer: bool = False
    parameters: Mapping[str, str] = field(default_factory=dict)
    others: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    pickle: Pickle | None = None
    sums: Mapping[Place, int] = field(default_factory=dict)

    @property
    def restructure(self) -> bool:
        """Whether more of a pickle changes than tuples of numbers."""
        return bool(self.names or self.others or self.drop_optimizer or self.parameters)

    def __bool__(self) -> bool:
        return bool(self.edits) or self.restructure

    @property
    def names(self) -> dict[tuple[int, str], str]:
        """New keys by (offset of the tensor's size in the pickle, or -1 if it has none; old key)."""
        return {
            (-1 if (span := edit.tensor.shape_span) is None else span.start, edit.tensor.key): edit.key
            for edit in self.edits
            if edit.key is not None
        }
