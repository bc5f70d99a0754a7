"""One module's tensors → what layer they are, and how sure that is. The table is that of the design.

A state_dict keeps neither class nor stride, padding and groups. Where the file describes its modules, they decide
(evidence "module"); otherwise the shapes do: "shape" when one reading fits, "ambiguous" when several do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from convinspect.records import COMPLEX, FLOATING, Evidence, Layer, Module, Tensor

TRANSFORMERS_CONV1D = "Conv1D (transformers)"
_GPT2_NAMES = {"c_attn", "c_proj", "c_fc", "q_attn"}
_GPT2_RATIO = {"c_attn": 3, "c_fc": 4}
_EMBEDDING_WORDS = re.compile(r"^(wte|wpe|emb\w*|embed\w*|tokens?|positions?|pos)$")
_STRIDED_NAMES = ("downsample", "shortcut")
_QUANTIZED_PARTS = {
    "qweight", "qzeros", "scales", "g_idx", "absmax", "SCB", "quant_map", "weight_scale", "weight_scale_inv",
    "weight_scale_2", "input_scale", "weight_packed", "weight_zero_point", "_packed_params",
}  # fmt: skip
_LORA = {"lora_down": "lora_up", "lora_up": "lora_down", "lora_A": "lora_B", "lora_B": "lora_A"}
_STATISTICS = {"running_mean", "running_var", "num_batches_tracked"}
_NONE: tuple[str, ...] = ()
_HYPERPARAMETERS = ("stride", "padding", "dilation")


@dataclass(frozen=True, slots=True)
class Group:
    """Tensors of one module, by what follows its name in their keys."""

    name: str
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Context:
    """What the other layers of the file tell about one.

    Attributes:
        transposed: Some layer can only be transformers' `Conv1D`, so a square one may be too.
        gpt2_is_linear: Layers with GPT-2's names are stored as Linear, as minGPT and nanoGPT do.
        names: All module names.
    """

    transposed: bool
    gpt2_is_linear: bool
    names: frozenset[str]


def context_of(groups: Iterable[Group]) -> Context:
    """Look once over the whole file for evidence on layers that alone could be two things."""
    votes = [(_last(group.name) in _GPT2_NAMES, _orientation(group)) for group in groups]
    return Context(
        any(vote == "transposed" for _, vote in votes),
        any(named and vote == "linear" for named, vote in votes),
        frozenset(group.name for group in groups),
    )


def _orientation(group: Group) -> str | None:
    """How a two-dimensional weight must lie: by its bias, or by the known ratio of a GPT-2 layer."""
    weight, bias = group.tensors.get("weight"), group.tensors.get("bias")
    if weight is None or len(weight.shape) != 2 or weight.shape[0] == weight.shape[1]:
        return None
    rows, columns = weight.shape
    if bias is not None and len(bias.shape) == 1:
        return {rows: "linear", columns: "transposed"}.get(bias.shape[0])
    ratio = _GPT2_RATIO.get(_last(group.name))
    if bias is None and ratio:
        return "linear" if rows == ratio * columns else "transposed" if columns == ratio * rows else None
    return None


def read_group(
    group: Group, module: Module | None, context: Context, tied: Mapping[str, tuple[str, ...]]
) -> list[Layer]:
    """The layer that a group is, and its remaining tensors as layers of kind "Parameter".

    Args:
        group: One module's tensors.
        module: What the file says of that module, if it does.
        context: What the rest of the file tells.
        tied: For each tensor of the group, the keys elsewhere that are the same bytes.
    """
    main, norm = _main_tensor(group.tensors)
    half = _half_of_a_pair(group.tensors)
    if main is None and not half:
        own = [leaf for leaf in group.tensors if _is_part(leaf)]
        layer = _without_weight(group, module, own)
        rest = [leaf for leaf in group.tensors if layer is None or leaf not in layer.tensors]
    else:
        weight = group.tensors[main or half]
        layer = Layer(group.name, "Parameter", "ambiguous", {}, weight, _bias(group), norm)
        own = [leaf for leaf in group.tensors if _is_part(leaf) or leaf in (main, half)]
        layer = replace(layer, tensors={leaf: group.tensors[leaf] for leaf in own})
        layer = _broken_pair(layer, half) if half else _read_weight(layer, module, context)
        rest = [leaf for leaf in group.tensors if leaf not in own]
    found = [_with_ties(_with_lora(layer, context), tied)] if layer is not None else []
    return found + [_parameter(group, leaf, tied) for leaf in rest]


def _last(name: str) -> str:
    """The last part of a name that is not a number."""
    return next((part for part in reversed(name.split(".")) if part and not part.isdigit()), "")


def _bias(group: Group) -> Tensor | None:
    return group.tensors.get("bias")


_MAIN = (
    # tensor that carries the kernel's shape, what must stand beside it, what the pair is
    ("weight_v", "weight_g", "weight_norm"),
    ("parametrizations.weight.original1", "parametrizations.weight.original0", "weight_norm"),
    ("weight_orig", "weight_u", "spectral_norm"),
    ("parametrizations.weight.original", "parametrizations.weight.0._u", "spectral_norm"),
    ("weight_orig", "weight_mask", "pruned"),
    ("parametrizations.weight.original", None, "parametrized"),
    ("weight", None, None),
)


def _main_tensor(tensors: Mapping[str, Tensor]) -> tuple[str | None, str | None]:
    for leaf, beside, norm in _MAIN:
        if leaf in tensors and (beside is None or beside in tensors):
            return leaf, norm
    return None, None


def _half_of_a_pair(tensors: Mapping[str, Tensor]) -> str:
    """A weight-norm tensor whose partner is not there; "" when all is well."""
    for one, other in (("weight_g", "weight_v"), ("weight_orig", "weight_mask")):
        if one in tensors and other not in tensors and _main_tensor(tensors)[0] is None:
            return one
    pair = [
        leaf for leaf in tensors if leaf in ("parametrizations.weight.original0", "parametrizations.weight.original1")
    ]
    return pair[0] if len(pair) == 1 else ""


def _broken_pair(layer: Layer, half: str) -> Layer:
    note = f"{half} is there without its partner, so the kernel cannot be computed"
    return replace(layer, kind="Incomplete", tags=("incomplete",), notes=(note,))


_PARTS = re.compile(
    r"^(weight|bias|weight_[guv]|weight_orig|weight_mask|bias_orig|bias_mask|running_mean|running_var"
    r"|num_batches_tracked|in_proj_weight|in_proj_bias|[qkv]_proj_weight|bias_[kv]"
    r"|(weight|bias)_(ih|hh|hr)(_l\d+)?(_reverse)?(_[gv]|_raw)?"
    r"|parametrizations\..*|weight\..*|_packed_params\..*|scale|zero_point)$"
)


def _is_part(leaf: str) -> bool:
    return bool(_PARTS.match(leaf)) or leaf in _QUANTIZED_PARTS


def _parameter(group: Group, leaf: str, tied: Mapping[str, tuple[str, ...]]) -> Layer:
    tensor = group.tensors[leaf]
    name = f"{group.name}.{leaf}" if group.name else leaf
    layer = Layer(name, "Parameter", "shape", {"": tensor}, tensor)
    return _with_ties(layer, {"": tied.get(leaf, ())})


def _without_weight(group: Group, module: Module | None, own: list[str]) -> Layer | None:
    """Modules whose matrices have other names: attention, recurrent, quantized, norms without weights."""
    tensors = {leaf: group.tensors[leaf] for leaf in own}
    if not tensors:
        return None
    names = set(tensors)
    first = next(iter(tensors.values()))
    kind, tags, notes = "", _NONE, _NONE
    evidence: Evidence = "shape"
    weight = first
    if names & {"in_proj_weight", "q_proj_weight"}:
        kind, tags = "MultiheadAttention", ("packed",)
        weight = tensors.get("in_proj_weight", first)
        notes = ("attention keeps query, key and value in one packed Linear, which is not converted",)
    elif any(leaf.startswith("weight_ih") for leaf in names):
        weight = next(tensor for leaf, tensor in tensors.items() if leaf.startswith("weight_ih"))
        kind = _recurrent(tensors)
        tags, notes = ("recurrent",), ("a recurrent layer's matrices are not converted",)
    elif names & _QUANTIZED_PARTS or any(leaf.startswith("_packed_params") for leaf in names):
        weight = tensors.get("qweight", tensors.get("weight_packed", first))
        kind, tags, notes = "Linear (quantized)", ("quantized",), (_QUANTIZED_NOTE,)
    elif names & _STATISTICS:
        kind, weight = "BatchNorm", tensors.get("running_mean", first)
    elif "bias" in names:
        kind, evidence, notes = "Bias", "ambiguous", ("a bias without a weight",)
        weight = tensors["bias"]
    else:
        return None
    if module is not None:
        kind, evidence = module.kind, "module"
    # A bias alone is its own weight here; it is not a bias to anything.
    bias = tensors.get("in_proj_bias") if kind != "Bias" else None
    return Layer(group.name, kind, evidence, tensors, weight, bias, tags=tags, notes=notes)


_QUANTIZED_NOTE = "quantized: the numbers need their scales, so it is listed and not converted"


def _recurrent(tensors: Mapping[str, Tensor]) -> str:
    """LSTM, GRU or RNN: four, three or one gate of hidden size, from `weight_hh (gates·hidden, hidden)`."""
    hidden = next((t for leaf, t in tensors.items() if leaf.startswith("weight_hh")), None)
    cell = "" if any("_l0" in leaf for leaf in tensors) else "Cell"
    if hidden is None or len(hidden.shape) != 2 or hidden.shape[1] == 0:
        return f"RNN{cell}"
    gates = hidden.shape[0] / hidden.shape[1]
    return {4: "LSTM", 3: "GRU"}.get(gates, "RNN") + cell  # type: ignore[call-overload, no-any-return]


def _read_weight(layer: Layer, module: Module | None, context: Context) -> Layer:
    layer = replace(layer, tags=_norm_tags(layer), notes=_norm_notes(layer))
    if _is_quantized(layer):
        kind = "Conv (quantized)" if len(layer.weight.shape) > 2 else "Linear (quantized)"
        if (
            layer.weight.layout == "strided"
            and len(layer.weight.shape) < 2
            and not set(layer.tensors) & _QUANTIZED_PARTS
        ):
            kind = "Parameter"
        return replace(
            layer,
            kind=kind,
            evidence="shape",
            tags=(*layer.tags, "quantized"),
            notes=(*layer.notes, _QUANTIZED_NOTE),
        )
    known = _by_module(layer, module) if module is not None else None
    if known is not None:
        return _with_converter_notes(known)
    dims = len(layer.weight.shape)
    if dims <= 1 or (layer.bias is not None and layer.bias.shape == layer.weight.shape):
        found = _by_statistics(layer)
    elif dims == 2:
        found = _matrix(layer, context)
    elif dims <= 5:
        found = _convolution(layer)
    else:
        found = replace(layer, notes=(*layer.notes, f"a weight of {dims} dimensions belongs to no known layer"))
    if module is not None:
        found = replace(
            found, notes=(*found.notes, f"its class {module.class_name} keeps no hyperparameters known here")
        )
    return _with_converter_notes(found)


def _norm_tags(layer: Layer) -> tuple[str, ...]:
    return (layer.norm.replace("_", "-"),) if layer.norm else ()


def _norm_notes(layer: Layer) -> tuple[str, ...]:
    if layer.norm is None:
        return ()
    parts = ", ".join(leaf for leaf in layer.tensors if leaf != "bias" and not leaf.startswith("bias_"))
    return (f"the kernel is computed from {parts}",)


def _is_quantized(layer: Layer) -> bool:
    weight = layer.weight
    beside = any(leaf in _QUANTIZED_PARTS or leaf.startswith("weight.") for leaf in layer.tensors)
    return beside or weight.layout == "quantized" or weight.dtype not in FLOATING | COMPLEX


def _by_statistics(layer: Layer) -> Layer:
    if _STATISTICS & set(layer.tensors):
        return replace(layer, kind="BatchNorm", evidence="shape")
    if len(layer.weight.shape) > 1 and layer.bias is not None:
        return replace(layer, kind="LayerNorm", evidence="shape")
    return replace(layer, kind="Norm", notes=(*layer.notes, "LayerNorm, GroupNorm, RMSNorm and PReLU look alike"))


# ------------------------------------------------------------------------------------------- two dimensions


def _matrix(layer: Layer, context: Context) -> Layer:
    """`weight (O, I)` of a Linear, `(I, O)` of transformers' Conv1D, or `(N, D)` of an Embedding."""
    rows, columns = layer.weight.shape
    name = _last(layer.name)
    linear = replace(layer, kind="Linear", in_width=columns, out_width=rows)
    transposed = replace(layer, kind=TRANSFORMERS_CONV1D, in_width=rows, out_width=columns)
    gpt2 = name in _GPT2_NAMES and not context.gpt2_is_linear
    if layer.bias is None:
        return _without_bias(linear, transposed, gpt2, name)
    if len(layer.bias.shape) != 1 or layer.bias.shape[0] not in (rows, columns):
        return _wrong_bias(linear)
    if rows != columns:
        return replace(linear if layer.bias.shape[0] == rows else transposed, evidence="shape")
    if gpt2:
        note = "square, so only its name says that it is transformers' Conv1D (stored transposed)"
        return replace(transposed, evidence="shape", notes=(*layer.notes, note))
    if context.transposed and name not in _GPT2_NAMES:
        note = "square, in a file that also has transformers' Conv1D: it may be stored transposed"
        return replace(linear, notes=(*layer.notes, note))
    return replace(linear, evidence="shape")


def _without_bias(linear: Layer, transposed: Layer, gpt2: bool, name: str) -> Layer:
    if gpt2:
        return replace(transposed, notes=(*linear.notes, "only its name says that it is transformers' Conv1D"))
    if any(_EMBEDDING_WORDS.match(word) for word in re.split(r"[_\W]+", name.lower())):
        note = "named like an Embedding; a Linear without bias has the same shape"
        return replace(linear, kind="Embedding", in_width=None, out_width=None, notes=(*linear.notes, note))
    return replace(linear, notes=(*linear.notes, "without a bias, a Linear and an Embedding look alike"))


def _wrong_bias(layer: Layer) -> Layer:
    assert layer.bias is not None
    note = f"its bias {layer.bias.shape} does not fit its weight {layer.weight.shape}"
    return replace(layer, evidence="ambiguous", tags=(*layer.tags, "bias?"), notes=(*layer.notes, note))


# -------------------------------------------------------------------------------------------- convolutions


def _convolution(layer: Layer) -> Layer:
    """`weight (O, I/groups, k…)` of a Conv; `(I, O/groups, k…)` of a ConvTranspose, which only its bias shows."""
    first, second, *kernel = layer.weight.shape
    dims = len(kernel)
    conv = replace(
        layer,
        kind=f"Conv{dims}d",
        evidence="shape",
        out_width=first,
        kernel_size=tuple(kernel),
        pointwise=all(size == 1 for size in kernel),
    )
    if layer.bias is None or layer.bias.shape == (first,):
        return conv
    transposed = replace(conv, kind=f"ConvTranspose{dims}d", pointwise=False, in_width=first, out_width=second)
    if layer.bias.shape == (second,):
        return transposed
    length = layer.bias.shape[0] if len(layer.bias.shape) == 1 else 0
    if second and length and length % second == 0 and first % (length // second) == 0:
        note = f"fits a ConvTranspose{dims}d with groups={length // second}"
        return replace(transposed, evidence="ambiguous", out_width=length, notes=(*layer.notes, note))
    return _wrong_bias(conv)


# -------------------------------------------------------------------------------------------------- modules


def _by_module(layer: Layer, module: Module) -> Layer | None:
    """What the module's class and attributes say; None when they do not describe a weight known here."""
    values = module.attributes
    kind = module.kind
    dims = len(layer.weight.shape)
    if "kernel_size" in values or (kind.startswith(("Conv", "LazyConv")) and 3 <= dims <= 5 and "stride" in values):
        return _conv_module(layer, module) if 3 <= dims <= 5 else None
    if dims == 2 and ((kind == "Conv1D" and module.class_name.startswith("transformers.")) or "nf" in values):
        rows, columns = layer.weight.shape
        return replace(layer, kind=TRANSFORMERS_CONV1D, evidence="module", in_width=rows, out_width=columns)
    if dims == 2 and (kind in _LINEAR_CLASSES or {"in_features", "out_features"} <= set(values)):
        rows, columns = layer.weight.shape
        return _named_class(replace(layer, kind="Linear", evidence="module", in_width=columns, out_width=rows), module)
    if kind.startswith("Conv") and 3 <= dims <= 5 and module.class_name.startswith("torch.nn."):
        # Tracing and old releases may keep the class and drop its numbers.
        return _conv_module(layer, module)
    if module.class_name.startswith(("torch.nn.", "torch.ops.aten.")):
        return replace(layer, kind=kind, evidence="module")
    return None


_LINEAR_CLASSES = {"Linear", "NonDynamicallyQuantizableLinear", "LazyLinear"}


def _conv_module(layer: Layer, module: Module) -> Layer:
    values = module.attributes
    first, second, *kernel = layer.weight.shape
    dims = len(kernel)
    transposed = bool(values.get("transposed", "Transpose" in module.kind))
    groups = values.get("groups") if type(values.get("groups")) is int else None
    inner = None if groups is None else second * groups
    settings = {name: _setting(values.get(name), dims) for name in _HYPERPARAMETERS}
    found = replace(
        layer,
        kind=f"Conv{'Transpose' if transposed else ''}{dims}d",
        evidence="module",
        pointwise=not transposed and all(size == 1 for size in kernel),
        in_width=first if transposed else inner,
        out_width=inner if transposed else first,
        kernel_size=tuple(kernel),
        groups=groups,
        **settings,
    )
    return _named_class(found, module)


def _setting(value: Any, dims: int) -> Any:
    """Stride, padding or dilation as a tuple, one number per dimension; a string ("same") as it is."""
    if isinstance(value, str):
        return value
    numbers = value if isinstance(value, tuple) else (value,)
    if not numbers or not all(type(number) is int for number in numbers):
        return None
    return numbers * dims if len(numbers) == 1 else numbers


def _named_class(layer: Layer, module: Module) -> Layer:
    """Say the class where it is not PyTorch's own, since a subclass may compute something else."""
    if module.class_name.startswith(("torch.nn.", "torch.ops.aten.")):
        return layer
    return replace(layer, notes=(*layer.notes, f"its class is {module.class_name}"))


# ---------------------------------------------------------------------------------- what a converter must know


def _with_converter_notes(layer: Layer) -> Layer:
    tags, notes = list(layer.tags), list(layer.notes)
    if layer.groups is not None and layer.groups > 1:
        depthwise = layer.groups == layer.in_width
        tags.append("depthwise" if depthwise else f"groups {layer.groups}")
    for name in ("stride", "padding"):
        value = getattr(layer, name)
        usual = 1 if name == "stride" else 0
        if layer.pointwise and value is not None and (isinstance(value, str) or any(n != usual for n in value)):
            tags.append(f"{name} {value if isinstance(value, str) else _short(value)}")
    if layer.pointwise and layer.evidence != "module":
        tags.append("assumed")
        notes += _assumptions(layer)
    if layer.evidence == "ambiguous" and layer.kind not in ("Norm", "Embedding", "Bias", "Parameter"):
        tags.append("ambiguous")
    return replace(layer, tags=tuple(tags), notes=tuple(notes))


def _short(value: tuple[int, ...]) -> str:
    return str(value[0]) if len(set(value)) == 1 else "×".join(map(str, value))


def _assumptions(layer: Layer) -> list[str]:
    notes = ["stride, padding and groups are not recorded; stride 1, padding 0 and groups 1 are assumed"]
    if layer.weight.shape[1] == 1 and layer.weight.shape[0] > 1:
        notes.append(f"{layer.weight.shape} reads as depthwise (groups = {layer.weight.shape[0]}) as well as 1 → many")
    if any(word in layer.name.lower() for word in _STRIDED_NAMES):
        notes.append("layers of this name usually have stride 2")
    return notes


def _with_lora(layer: Layer, context: Context) -> Layer:
    for part in layer.name.split("."):
        partner = _LORA.get(part)
        if partner is not None:
            other = ".".join(partner if piece == part else piece for piece in layer.name.split("."))
            there = "" if other in context.names else ", which is not in the file"
            note = f"one half of a LoRA pair with {other}{there}"
            return replace(layer, tags=(*layer.tags, "LoRA"), notes=(*layer.notes, note))
    return layer


def _with_ties(layer: Layer, tied: Mapping[str, tuple[str, ...]]) -> Layer:
    others = tuple(dict.fromkeys(key for leaf in layer.tensors for key in tied.get(leaf, ())))
    tags, notes = layer.tags, layer.notes
    if others:
        tags, notes = (*tags, "tied"), (*notes, f"the same bytes as {', '.join(others[:3])}")
    storage = layer.weight.storage
    if storage is not None and not others and layer.weight.numel and storage.nbytes > layer.weight.nbytes:
        tags = (*tags, "view")
        notes = (*notes, f"a view of {layer.weight.nbytes:,} bytes in a storage of {storage.nbytes:,}")
    if not all(tensor.whole for tensor in layer.tensors.values()):
        tags = (*tags, "cut")
    return replace(layer, tied_to=others, tags=tags, notes=notes)
