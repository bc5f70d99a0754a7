"""Plan conversions: which layers change, which are refused, and the edits of tensors' shapes. No file is touched.

A pointwise convolution and a Linear hold the same numbers in the same order: `(O, I)`, `(O, I, 1)`, `(O, I, 1, 1)`
and `(O, I, 1, 1, 1)` differ in shape only. transformers' `Conv1D` holds `(I, O)`: the same numbers with other strides.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from convinspect.converting.adapters import alone, find_adapters, following, unfollowed
from convinspect.converting.decisions import Conversion as Conversion
from convinspect.converting.decisions import Decisions, edits_of, sorted_out, without
from convinspect.converting.decisions import Plan as Plan
from convinspect.converting.decisions import Refusal as Refusal
from convinspect.converting.eligibility import (
    REWRITTEN,
    Writing,
    expandable,
    obstacle,
    reader,
    unless_named,
    why_not,
    wrapper_obstacle,
)
from convinspect.converting.patches import Wish, decide_patches, is_second_half, patch_halves, shaped
from convinspect.converting.reshape import channels_last, channels_last_stays, reshaped, reshaped_in
from convinspect.converting.ties import blocked_by_ties
from convinspect.errors import CannotConvert, Option, Wording
from convinspect.kinds import (
    CONV_TRANSPOSES,
    CONVOLUTIONS,
    EXTRA_DIMS,
    LISTED,
    RECURRENT,
    TRANSFORMERS_CONV1D,
    is_in_out,
    may_change,
    option_of,
)
from convinspect.layers.lora import magnitudes_edit, magnitudes_of
from convinspect.layers.select import as_linear, as_transposed, exactly_named, select
from convinspect.records import Doubt, Edit, Layer, Tensor
from convinspect.text import with_article

DEFAULT_FROM = {"Linear": ("Conv1d",)}


@dataclass(frozen=True, slots=True)
class Request:
    """Which layers to convert, and to what.

    Attributes:
        to: The target kind, one of `TARGETS`' values.
        kinds: Kinds to convert; () for the default ones.
        names: Layers or globs; () for all.
        exclude: Layers or globs to leave.
        expand: Grouped convolutions become Linear over all channels, zero outside their groups.
        writing: What the way of writing asks of them.
        patches: Convolutions that cut patches become the Linear over these, and those of kernel size 1 stay.
        patch: Kernel size of the convolutions that Linear layers over patches become; () for pointwise ones.
        in_channels: Channels that these must come out with; None for whatever they are.
        last: The numbers of a patch have their channels last.
    """

    to: str
    kinds: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    expand: bool = False
    writing: Writing = REWRITTEN
    patches: bool = False
    patch: tuple[int, ...] = ()
    in_channels: int | None = None
    last: bool = False

    @property
    def of_patches(self) -> bool:
        """Whether it is about convolutions that cut patches, and not about pointwise ones."""
        return self.patches or bool(self.patch)

    @property
    def origins(self) -> tuple[str, ...]:
        """Kinds to convert, the default ones if none is given."""
        if self.patches:
            return tuple(kind for kind in self.kinds if kind in CONVOLUTIONS) or CONVOLUTIONS
        return self.kinds or DEFAULT_FROM.get(self.to, ("Linear",))


def plan(layers: Sequence[Layer], request: Request) -> Plan:
    """Decide for each layer whether it changes.

    Raises:
        NotThere: A name matches no layer.
        CannotConvert: The request contradicts itself.
    """
    if request.to in request.kinds:
        problem = Wording(Option("from_", request.to), " and ", Option("to", request.to), " are the same")
        raise CannotConvert(problem, "drop one of them")
    chosen = chosen_layers(layers, request.names, request.exclude)
    exactly = exactly_named(layers, request.names)
    globbed = _named_by_globs(layers, request.names, chosen)
    attention = frozenset(layer.name for layer in layers if layer.kind == "MultiheadAttention")
    halves = patch_halves(layers, exactly) if request.of_patches else frozenset()
    decisions = sorted_out(
        _decide(layer, request, Naming(layer.name in exactly, layer.name in globbed, layer.name in halves), attention)
        for layer in layers
        if layer.name in chosen
    )
    lost_strides = _strides_that_would_go(layers, decisions.conversions)
    decisions = decisions.refusing(refusal for refusal in lost_strides if refusal.name not in exactly)
    return keep_groups_together(layers, decisions, (request.to, request.origins, chosen)).finished(layers)


def chosen_layers(layers: Sequence[Layer], names: Sequence[str], exclude: Sequence[str]) -> frozenset[str]:
    """Names of the layers that `names` match (all if there are none), without those that `exclude` match.

    Raises:
        NotThere: One of them matches no layer.
    """
    chosen = {layer.name for layer in (select(layers, names) if names else layers)}
    return frozenset(chosen - {layer.name for layer in (select(layers, exclude, everything=True) if exclude else ())})


def _named_by_globs(layers: Sequence[Layer], names: Sequence[str], chosen: frozenset[str]) -> frozenset[str]:
    """Names of the layers, among those that were chosen, which some telling glob fits: "*" fits all and names none."""
    telling = [name for name in names if name.strip("*?.")]
    if len(telling) == len(names):
        return chosen if names else frozenset()
    return chosen & {layer.name for layer in (select(layers, telling) if telling else ())}


class Naming(NamedTuple):
    """How the user named a layer: by itself, by a glob that says something, or not at all; and what its name says.

    Attributes:
        exact: By itself.
        globbed: By a glob that says something.
        half: It is half of a LoRA pair beside a layer that multiplies patches, where these are converted.
    """

    exact: bool
    globbed: bool
    half: bool = False


def _decide(layer: Layer, request: Request, naming: Naming, attention: frozenset[str]) -> Conversion | Refusal | None:
    """A conversion, a refusal to report, or None for a layer that the request does not concern.

    Args:
        layer: Any layer that was chosen.
        request: Which layers to convert, and to what.
        naming: How the user named it.
        attention: Names of the layers that are a MultiheadAttention.
    """
    exact = naming.exact
    if exact:
        layer = as_transposed(as_linear(layer), request.kinds, request.to)
    if request.expand and request.to == "Linear" and layer.kind in request.origins and expandable(layer):
        decided: Conversion | Refusal | None = _expanded(layer, request.to)
    elif request.of_patches:
        decided = _decide_of_patches(layer, request, naming)
    else:
        decided = _decide_by_kind(layer, request, naming)
    owner = reader(layer, attention)
    if isinstance(decided, Conversion) and owner and not exact:
        return Refusal(layer.name, unless_named(owner, layer.name))
    return decided


def _decide_of_patches(layer: Layer, request: Request, naming: Naming) -> Conversion | Refusal | None:
    wish = Wish(
        request.to, request.origins, request.patch, request.in_channels, naming.exact, bool(request.names), naming.half,
        request.writing, request.last,
    )  # fmt: skip
    if is_second_half(layer, wish):
        # It is pointwise beside a convolution that cuts patches, and changes as pointwise ones do.
        return _decide_by_kind(layer, request, naming)
    return decide_patches(layer, wish)


def _decide_by_kind(layer: Layer, request: Request, naming: Naming) -> Conversion | Refusal | None:
    kinds, to, exact = request.origins, request.to, naming.exact
    if Doubt.MAY_BE_TRANSPOSED in layer.doubts and TRANSFORMERS_CONV1D in kinds:
        if not exact:
            return Refusal(layer.name, unless_named(Doubt.MAY_BE_TRANSPOSED.value, layer.name, "to turn it over"))
        layer = layer._replace(kind=TRANSFORMERS_CONV1D)
    # If layers were chosen by name, each of them gets a conversion or a reason.
    named = bool(request.names)
    if layer.kind == to:
        return Refusal(layer.name, f"already {to}", done=True) if named or exact else None
    if layer.kind not in kinds:
        return (
            Refusal(layer.name, why_not(layer))
            if exact and not may_change(layer.kind, layer.pointwise)
            else _not_meant(layer, kinds, named)
        )
    # What naming the layer would not help against comes first.
    never = layer.kind in CONVOLUTIONS and not layer.pointwise
    reason = None if never else wrapper_obstacle(layer, request.writing)
    reason = reason or obstacle(layer, exact, to, naming.globbed)
    if reason is not None:
        return Refusal(layer.name, reason)
    edits = tuple(_edit(layer, tensor, to) for tensor in shaped(layer))
    return Conversion(layer, to, edits, assumed(layer), _warnings(layer))


def _not_meant(layer: Layer, kinds: Sequence[str], chosen: bool) -> Refusal | None:
    changeable = may_change(layer.kind, layer.pointwise)
    if changeable and chosen:
        taken = Option("from_", option_of(layer.kind))
        return Refusal(layer.name, Wording(f"it is {with_article(layer.kind)}; ", taken, " takes it"))
    if layer.kind not in (*LISTED, "Embedding", "Incomplete", *RECURRENT) or changeable:
        return None
    # Layers that look like a kind to convert are reported with the reason; others only if they were asked for.
    alike = ("Embedding", "MultiheadAttention", "Linear (quantized)", *RECURRENT)
    meant = chosen or (layer.kind in alike and "Linear" in kinds) or layer.kind == "Incomplete"
    return Refusal(layer.name, why_not(layer)) if meant else None


def _expanded(layer: Layer, to: str) -> Conversion:
    """Convert `(O, I/groups, 1)` to the block-diagonal `(O, I)`, in which one of `groups` numbers is not zero."""
    groups = layer.groups or 1
    old, new = layer.weight.nbytes, layer.weight.nbytes * groups
    return Conversion(layer, to, (), (), (f"groups {groups}: grows from {old:,} to {new:,} bytes",), groups)


def _edit(layer: Layer, tensor: Tensor, to: str) -> Edit:
    if layer.layout is not None:
        return reshaped_in(layer.layout.maker, tensor, EXTRA_DIMS[to])
    return reshaped(tensor, EXTRA_DIMS[to], is_in_out(layer.kind) != is_in_out(to))


def _strides_that_would_go(layers: Sequence[Layer], conversions: Mapping[str, Conversion]) -> list[Refusal]:
    """Refusals of conversions after which the memory format could not be restored from the unchanged tensors."""
    refusals = []
    for dims in (4, 5):
        usual = channels_last_stays(layers, edits_of(conversions.values()), dims)
        for name, conversion in conversions.items():
            if conversion.patch and not conversion.last:
                continue  # these go as they came
            own = {channels_last(edit.tensor) for edit in conversion.edits if len(edit.tensor.shape) == dims} - {None}
            if own and own != {usual}:
                kind = "channels-last" if True in own else "row-major"
                reason = f"its {kind} strides could not be restored when converting back"
                refusals.append(Refusal(name, unless_named(reason, name)))
    return refusals


def assumed(layer: Layer) -> tuple[str, ...]:
    """Settings of a convolution that are assumed because the file does not record them."""
    if layer.kind not in (*CONVOLUTIONS, *CONV_TRANSPOSES) or layer.groups is not None:
        return ()
    if layer.kind in CONV_TRANSPOSES:
        by_bias = layer.bias is not None and layer.weight.shape[0] != layer.weight.shape[1]
        return ("stride 1", "padding 0", "groups 1", *([] if by_bias else ["transposed"]))
    # A ConvTranspose has the same shapes as a Conv if it has no bias, or as many outputs as inputs.
    alike = layer.bias is None or layer.layout is not None or layer.weight.shape[0] == layer.weight.shape[1]
    doubt = alike and layer.evidence != "module" and not layer.low_rank
    return ("stride 1", "padding 0", "groups 1", *(["not transposed"] if doubt else []))


_WORTH_A_WARNING = frozenset({Doubt.USUALLY_STRIDE_2, Doubt.BIAS_DOES_NOT_FIT, Doubt.MAY_BE_PADDED, Doubt.CALLS_DIFFER})


def _warnings(layer: Layer) -> tuple[str, ...]:
    return tuple(doubt.sentence(layer.weight, layer.bias) for doubt in layer.doubts if doubt in _WORTH_A_WARNING)


def keep_groups_together(
    layers: Sequence[Layer], decisions: Decisions, wish: tuple[str, Collection[str], Collection[str]] | None = None
) -> Decisions:
    """Refuse each conversion that would break up a tie, a LoRA pair or a layer and its adapter; what is no layer by
    itself (DoRA's magnitudes, IA³'s scales) changes with them.

    Args:
        layers: All layers of the root.
        decisions: On single layers.
        wish: The target kind, the kinds to convert and names of the layers that may change, which decide on adapters
            without their layers; None to leave these.
    """
    adapters = find_adapters(layers)
    if adapters is None:
        return _keep_ties_together(layers, decisions)
    # A refusal of a layer is one of its adapter's parts, and of what is tied to these.
    while True:
        kept = _keep_ties_together(layers, decisions)
        refusals = unfollowed(adapters, kept)
        if not refusals:
            break
        decisions = kept.refusing(refusals)
    more, left = alone(adapters, *wish) if wish is not None else ({}, [])
    return Decisions({**kept.conversions, **following(adapters, kept), **more}, kept.refusals).refusing(left)


def _keep_ties_together(layers: Sequence[Layer], decisions: Decisions) -> Decisions:
    """Refuse each conversion that would break up a tie or a LoRA pair; DoRA magnitudes change with their pair."""
    conversions = dict(decisions.conversions)
    beside: dict[str, str] = {}
    for half, layer in _pairs_with_magnitudes(layers).items():
        edit = _magnitudes_beside(conversions[half], layer) if half in conversions else None
        # Magnitudes that have the right shape already stay, whether or not the pair changes.
        if edit is None or edit.shape != layer.weight.shape:
            beside[half] = layer.name
            if edit is not None:
                conversions.setdefault(layer.name, Conversion(layer, layer.kind, (edit,)))
    edits = {name: conversion.edits for name, conversion in conversions.items()}
    kinds = {name: conversion.to for name, conversion in conversions.items()}
    refused = frozenset(name for name, refusal in decisions.refusals.items() if not refusal.done)
    blocked = blocked_by_ties(layers, edits, kinds, beside, refused)
    staying = Decisions(without(conversions, blocked), decisions.refusals)
    return staying.refusing(Refusal(name, reason) for name, reason in blocked.items() if reason is not None)


def _pairs_with_magnitudes(layers: Sequence[Layer]) -> dict[str, Layer]:
    """Halves of LoRA pairs that have DoRA magnitudes → the layer that holds the magnitudes."""
    by_name = {layer.name: layer for layer in layers}
    pairs = ((layer.name, magnitudes_of(layer.name)) for layer in layers)
    # The root module's own name is "".
    return {half: by_name[name] for half, name in pairs if name is not None and name in by_name and name != half}


def _magnitudes_beside(conversion: Conversion, magnitudes: Layer) -> Edit | None:
    """The edit of the DoRA magnitudes of a converted half, possibly to the same shape; None if they cannot follow."""
    return magnitudes_edit(magnitudes.weight, EXTRA_DIMS.get(conversion.to, 0))
