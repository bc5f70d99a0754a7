"""Classify a layer by its weight's shape, and how certain that is.

A state_dict keeps neither class nor stride, padding and groups: the evidence is "shape" when one reading fits, and
"ambiguous" when several do. A name that says which of several it is counts too (`names`); the layer keeps a doubt and
a note of it.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from typing import NamedTuple, TypeAlias

from convinspect.dtypes import NUMBERS
from convinspect.kinds import GPT2_NAMES, TRANSFORMERS_CONV1D, last_word
from convinspect.layers.names import doubt_of_name
from convinspect.layers.patches import is_patch_by_name
from convinspect.layers.scales import has_scales_beside, may_need_scales, says_scale
from convinspect.layouts import Layout
from convinspect.records import Doubt, Evidence, Layer, Tensor

_GPT2_RATIO = {"c_attn": 3, "c_fc": 4}
PLAIN_PARTS = {"weight", "bias", "weight_g", "weight_v", "running_mean", "running_var", "num_batches_tracked"}
"""What most tensors of a layer are called within it."""

PARTS = (
    r"(weight|bias|weight_[guv]|weight_orig|weight_mask|bias_orig|bias_mask|running_mean|running_var"
    r"|num_batches_tracked|in_proj_weight|in_proj_bias|[qkv]_proj_weight|bias_[kv]"
    r"|(weight|bias)_(ih|hh|hr)(_l\d+)?(_reverse)?(_[gv]|_raw)?"
    r"|parametrizations\..*|weight\..*|_packed_params\..*|scale|zero_point)"
)
"""What all of them are called, as an expression in which a dot is any character."""

QUANTIZED_PARTS = {
    "qweight", "qzeros", "scales", "g_idx", "absmax", "SCB", "quant_map", "weight_scale", "weight_scale_inv",
    "weight_scale_2", "input_scale", "scale_weight", "scale_input", "weight_packed", "weight_zero_point",
    "_packed_params",
}  # fmt: skip
QUANTIZED_NOTE = "quantized: the numbers need their scales, so it is listed and not converted"
STATISTICS = {"running_mean", "running_var", "num_batches_tracked"}


class Pattern(NamedTuple):
    """The layer for all tensors of one pattern.

    Attributes:
        layer: One such layer; None if such tensors are not a layer.
        weight: Name of its weight within the layer.
        bias: Name of its bias within the layer, if it has one.
    """

    layer: Layer | None
    weight: str
    bias: str | None


class Context(NamedTuple):
    """Evidence from the other layers of the file.

    Attributes:
        transposed: Some layer can only be transformers' `Conv1D`, so a square one may be too.
        gpt2_is_linear: Layers with GPT-2's names are stored as Linear, as minGPT and nanoGPT do.
        modules: Tensors of every module by its name, those of each by the last part of their key.
        may_need_scales: Some weight's numbers may be codes.
        patterns: Cached results, by names, shapes and dtypes.
        layout: Whose layout the file's weights have, where that is not PyTorch's.
        frozen: Shapes of the integer weights that PyTorch's PT2E quantization made of the file's others.
    """

    transposed: bool
    gpt2_is_linear: bool
    modules: Mapping[str, Mapping[str, Tensor]]
    may_need_scales: bool
    patterns: dict[Hashable, Pattern]
    layout: Layout | None = None
    frozen: frozenset[tuple[int, ...]] = frozenset()


def orientation(name: str, weight: Tensor | None, bias: Tensor | None) -> str | None:
    """The orientation of a two-dimensional weight, by its bias, or by the known ratio of a GPT-2 layer."""
    if weight is None or len(weight.shape) != 2 or weight.shape[0] == weight.shape[1]:
        return None
    rows, columns = weight.shape
    if bias is not None and len(bias.shape) == 1:
        return {rows: "linear", columns: "transposed"}.get(bias.shape[0])
    ratio = _GPT2_RATIO.get(last_word(name))
    if bias is None and ratio:
        return "linear" if rows == ratio * columns else "transposed" if columns == ratio * rows else None
    return None


def by_shape(layer: Layer, context: Context) -> Layer:
    """Classify a layer by the shapes of its weight and bias.

    Args:
        layer: Neither quantized nor a list (`is_list`).
        context: Evidence from the rest of the file.
    """
    dims = len(layer.weight.shape)
    if dims <= 1 or (layer.bias is not None and layer.bias.shape == layer.weight.shape):
        read = _by_statistics(layer)
    elif dims == 2:
        read = _matrix(layer, context)
    elif dims <= 5:
        read = _convolution(layer)
    else:
        read = layer._replace(notes=(*layer.notes, f"a weight of {dims} dimensions belongs to no known layer"))
    if layer.norm == "parametrized":
        note = "what its parametrization computes is not recorded, so the kernel's shape may be another"
        read = read._replace(evidence="ambiguous", notes=(*read.notes, note))
    if is_whole(layer.weight):
        note = f"its numbers are {layer.weight.dtype}, with no sign that they are quantized"
        read = read._replace(evidence="ambiguous", tags=(*read.tags, "integers"), notes=(*read.notes, note))
    return read


_AS_WIDE = frozenset({"float64", "float32", "float16", "bfloat16"})
"""dtypes of weights that are kept as they were, beside the scales they will be quantized with."""


def is_list(weight: Tensor) -> bool:
    """Whether its numbers are class weights, indices or a mask: integers that are not a matrix."""
    return is_whole(weight) and (len(weight.shape) < 2 or weight.dtype == "bool")


def is_quantized(layer: Layer) -> bool:
    """Whether it is quantized: integers with scales, a quantized dtype, or a bias that is not an integer."""
    weight = layer.weight
    made_for_it = weight.layout == "quantized" or weight.dtype.startswith(("q", "bits", "float4_", "float6_"))
    if made_for_it or _has_scales(layer):
        return True
    if len(weight.shape) > 1 and may_need_scales(weight) and any(map(says_scale, layer.tensors)):
        return True
    if not is_whole(weight) or weight.dtype == "bool":
        return False
    return bool({"scale", "zero_point"} & set(layer.tensors)) or (layer.bias is not None and not is_whole(layer.bias))


def is_scaled_from_above(name: str, weight: Tensor | None, context: Context) -> bool:
    """Whether a layer's scales are kept in the module around it, under the layer's name."""
    if not context.may_need_scales or weight is None or len(weight.shape) < 2 or not may_need_scales(weight):
        return False
    parent, _, last = name.rpartition(".")
    return has_scales_beside(last, context.modules.get(parent))


def is_whole(weight: Tensor) -> bool:
    """Whether its numbers are integers or truth values."""
    return weight.dtype not in NUMBERS


def _has_scales(layer: Layer) -> bool:
    return any(leaf in QUANTIZED_PARTS or leaf.startswith("weight.") for leaf in layer.tensors)


def quantized(layer: Layer) -> Layer:
    """A quantized layer; its kind follows from the rank of its weight."""
    dims = len(layer.weight.shape)
    if dims < 2 and layer.weight.layout == "strided" and not _has_scales(layer):
        # Class weights, indices: integers, but no matrix.
        return layer._replace(kind="Parameter", evidence="shape")
    return quantized_by_rank(layer)


def quantized_by_rank(layer: Layer) -> Layer:
    """A quantized convolution or Linear, the latter with its widths where nothing is packed into each element."""
    weight = layer.weight
    found = layer._replace(
        kind="Conv (quantized)" if len(weight.shape) > 2 else "Linear (quantized)",
        evidence="shape",
        tags=(*layer.tags, "quantized"),
        notes=(*layer.notes, QUANTIZED_NOTE),
    )
    # PyTorch keeps the shape of what its dtypes stand for; others' integers may have several numbers in each.
    is_whole_matrix = len(weight.shape) == 2 and (weight.layout == "quantized" or weight.dtype in _AS_WIDE)
    if not is_whole_matrix:
        return found
    return found._replace(in_width=weight.shape[1], out_width=weight.shape[0])


def _by_statistics(layer: Layer) -> Layer:
    if STATISTICS & set(layer.tensors):
        return layer._replace(kind="BatchNorm", evidence="shape")
    if len(layer.weight.shape) > 1 and layer.bias is not None:
        return layer._replace(kind="LayerNorm", evidence="shape")
    if layer.bias is None and (layer.weight.shape == (1,) or "prelu" in last_word(layer.name).lower()):
        return with_doubt(layer._replace(kind="PReLU"), Doubt.PRELU_OR_NORM)
    return with_doubt(layer._replace(kind="Norm"), Doubt.NORM_OR_PRELU)


def with_doubt(layer: Layer, doubt: Doubt) -> Layer:
    """The layer with a doubt and its sentence, which make it ambiguous unless its name settles the kind."""
    note = doubt.sentence(layer.weight, layer.bias)
    evidence: Evidence = "shape" if doubt is Doubt.LINEAR_BY_NAME else "ambiguous"
    return layer._replace(evidence=evidence, notes=(*layer.notes, note), doubts=(*layer.doubts, doubt))


# ------------------------------------------------------------------------------------------- two dimensions


def _matrix(layer: Layer, context: Context) -> Layer:
    """`weight (O, I)` of a Linear, `(I, O)` of transformers' Conv1D, or `(N, D)` of an Embedding."""
    rows, columns = layer.weight.shape
    bias = layer.bias
    if bias is not None and (len(bias.shape) != 1 or bias.shape[0] not in (rows, columns)):
        return _wrong_bias(layer._replace(kind="Linear", in_width=columns, out_width=rows))
    kind, reason = _matrix_kind(layer, context)
    wide_in, wide_out = {"Linear": (columns, rows), TRANSFORMERS_CONV1D: (rows, columns)}.get(kind, (None, None))
    matrix = layer._replace(kind=kind, in_width=wide_in, out_width=wide_out)
    if isinstance(reason, Doubt):
        return with_doubt(matrix, reason)
    return matrix._replace(evidence="shape", notes=(*layer.notes, reason) if reason else layer.notes)


_Reading: TypeAlias = tuple[str, Doubt | str]
"""A kind, and what else the layer may be; where that is sure, a note or ""."""


def _matrix_kind(layer: Layer, context: Context) -> _Reading:
    """The kind of a matrix whose bias fits it."""
    rows, columns = layer.weight.shape
    name = last_word(layer.name)
    if layer.bias is None:
        return _without_bias(layer, context)
    if rows != columns:
        return ("Linear" if layer.bias.shape[0] == rows else TRANSFORMERS_CONV1D), ""
    return _square(name, context)


def _square(name: str, context: Context) -> _Reading:
    """Classify a square matrix: the bias fits both orientations, so only the rest of the file can decide."""
    if name not in GPT2_NAMES:
        if not context.transposed:
            return "Linear", ""
        return "Linear", Doubt.MAY_BE_TRANSPOSED
    if context.transposed != context.gpt2_is_linear:
        note = "square: its name and other layers of the file say how it is stored"
        return (TRANSFORMERS_CONV1D if context.transposed else "Linear"), note
    return ("Linear" if context.gpt2_is_linear else TRANSFORMERS_CONV1D), Doubt.SQUARE_MAY_BE_LINEAR


def _without_bias(layer: Layer, context: Context) -> _Reading:
    if last_word(layer.name) in GPT2_NAMES:
        # Their ratio tells how they lie at most, and nothing that they are no Embedding.
        if context.gpt2_is_linear:
            return "Linear", Doubt.LINEAR_OR_EMBEDDING
        return TRANSFORMERS_CONV1D, Doubt.MAY_BE_LINEAR
    doubt = doubt_of_name(layer.name)
    if doubt is Doubt.EMBEDDING_OR_LINEAR:
        return "Embedding", doubt
    rows, columns = layer.weight.shape
    if doubt is Doubt.LINEAR_BY_NAME and rows == columns and context.transposed:
        return "Linear", Doubt.MAY_BE_TRANSPOSED
    return "Linear", doubt


def _wrong_bias(layer: Layer) -> Layer:
    return with_doubt(layer._replace(tags=(*layer.tags, "bias?")), Doubt.BIAS_DOES_NOT_FIT)


# -------------------------------------------------------------------------------------------- convolutions


def _convolution(layer: Layer) -> Layer:
    """`weight (O, I/groups, k…)` of a Conv; `(I, O/groups, k…)` of a ConvTranspose, which only its bias shows."""
    first, second, *kernel = layer.weight.shape
    dims = len(kernel)
    conv = layer._replace(
        kind=f"Conv{dims}d",
        evidence="shape",
        out_width=first,
        kernel_size=tuple(kernel),
        pointwise=all(size == 1 for size in kernel),
    )
    if layer.bias is None or layer.bias.shape == (first,):
        named = conv._replace(patch=is_patch_by_name(conv))
        return maybe_another(named, alike=layer.bias is None or first == second)
    transposed = conv._replace(kind=f"ConvTranspose{dims}d", in_width=first, out_width=second)
    if layer.bias.shape == (second,):
        return transposed
    transposed = transposed._replace(pointwise=False)
    length = layer.bias.shape[0] if len(layer.bias.shape) == 1 else 0
    if second and length and length % second == 0 and first % (length // second) == 0:
        note = f"fits a ConvTranspose{dims}d with groups={length // second}"
        return transposed._replace(evidence="ambiguous", out_width=length, notes=(*layer.notes, note))
    return _wrong_bias(conv)


_TRANSPOSED_NAMES = r"(up\d*|ups|upconv\w*|upsampl\w*|deconv\w*|\w*transpose\w*|convt\w*)$"


def maybe_another(conv: Layer, alike: bool) -> Layer:
    """Doubt a Conv whose name suggests another kind with the same shapes.

    Args:
        conv: A Bilinear has the shapes of a Conv1d.
        alike: A ConvTranspose has the same shapes: in PyTorch's layout without a bias, or with as many outputs as
            inputs.
    """
    if len(conv.kernel_size) == 1 and "bilinear" in conv.name.lower():
        return with_doubt(conv, Doubt.MAY_BE_BILINEAR)
    if alike and any(re.match(_TRANSPOSED_NAMES, part) for part in conv.name.lower().split(".")):
        return with_doubt(conv, Doubt.MAY_BE_CONV_TRANSPOSE)
    return conv
