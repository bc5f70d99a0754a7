"""What a layer could become, and the command that makes it so."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from convinspect.checkpoint import Checkpoint
from convinspect.converting.decisions import Plan
from convinspect.converting.plan import Request, plan
from convinspect.diffing.steps import Step
from convinspect.errors import ConvInspectError
from convinspect.kinds import CONV_TRANSPOSES, CONVOLUTIONS, TRANSFORMERS_CONV1D
from convinspect.records import Layer
from convinspect.showing.commands import can_be_converted, step_commands


class Possible(NamedTuple):
    """One thing that a layer could become.

    Attributes:
        to: The kind.
        shape: Of its new weight.
        command: What to type for this layer alone.
        assumed: What the conversion takes for granted.
    """

    to: str
    shape: tuple[int, ...]
    command: str
    assumed: tuple[str, ...]


class Prospects(NamedTuple):
    """What a layer could become, or why it stays."""

    possible: tuple[Possible, ...]
    why_not: str | None = None


_TO = {"Linear": "Conv1d", TRANSFORMERS_CONV1D: "Linear"}
"""The usual target of what is no convolution."""


def prospects(checkpoint: Checkpoint, layers: Sequence[Layer], layer: Layer) -> Prospects:
    """What one layer could become, as `convert` decides it where the layer is named.

    Args:
        checkpoint: The checkpoint.
        layers: All of its layers: those that are tied to this one change with it.
        layer: One of them.
    """
    wanted = _requests(layer)
    if not wanted:
        return Prospects(())
    if not can_be_converted(checkpoint):
        return Prospects((), "a distributed checkpoint of safetensors files is not converted")
    possible: list[Possible] = []
    why: str | None = None
    for request in wanted:
        try:
            planned = plan(layers, request)
        except ConvInspectError as error:
            why = error.problem
            continue
        made = next((each for each in planned.conversions if each.layer.name == layer.name), None)
        if made is None:
            why = why or _reason(planned, layer)
            continue
        step = Step(made.to, request.kinds, _named(planned, layer), 1, request.patches)
        possible.append(Possible(made.to, made.new_shape, step_commands(checkpoint, [step], ())[-1], made.assumed))
    return Prospects(tuple(possible), None if possible else why)


def _requests(layer: Layer) -> Iterable[Request]:
    """What is asked of `convert` for a layer of this kind: the usual direction alone."""
    named = (layer.name or "(root)",)
    if layer.pointwise and layer.kind in (*CONVOLUTIONS, *CONV_TRANSPOSES):
        kinds = () if layer.kind == "Conv1d" else (layer.kind,)
        return [Request("Linear", kinds, named)]
    if layer.patch and layer.kind in CONVOLUTIONS:
        return [Request("Linear", (), named, patches=True)]
    kinds = (TRANSFORMERS_CONV1D,) if layer.kind == TRANSFORMERS_CONV1D else ()
    return [Request(_TO[layer.kind], kinds, named)] if layer.kind in _TO else []


def _named(planned: Plan, layer: Layer) -> tuple[str, ...]:
    """The layer's name, and those of the others that change with it."""
    others = [each.layer.name for each in planned.conversions if each.layer.name != layer.name]
    return (layer.name or "(root)", *others)


def _reason(planned: Plan, layer: Layer) -> str | None:
    return next((each.reason for each in planned.refusals if each.name == layer.name), None)
