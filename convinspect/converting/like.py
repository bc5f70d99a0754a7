"""Plan for another checkpoint's shapes: which tensors differ only in rank or transposition, and which really differ."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace

from convinspect.converting.decisions import Conversion, Decisions, Plan, Refusal, sorted_out
from convinspect.converting.eligibility import REWRITTEN, Writing, obstacle, wrapper_obstacle
from convinspect.converting.plan import assumed, keep_groups_together
from convinspect.converting.reshape import edit_to, out_in, reshaped, reshaped_in
from convinspect.errors import Option, Wording
from convinspect.kinds import CONVOLUTIONS, KIND_OF_RANK, KINDS, TRANSFORMERS_CONV1D
from convinspect.layers.lora import is_magnitude, magnitudes_edit
from convinspect.layouts import is_turned, same_order
from convinspect.records import Doubt, Edit, Layer, Tensor, contiguous


def plan_like(
    layers: Sequence[Layer],
    names: Mapping[str, str],
    other: Mapping[str, Tensor],
    others: Iterable[Layer] = (),
    chosen: Container[str] | None = None,
    writing: Writing = REWRITTEN,
) -> Plan:
    """A plan that gives each tensor the shape that `other` has for it, where the numbers allow.

    Args:
        layers: Of the checkpoint to convert.
        names: Its tensors' clean names by stored key.
        other: The other checkpoint's tensors by clean name.
        others: Its layers, which are needed to see that a square matrix is stored transposed.
        chosen: Names of the layers that may change; None for all.
        writing: What the way of writing asks of them.

    Returns:
        Conversions for what differs only in rank or transposition; refusals for all other differences.
    """
    # By the tensor, since the layer itself may have another name in the other checkpoint.
    theirs = {id(layer.weight): layer for layer in others}
    decisions = sorted_out(
        _decide_like(layer, theirs.get(id(other.get(names[layer.weight.key]))), names, other, chosen, writing)
        for layer in layers
    )
    if any(edit.transposed for conversion in decisions.conversions.values() for edit in conversion.edits):
        decisions = decisions.refusing(_maybe_turned(layers, decisions, chosen))
    planned = keep_groups_together(layers, decisions).finished(layers)
    return Plan(
        tuple(_with_strides_of(conversion, names, other) for conversion in planned.conversions), planned.refusals
    )


def _decide_like(
    layer: Layer,
    counterpart: Layer | None,
    names: Mapping[str, str],
    other: Mapping[str, Tensor],
    chosen: Container[str] | None,
    writing: Writing,
) -> Conversion | Refusal | None:
    """Decide on one layer; None if it does not differ.

    Args:
        layer: Of the checkpoint to convert.
        counterpart: The other checkpoint's layer with the same weight.
        names: As of `plan_like`.
        other: As of `plan_like`.
        chosen: As of `plan_like`.
        writing: As of `plan_like`.
    """
    foreign = other_layout(layer, counterpart)
    edits = []
    for tensor in layer.tensors.values():
        wanted = other.get(names[tensor.key])
        turned = tensor is layer.weight and square_turned(layer, counterpart)
        if wanted is not None and foreign and tensor is layer.weight:
            return Refusal(layer.name, f"{names[tensor.key]} is {tensor.shape} here, {wanted.shape} there: {foreign}")
        if wanted is None or (wanted.shape == tensor.shape and not turned):
            continue
        edit = reshaped(tensor, len(wanted.shape) - 2, turned) if turned else _edit_to(layer, tensor, wanted.shape)
        if edit is None and is_magnitude(layer.name):
            edit = _magnitudes_to(tensor, wanted.shape)
        if edit is None:
            mismatch = f"{names[tensor.key]} is {tensor.shape} here and {wanted.shape} there"
            return Refusal(layer.name, f"{mismatch}: a real difference, which no reshaping fixes")
        edits.append(edit)
    if not edits:
        return None
    if chosen is not None and layer.name not in chosen:
        return Refusal(layer.name, "it differs too, and was not chosen")
    reason = wrapper_obstacle(layer, writing)
    if reason is None and layer.kind in CONVOLUTIONS:
        reason = obstacle(layer, exact=True)
    return _conversion(layer, edits, counterpart) if reason is None else Refusal(layer.name, reason)


def _edit_to(layer: Layer, tensor: Tensor, shape: tuple[int, ...]) -> Edit | None:
    """The edit that gives a tensor of a layer another shape with the same numbers, or None if there is none."""
    layout = layer.layout
    if layout is None or not same_order(layout.maker):
        return edit_to(tensor, shape)
    flat = layer.pointwise or layer.kind == "Linear"
    edit = reshaped_in(layout.maker, tensor, len(shape) - 2) if flat and len(shape) > 1 else None
    return edit if edit is not None and edit.shape == shape else None


def other_layout(layer: Layer, counterpart: Layer | None) -> str:
    """Why the weight cannot get the other's shape, where the two have different layouts; "" where they have one."""
    if counterpart is None or _in_out(layer) != _in_out(counterpart):
        # Matrices as (in, out) and as (out, in) can be turned.
        return ""
    if not (is_turned(layer) or is_turned(counterpart)):
        return ""
    here, there = (each.layout.maker.value if each.layout is not None else "PyTorch" for each in (layer, counterpart))
    return "" if here == there else f"{here}'s layout against {there}'s, so that the axes would have to be moved"


def _maybe_turned(layers: Iterable[Layer], decisions: Decisions, chosen: Container[str] | None) -> list[Refusal]:
    """Square matrices that may be stored transposed, as others in the file are; the shape is the same either way."""
    return [
        Refusal(layer.name, _turning(layer.name))
        for layer in layers
        if Doubt.MAY_BE_TRANSPOSED in layer.doubts
        and layer.name not in decisions.conversions
        and layer.name not in decisions.refusals
        and (chosen is None or layer.name in chosen)
    ]


def _turning(name: str) -> Wording:
    options = (Option("to", "linear"), " ", Option("from_", "transformers"), " ", Option("layer", name or "."))
    return Wording(Doubt.MAY_BE_TRANSPOSED.value, "; ", *options, " turns it over")


def _with_strides_of(conversion: Conversion, names: Mapping[str, str], other: Mapping[str, Tensor]) -> Conversion:
    """The conversion with the other checkpoint's strides for dimensions of size 1, which do not affect the numbers."""

    def edit_with_strides(edit: Edit) -> Edit:
        wanted = other.get(names[edit.tensor.key])
        if wanted is None or edit.shape != wanted.shape or edit.stride[:2] != wanted.stride[:2]:
            return edit
        return edit if wanted.stride == contiguous(wanted.shape) else edit._replace(stride=wanted.stride)

    return replace(conversion, edits=tuple(map(edit_with_strides, conversion.edits)))


def square_turned(layer: Layer, other: Layer | None) -> bool:
    """Whether a square matrix is stored as in Linear in one layer and as in transformers' Conv1D in the other.

    No shape shows this.
    """
    matrix = out_in(layer.weight.shape) if len(layer.weight.shape) == 2 else None
    if other is None or matrix is None or matrix[0] != matrix[1] or out_in(other.weight.shape) != matrix:
        return False
    return _in_out(layer) != _in_out(other)


def _in_out(layer: Layer) -> bool:
    """Whether it is a matrix that is stored as (in, out)."""
    return layer.kind == TRANSFORMERS_CONV1D or (len(layer.weight.shape) == 2 and is_turned(layer))


def _magnitudes_to(tensor: Tensor, shape: tuple[int, ...]) -> Edit | None:
    edit = magnitudes_edit(tensor, max(len(shape) - 2, 0))
    return edit if edit is not None and edit.shape == shape else None


def _conversion(layer: Layer, edits: list[Edit], counterpart: Layer | None) -> Conversion:
    """The conversion of a layer, to the kind of its counterpart if it has one."""
    main = next((edit for edit in edits if edit.tensor is layer.weight), edits[0])
    turned = main.transposed and not _in_out(layer)
    if layer.kind not in KINDS:
        to = layer.kind if counterpart is None else counterpart.kind
    else:
        to = TRANSFORMERS_CONV1D if turned else KIND_OF_RANK[len(main.shape)]
    doubt = main.transposed and (layer.evidence == "ambiguous" or Doubt.LINEAR_BY_NAME in layer.doubts)
    warnings = (f"{main.shape} is taken for {layer.weight.shape} with rows and columns exchanged",) if doubt else ()
    return Conversion(layer, to, tuple(edits), assumed(layer), warnings)
