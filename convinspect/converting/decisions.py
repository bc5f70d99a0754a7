"""What is decided about layers: conversions, refusals and the plan of both. Plain data."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

from convinspect.converting.moving import by_strides
from convinspect.converting.reshape import channels_last_stays, with_channels_last
from convinspect.records import Edit, Layer


@dataclass(frozen=True, slots=True)
class Conversion:
    """One layer that changes.

    Attributes:
        layer: As stored.
        to: Its new kind.
        edits: Edits of all its tensors that have the kernel's shape.
        assumed: What had to be assumed, such as "stride 1".
        warnings: What the user should check.
        groups: Groups of a convolution whose kernel becomes block-diagonal; 1 for all others.
        patch: Kernel size of a convolution that becomes the Linear over its flattened patches, or that such a Linear
            becomes; () for all others.
        last: The numbers of its patches have their channels last.
    """

    layer: Layer
    to: str
    edits: tuple[Edit, ...]
    assumed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    groups: int = 1
    patch: tuple[int, ...] = ()
    last: bool = False

    @property
    def old_shape(self) -> tuple[int, ...]:
        """Shape of the layer's weight as stored."""
        return self.layer.weight.shape

    @property
    def new_shape(self) -> tuple[int, ...]:
        """Shape of the converted weight."""
        if self.groups > 1:
            return (self.layer.weight.shape[0], self.layer.weight.shape[1] * self.groups)
        return next((edit.shape for edit in self.edits if edit.tensor is self.layer.weight), self.edits[0].shape)


@dataclass(frozen=True, slots=True)
class Refusal:
    """One layer that was to change and does not, and why.

    Attributes:
        name: The layer.
        reason: One sentence for people; a `Wording` if it names options.
        done: The layer is of the target kind already.
        maybe_turned: A square matrix of which no shape tells whether it is stored transposed, as others in the file.
        fits: Its shape is the wanted one, so that it loads as it is.
        moves: Nothing speaks against its other shape but that numbers would have to move, or that there are others.
        calls: Names of its tensors, each with PyTorch's call that gives it the wanted shape; () where one has none.
    """

    name: str
    reason: str
    done: bool = False
    maybe_turned: bool = False
    fits: bool = False
    moves: bool = False
    calls: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What will happen to which layer."""

    conversions: tuple[Conversion, ...] = ()
    refusals: tuple[Refusal, ...] = ()

    @property
    def edits(self) -> tuple[Edit, ...]:
        """All tensors' new shapes."""
        return tuple(edits_of(self.conversions))

    @property
    def groups(self) -> dict[str, int]:
        """Groups of the kernels that become block-diagonal, by stored key."""
        grouped = (conversion for conversion in self.conversions if conversion.groups > 1)
        return {conversion.layer.weight.key: conversion.groups for conversion in grouped}

    def refused_of(self, asked: Collection[str]) -> list[Refusal]:
        """Refusals of the layers named in `asked`, without layers that are of the target kind already."""
        return [refusal for refusal in self.refusals if not refusal.done and refusal.name in asked]

    def left_of(self, named: Collection[str]) -> list[Refusal]:
        """The same of layers that were given by name, without square matrices in doubt, which load as they are."""
        return [refusal for refusal in self.refused_of(named) if not refusal.maybe_turned]


_Decided = TypeVar("_Decided", Conversion, Refusal)


class Decisions(NamedTuple):
    """An unfinished plan: conversions and refusals by the layer's name."""

    conversions: Mapping[str, Conversion]
    refusals: Mapping[str, Refusal]

    def refusing(self, refusals: Iterable[Refusal]) -> Decisions:
        """These decisions, with some layers refused."""
        more = {refusal.name: refusal for refusal in refusals}
        return Decisions(without(self.conversions, more), {**self.refusals, **more})

    def finished(self, layers: Sequence[Layer]) -> Plan:
        """The plan, with the memory format of the root's other convolutions.

        Args:
            layers: All layers of the root.
        """
        # What is no layer by itself may change with one, though it was refused for itself.
        refusals = without(self.refusals, self.conversions)
        return Plan(with_memory_format(layers, self.conversions.values()), tuple(refusals.values()))


def without(decided: Mapping[str, _Decided], names: Container[str]) -> dict[str, _Decided]:
    return {name: decision for name, decision in decided.items() if name not in names}


def sorted_out(decided: Iterable[Conversion | Refusal | None]) -> Decisions:
    """Decisions on single layers, collected."""
    every = list(decided)
    return Decisions(
        {conversion.layer.name: conversion for conversion in every if isinstance(conversion, Conversion)},
        {refusal.name: refusal for refusal in every if isinstance(refusal, Refusal)},
    )


def edits_of(conversions: Iterable[Conversion]) -> list[Edit]:
    return [edit for conversion in conversions for edit in conversion.edits]


def with_memory_format(layers: Sequence[Layer], conversions: Collection[Conversion]) -> tuple[Conversion, ...]:
    """The conversions, with channels-last strides for new convolutions if all others of the root have them."""
    last = {dims for dims in (4, 5) if channels_last_stays(layers, edits_of(conversions), dims)}

    def edit_with_strides(edit: Edit, of_patches: bool) -> Edit:
        if len(edit.shape) not in last:
            return edit
        return by_strides(edit) if of_patches else with_channels_last(edit)

    return tuple(
        replace(conversion, edits=tuple(edit_with_strides(edit, bool(conversion.patch)) for edit in conversion.edits))
        for conversion in conversions
    )
