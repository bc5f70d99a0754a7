"""Another checkpoint's shapes as the wish: which tensors differ only in rank or transposition, and which really do."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace

from convinspect.converting.eligibility import obstacle
from convinspect.converting.plan import (
    Conversion,
    Plan,
    Refusal,
    assumed,
    keep_groups_together,
    reshaped,
    with_memory_format,
)
from convinspect.kinds import CONVOLUTIONS, KIND_OF_RANK, KINDS, TRANSFORMERS_CONV1D
from convinspect.layers.lora import is_magnitude, magnitudes_edit
from convinspect.records import Doubt, Edit, Layer, Tensor, contiguous


def plan_like(
    layers: Sequence[Layer],
    names: Mapping[str, str],
    other: Mapping[str, Tensor],
    others: Iterable[Layer] = (),
    chosen: Container[str] | None = None,
) -> Plan:
    """A plan that gives each tensor the shape that `other` has for it, where the numbers allow.

    Args:
        layers: Of the checkpoint to convert.
        names: Its tensors' clean names by stored key.
        other: The other checkpoint's tensors by clean name.
        others: Its layers: only these say that a square matrix is stored the other way round.
        chosen: Names of the layers that may change; None for all.

    Returns:
        Conversions for what differs in rank or transposition alone; refusals for what really differs.
    """
    conversions: dict[str, Conversion] = {}
    refusals: dict[str, Refusal] = {}
    lies_there: dict[int, Tensor] = {}
    # By the tensor, since the layer itself may be called otherwise there.
    theirs = {id(layer.weight): layer for layer in others}
    for layer in layers:
        edits, mismatch = [], ""
        there = theirs.get(id(other.get(names[layer.weight.key])))
        for tensor in layer.tensors.values():
            wanted = other.get(names[tensor.key])
            if wanted is None:
                continue
            turned = tensor is layer.weight and square_turned(layer, there)
            if wanted.shape == tensor.shape and not turned:
                continue
            edit = reshaped(tensor, len(wanted.shape) - 2, turned) if turned else edit_to(tensor, wanted.shape)
            if edit is None and is_magnitude(layer.name):
                edit = _magnitudes_to(tensor, wanted.shape)
            if edit is None:
                mismatch = mismatch or f"{names[tensor.key]} is {tensor.shape} here and {wanted.shape} there"
            else:
                edits.append(edit)
                lies_there[id(edit.tensor)] = wanted
        if mismatch:
            refusals[layer.name] = Refusal(layer.name, f"{mismatch}: a real difference, which no reshaping mends")
        elif edits and chosen is not None and layer.name not in chosen:
            refusals[layer.name] = Refusal(layer.name, "it differs too, and was not chosen")
        elif edits:
            reason = obstacle(layer, exact=True) if layer.kind in CONVOLUTIONS else None
            if reason is None:
                conversions[layer.name] = _conversion(layer, edits, there)
            else:
                refusals[layer.name] = Refusal(layer.name, reason)
    if any(edit.transposed for one in conversions.values() for edit in one.edits):
        refusals |= {one.name: one for one in _maybe_turned(layers, conversions, refusals, chosen)}
    keep_groups_together(layers, conversions, refusals)
    planned = with_memory_format(layers, conversions.values())
    as_there = (
        replace(one, edits=tuple(_lying_as(edit, lies_there[id(edit.tensor)]) for edit in one.edits)) for one in planned
    )
    return Plan(tuple(as_there), tuple(refusals.values()))


def _maybe_turned(
    layers: Iterable[Layer], conversions: Container[str], refusals: Container[str], chosen: Container[str] | None
) -> list[Refusal]:
    """Square matrices that may be stored the other way round, as others are; their shape is as wanted either way."""
    way = "--to linear --from transformers --layer {} turns it over"
    return [
        Refusal(layer.name, f"{Doubt.MAY_BE_TRANSPOSED.value}; {way.format(layer.name or '.')}")
        for layer in layers
        if Doubt.MAY_BE_TRANSPOSED in layer.doubts and layer.name not in conversions and layer.name not in refusals
        if chosen is None or layer.name in chosen
    ]


def _lying_as(edit: Edit, other: Tensor) -> Edit:
    """The edit with the other tensor's strides of its dimensions of size 1, which say nothing of the numbers."""
    same = edit.shape == other.shape and edit.stride[:2] == other.stride[:2]
    told = same and other.stride != contiguous(other.shape)
    return edit._replace(stride=other.stride) if told else edit


def square_turned(layer: Layer, other: Layer | None) -> bool:
    """Whether one keeps a square matrix as Linear does and the other as transformers' Conv1D, which no shape tells."""
    matrix = out_in(layer.weight.shape) if len(layer.weight.shape) == 2 else None
    if other is None or matrix is None or matrix[0] != matrix[1] or out_in(other.weight.shape) != matrix:
        return False
    return (layer.kind == TRANSFORMERS_CONV1D) != (other.kind == TRANSFORMERS_CONV1D)


def edit_to(tensor: Tensor, shape: tuple[int, ...]) -> Edit | None:
    """The edit that gives a tensor another shape with the same numbers, or None when there is none.

    Trailing dimensions of size 1 may come and go behind the first two; a matrix may be turned over.
    """
    old, new = out_in(tensor.shape), out_in(shape)
    if old is None or new is None:
        return None
    extra = len(shape) - 2
    if old == new:
        return reshaped(tensor, extra, turned=False)
    if old == new[::-1] and 2 in (len(tensor.shape), len(shape)):
        return reshaped(tensor, extra, turned=True)
    return None


def _magnitudes_to(tensor: Tensor, shape: tuple[int, ...]) -> Edit | None:
    edit = magnitudes_edit(tensor, max(len(shape) - 2, 0))
    return edit if edit is not None and edit.shape == shape else None


def out_in(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """(out, in) of a pointwise or Linear weight's shape; None for any other."""
    if 2 <= len(shape) <= 5 and all(size == 1 for size in shape[2:]):
        return shape[0], shape[1]
    return None


def _conversion(layer: Layer, edits: list[Edit], there: Layer | None) -> Conversion:
    """The change of a layer whose counterpart is `there`, where it has one."""
    main = next((edit for edit in edits if edit.tensor is layer.weight), edits[0])
    turned = main.transposed and layer.kind != TRANSFORMERS_CONV1D
    if layer.kind not in KINDS:
        to = layer.kind if there is None else there.kind
    else:
        to = TRANSFORMERS_CONV1D if turned else KIND_OF_RANK[len(main.shape)]
    doubt = main.transposed and layer.evidence == "ambiguous"
    warnings = (f"{main.shape} is taken for {layer.weight.shape} with rows and columns exchanged",) if doubt else ()
    return Conversion(layer, to, tuple(edits), assumed(layer), warnings)
