"""Classify a layer by the class and attributes of its module, if the file describes it (evidence "module")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convinspect.formats.torch.calls import OTHER, TRANSPOSED
from convinspect.kinds import MULTIPLIED, TRANSFORMERS_CONV1D
from convinspect.layers.patches import is_patch
from convinspect.records import Doubt, Layer, Module

_HYPERPARAMETERS = ("stride", "padding", "dilation")


def of_torch(module: Module) -> bool:
    """Whether its class is PyTorch's own; a subclass may compute something else."""
    return module.class_name.startswith("torch.nn.") or is_operator(module)


def is_operator(module: Module) -> bool:
    """Whether it is known from an operator that a graph passes its tensors to, and not from its class."""
    return module.class_name.startswith("torch.ops.aten.")


def by_module(layer: Layer, module: Module) -> Layer | None:
    """The layer according to the module's class and attributes; None if they do not describe a known weight."""
    values = module.attributes
    kind = module.kind
    dims = len(layer.weight.shape)
    if "kernel_size" in values or (kind.startswith(("Conv", "LazyConv")) and 3 <= dims <= 5 and "stride" in values):
        return _conv_module(layer, module) if 3 <= dims <= 5 else None
    if dims == 2 and kind == "Conv1D" and ("nf" in values or module.class_name.startswith("transformers.")):
        rows, columns = layer.weight.shape
        return layer._replace(kind=TRANSFORMERS_CONV1D, evidence="module", in_width=rows, out_width=columns)
    if dims == 2 and (kind in _LINEAR_CLASSES or {"in_features", "out_features"} <= set(values)):
        rows, columns = layer.weight.shape
        return named_class(layer._replace(kind="Linear", evidence="module", in_width=columns, out_width=rows), module)
    if kind.startswith("Conv") and 3 <= dims <= 5 and module.class_name.startswith("torch.nn."):
        # Tracing and old releases may keep the class and drop its numbers.
        return _conv_module(layer, module)
    if values.get("weight") == TRANSPOSED and dims == 2:
        rows, columns = layer.weight.shape
        note = f"a Linear whose weight is stored as (in, out): its code multiplies with it by {kind}"
        found = layer._replace(kind=TRANSFORMERS_CONV1D, evidence="module", in_width=rows, out_width=columns)
        return found._replace(tags=(*layer.tags, MULTIPLIED), notes=(*layer.notes, note))
    if values.get("weight") == OTHER:
        note = f"its code uses it in {kind}, which is not read as a layer"
        return layer._replace(kind="Parameter", evidence="module", notes=(*layer.notes, note))
    if isinstance(values.get("called"), str) and 3 <= dims <= 5 and not of_torch(module):
        # A class of the user's whose code calls a convolution with its weight.
        return _conv_module(layer, module)
    if of_torch(module):
        return layer._replace(kind=kind, evidence="module")
    return None


_LINEAR_CLASSES = {"Linear", "NonDynamicallyQuantizableLinear", "LazyLinear"}


def _conv_module(layer: Layer, module: Module) -> Layer:
    values = module.attributes
    first, second, *kernel = layer.weight.shape
    dims, called = len(kernel), str(values.get("called", ""))
    transposed = bool(values.get("transposed", "Transpose" in module.kind or "transpose" in called))
    groups = values.get("groups") if type(values.get("groups")) is int else None
    inner = None if groups is None else second * groups
    settings = {name: _setting(name, values.get(name), dims) for name in _HYPERPARAMETERS}
    found = layer._replace(
        kind=f"Conv{'Transpose' if transposed else ''}{dims}d",
        evidence="module",
        pointwise=all(size == 1 for size in kernel) and not (transposed and _adds_positions(settings, values)),
        in_width=first if transposed else inner,
        out_width=inner if transposed else first,
        kernel_size=tuple(kernel),
        groups=groups,
        **settings,
    )
    found = _with_calls(found, values)
    return named_class(found._replace(patch=is_patch(found, values)), module)


def _adds_positions(settings: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    """Whether a transposed convolution gives positions that none of its input is behind."""
    added = values.get("output_padding")
    return any(n != 1 for n in settings["stride"] or ()) or any(added if isinstance(added, tuple) else (added or 0,))


_PADDED = {"layer": Doubt.PADDED, "before": Doubt.MAY_BE_PADDED}


def _with_calls(layer: Layer, values: Mapping[str, Any]) -> Layer:
    """The layer with what stands before its convolution, and whether other calls use its weight with other settings."""
    notes: list[str] = []
    mode = values.get("padding_mode", "zeros")
    if mode != "zeros" and isinstance(layer.padding, tuple) and any(layer.padding):
        notes.append(f"it pads its input, with padding_mode {mode}" if mode else "it pads its input itself")
    doubts = [_PADDED[values["padded"]]] if values.get("padded") in _PADDED else []
    if values.get("calls") == "differ":
        doubts.append(Doubt.CALLS_DIFFER)
    if not notes and not doubts:
        return layer
    notes += [doubt.value for doubt in doubts]
    tags = [_TAGS[doubt] for doubt in doubts]
    return layer._replace(tags=(*layer.tags, *tags), notes=(*layer.notes, *notes), doubts=(*layer.doubts, *doubts))


_TAGS = {Doubt.PADDED: "padded", Doubt.MAY_BE_PADDED: "padded?", Doubt.CALLS_DIFFER: "calls differ"}


def _setting(name: str, value: Any, dims: int) -> Any:
    """Stride, padding or dilation as a tuple, one number per dimension; a padding's name unchanged.

    None of what PyTorch would not take: a file may say anything.
    """
    if isinstance(value, str):
        return value if name == "padding" and value in ("same", "valid") else None
    numbers = value if isinstance(value, tuple) else (value,)
    if len(numbers) not in (1, dims) or not all(type(number) is int for number in numbers):
        return None
    return numbers * dims if len(numbers) == 1 else numbers


def named_class(layer: Layer, module: Module) -> Layer:
    """Name the class if it is not PyTorch's own, since a subclass may compute something else."""
    if of_torch(module):
        return layer
    return layer._replace(notes=(*layer.notes, f"its class is {module.class_name}"))
