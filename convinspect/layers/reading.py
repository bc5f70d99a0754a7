"""Classify a layer by its module, or else by its shapes, and note what a conversion must know about it.

A state_dict keeps neither class nor stride, padding and groups. Where the file describes its modules, they decide;
otherwise the shapes do.
"""

from __future__ import annotations

import math
from typing import Any, TypeGuard

from convinspect.kinds import CONV_TRANSPOSES
from convinspect.layers.by_shape import (
    STATISTICS,
    Context,
    is_list,
    is_quantized,
    is_scaled_from_above,
    quantized,
    with_doubt,
)
from convinspect.layers.layouts import by_class, by_layout
from convinspect.layers.lora import is_magnitude
from convinspect.layouts import torch_shape
from convinspect.records import Doubt, Layer, Module

_STRIDED_NAMES = ("downsample", "shortcut")


def read_weight(layer: Layer, module: Module | None, context: Context) -> Layer:
    """Classify a layer by its module, or else by the shapes of its weight and bias.

    Args:
        layer: The layer with its tensors, whose `kind` and settings are not known yet.
        module: The file's description of its module, if it has one.
        context: Evidence from the rest of the file.
    """
    if is_magnitude(layer.name):
        return layer._replace(kind="Parameter", evidence="shape")
    if layer.norm:
        parts = ", ".join(leaf for leaf in layer.tensors if "bias" not in leaf)
        layer = layer._replace(tags=(layer.norm.replace("_", "-"),), notes=(f"the kernel is computed from {parts}",))
    if layer.weight.shape == (0,):
        return _empty(layer, module)
    if is_quantized(layer) or is_scaled_from_above(layer.name, layer.weight, context):
        return with_channels(quantized(layer), module)
    known = by_class(layer, module) if module is not None else None
    if known is not None:
        return with_assumptions(known)
    if is_list(layer.weight):
        return layer._replace(kind="Parameter", evidence="shape")
    known = by_layout(layer, context)
    if context.frozen and layer.weight.shape in context.frozen:
        known = with_doubt(known, Doubt.SUPERSEDED)
    if module is not None:
        note = f"its class {module.class_name} keeps no hyperparameters known here"
        known = known._replace(notes=(*known.notes, note))
    return with_assumptions(known)


_EMPTY = "its weight has shape (0,) and no numbers, as a ZeRO-3 part that was not gathered before saving"


def _empty(layer: Layer, module: Module | None) -> Layer:
    """A layer without its numbers; what it was, its class may tell and its statistics, which are never partitioned."""
    kind = "BatchNorm" if STATISTICS & set(layer.tensors) else "Empty"
    notes = (*layer.notes, _EMPTY, *([f"its class is {module.class_name}"] if module is not None else []))
    return layer._replace(kind=kind, evidence="ambiguous", tags=(*layer.tags, "empty"), notes=notes)


def with_channels(layer: Layer, module: Module | None) -> Layer:
    """A quantized convolution with its channels and settings, where its module records them and they agree with each
    other and its weight: a file may say anything.
    """
    said = module.attributes if module is not None else {}
    counts = tuple(said.get(name) for name in ("in_channels", "out_channels", "groups"))
    kernel, stride, padding, dilation = (said.get(name) for name in ("kernel_size", "stride", "padding", "dilation"))
    if not (_are_sizes(counts) and _are_sizes(kernel) and _are_sizes(stride) and _are_sizes(dilation)):
        return layer
    if not _are_sizes(padding, least=0) or not len(kernel) == len(stride) == len(padding) == len(dilation):
        return layer
    wide_in, wide_out, groups = counts
    numbers = wide_in * wide_out // groups * math.prod(kernel)
    if wide_in % groups or wide_out % groups or layer.weight.numel not in (0, numbers):
        return layer
    layer = layer._replace(evidence="module", in_width=wide_in, out_width=wide_out, groups=groups)
    return layer._replace(kernel_size=kernel, stride=stride, padding=padding, dilation=dilation)


def _are_sizes(value: Any, least: int = 1) -> TypeGuard[tuple[int, ...]]:
    return (
        isinstance(value, tuple) and value != () and all(type(one) is int and least <= one < 1 << 31 for one in value)
    )


def with_assumptions(layer: Layer) -> Layer:
    """The layer with what a conversion must know: unusual settings, and what was assumed."""
    tags, notes, doubts = list(layer.tags), list(layer.notes), layer.doubts
    if layer.groups is not None and layer.groups > 1:
        depthwise = layer.groups == layer.in_width
        tags.append("depthwise" if depthwise else f"groups {layer.groups}")
    for name in ("stride", "padding"):
        value = getattr(layer, name)
        usual = 1 if name == "stride" else 0
        # "same" and "valid" pad nothing at kernel size 1.
        if layer.pointwise and isinstance(value, tuple) and any(n != usual for n in value):
            tags.append(f"{name} {_short(value)}")
    if layer.kernel_size and layer.evidence != "module":
        tags.append("assumed")
        more = _doubts_of_assumptions(layer)
        tags += [_DOUBTED_ASSUMPTIONS[doubt] for doubt in more]
        notes.append(f"stride, padding and groups are not recorded; {_taken(layer)} assumed")
        notes += [doubt.sentence(layer.weight, layer.bias, torch_shape(layer)[0]) for doubt in more]
        doubts = (*doubts, *more)
    if Doubt.LINEAR_BY_NAME in doubts:
        tags.append("by name")
    if layer.evidence == "ambiguous" and layer.kind not in ("Norm", "PReLU", "Embedding", "Bias", "Parameter"):
        tags.append("ambiguous")
    if len(tags) == len(layer.tags) and len(notes) == len(layer.notes):
        return layer
    return layer._replace(tags=tuple(tags), notes=tuple(notes), doubts=doubts)


def _taken(layer: Layer) -> str:
    if layer.patch:
        return "by the name, stride equal to the kernel size, padding 0 and groups 1 are"
    return "stride 1, padding 0 and groups 1 are" if layer.pointwise else "groups 1 is"


def _short(value: tuple[int, ...]) -> str:
    return str(value[0]) if len(set(value)) == 1 else "×".join(map(str, value))


_DOUBTED_ASSUMPTIONS = {Doubt.MAY_BE_DEPTHWISE: "depthwise?", Doubt.USUALLY_STRIDE_2: "stride 2?"}
"""What of the assumptions may well be wrong, and its tag."""


def _doubts_of_assumptions(layer: Layer) -> list[Doubt]:
    doubts = []
    first, second = torch_shape(layer)[:2]
    if second == 1 and first > 1 and not layer.kind.startswith("ConvTranspose"):
        doubts.append(Doubt.MAY_BE_DEPTHWISE)
    if layer.pointwise and any(word in layer.name.lower() for word in _STRIDED_NAMES):
        doubts.append(Doubt.USUALLY_STRIDE_2)
    return doubts


def may_be_transposed(layer: Layer) -> bool:
    """Whether a pointwise convolution, by its shapes, may as well be a ConvTranspose."""
    if layer.kind in CONV_TRANSPOSES or not layer.pointwise or layer.low_rank or "assumed" not in layer.tags:
        return False
    first, second = torch_shape(layer)[:2]
    return layer.bias is None or first == second
