"""Plan for another checkpoint's shapes: which tensors differ only in rank or transposition, and which really differ."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from convinspect.converting.decisions import Conversion, Decisions, Plan, Refusal, sorted_out
from convinspect.converting.eligibility import REWRITTEN, Writing, obstacle, wrapper_obstacle
from convinspect.converting.moving import channels_last_edit, moving_obstacle
from convinspect.converting.plan import assumed, keep_groups_together
from convinspect.converting.relations import PURE, How, by_hand, call, relate, relate_tensors, reshaping
from convinspect.converting.reshape import channels_last, edit_to, out_in, reshaped, reshaped_in
from convinspect.errors import Option, Wording
from convinspect.kinds import CONVOLUTIONS, KIND_OF_RANK, KINDS, TRANSFORMERS_CONV1D, is_in_out, may_change
from convinspect.layers.lora import is_magnitude, magnitudes_edit
from convinspect.layouts import is_turned, same_order
from convinspect.records import Doubt, Edit, Layer, Tensor

_Triple: TypeAlias = tuple[Layer, Tensor, Layer | None]
"""A layer, the tensor that its weight is to be like, and that one's layer."""


def plan_like(
    layers: Sequence[Layer],
    names: Mapping[str, str],
    other: Mapping[str, Tensor],
    others: Iterable[Layer] = (),
    chosen: Container[str] | None = None,
    writing: Writing = REWRITTEN,
    turn_square: bool = False,
    last: bool = False,
) -> Plan:
    """A plan that gives each tensor the shape that `other` has for it, where the numbers allow.

    Args:
        layers: Of the checkpoint to convert.
        names: Its tensors' clean names by stored key.
        other: The other checkpoint's tensors by clean name.
        others: Its layers, which are needed to see that a square matrix is stored transposed.
        chosen: Names of the layers that may change; None for all.
        writing: What the way of writing asks of them.
        turn_square: Square matrices that may be stored transposed are.
        last: Where kernels become the Linear over patches, or the reverse, patches have their channels last.

    Returns:
        Conversions for what differs only in rank or transposition; refusals for all other differences, and for square
        matrices of which no shape tells whether they are stored transposed.
    """
    # By the tensor, since the layer itself may have another name in the other checkpoint.
    theirs = {id(layer.weight): layer for layer in others}
    pairs = [(layer, other.get(names[layer.weight.key])) for layer in layers]
    triples = [(layer, wanted, theirs.get(id(wanted))) for layer, wanted in pairs if wanted is not None]
    ways = _ways(triples)
    unsettled = _unsettled(triples, ways)
    turned = unsettled if turn_square else frozenset()
    decisions = sorted_out(
        _decide_like(layer, theirs.get(id(wanted)), names, other, chosen, writing, layer.name in turned, last)
        for layer, wanted in pairs
    )
    if unsettled and not turn_square:
        decisions = decisions.refusing(_maybe_turned(pairs, unsettled, decisions, chosen))
    planned = keep_groups_together(layers, decisions).finished(layers)
    kernels = _square_kernels(triples, ways) - unsettled
    return Plan(
        tuple(
            _with_strides_of(_warned(conversion) if conversion.layer.name in kernels else conversion, names, other)
            for conversion in planned.conversions
        ),
        planned.refusals,
    )


def _decide_like(
    layer: Layer,
    counterpart: Layer | None,
    names: Mapping[str, str],
    other: Mapping[str, Tensor],
    chosen: Container[str] | None,
    writing: Writing,
    turn: bool = False,
    last: bool = False,
) -> Conversion | Refusal | None:
    """Decide on one layer; None if it does not differ.

    Args:
        layer: Of the checkpoint to convert.
        counterpart: The other checkpoint's layer with the same weight.
        names: As of `plan_like`.
        other: As of `plan_like`.
        chosen: As of `plan_like`.
        writing: As of `plan_like`.
        turn: Its weight is square and is to be turned.
        last: As of `plan_like`.
    """
    foreign = other_layout(layer, counterpart)
    foreign = f"{foreign}, so that the axes would have to be moved" if foreign else ""
    edits = []
    for tensor in layer.tensors.values():
        wanted = other.get(names[tensor.key])
        if turn and layer.norm is not None:
            return Refusal(layer.name, f"square, and {layer.norm}: what its weight is computed from cannot be turned")
        turned = tensor is layer.weight and (turn or square_turned(layer, counterpart))
        if wanted is not None and foreign and tensor is layer.weight:
            return Refusal(layer.name, f"{names[tensor.key]} is {tensor.shape} here, {wanted.shape} there: {foreign}")
        if wanted is None or (wanted.shape == tensor.shape and not turned):
            continue
        edit = reshaped(tensor, len(wanted.shape) - 2, turned) if turned else _edit_to(layer, tensor, wanted.shape)
        if edit is None and is_magnitude(layer.name):
            edit = _magnitudes_to(tensor, wanted.shape)
        if edit is None and not (tensor is layer.weight and is_turned(layer)):
            edit = _last_edit(tensor, wanted) if last else None
            edit = edit or reshaping(tensor, wanted.shape)
        if edit is None:
            mismatch = f"{names[tensor.key]} is {tensor.shape} here and {wanted.shape} there"
            why = _why_no_edit(names[tensor.key], tensor, wanted)
            return Refusal(layer.name, f"{mismatch}: {why}", moves=True, calls=_calls(layer, names, other))
        edits.append(edit)
    if not edits:
        return None
    if chosen is not None and layer.name not in chosen:
        return Refusal(layer.name, "it differs too, and was not chosen")
    reason = wrapper_obstacle(layer, writing)
    if reason is None and layer.kind in CONVOLUTIONS:
        of_patches = not layer.pointwise and not any(edit.transposed for edit in edits)
        alike = _in_one_order(layer, counterpart)
        reason = _patch_obstacle(layer, edits) if of_patches else obstacle(alike, exact=True)
    return _conversion(layer, edits, counterpart) if reason is None else Refusal(layer.name, reason)


def _last_edit(tensor: Tensor, wanted: Tensor) -> Edit | None:
    """The edit between a kernel and the matrix over patches whose channels are last; None where they are no such."""
    flat = len(wanted.shape) == 2
    kernel = (tensor if flat else wanted).shape[2:]
    two = {len(tensor.shape), len(wanted.shape)} - {3, 4, 5} == {2}
    if not two or all(size == 1 for size in kernel) or relate(tensor.shape, wanted.shape).how not in _TAKEN:
        return None
    edit = channels_last_edit(tensor, kernel, flat, flat or channels_last(wanted) is True)
    why = moving_obstacle(tensor) if edit is not None and edit.moves_bytes else None
    return edit if edit is not None and edit.shape == wanted.shape and why is None else None


def _in_one_order(layer: Layer, counterpart: Layer | None) -> Layer:
    """The layer without its library's layout where that has PyTorch's order of axes, as the counterpart has."""
    if layer.layout is None or is_turned(layer) or counterpart is None or is_turned(counterpart):
        return layer
    return layer._replace(layout=None)


def _calls(layer: Layer, names: Mapping[str, str], other: Mapping[str, Tensor]) -> tuple[tuple[str, str], ...]:
    """Names of all its tensors that differ in shape, each with PyTorch's call that mends it; () where one has none."""
    calls = []
    for tensor in layer.tensors.values():
        wanted = other.get(names[tensor.key])
        if wanted is not None and wanted.shape != tensor.shape:
            calls.append((names[tensor.key], call(relate_tensors(tensor, wanted), tensor.shape, wanted.shape)))
    return tuple(calls) if all(line for _, line in calls) else ()


def _why_no_edit(name: str, tensor: Tensor, wanted: Tensor) -> str:
    """Why a tensor cannot be given another's shape by a header alone, and the line of PyTorch that does it."""
    relation = relate_tensors(tensor, wanted)
    line = call(relation, tensor.shape, wanted.shape)
    in_pytorch = f"; in PyTorch: {by_hand(name, line)}" if line else ""
    if relation.how in PURE:
        return f"the same numbers in the same order, which lie otherwise in the file{in_pytorch}"
    if relation.how is How.PERMUTE:
        several = ", one of several orders that fit" if relation.ambiguous else ""
        return f"axes in another order{several}, so that numbers would have to move{in_pytorch}"
    if relation.how in (How.PACK, How.UNPACK):
        return "the same numbers, two to a byte on one side"
    if relation.how is How.SAME_COUNT:
        return "as many numbers, and no order of axes makes the one of the other"
    return "a real difference, which no reshaping fixes"


def _patch_obstacle(layer: Layer, edits: Sequence[Edit]) -> str | None:
    """Why a convolution with a larger kernel must not become the matrix that multiplies its patches, or None."""
    if not any(edit.tensor is layer.weight and len(edit.shape) == 2 for edit in edits):
        return None
    steps = layer.stride is not None and layer.stride != layer.kernel_size
    if steps or (layer.groups or 1) > 1 or not isinstance(layer.padding or (), tuple) or any(layer.padding or ()):
        settings = f"stride={layer.stride}, padding={layer.padding}, groups={layer.groups}"
        return f"its patches overlap or are padded ({settings}), so that no matrix of this shape computes it"
    return None


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
    return "" if here == there else f"{here}'s layout against {there}'s"


def _ways(triples: Sequence[_Triple]) -> dict[tuple[int, int], set[bool]]:
    """Whether oblong matrices are turned, by the number of dimensions that weights have here and there."""
    ways: dict[tuple[int, int], set[bool]] = {}
    for layer, wanted, _ in triples:
        here, there = out_in(layer.weight.shape), out_in(wanted.shape)
        ranks = len(layer.weight.shape), len(wanted.shape)
        if here is None or there is None or here[0] == here[1] or 2 not in ranks or layer.kind == "Embedding":
            continue
        if here in (there, there[::-1]):
            ways.setdefault(ranks, set()).add(here != there)
    return ways


def _unsettled(triples: Sequence[_Triple], ways: Mapping[tuple[int, int], set[bool]]) -> frozenset[str]:
    """Names of square matrices that may be stored transposed, as others in the file are: no shape shows it.

    Those stay out whose classes or layouts are recorded, that are known for (in, out) on one side or both, that are
    embeddings, and kernels whose like is not turned (as many dimensions here and there).

    Args:
        triples: Layers with the tensor that their weight is to be like, and its layer.
        ways: Of oblong ones (`_ways`).
    """
    if not any(True in seen for seen in ways.values()):
        return frozenset()
    return frozenset(
        layer.name
        for layer, wanted, counterpart in triples
        if _is_square(layer, wanted)
        and not _orientation_known(layer, counterpart)
        and True in ways.get(ranks := (len(layer.weight.shape), len(wanted.shape)), {ranks == (2, 2)})
    )


def _square_kernels(triples: Sequence[_Triple], ways: Mapping[tuple[int, int], set[bool]]) -> frozenset[str]:
    """Names of square kernels beside turned matrices where no oblong kernel shows whether kernels are turned too."""
    if True not in ways.get((2, 2), ()):
        return frozenset()
    return frozenset(
        layer.name
        for layer, wanted, counterpart in triples
        if _is_square(layer, wanted)
        and (ranks := (len(layer.weight.shape), len(wanted.shape))) != (2, 2)
        and ranks not in ways
        and not _orientation_known(layer, counterpart)
    )


def _warned(conversion: Conversion) -> Conversion:
    warning = "square: taken as it lies, while matrices here are stored transposed; no shape tells whether it is"
    return replace(conversion, warnings=(*conversion.warnings, warning))


def _is_square(layer: Layer, wanted: Tensor) -> bool:
    """Whether two weights have the same square matrix's shape, at least one of them without further dimensions."""
    here, there = out_in(layer.weight.shape), out_in(wanted.shape)
    ranks = len(layer.weight.shape), len(wanted.shape)
    return here is not None and here == there and here[0] == here[1] > 1 and 2 in ranks


def _orientation_known(layer: Layer, counterpart: Layer | None) -> bool:
    """Whether something other than shapes tells how a square matrix lies on either side."""
    if counterpart is None:
        # A tensor that is not a layer's weight there: nothing that a matrix product would turn.
        return not may_change(layer.kind, layer.pointwise)
    both = (layer, counterpart)
    if any(each.kind == "Embedding" or (each.kind not in KINDS and not _in_out(each)) for each in both):
        return True
    if any(each.layout is not None for each in both) or all(each.evidence == "module" for each in both):
        return True
    # Where both are (in, out) nothing is to be turned, where one is, `square_turned` sees it.
    return any(map(_in_out, both))


def _maybe_turned(
    pairs: Iterable[tuple[Layer, Tensor | None]],
    unsettled: Container[str],
    decisions: Decisions,
    chosen: Container[str] | None,
) -> list[Refusal]:
    """Refusals of the square matrices in doubt."""
    return [
        Refusal(
            layer.name,
            Wording("square, and others here are stored transposed: no shape tells whether it is; ", *_TURNING),
            maybe_turned=True,
            fits=wanted is not None and wanted.shape == layer.weight.shape,
        )
        for layer, wanted in pairs
        if layer.name in unsettled and layer.name not in decisions.refusals and (chosen is None or layer.name in chosen)
    ]


_TURNING = (Option("turn_square"), " turns it too")


def _with_strides_of(conversion: Conversion, names: Mapping[str, str], other: Mapping[str, Tensor]) -> Conversion:
    """The conversion with the other checkpoint's strides for dimensions of size 1, which do not affect the numbers."""

    def edit_with_strides(edit: Edit) -> Edit:
        wanted = other.get(names[edit.tensor.key])
        if wanted is None or edit.shape != wanted.shape or edit.stride[:2] != wanted.stride[:2]:
            return edit
        if out_in(edit.shape) is None:
            return edit
        # A format without strides tells nothing of them.
        return edit if wanted.spans is None else edit._replace(stride=wanted.stride)

    return replace(conversion, edits=tuple(map(edit_with_strides, conversion.edits)))


def square_turned(layer: Layer, other: Layer | None) -> bool:
    """Whether a square matrix is stored as in Linear in one layer and as in transformers' Conv1D in the other.

    No shape shows this.
    """
    matrix = out_in(layer.weight.shape)
    if other is None or matrix is None or matrix[0] != matrix[1] or out_in(other.weight.shape) != matrix:
        return False
    if 2 not in (len(layer.weight.shape), len(other.weight.shape)):
        return False
    if len(layer.weight.shape) != 2 and not is_in_out(layer.kind):
        # A square matrix is transformers' by its name alone, which a convolution's counterpart may have too.
        return False
    return _in_out(layer) != _in_out(other)


def _in_out(layer: Layer) -> bool:
    """Whether it is a matrix, or a pointwise kernel, that is stored as (in, out)."""
    return is_in_out(layer.kind) or (len(layer.weight.shape) == 2 and is_turned(layer))


def _magnitudes_to(tensor: Tensor, shape: tuple[int, ...]) -> Edit | None:
    edit = magnitudes_edit(tensor, max(len(shape) - 2, 0))
    return edit if edit is not None and edit.shape == shape else None


def _conversion(layer: Layer, edits: list[Edit], counterpart: Layer | None) -> Conversion:
    """The conversion of a layer, to the kind of its counterpart if it has one."""
    main = next((edit for edit in edits if edit.tensor is layer.weight), edits[0])
    turned = main.transposed and not _in_out(layer)
    plain = out_in(main.tensor.shape) is not None and out_in(main.shape) is not None
    if not may_change(layer.kind, layer.pointwise):
        to = layer.kind if counterpart is None or not plain else counterpart.kind
    elif not plain:
        to = layer.kind if counterpart is None else counterpart.kind
    elif turned and counterpart is not None and may_change(counterpart.kind, counterpart.pointwise):
        to = counterpart.kind
    else:
        to = _kind_of(main.shape, is_in_out(layer.kind) != main.transposed)
    doubt = main.transposed and (layer.evidence == "ambiguous" or Doubt.LINEAR_BY_NAME in layer.doubts)
    warnings: tuple[str, ...] = ()
    if doubt:
        warnings = (f"{main.shape} is taken for {layer.weight.shape} with rows and columns exchanged",)
    if (
        main.tensor is layer.weight
        and relate_tensors(main.tensor, main.tensor._replace(shape=main.shape)).how in _TAKEN
    ):
        how = "with each patch's channels last" if main.moved is not None else "in the same order"
        warnings += (f"{main.shape} is taken for the numbers of {layer.weight.shape} {how}",)
    settings = assumed(layer) if plain else _of_patches(layer, main)
    return Conversion(layer, to, tuple(edits), settings, warnings, last=main.moved is not None)


_TAKEN = (How.FLATTEN, How.UNFLATTEN, How.RESHAPE)
"""Relations that another order of axes may have too: shapes do not show it."""


def _kind_of(shape: tuple[int, ...], in_out: bool) -> str:
    """The kind of a pointwise weight, stored as (in, out) or (out, in)."""
    if not in_out:
        return KIND_OF_RANK[len(shape)]
    return TRANSFORMERS_CONV1D if len(shape) == 2 else f"ConvTranspose{len(shape) - 2}d"


def _of_patches(layer: Layer, main: Edit) -> tuple[str, ...]:
    """Settings that are assumed where a convolution becomes the matrix that multiplies its patches, or the reverse."""
    if len(main.shape) != 2 or layer.kind not in CONVOLUTIONS or layer.stride is not None:
        return ()
    return ("stride as the kernel's size", "padding 0", "groups 1")
