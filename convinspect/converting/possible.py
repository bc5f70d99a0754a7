"""What layers could become: for each the kinds that `convert` would make of it, as `convert` itself decides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from convinspect.checkpoint import Checkpoint
from convinspect.converting.job import Job, prepare
from convinspect.converting.options import Options
from convinspect.errors import ConvInspectError
from convinspect.keys.wrappers import join_key
from convinspect.kinds import TRANSFORMERS_CONV1D, option_of
from convinspect.layers.grouping import lora_partner
from convinspect.records import Layer

_MOST_APART = 32
"""Tied layers and halves of pairs that are asked about apart; of more it is not said what each becomes."""
_MOST_TOGETHER, _LONGEST = 4, 2000
"""Layers that one command names, and characters of their names; where tied ones are more, the reason why one alone
stays is all that is told."""


class Way(NamedTuple):
    """What `convert` makes of some layers.

    Attributes:
        to: The kind that they become.
        origin: The kind that they are.
        patches: They are convolutions that cut patches, and become the Linear over these.
        along: Names of the layers that the command must name too: tied ones, and the other half of a LoRA pair.
    """

    to: str
    origin: str
    patches: bool = False
    along: tuple[str, ...] = ()

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds that the command must name; () where it takes this one by itself."""
        usual = self.patches or self.origin == ("Conv1d" if self.to == "Linear" else "Linear")
        return () if usual else (self.origin,)


class Change(NamedTuple):
    """One thing that a layer could become.

    Attributes:
        way: To what, and how.
        shape: Of its new weight.
        assumed: Settings that the conversion takes for granted.
    """

    way: Way
    shape: tuple[int, ...]
    assumed: tuple[str, ...]


class Possible(NamedTuple):
    """What layers of a checkpoint could become.

    Attributes:
        changes: By a layer's identity (`id`).
        reasons: By its identity why a pointwise layer, or one that cuts patches, does not become a Linear; of a Linear
            why it stays one.
        together: Ways that several layers go together, each with their number: one command, which names none.
        refused: Why nothing in the file can be converted; None where something can.
    """

    changes: dict[int, tuple[Change, ...]]
    reasons: dict[int, str]
    together: tuple[tuple[Way, int], ...] = ()
    refused: ConvInspectError | None = None


def possible(checkpoint: Checkpoint, layers: Sequence[Layer], asked: Sequence[Layer] | None = None) -> Possible:
    """Ask `convert` what it would do.

    Args:
        checkpoint: The file.
        layers: All of its layers.
        asked: Those to tell of; None for all, and for what can be done with all of a kind at once.
    """
    chosen = layers if asked is None else asked
    pointwise = [layer for layer in chosen if layer.pointwise or layer.kind == TRANSFORMERS_CONV1D]
    linear = [layer for layer in chosen if layer.kind == "Linear"]
    patches = [layer for layer in chosen if layer.patch and not layer.pointwise]
    found = Possible({}, {})
    asking = _Asking(checkpoint, _kin(layers) if any(map(_is_entangled, chosen)) else _Kin({}, {}), found)
    try:
        _ask(asking, pointwise, "Linear")
        _ask(asking, [*pointwise, *linear], "Conv1d")
        _ask(asking, [*pointwise, *linear], "Conv2d")
        _ask(asking, patches, "Linear", patches=True)
        together = () if asked is not None else tuple(_together(checkpoint, pointwise, patches))
    except ConvInspectError as error:
        return Possible({}, {}, (), error)
    for layer in linear:
        if id(layer) in found.changes:
            found.reasons.pop(id(layer), None)
    return found._replace(together=together)


def asked_with(layer: Layer, layers: Sequence[Layer]) -> list[Layer]:
    """The layers that are asked about at the cost of one: those of its kind, or it alone where others must change too.

    Args:
        layer: One of them.
        layers: All layers of a checkpoint.
    """
    if _is_entangled(layer):
        return [layer]
    alike = [each for each in layers if each.kind == layer.kind and not _is_entangled(each)]
    return [each for each in alike if (each.pointwise, each.patch) == (layer.pointwise, layer.patch)]


class _Kin(NamedTuple):
    """Layers by their names, and by those of their tensors."""

    by_name: Mapping[str, Layer]
    by_key: Mapping[str, Layer]


class _Asking(NamedTuple):
    """Of what file is asked, and what was answered so far."""

    checkpoint: Checkpoint
    kin: _Kin
    found: Possible


def _kin(layers: Sequence[Layer]) -> _Kin:
    by_key = {join_key(layer.name, leaf): layer for layer in layers for leaf in layer.tensors}
    return _Kin({layer.name: layer for layer in layers}, by_key)


def _is_entangled(layer: Layer) -> bool:
    """Whether others must change with it."""
    return bool(layer.tied_to) or layer.low_rank


def _ask(asking: _Asking, layers: Sequence[Layer], to: str, patches: bool = False) -> None:
    """Add what these layers become, each named by itself; tied ones and halves of pairs with the others."""
    wanted = [layer for layer in layers if layer.kind != to]
    alone = [layer for layer in wanted if not _is_entangled(layer)]
    if alone:
        _note(asking.found, _job(asking.checkpoint, alone, to, patches), alone, to, patches)
    for layer in [layer for layer in wanted if _is_entangled(layer)][:_MOST_APART]:
        company = _company(layer, asking.kin, patches)
        _note(asking.found, _job(asking.checkpoint, company, to, patches), [layer], to, patches, company)


def _note(
    found: Possible, job: Job, layers: Sequence[Layer], to: str, patches: bool, company: Sequence[Layer] = ()
) -> None:
    made = {conversion.layer.name: conversion for conversion in job.plan.conversions}
    refused = {refusal.name: refusal.reason for refusal in job.plan.refusals if not refusal.done}
    for layer in layers:
        conversion = made.get(layer.name)
        if conversion is not None:
            way = Way(to, layer.kind, patches, tuple(_name(other) for other in company if other is not layer))
            change = Change(way, conversion.new_shape, conversion.assumed)
            found.changes[id(layer)] = (*found.changes.get(id(layer), ()), change)
        elif layer.name in refused and (to == "Linear" or layer.kind == "Linear"):
            found.reasons.setdefault(id(layer), refused[layer.name])


def _company(layer: Layer, kin: _Kin, patches: bool) -> list[Layer]:
    """The layer, and those that must change with it; the layer alone where these are many, or of other kinds."""
    company, waiting = {layer.name: layer}, [layer]
    while waiting:
        here = waiting.pop()
        others = [kin.by_key.get(key) for key in here.tied_to]
        if here.low_rank:
            others.append(kin.by_name.get(lora_partner(here.name) or ""))
        new = {other.name: other for other in others if other is not None and other.name not in company}
        company |= new
        waiting += new.values()
        alike = patches or all(other.kind == layer.kind for other in new.values())
        few = len(company) <= _MOST_TOGETHER and sum(map(len, company)) <= _LONGEST and not here.tied_to_more
        if not (alike and few):
            return [layer]
    return list(company.values())


def _name(layer: Layer) -> str:
    return layer.name or "(root)"


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
        layer=tuple(map(_name, chosen)) if named else (),
        patches=patches,
        state_dict=checkpoint.holds_modules,
        dry_run=True,
    )
    return prepare(checkpoint, options)


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
