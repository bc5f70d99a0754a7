"""What comparing two checkpoints gives: the findings of each part, and the report that they make together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from convinspect.text import plural
from convinspect.verifying.causes import Cause, Why, because
from convinspect.verifying.layers import LayerCheck

if TYPE_CHECKING:
    from convinspect.verifying.model import ModelCheck

Strength = Literal["bits", "layer", "model"]
Verdict = Literal["equal", "different", "not verified"]


@dataclass(frozen=True, slots=True)
class Findings:
    """What one part of the comparison found.

    Attributes:
        changed: Tensors, keys and objects that should be as they were, with the cause.
        missing: What is in the first checkpoint only.
        unexpected: What is in the second only.
        unread: Tensors whose numbers are not in the file or have no reading.
        notes: What was not compared, and what else a user should know.
        unproved: As `unread`, of tensors that have another shape after.
    """

    changed: Mapping[str, Cause] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unproved: tuple[str, ...] = ()


def merged(parts: Iterable[Findings]) -> Findings:
    """All findings in order; of a name that several parts found changed, the first cause."""
    parts = tuple(parts)
    changed: dict[str, Cause] = {}
    for part in parts:
        changed |= {name: cause for name, cause in part.changed.items() if name not in changed}
    return Findings(
        changed,
        tuple(name for part in parts for name in part.missing),
        tuple(name for part in parts for name in part.unexpected),
        tuple(name for part in parts for name in part.unread),
        tuple(note for part in parts for note in part.notes),
        tuple(name for part in parts for name in part.unproved),
    )


@dataclass(frozen=True, slots=True)
class Report:
    """What was found of two checkpoints.

    Attributes:
        before: What was opened.
        after: What it was compared with.
        layers: Layers that were converted or differ, in stored order.
        missing: Tensors of `before` that are not in `after`.
        unexpected: Tensors of `after` that are not in `before`.
        changed: Tensors, keys and objects that should be as they were, with the cause.
        unchanged: Number of tensors that are the same to the bit and in shape.
        unread: Tensors whose numbers are not in the file or have no reading; of these no more than shape and dtype is
            known to be equal.
        notes: What was not compared, and what else a user should know.
        model: The whole model, when it was run.
        kinds: All layers that were converted, also those that were not asked for, with their kind after.
        unproved: Tensors that have another shape after, and whose numbers could not be compared.
    """

    before: str
    after: str
    layers: tuple[LayerCheck, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    changed: Mapping[str, Cause] = field(default_factory=dict)
    unchanged: int = 0
    unread: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    model: ModelCheck | None = None
    kinds: Mapping[str, str] = field(default_factory=dict)
    unproved: tuple[str, ...] = ()

    def __repr__(self) -> str:
        outcome = f"equal, strength {self.strength}" if self.equal else self.verdict.replace("different", "not equal")
        return f"<verify report: {outcome}, {plural(len(self.kinds), 'layer')} converted>"

    @property
    def equal(self) -> bool:
        """No difference was found, and the numbers of all that was converted were compared."""
        return self.cause is None

    @property
    def verdict(self) -> Verdict:
        """In a word: "not verified" where no difference was found, and not all that was converted was compared."""
        return "different" if self.difference else "equal" if self.cause is None else "not verified"

    @property
    def cause(self) -> Cause | None:
        """The first thing that is wrong; None when all is well."""
        return self.difference or self._uncompared

    @property
    def _uncompared(self) -> Cause | None:
        """The first thing that was converted and could not be compared, or is not known to be what it should be."""
        for check in self.layers:
            if check.unsure is not None:
                return because(Why.OF_LAYER, name=check.name or "(root)", cause=check.unsure)
            if not check.compared:
                return because(Why.OF_LAYER, name=check.name or "(root)", cause=because(Why.NOT_COMPARED))
        for name in self.unproved:
            return because(Why.OF_NAME, name=name, cause=because(Why.NOT_COMPARED))
        return None

    @property
    def reshaped(self) -> Mapping[str, Cause]:
        """Tensors with the same numbers in another shape, of which nothing shows what a model does with it."""
        return {name: cause for check in self.layers for name, cause in check.reshaped.items()}

    @property
    def difference(self) -> Cause | None:
        """The first difference that was found; None where there is none."""
        for check in self.layers:
            if check.cause is not None:
                return because(Why.OF_LAYER, name=check.name or "(root)", cause=check.cause)
        for name, cause in self.changed.items():
            return because(Why.OF_NAME, name=name, cause=cause)
        for why, names in ((Why.MISSING, self.missing), (Why.UNEXPECTED, self.unexpected)):
            if names:
                return because(why, name=names[0])
        if self.model is not None and self.model.cause:
            return because(Why.MODEL, problem=self.model.cause)
        return None

    @property
    def strength(self) -> Strength:
        """The strongest proof that covers all that was converted."""
        if self.model is not None and not self.model.cause:
            return "model"
        return "layer" if self.layers and all(layer.outputs is not None for layer in self.layers) else "bits"
