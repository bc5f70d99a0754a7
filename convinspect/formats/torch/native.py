"""Weights in PyTorch's C++ objects and in quantized convolutions, which pickle a tuple in place of attributes.

A C++ object is `torch.ScriptObject` with the state `(what it stores, its class)` in a module that was pickled whole or
in its state_dict, and a class below `__torch__.torch.classes.` with that state in TorchScript. Quantized Linear layers
store `(weight, bias)`, quantized LSTM and GRU a tuple of lists and further such objects.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from convinspect.formats.pickle.values import Call, Tuple
from convinspect.formats.torch.nodes import arguments, function_name

_SCRIPT_OBJECT, _CLASSES = "torch.ScriptObject", "__torch__.torch.classes."
_LISTS = ("torch.jit._pickle.build_tensorlist", "torch.jit._pickle.restore_type_tag")
_DEEPEST, _LONGEST, _MOST = 8, 64, 256
_FIELDS = (
    "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "transposed", "output_padding",
    "groups", "padding_mode", "weight", "bias",
)  # fmt: skip
"""Of `_ConvNd.__getstate__` in `torch/ao/nn/quantized/modules/conv.py`; scale, zero point and mode follow."""


_PACKED = re.compile(r"\.quantized\.Conv[23]dPackedParamsBase$")
"""Classes that PyTorch's C++ registers. Convolutions of one dimension are of those of two, and transposed ones have a
flag."""
_OF_CONVOLUTION = ("config", "weight", "bias")
"""What its state holds, in this order: `serialize_conv` in PyTorch's `native/quantized/cpu/conv_serialization.h`."""


def is_native(node: Any) -> bool:
    """Whether the node is one of PyTorch's C++ objects."""
    name = function_name(node) or ""
    return name == _SCRIPT_OBJECT or name.startswith(_CLASSES)


def stored_in(key: str, node: Call) -> list[tuple[str, Any]]:
    """The calls in a C++ object's state, which may rebuild tensors, with names: `KEY.0`, `KEY.1`, ….

    What packs a convolution for `torch.ops.quantized` has `KEY.weight`, `KEY.bias`, and in `KEY.config` its stride,
    padding, dilation and groups as numbers.
    """
    names = _OF_CONVOLUTION if _PACKED.search(function_name(node) or "") else ()
    calls: list[tuple[str, Any]] = []
    todo: list[tuple[Any, int]] = [(node, 0)]
    while todo and len(calls) < _MOST:
        part, depth = todo.pop()
        inner = list(_inside(part)) if depth < _DEEPEST else []
        if len(inner) < _LONGEST:
            todo += [(item, depth + 1) for item in reversed(inner)]
        if isinstance(part, Call) and not inner and not is_native(part):
            number = len(calls)
            calls.append((f"{key}.{names[number] if number < len(names) else number}", part))
    return calls


def _inside(node: Any) -> Iterator[Any]:
    if isinstance(node, Tuple):
        yield from node.items
    elif isinstance(node, list):
        yield from node
    elif is_native(node):
        yield from node.states
    elif function_name(node) in _LISTS:
        yield from arguments(node)[:1]


def convolution_state(node: Call) -> dict[str, Any]:
    """The attributes of a quantized convolution, weight and bias among them; empty for anything else."""
    state = node.states[0] if len(node.states) == 1 else None
    named = ".quantized." in (function_name(node) or "")
    if not named or not isinstance(state, Tuple) or len(state.items) <= len(_FIELDS):
        return {}
    fields = dict(zip(_FIELDS, state.items, strict=False))
    fits = isinstance(fields["weight"], Call) and isinstance(fields["padding_mode"], str)
    return fields if fits else {}
