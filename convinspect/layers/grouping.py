"""Make a layer of one module's tensors, and separate parameters of the rest.

Decides which tensor is the kernel and which belong to it; `reading` decides what layer it is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from itertools import islice

from convinspect.checkpoint import FEW_OF_A_TIE, Sharing
from convinspect.formats.torch.wrappers import is_dtensor, is_wrapped
from convinspect.kinds import QUANTIZED_EMBEDDING
from convinspect.layers import kernels
from convinspect.layers.by_module import is_operator, named_class, of_torch
from convinspect.layers.by_shape import (
    PARTS,
    PLAIN_PARTS,
    QUANTIZED_NOTE,
    QUANTIZED_PARTS,
    STATISTICS,
    Context,
    Pattern,
    is_scaled_from_above,
    quantized_by_rank,
)
from convinspect.layers.context import Group, bias_of
from convinspect.layers.lora import same_rank
from convinspect.layers.packing import BLOCKS, SCALES, packed_weight
from convinspect.layers.reading import read_weight, with_assumptions
from convinspect.layers.scales import has_scales_beside, may_need_scales, says_scale
from convinspect.layouts import KERNEL_PARTS
from convinspect.records import MOST_TIES, Evidence, Layer, Module, Tensor

_OF_EMBEDDING = "_packed_params._packed_weight"
"""Begins what PyTorch's quantized Embedding and EmbeddingBag call their weight; Linear's is `_packed_params` again."""
_LORA = {"lora_down": "lora_up", "lora_up": "lora_down", "lora_A": "lora_B", "lora_B": "lora_A"}
"""One half of a low-rank pair → the other."""
_FEW = FEW_OF_A_TIE - 1
"""So many names are given of a longer list."""
_STEPS = "parametrizations.weight."
_STEP = r"parametrizations\.weight\.\d+\."
_ORIGINAL = "parametrizations.weight.original"
_PAIR = (f"{_ORIGINAL}0", f"{_ORIGINAL}1")
# Of a pair with one half missing, the half that tells most of the kernel's shape comes first.
_HALVES = ("weight_orig", "weight_v", "weight_mask", "weight_g", "weight_u")
_MAIN = (
    # tensor that carries the kernel's shape, what must stand beside it, what the pair is
    ("weight_v", "weight_g", "weight_norm"),
    (f"{_ORIGINAL}1", f"{_ORIGINAL}0", "weight_norm"),
    ("weight_orig", "weight_u", "spectral_norm"),
    (_ORIGINAL, "parametrizations.weight.0._u", "spectral_norm"),
    ("weight_orig", "weight_mask", "pruned"),
    (_ORIGINAL, None, "parametrized"),
    # Pruning (`torch.nn.utils.prune`) of what a parametrization computes the kernel from.
    (f"{_ORIGINAL}_orig", f"{_ORIGINAL}_mask", "parametrized"),
    (f"{_PAIR[1]}_orig", f"{_PAIR[1]}_mask", "parametrized"),
    (_PAIR[1], f"{_PAIR[0]}_mask", "parametrized"),
    ("weight", None, None),
)


def read_group(group: Group, module: Module | None, context: Context, sharing: Sharing) -> list[Layer]:
    """The layer that a group is, and its remaining tensors as layers of kind "Parameter".

    Args:
        group: One module's tensors.
        module: The file's description of the module, if it has one.
        context: Evidence from the rest of the file.
        sharing: Which tensors of the file share bytes.
    """
    if module is None and context.layout == kernels.LAYOUT and "weight" not in group.tensors:
        return _kernel_group(group, context, sharing)
    own, rest = group.tensors, []
    if not all(map(_is_part, own)):
        scaled = may_need_scales(own.get("weight"))
        if "weight" in own or packed_weight(own) is None:
            own = {
                leaf: tensor
                for leaf, tensor in own.items()
                if _is_part(leaf) or (scaled and (says_scale(leaf) or leaf == "biases"))
            }
        rest = [leaf for leaf in group.tensors if leaf not in own]
    layer = _layer(group, own, module, context) if module is not None else _layer_by_pattern(group, own, context)
    if layer is None:
        return [_parameter(group, leaf, sharing) for leaf in group.tensors]
    layer = _with_sharers(_with_lora(layer, context), group, sharing)
    return [layer, *(_parameter(group, leaf, sharing) for leaf in rest)] if rest else [layer]


def _kernel_group(group: Group, context: Context, sharing: Sharing) -> list[Layer]:
    """As `read_group`, for a module of Flax or Keras."""
    own = {leaf: tensor for leaf, tensor in group.tensors.items() if leaf in KERNEL_PARTS}
    parent = group.name.rpartition(".")[0]
    siblings = all(f"{parent}.{part}".lstrip(".") in context.modules for part in ("query", "key", "value"))
    layer = kernels.read_kernels(group.name, own, siblings) if own else None
    rest = [leaf for leaf in group.tensors if layer is None or leaf not in own]
    known = [] if layer is None else [_with_sharers(with_assumptions(layer), group, sharing)]
    return [*known, *(_parameter(group, leaf, sharing) for leaf in rest)]


@lru_cache(maxsize=1024)
def _is_part(leaf: str) -> bool:
    """Whether a tensor of this name belongs to a layer; the same few names occur in thousands of layers."""
    return leaf in PLAIN_PARTS or leaf in QUANTIZED_PARTS or re.fullmatch(PARTS, leaf, re.DOTALL) is not None


_DIGITS = re.compile("[0-9]+")
_MOST_PATTERNS = 4096
"""So many are remembered; a file in which more layers differ repeats few of them."""


def _layer_by_pattern(group: Group, own: Mapping[str, Tensor], context: Context) -> Layer | None:
    """`_layer` for a module that the file does not describe, computed once for all with the same pattern.

    Without a module a layer follows from its tensors' names, shapes, dtypes and layouts and from its own name, in which
    numbers are only block numbers. A large file repeats a few patterns thousands of times.
    """
    pattern = (
        _DIGITS.sub("0", group.name),
        tuple([(leaf, tensor.shape, tensor.dtype, tensor.layout) for leaf, tensor in group.tensors.items()]),
        context.may_need_scales and is_scaled_from_above(group.name, own.get("weight"), context),
    )
    known = context.patterns.get(pattern)
    if known is None:
        layer = _layer(group, own, None, context)
        if len(context.patterns) < _MOST_PATTERNS:
            leaves = {id(tensor): leaf for leaf, tensor in group.tensors.items()}
            weight, bias = (layer.weight, layer.bias) if layer is not None else (None, None)
            context.patterns[pattern] = Pattern(layer, leaves.get(id(weight), ""), leaves.get(id(bias)))
        return layer
    layer, weight_leaf, bias_leaf = known
    if layer is None:
        return None
    tensors = group.tensors
    bias = None if bias_leaf is None else tensors[bias_leaf]
    return Layer(group.name, layer.kind, layer.evidence, own, tensors[weight_leaf], bias, *layer[6:])


def _layer(group: Group, own: Mapping[str, Tensor], module: Module | None, context: Context) -> Layer | None:
    main, norm = _main_tensor(own)
    half = _half_of_a_pair(own, main)
    if main is None and not half:
        return _without_weight(group, own, module) if own else None
    norm = "parametrized" if norm is not None and _is_chain(own, norm) else norm
    layer = Layer(group.name, "Parameter", "ambiguous", own, own[main or half], bias_of(group.tensors), norm)
    if half:
        note = f"{half} is there without its partner, so the kernel cannot be computed"
        return layer._replace(kind="Incomplete", tags=("incomplete",), notes=(note,))
    if norm == "weight_norm" and not _is_weight_norm(own):
        note = "the kernel is computed from several tensors by a parametrization that is not recorded"
        return layer._replace(kind="Parametrized", norm="parametrized", tags=("parametrized",), notes=(note,))
    return read_weight(layer, module, context)


def _main_tensor(tensors: Mapping[str, Tensor]) -> tuple[str | None, str | None]:
    for leaf, beside, norm in _MAIN:
        if leaf in tensors and (beside is None or beside in tensors):
            return leaf, norm
    return None, None


def _half_of_a_pair(tensors: Mapping[str, Tensor], main: str | None) -> str:
    """A tensor of a computed kernel whose partner is missing; "" if there is none."""
    there = [[leaf for leaf in (half, f"{half}_orig") if leaf in tensors] for half in _PAIR]
    if any(there) and not all(there):
        return next(leaf for leaves in there for leaf in leaves)
    return "" if main else next((leaf for leaf in _HALVES if leaf in tensors), "")


def _is_weight_norm(tensors: Mapping[str, Tensor]) -> bool:
    """False if `original0` and `original1` are not weight norm's g and v: each size of g is v's size, or 1."""
    g, v = tensors.get(f"{_ORIGINAL}0"), tensors.get(f"{_ORIGINAL}1")
    if g is None or v is None:
        return True
    fits = len(g.shape) == len(v.shape) and all(n in (1, m) for n, m in zip(g.shape, v.shape, strict=True))
    return f"{_ORIGINAL}2" not in tensors and (g.numel == 1 or fits)


def _is_chain(tensors: Mapping[str, Tensor], norm: str) -> bool:
    """Whether a kernel is also computed from tensors of a parametrization other than its norm."""
    further = {leaf for leaf in tensors if re.match(_STEP, leaf)}
    return bool(further - ({f"{_STEPS}0._u", f"{_STEPS}0._v"} if norm == "spectral_norm" else set()))


def _parameter(group: Group, leaf: str, sharing: Sharing) -> Layer:
    tensor = group.tensors[leaf]
    name = group.key(leaf)
    layer = Layer(name, "Parameter", "shape", {"": tensor}, tensor)
    packed = leaf.endswith(BLOCKS) and tensor.dtype == "uint8" and leaf.removesuffix(BLOCKS) + SCALES in group.tensors
    if packed or (may_need_scales(tensor) and has_scales_beside(leaf, group.tensors)):
        layer = layer._replace(tags=("quantized",), notes=(QUANTIZED_NOTE,))
    return _with_sharers(layer, Group(name, {}), sharing)


# ---------------------------------------------------------------------- modules whose matrices have other names


def _without_weight(group: Group, tensors: Mapping[str, Tensor], module: Module | None) -> Layer | None:
    """Attention, recurrent, quantized, norms without weights, a bias by itself."""
    names = set(tensors)
    if names & {"in_proj_weight", "q_proj_weight"}:
        found = _attention(group.name, tensors)
    elif any(leaf.startswith("weight_ih") for leaf in names):
        found = _recurrent(group.name, tensors)
    elif names & QUANTIZED_PARTS or packed_weight(tensors) or any(leaf.startswith("_packed_params.") for leaf in names):
        return _with_widths(_quantized(group.name, tensors), module)
    elif names & STATISTICS:
        first = next(iter(tensors.values()))
        mean = tensors.get("running_mean", first)
        found = Layer(group.name, "BatchNorm", "shape", tensors, mean, bias_of(group.tensors))
    elif "bias" in names:
        # It is its own weight here, and no bias to anything.
        found = Layer(group.name, "Bias", "ambiguous", tensors, tensors["bias"], notes=("a bias without a weight",))
    else:
        return None
    if module is None or is_operator(module):
        # An operator sees a matrix, and not what the module packs into it.
        return found
    if of_torch(module):
        return found._replace(kind=module.kind, evidence="module")
    return named_class(found, module)


def _with_widths(layer: Layer, module: Module | None) -> Layer:
    """Set the widths from the module, since a packed weight's shape may differ from the layer's."""
    values = module.attributes if module is not None else {}
    widths = values.get("in_features"), values.get("out_features")
    if not all(type(width) is int for width in widths):
        return layer
    return layer._replace(evidence="module", in_width=widths[0], out_width=widths[1])


def _attention(name: str, tensors: Mapping[str, Tensor]) -> Layer:
    weight = tensors["in_proj_weight" if "in_proj_weight" in tensors else "q_proj_weight"]
    note = "attention keeps query, key and value in one packed Linear, which is not converted"
    bias = tensors.get("in_proj_bias")
    return Layer(name, "MultiheadAttention", "shape", tensors, weight, bias, tags=("packed",), notes=(note,))


def _recurrent(name: str, tensors: Mapping[str, Tensor]) -> Layer:
    kind, evidence = _recurrent_kind(tensors)
    weight = _first(tensors, "weight_ih")
    assert weight is not None
    notes = ["a recurrent layer's matrices are not converted"]
    if evidence == "ambiguous":
        notes.append("its shapes do not say which of LSTM, GRU and RNN it is")
    bias = _first(tensors, "bias_ih")
    return Layer(name, kind, evidence, tensors, weight, bias, tags=("recurrent",), notes=tuple(notes))


def _recurrent_kind(tensors: Mapping[str, Tensor]) -> tuple[str, Evidence]:
    """LSTM, GRU or RNN: four, three or one gate of hidden size, from `weight_hh (gates·hidden, hidden)`."""
    if any(leaf.startswith("weight_hr") for leaf in tensors):
        # Only an LSTM can project its hidden state.
        return "LSTM", "shape"
    cell = "" if any("_l0" in leaf for leaf in tensors) else "Cell"
    hidden = _first(tensors, "weight_hh")
    if hidden is not None and len(hidden.shape) == 2 and hidden.shape[1] > 0:
        kind = {4: "LSTM", 3: "GRU", 1: "RNN"}.get(hidden.shape[0] // hidden.shape[1])
        if kind and hidden.shape[0] % hidden.shape[1] == 0:
            return kind + cell, "shape"
    return f"RNN{cell}", "ambiguous"


def _first(tensors: Mapping[str, Tensor], start: str) -> Tensor | None:
    """The first tensor whose name starts so; of a weight-normed one v, which has its shape."""
    found = [tensor for leaf, tensor in tensors.items() if leaf.startswith(start) and not leaf.endswith("_g")]
    return found[0] if found else _any_of(tensors, start)


def _any_of(tensors: Mapping[str, Tensor], start: str) -> Tensor | None:
    return next((tensor for leaf, tensor in tensors.items() if leaf.startswith(start)), None)


def _quantized(name: str, tensors: Mapping[str, Tensor]) -> Layer:
    packed = [tensor for leaf, tensor in tensors.items() if leaf.startswith("_packed_params.")]
    largest = max(packed or tensors.values(), key=lambda tensor: len(tensor.shape))
    weight = packed_weight(tensors) or largest
    bias = tensors.get("bias") or next((tensor for tensor in packed if len(tensor.shape) == 1), None)
    found = Layer(name, "", "shape", tensors, weight, bias)
    if any(leaf.startswith(_OF_EMBEDDING) for leaf in tensors):
        return found._replace(kind=QUANTIZED_EMBEDDING, tags=("quantized",), notes=(QUANTIZED_NOTE,))
    return quantized_by_rank(found)


# --------------------------------------------------------------------------- what other layers have to do with it


def _with_lora(layer: Layer, context: Context) -> Layer:
    partner = lora_partner(layer.name) if "lora_" in layer.name else None
    if partner is None:
        return layer
    missing = "" if partner in context.modules else ", which is not in the file"
    note = f"one half of a LoRA pair with {partner}{missing}"
    paired = same_rank(layer.name, layer.weight, context.modules.get(partner, {}).get("weight"))
    return layer._replace(tags=(*layer.tags, "LoRA"), notes=(*layer.notes, note), low_rank=paired)


def lora_partner(name: str) -> str | None:
    """The other layer of layer `name`'s low-rank pair, by their names; None if the name is not one of a pair."""
    parts = name.split(".")
    return next(
        (".".join(_LORA[part] if one == part else one for one in parts) for part in parts if part in _LORA), None
    )


def _with_sharers(layer: Layer, group: Group, sharing: Sharing) -> Layer:
    """The layer with notes on tensors that share its bytes, and on unusual storage."""
    shared = sharing.storages
    keys = [key for leaf in layer.tensors if (key := group.key(leaf)) in shared] if shared else []
    others, more = _tied(keys, sharing) if keys else ((), 0)
    tags, notes = layer.tags, layer.notes
    if others:
        unnamed = f"{len(others) + more - _FEW:,} more"
        tags, notes = (*tags, "tied"), (*notes, f"the same bytes as {_some(others, unnamed)}")
    weight = layer.weight
    is_part = weight.storage is not None and weight.storage.nbytes > weight.nbytes and weight.numel > 0
    beside = _beside(keys, sharing) if keys else ()
    if is_part or beside:
        tags = (*tags, "view")
    if is_part and weight.storage is not None:
        notes = (*notes, f"a view of {weight.nbytes:,} bytes in a storage of {weight.storage.nbytes:,}")
    if beside:
        notes = (*notes, f"in one storage with {_some(beside, 'others')}")
    if weight.layout in _UNREADABLE:
        part = f"a DTensor, of which this file holds {weight.parts[0].shape}" if _is_piece(weight) else ""
        tags, notes = (*tags, weight.layout), (*notes, part or _UNREADABLE[weight.layout])
    elif is_wrapped(weight):
        tags, notes = (*tags, "wrapped"), (*notes, f"a {(weight.subclass or '').rpartition('.')[2]}")
    elif _is_expanded(weight):
        tags, notes = (*tags, "expanded"), (*notes, "expanded: one stored number stands for many")
    if not all(tensor.whole for tensor in layer.tensors.values()):
        tags = (*tags, "cut")
    if tags is layer.tags:
        return layer
    return layer._replace(tied_to=others, tied_to_more=more, tags=tags, notes=notes)


# Thousands of tensors may be tied or share a storage, so only a few are looked at for each.


def _tied(keys: list[str], sharing: Sharing) -> tuple[tuple[str, ...], int]:
    """Names of the first tensors over the same bytes as the named ones, and how many more there are."""
    tied = [(key, sharing.ties[key]) for key in keys if key in sharing.ties]
    ties = {id(tie): tie for _, tie in tied}
    own = Counter(id(tie) for _, tie in tied)
    # A layer's own tensor is named where another of its tensors is the same bytes.
    total = sum(len(tie) - (own[at] == 1) for at, tie in ties.items())
    names = dict.fromkeys(name for key, tie in tied for name in islice(tie, MOST_TIES + 1) if name != key)
    named = tuple(islice(names, MOST_TIES))
    return named, total - len(named)


def _beside(keys: list[str], sharing: Sharing) -> tuple[str, ...]:
    """The first few tensors of other layers that are other bytes of this layer's storages."""
    stored = {id(names): names for key in keys if (names := sharing.storages.get(key))}
    ties = {id(sharing.ties[key]) for key in keys if key in sharing.ties}
    others = (
        name
        for names in stored.values()
        for name in names
        if name not in keys and id(sharing.ties.get(name)) not in ties
    )
    return tuple(islice(others, FEW_OF_A_TIE))


def _some(names: tuple[str, ...], more: str) -> str:
    return ", ".join(names[:_FEW]) + (f" and {more}" if len(names) > _FEW else "")


def _is_piece(tensor: Tensor) -> bool:
    """Whether it is a DTensor of which only a part is here."""
    return is_dtensor(tensor) and len(tensor.parts) == 1 and tensor.parts[0].shape != tensor.shape


def _is_expanded(tensor: Tensor) -> bool:
    return 0 in tensor.stride and tensor.storage is not None and tensor.nbytes > tensor.storage.nbytes


_UNREADABLE = {
    "out-of-band": "its numbers were pickled out of band, into a buffer that is not in the file",
    "compressed": "its numbers lie in a compressed pickle as escaped text, and are not read",
    "meta": "on the meta device: the file holds its shape and no numbers",
    "wrapped": "a Tensor subclass that keeps its numbers in tensors of its own, which are not read",
    **{
        f"sparse_{kind}": f"sparse ({kind.upper()}): its numbers are kept as indices and values, which are not read"
        for kind in ("coo", "csr", "csc", "bsr", "bsc")
    },
}
