"""Layers → a plan of conversions and refusals → edits of tensors' shapes. Nothing here reads or writes a file.

A pointwise convolution and a Linear hold the same numbers in the same order: `(O, I)`, `(O, I, 1)`, `(O, I, 1, 1)`
and `(O, I, 1, 1, 1)` differ in their shape alone. transformers' `Conv1D` holds `(I, O)`: the same numbers under
other strides.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from convinspect.converting.eligibility import expandable, obstacle, reader, why_not
from convinspect.converting.reshape import channels_last, channels_last_stays, with_channels_last
from convinspect.converting.ties import blocked_by_ties
from convinspect.errors import CannotConvert
from convinspect.kinds import CONVOLUTIONS, EXTRA_DIMS, KINDS, LISTED, RECURRENT, TRANSFORMERS_CONV1D, option_of
from convinspect.layers.lora import magnitudes_edit, magnitudes_of
from convinspect.layers.select import exactly_named, select
from convinspect.records import Doubt, Edit, Layer, Tensor
from convinspect.text import with_article

DEFAULT_FROM = {"Linear": ("Conv1d",)}


@dataclass(frozen=True, slots=True)
class Request:
    """What a user asks for.

    Attributes:
        to: The wanted kind, one of `TARGETS`' values.
        kinds: Kinds to convert; () for the usual ones.
        names: Layers or globs; () for all.
        exclude: Layers or globs to leave.
        expand: Grouped convolutions become Linear over all channels, zero outside their groups.
    """

    to: str
    kinds: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    expand: bool = False


@dataclass(frozen=True, slots=True)
class Conversion:
    """One layer that changes.

    Attributes:
        layer: As stored.
        to: Its new kind.
        edits: Of all its tensors that carry the kernel's shape.
        assumed: What had to be taken for granted.
        warnings: What the user should look at.
        groups: Of a grouped convolution whose kernel becomes block-diagonal; 1 for all others.
    """

    layer: Layer
    to: str
    edits: tuple[Edit, ...]
    assumed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    groups: int = 1

    @property
    def old_shape(self) -> tuple[int, ...]:
        """Of the tensor that carries the kernel's shape."""
        return self.layer.weight.shape

    @property
    def new_shape(self) -> tuple[int, ...]:
        """The same, converted."""
        if self.groups > 1:
            return (self.layer.weight.shape[0], self.layer.weight.shape[1] * self.groups)
        return next((edit.shape for edit in self.edits if edit.tensor is self.layer.weight), self.edits[0].shape)


@dataclass(frozen=True, slots=True)
class Refusal:
    """One layer that does not change although it was meant, and why.

    Attributes:
        name: The layer.
        reason: One sentence.
        done: It is of the wanted kind already.
    """

    name: str
    reason: str
    done: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What will happen to which layer."""

    conversions: tuple[Conversion, ...] = ()
    refusals: tuple[Refusal, ...] = ()

    @property
    def edits(self) -> tuple[Edit, ...]:
        """All tensors' new shapes."""
        return tuple(_edits(self.conversions))

    @property
    def groups(self) -> dict[str, int]:
        """Groups of the kernels that become block-diagonal, by stored key."""
        return {one.layer.weight.key: one.groups for one in self.conversions if one.groups > 1}

    def refused_of(self, asked: Collection[str]) -> list[Refusal]:
        """Refusals of layers that the user asked for, by their names; what is so already is none."""
        return [one for one in self.refusals if not one.done and one.name in asked]


def plan(layers: Sequence[Layer], request: Request) -> Plan:
    """Decide for each layer whether it changes.

    Raises:
        NotThere: A name matches no layer.
        CannotConvert: The request contradicts itself.
    """
    if request.to in request.kinds:
        raise CannotConvert(f"--from {request.to} and --to {request.to} are the same", "drop one of them")
    kinds = request.kinds or DEFAULT_FROM.get(request.to, ("Linear",))
    chosen = chosen_layers(layers, request.names, request.exclude)
    named = chosen if request.names else None
    exactly = exactly_named(layers, request.names)
    attention = {layer.name for layer in layers if layer.kind == "MultiheadAttention"}
    conversions: dict[str, Conversion] = {}
    refusals: dict[str, Refusal] = {}
    for layer in layers:
        if layer.name not in chosen:
            continue
        exact = layer.name in exactly
        if exact and layer.kind == "Embedding" and layer.evidence != "module":
            # (N, D) may be either; whoever names it knows.
            layer = layer._replace(kind="Linear")
        if request.expand and request.to == "Linear" and layer.kind in kinds and expandable(layer):
            decided: Conversion | Refusal | None = _expanded(layer, request.to)
        else:
            decided = _decide(layer, request.to, kinds, exact, named is not None)
        owner = reader(layer, attention)
        if isinstance(decided, Conversion) and owner and not exact:
            decided = Refusal(layer.name, f"{owner}; name it with --layer {layer.name} to convert it all the same")
        if isinstance(decided, Conversion):
            conversions[layer.name] = decided
        elif decided is not None:
            refusals[layer.name] = decided
    for refusal in _strides_that_would_go(layers, conversions):
        if refusal.name not in exactly:
            del conversions[refusal.name]
            refusals[refusal.name] = refusal
    keep_groups_together(layers, conversions, refusals)
    return Plan(with_memory_format(layers, conversions.values()), tuple(refusals.values()))


def chosen_layers(layers: Sequence[Layer], names: Sequence[str], exclude: Sequence[str]) -> frozenset[str]:
    """Names of the layers that names or globs choose (all without any), without those that others exclude.

    Raises:
        NotThere: One of them matches no layer.
    """
    chosen = {layer.name for layer in (select(layers, names) if names else layers)}
    return frozenset(chosen - {layer.name for layer in (select(layers, exclude, everything=True) if exclude else ())})


def _decide(layer: Layer, to: str, kinds: Sequence[str], exact: bool, chosen: bool) -> Conversion | Refusal | None:
    """A conversion, a refusal worth saying, or None for a layer that nobody meant.

    Args:
        layer: Any layer.
        to: The wanted kind.
        kinds: Kinds to convert.
        exact: The user named this very layer.
        chosen: The user chose layers by name, so that every one of them deserves an answer.
    """
    if Doubt.MAY_BE_TRANSPOSED in layer.doubts and TRANSFORMERS_CONV1D in kinds:
        if not exact:
            doubt = Doubt.MAY_BE_TRANSPOSED.value
            return Refusal(layer.name, f"{doubt}; name it with --layer {layer.name or '.'} to turn it over")
        layer = layer._replace(kind=TRANSFORMERS_CONV1D)
    if layer.kind == to:
        return Refusal(layer.name, f"already {to}", done=True) if chosen or exact else None
    if layer.kind not in kinds:
        return _not_meant(layer, kinds, chosen)
    reason = obstacle(layer, exact, to)
    if reason is not None:
        return Refusal(layer.name, reason)
    edits = tuple(_edit(layer, tensor, to) for tensor in _shaped(layer))
    return Conversion(layer, to, edits, assumed(layer), _warnings(layer))


def _not_meant(layer: Layer, kinds: Sequence[str], chosen: bool) -> Refusal | None:
    if layer.kind in KINDS and chosen:
        return Refusal(layer.name, f"it is {with_article(layer.kind)}; --from {option_of(layer.kind)} takes it")
    if layer.kind not in (*LISTED, "Embedding", "Incomplete", *RECURRENT) or layer.kind in KINDS:
        return None
    # Lookalikes of what is meant are named with the reason; others only when they were asked for.
    alike = ("Embedding", "MultiheadAttention", "Linear (quantized)", *RECURRENT)
    meant = chosen or (layer.kind in alike and "Linear" in kinds) or layer.kind == "Incomplete"
    return Refusal(layer.name, why_not(layer)) if meant else None


def _expanded(layer: Layer, to: str) -> Conversion:
    """Of `(O, I/groups, 1)` the block-diagonal `(O, I)`, in which all but one in `groups` numbers are zero."""
    groups = layer.groups or 1
    old, new = layer.weight.nbytes, layer.weight.nbytes * groups
    return Conversion(layer, to, (), (), (f"groups {groups}: grows from {old:,} to {new:,} bytes",), groups)


def _shaped(layer: Layer) -> list[Tensor]:
    """The layer's tensors that have the kernel's dimensions: its weight, and what the weight is computed from."""
    names = ("weight", "weight_v", "weight_g", "weight_orig", "weight_mask", "parametrizations.weight.original",
             "parametrizations.weight.original0", "parametrizations.weight.original1")  # fmt: skip
    dims = len(layer.weight.shape)
    return [tensor for leaf, tensor in layer.tensors.items() if leaf in names and len(tensor.shape) == dims]


def _edit(layer: Layer, tensor: Tensor, to: str) -> Edit:
    return reshaped(tensor, EXTRA_DIMS[to], layer.kind == TRANSFORMERS_CONV1D)


def reshaped(tensor: Tensor, extra: int, turned: bool) -> Edit:
    """A weight with `extra` trailing dimensions of size 1 after (out, in), whatever it has now.

    Args:
        tensor: Shape (out, in, 1, …); (in, out) when `turned`.
        extra: How many dimensions of size 1 it is to have.
        turned: It is stored transposed.
    """
    shape, stride = tensor.shape[:2], tensor.stride[:2]
    if turned:
        shape, stride = shape[::-1], stride[::-1]
    ones = (1,) * extra
    # A matrix that lies transposed is TensorFlow's as a rule, (…, in, out) permuted, whose other strides are its size.
    transposed = stride == (1, shape[0]) and 1 not in shape
    return Edit(tensor, shape + ones, stride + (shape[0] * shape[1] if transposed else 1,) * extra, turned)


def _strides_that_would_go(layers: Sequence[Layer], conversions: Mapping[str, Conversion]) -> list[Refusal]:
    """Conversions of layers whose strides nothing would tell on the way back."""
    found = []
    for dims in (4, 5):
        usual = channels_last_stays(layers, _edits(conversions.values()), dims)
        for name, one in conversions.items():
            own = {channels_last(edit.tensor) for edit in one.edits if len(edit.tensor.shape) == dims} - {None}
            if own and own != {usual}:
                kind, label = "channels-last" if True in own else "row-major", name or "."
                reason = f"its strides are {kind}, which nothing that stays would tell on the way back"
                found.append(Refusal(name, f"{reason}; name it with --layer {label} to convert it all the same"))
    return found


def _edits(conversions: Iterable[Conversion]) -> list[Edit]:
    return [edit for one in conversions for edit in one.edits]


def with_memory_format(layers: Sequence[Layer], conversions: Collection[Conversion]) -> tuple[Conversion, ...]:
    """The conversions, with channels-last strides for new convolutions where all others of the root have them."""
    last = {dims for dims in (4, 5) if channels_last_stays(layers, _edits(conversions), dims)}
    return tuple(
        replace(one, edits=tuple(with_channels_last(edit) if len(edit.shape) in last else edit for edit in one.edits))
        for one in conversions
    )


def assumed(layer: Layer) -> tuple[str, ...]:
    """What of a convolution is taken for granted because the file does not record it."""
    if layer.kind not in CONVOLUTIONS or layer.groups is not None:
        return ()
    # A ConvTranspose has a convolution's very shapes without a bias, or with as many outputs as inputs.
    alike = layer.bias is None or layer.weight.shape[0] == layer.weight.shape[1]
    doubt = alike and layer.evidence != "module" and "LoRA" not in layer.tags
    return ("stride 1", "padding 0", "groups 1", *(["not transposed"] if doubt else []))


_WORTH_A_WARNING = frozenset({Doubt.USUALLY_STRIDE_2, Doubt.BIAS_DOES_NOT_FIT})


def _warnings(layer: Layer) -> tuple[str, ...]:
    return tuple(doubt.sentence(layer.weight, layer.bias) for doubt in layer.doubts if doubt in _WORTH_A_WARNING)


def keep_groups_together(
    layers: Sequence[Layer], conversions: dict[str, Conversion], refusals: dict[str, Refusal]
) -> None:
    """Take back each conversion that would part a tie or a LoRA pair; magnitudes (DoRA) change with their pair."""
    beside: dict[str, str] = {}
    for half, layer in _pairs_with_magnitudes(layers).items():
        edit = _beside(conversions[half], layer) if half in conversions else None
        # Those that a pair of this kind has already stay, whatever becomes of it.
        if edit is None or edit.shape != layer.weight.shape:
            beside[half] = layer.name
            if edit is not None:
                conversions.setdefault(layer.name, Conversion(layer, layer.kind, (edit,)))
    edits = {name: one.edits for name, one in conversions.items()}
    kinds = {name: one.to for name, one in conversions.items()}
    refused = frozenset(name for name, one in refusals.items() if not one.done)
    for name, reason in blocked_by_ties(layers, edits, kinds, beside, refused).items():
        del conversions[name]
        if reason:
            refusals[name] = Refusal(name, reason)


def _pairs_with_magnitudes(layers: Sequence[Layer]) -> dict[str, Layer]:
    """Halves of low-rank pairs that have magnitudes beside them → the layer that holds these."""
    by_name = {layer.name: layer for layer in layers}
    found = ((layer.name, by_name.get(magnitudes_of(layer.name) or "")) for layer in layers)
    return {name: magnitudes for name, magnitudes in found if magnitudes is not None and name != magnitudes.name}


def _beside(conversion: Conversion, magnitudes: Layer) -> Edit | None:
    """What magnitudes are beside a converted half, which may be what they are; None where it cannot be told."""
    return magnitudes_edit(magnitudes.weight, EXTRA_DIMS.get(conversion.to, 0))
