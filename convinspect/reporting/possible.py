"""What layers could become: for each the kinds that `convert` would make of it, as `convert` itself decides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from convinspect.checkpoint import Checkpoint
from convinspect.converting.job import Job, prepare
from convinspect.converting.options import Options
from convinspect.errors import ConvInspectError
from convinspect.kinds import TRANSFORMERS_CONV1D, option_of
from convinspect.records import Layer

_MOST_SINGLE = 32
"""Tied layers and halves of pairs that are tried one by one; of more it is not said what each becomes alone."""


class Way(NamedTuple):
    """What `convert` makes of some layers.

    Attributes:
        to: The kind that they become.
        origin: The kind that they are.
        patches: They are convolutions that cut patches, and become the Linear over these.
    """

    to: str
    origin: str
    patches: bool = False

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds that the command must name; () where it takes this one by itself."""
        usual = self.patches or self.origin == ("Conv1d" if self.to == "Linear" else "Linear")
        return () if usual else (self.origin,)


class Possible(NamedTuple):
    """What the layers of a checkpoint could become.

    Attributes:
        ways: By a layer's identity (`id`).
        reasons: Why a pointwise layer, or one that cuts patches, does not become a Linear, by its identity.
        together: Ways that several layers go together, each with their number: one command, which names none.
        refused: Why nothing in the file can be converted; None where something can.
    """

    ways: dict[int, tuple[Way, ...]]
    reasons: dict[int, str]
    together: tuple[tuple[Way, int], ...] = ()
    refused: ConvInspectError | None = None


def possible(checkpoint: Checkpoint, layers: Sequence[Layer]) -> Possible:
    """Ask `convert` what it would do.

    Args:
        checkpoint: The file.
        layers: All of its layers.
    """
    found = Possible({}, {})
    pointwise = [layer for layer in layers if layer.pointwise or layer.kind == TRANSFORMERS_CONV1D]
    linear = [layer for layer in layers if layer.kind == "Linear"]
    patches = [layer for layer in layers if layer.patch and not layer.pointwise]
    together: list[tuple[Way, int]] = []
    try:
        _ask(checkpoint, pointwise, "Linear", found)
        _ask(checkpoint, [*pointwise, *linear], "Conv1d", found)
        _ask(checkpoint, [*pointwise, *linear], "Conv2d", found)
        _ask(checkpoint, patches, "Linear", found, patches=True)
        together += _together(checkpoint, pointwise, patches)
    except ConvInspectError as error:
        return Possible({}, {}, (), error)
    return found._replace(together=tuple(together))


def _ask(checkpoint: Checkpoint, layers: Sequence[Layer], to: str, found: Possible, patches: bool = False) -> None:
    """Add what these layers become, each named by itself."""
    asked = [layer for layer in layers if layer.kind != to]
    entangled = [layer for layer in asked if layer.tied_to or layer.low_rank]
    apart = {id(layer) for layer in entangled}
    alone = [layer for layer in asked if id(layer) not in apart]
    if alone:
        _note(_job(checkpoint, alone, to, patches), alone, to, patches, found)
    for layer in entangled[:_MOST_SINGLE]:
        _note(_job(checkpoint, [layer], to, patches), [layer], to, patches, found)


def _job(checkpoint: Checkpoint, layers: Iterable[Layer], to: str, patches: bool, named: bool = True) -> Job:
    """What `convert` plans.

    Raises:
        ConvInspectError: It refuses the file.
    """
    chosen = list(layers)
    kinds = tuple(dict.fromkeys(option_of(layer.kind) for layer in chosen))
    options = Options(
        to=option_of(to),
        from_=() if patches else kinds,
        layer=tuple(layer.name for layer in chosen) if named else (),
        patches=patches,
        state_dict=checkpoint.holds_modules,
        dry_run=True,
    )
    return prepare(checkpoint, options)


def _note(job: Job, layers: Sequence[Layer], to: str, patches: bool, found: Possible) -> None:
    converted = {conversion.layer.name for conversion in job.plan.conversions}
    refused = {refusal.name: refusal.reason for refusal in job.plan.refusals if not refusal.done}
    for layer in layers:
        if layer.name in converted:
            found.ways[id(layer)] = (*found.ways.get(id(layer), ()), Way(to, layer.kind, patches))
        elif to == "Linear" and layer.name in refused:
            found.reasons[id(layer)] = refused[layer.name]


def _together(
    checkpoint: Checkpoint, pointwise: Sequence[Layer], patches: Sequence[Layer]
) -> Iterable[tuple[Way, int]]:
    """Commands for all layers of a kind at once, with how many they convert."""
    for kind in dict.fromkeys(layer.kind for layer in pointwise):
        job = _job(checkpoint, [layer for layer in pointwise if layer.kind == kind], "Linear", False, named=False)
        if job.plan.conversions:
            yield Way("Linear", kind), len(job.plan.conversions)
    if patches:
        job = _job(checkpoint, patches, "Linear", True, named=False)
        if job.plan.conversions:
            yield Way("Linear", patches[0].kind, True), len(job.plan.conversions)
