"""What a `load_state_dict` error complains of → whether converting or renaming mends it, and what to type."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from convinspect.checkpoint import Checkpoint
from convinspect.converting.like import edit_to
from convinspect.converting.plan import DEFAULT_FROM, Request, plan
from convinspect.diffing.load_error import Complaint, Shape
from convinspect.formats.torch.objects import beside, read_objects
from convinspect.keys.pairing import COUNT, Prefix, pair_keys
from convinspect.keys.wrappers import clean_names
from convinspect.kinds import KINDS, option_of
from convinspect.layers.find import find_layers
from convinspect.records import Layer, Tensor

Fix = Literal["convert", "rename", "like", "none", "already", "other checkpoint", "pass its root"]
_TARGETS = {2: "Linear", 3: "Conv1d", 4: "Conv2d", 5: "Conv3d"}
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
MOST_NAMES = 4
"""Layers that are named one by one; of more, a shorter way to say the same is looked for."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What can be done about a complaint.

    Attributes:
        complaint: What the error says.
        fix: - "convert": `convert --to` gives the wanted shape.
            - "rename": the key has its partner under another prefix.
            - "like": the shape can be had, but only `convert --like` a checkpoint that has it makes it.
            - "none": nothing that keeps the numbers mends it.
            - "already": the checkpoint at hand does not have the trouble.
            - "other checkpoint": the error is not about the checkpoint at hand.
            - "pass its root": the file's whole dictionary was passed, and the weights are one of its entries.
        reason: A few words to go with it.
        here: The shape in the checkpoint at hand; None where it has no such key.
        layer: The layer to convert; "" is the root module.
    """

    complaint: Complaint
    fix: Fix
    reason: str
    here: Shape | None = None
    layer: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """One call of `convert`.

    Attributes:
        to: The kind that the layers become.
        kinds: Kinds that `--from` must name; () where the usual ones do.
        layers: Names or globs for `--layer`; () for all.
        count: How many layers it converts.
    """

    to: str
    kinds: tuple[str, ...]
    layers: tuple[str, ...]
    count: int


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """What can be done about an error.

    Attributes:
        answers: One for each complaint, in the error's order.
        steps: Calls of `convert` that do all that converting can.
        rules: `--rename` rules that mend keys; None where no few rules do.
        prefixes: What makes unexpected keys differ from missing ones.
        taken: What the checkpoint's keys carry beyond those that the error speaks of.
        root: Path of the weights in the file, where its whole dictionary was passed; "" elsewhere.
    """

    answers: tuple[Answer, ...]
    steps: tuple[Step, ...]
    rules: tuple[str, ...] | None
    prefixes: tuple[Prefix, ...]
    taken: tuple[Prefix, ...]
    root: str = ""

    @property
    def obstacles(self) -> tuple[str, ...]:
        """Why it will still not load, a line each."""
        return tuple(_obstacle(one) for one in self.answers if one.fix in ("none", "other checkpoint", "like"))

    @property
    def same(self) -> bool:
        """The checkpoint at hand has none of the troubles."""
        return all(one.fix == "already" for one in self.answers)


def _obstacle(one: Answer) -> str:
    said = one.complaint
    if one.fix == "none" and said.trouble == "size mismatch":
        return f"{said.key} is {one.here} in A and {said.model} in the model"
    return f"{said.key}: {one.reason}"


# ---------------------------------------------------------------------------------------------- answering each line


def suggest_fixes(checkpoint: Checkpoint, complaints: Sequence[Complaint]) -> ErrorReport:
    """What can be done with `checkpoint` about an error that loading it gave."""
    there, taken = _tensors_of(checkpoint, [one.key for one in complaints if one.trouble != "missing"])
    layers = find_layers(checkpoint)
    steps, hindered = planned_steps(layers, _wishes(complaints, there))
    outer = _passed_whole(checkpoint, complaints, there)
    owners = {id(tensor): layer for layer in layers for tensor in layer.tensors.values()}
    stored = {tensor.key: None for tensor in checkpoint.tensors.values()}
    partners = _Partners.of(
        list(stored) if outer else [one.key for one in complaints if one.trouble == "unexpected"],
        [one.key for one in complaints if one.trouble == "missing"],
    )
    answers = []
    for one in complaints:
        tensor = there.get(one.key)
        if one.key in outer and one.trouble == "unexpected":
            answers.append(Answer(one, "pass its root", "an entry of the file, not of the weights"))
        elif one.trouble in ("missing", "unexpected"):
            answers.append(_about_key(one, tensor, stored, partners))
        else:
            answers.append(_about_shape(one, tensor, owners.get(id(tensor)), hindered))
    renames = any(one.fix == "rename" for one in answers)
    rules, prefixes = (partners.rules, partners.prefixes) if renames or partners.rules is None else ((), ())
    return ErrorReport(tuple(answers), steps, rules, prefixes, taken, checkpoint.root.path if outer else "")


def _passed_whole(
    checkpoint: Checkpoint, complaints: Iterable[Complaint], there: Mapping[str, Tensor]
) -> frozenset[str]:
    """Unexpected keys that are entries of the file beside or above its weights: all of it was passed."""
    strange = {one.key for one in complaints if one.trouble == "unexpected" and one.key not in there}
    root = checkpoint.root.path
    if not root or root.partition(".")[0] not in strange:
        return frozenset()
    objects = read_objects(checkpoint.path)
    above = {one.path.partition(".")[0] for one in checkpoint.roots}
    return frozenset(strange & (above | set(beside(objects, root) if objects is not None else ())))


def _tensors_of(checkpoint: Checkpoint, keys: Iterable[str]) -> tuple[dict[str, Tensor], tuple[Prefix, ...]]:
    """The checkpoint's tensors by the error's keys, and what its own keys carry beyond these."""
    wanted = list(dict.fromkeys(keys))
    tensors = list(checkpoint.tensors.values())
    found = pair_keys(([one.key for one in tensors], wanted), (list(checkpoint.tensors), clean_names(wanted)))
    return {wanted[j]: tensors[i] for _, i, j in found.pairs}, found.prefixes


_MEAN = "running_mean"


@dataclass(frozen=True, slots=True)
class _Partners:
    """Unexpected keys and the missing ones that they would be under another prefix, each by the other."""

    keys: Mapping[str, str]
    rules: tuple[str, ...] | None
    prefixes: tuple[Prefix, ...]

    @classmethod
    def of(cls, ours: list[str], missing: Sequence[str]) -> _Partners:
        # PyTorch supplies what it would miss of these, so it never says so.
        counts = [f"{key.removesuffix(_MEAN)}{COUNT}" for key in missing if key.endswith(_MEAN)]
        theirs = list(dict.fromkeys([*missing, *counts]))
        found = pair_keys((ours, theirs), (clean_names(ours), clean_names(theirs)))
        keys = {ours[i]: theirs[j] for _, i, j in found.pairs}
        return cls(keys | {new: old for old, new in keys.items()}, found.rules, found.prefixes)


def _about_key(one: Complaint, tensor: Tensor | None, stored: Container[str], partners: _Partners) -> Answer:
    missing = one.trouble == "missing"
    if missing and one.key in stored:
        return Answer(one, "already", "it has this key")
    if not missing and one.key not in stored and partners.keys.get(one.key) in stored:
        return Answer(one, "already", "it has the model's key for it")
    if not missing and tensor is None:
        return Answer(one, "other checkpoint", "it has no such key")
    here = None if tensor is None else tensor.shape
    if one.key not in partners.keys:
        return Answer(one, "none", "no conversion makes it" if missing else "the model has no such key", here)
    if partners.rules is None:
        return Answer(one, "none", "it is there under another key, and no few --rename rules do it", here)
    return Answer(
        one, "rename", "it is there under another prefix" if missing else "its prefix is not the model's", here
    )


def _wishes(complaints: Sequence[Complaint], there: Mapping[str, Tensor]) -> dict[int, Shape]:
    """Shapes that reshaping could give, by the tensor's identity."""
    return {
        id(there[one.key]): one.model
        for one in complaints
        if one.trouble == "size mismatch" and one.model is not None and one.key in there
        if there[one.key].shape != one.model and edit_to(there[one.key], one.model) is not None
    }


def _about_shape(one: Complaint, tensor: Tensor | None, layer: Layer | None, hindered: Mapping[int, str]) -> Answer:
    if tensor is None or layer is None:
        return Answer(one, "other checkpoint", "it has no such key")
    here, wanted = tensor.shape, one.model
    if one.trouble == "not copied" or wanted is None:
        return Answer(one, "none", "PyTorch could not copy it, whatever its shape", here)
    if here == wanted:
        return Answer(one, "already", "it has the wanted shape", here)
    if one.checkpoint != here:
        return Answer(one, "other checkpoint", f"it has {here}, and the error says {one.checkpoint}", here)
    if edit_to(tensor, wanted) is None:
        return Answer(one, "none", "no reshaping mends it", here)
    if id(tensor) in hindered:
        return Answer(one, "like", hindered[id(tensor)], here, layer.name)
    return Answer(one, "convert", f"{layer.kind} → {_TARGETS[len(wanted)]}", here, layer.name)


# ---------------------------------------------------------------------------------------- which calls of convert do it


def planned_steps(layers: Sequence[Layer], wishes: Mapping[int, Shape]) -> tuple[tuple[Step, ...], dict[int, str]]:
    """Calls of `convert --to` that give tensors the shapes that are wished for, and no other tensor another shape.

    Args:
        layers: Of the checkpoint.
        wishes: Shapes by the tensor's identity.

    Returns:
        The calls; and by the tensor's identity, why none gives a wish.
    """
    hindered: dict[int, str] = {}
    steps = []
    concerned = [layer for layer in layers if any(id(tensor) in wishes for tensor in layer.tensors.values())]
    for to in KINDS:
        chosen = [layer for layer in concerned if _target(layer, wishes) == to]
        while chosen:
            reasons = _unmet(layers, chosen, to, wishes)
            if not reasons:
                steps.append(_step(layers, chosen, to))
                break
            hindered |= {
                id(it): reasons[one.name] for one in chosen if one.name in reasons for it in one.tensors.values()
            }
            chosen = [layer for layer in chosen if layer.name not in reasons]
    return tuple(steps), hindered


def _target(layer: Layer, wishes: Mapping[int, Shape]) -> str:
    """The kind that the layer's wishes ask for: that of its weight, where there is a wish for it."""
    wished = [wishes[id(tensor)] for tensor in (layer.weight, *layer.tensors.values()) if id(tensor) in wishes]
    return _TARGETS[len(wished[0])]


def _unmet(layers: Sequence[Layer], chosen: Sequence[Layer], to: str, wishes: Mapping[int, Shape]) -> dict[str, str]:
    """Names of chosen layers whose wishes are not met when all are converted, with the reason."""
    found = {layer.name: _not_by_kind(layer, to) for layer in chosen if layer.kind not in KINDS or layer.kind == to}
    if found:
        return found
    names = tuple(layer.name or "(root)" for layer in chosen)
    planned = plan(layers, Request(to, _kinds(chosen), names))
    refused = {one.name: one.reason for one in planned.refusals}
    edits = {one.layer.name: {id(edit.tensor): edit.shape for edit in one.edits} for one in planned.conversions}
    for layer in chosen:
        wished = {id(tensor): wishes[id(tensor)] for tensor in layer.tensors.values() if id(tensor) in wishes}
        if layer.name not in edits:
            found[layer.name] = refused.get(layer.name, "it is left as it is")
        elif edits[layer.name] != wished:
            found[layer.name] = f"convert --to {option_of(to)} gives other shapes than these"
    return found


def _not_by_kind(layer: Layer, to: str) -> str:
    if layer.kind == to:
        return "only convert --like a checkpoint that has it transposed turns it over"
    return f"only convert --like reshapes what reads as {layer.kind}"


def _kinds(layers: Iterable[Layer]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(layer.kind for layer in layers))


def _step(layers: Sequence[Layer], chosen: Sequence[Layer], to: str) -> Step:
    """The shortest way to name the chosen layers: by name, by globs for numbered blocks, or as all there are."""
    kinds = _kinds(chosen)
    origin = () if set(kinds) <= set(DEFAULT_FROM.get(to, ("Linear",))) else kinds
    names = tuple(layer.name or "(root)" for layer in chosen)
    globs = tuple(dict.fromkeys(_NUMBER.sub("*", name) for name in names))
    if len(names) > MOST_NAMES:
        wanted = {layer.name for layer in chosen}
        for shorter in ((), globs):
            planned = plan(layers, Request(to, origin, shorter))
            if {one.layer.name for one in planned.conversions} == wanted:
                return Step(to, origin, shorter, len(names))
    return Step(to, origin, names, len(names))
