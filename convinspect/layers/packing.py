"""How many numbers a packed weight stands for, where its tensors' shapes or the few bytes beside them tell.

The packings are those of GPTQ and AWQ (`qweight`), compressed-tensors (`weight_packed`), bitsandbytes (`quant_state`),
HQQ (`W_q`), torchao (`_weight_qdata`), optimum-quanto (`weight._data`), MLX (`scales`, `biases` and the model's
`config.json`), MXFP4 (`_blocks`) and PyTorch's float4_e2m1fn_x2.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache
from math import prod
from pathlib import Path

from convinspect.dtypes import NUMBERS
from convinspect.errors import ConvInspectError
from convinspect.formats.files import File
from convinspect.kinds import QUANTIZED
from convinspect.records import Layer, Tensor

PACKED_WEIGHTS = ("qweight", "weight_packed", "W_q", "_weight_qdata", "weight._data", "weight._data._data")
"""What packed weights are called within their module, all of whose tensors belong to them."""
BLOCKS, SCALES = "_blocks", "_scales"
"""Ends of the names of MXFP4's numbers, two to a byte, and of their scales, one for each 32."""
_BNB = "weight.quant_state.bitsandbytes__"
_MOST_BYTES = 4096
_MLX = [(bits, group) for bits in (2, 3, 4, 5, 6, 8) for group in (32, 64, 128)]


def packed_weight(tensors: Mapping[str, Tensor]) -> Tensor | None:
    """A module's packed weight, if it has one."""
    return next((tensors[leaf] for leaf in PACKED_WEIGHTS if leaf in tensors), None)


def is_packed(layer: Layer) -> bool:
    """Whether its parameters are other numbers than its stored elements, or may be."""
    if layer.kind == "Parameter":
        return _is_of_blocks(layer) or layer.weight.layout == "quantized"
    return layer.kind in QUANTIZED


def _is_of_blocks(parameter: Layer) -> bool:
    return "quantized" in parameter.tags and parameter.name.endswith(BLOCKS)


def logical_parameters(layer: Layer) -> int | None:
    """Numbers of a packed layer's weight and bias; None where the packing does not tell.

    Args:
        layer: One for which `is_packed` is true.
    """
    if layer.kind == "Parameter":
        return layer.weight.numel * (2 if _is_of_blocks(layer) else 1)
    weight = logical_weight(layer)
    bias = layer.bias if layer.bias is not layer.weight else None
    return None if weight is None else weight + (0 if bias is None else bias.numel)


def logical_weight(layer: Layer) -> int | None:
    """Numbers that a quantized layer's weight stands for; None where the packing does not tell."""
    weight, tensors = layer.weight, layer.tensors
    if weight.dtype == "float4_e2m1fn_x2":
        return 2 * weight.numel
    if weight.layout == "quantized" or weight.dtype.startswith(("float4_", "float6_")):
        return weight.numel
    if "qweight" in tensors:
        return _gptq_or_awq(tensors)
    if "weight_packed" in tensors:
        recorded = _held(_recorded(tensors.get("weight_shape")), weight)
        return recorded or _halves(weight, tensors.get("weight_scale"))
    if "W_q" in tensors:
        return _held(_recorded(tensors.get("shape")), weight)
    state = next((tensor for leaf, tensor in tensors.items() if leaf.startswith(_BNB)), None)
    if state is not None:
        return _held(_bitsandbytes(state), weight)
    if "scales" in tensors and weight.dtype == "uint32":
        return _mlx(weight, tensors["scales"])
    if "weight._data._data" in tensors:
        return _quanto(weight, tensors.get("weight._scale"))
    if weight.dtype == "uint8":
        return _halves(weight, tensors.get("weight_scale"))
    scale = tensors.get("_weight_scale")
    if scale is not None and weight.dtype == "int8" and scale.shape[:1] != weight.shape[:1]:
        return None
    return weight.numel if weight.dtype == "int8" or weight.dtype in NUMBERS else None


def _gptq_or_awq(tensors: Mapping[str, Tensor]) -> int | None:
    """GPTQ packs rows, (in · bits / 32, out), AWQ columns, (in, out · bits / 32); their scales are (groups, out)."""
    weight, zeros, scales = tensors["qweight"], tensors.get("qzeros"), tensors.get("scales")
    if zeros is None or scales is None or not all(len(each.shape) == 2 for each in (weight, zeros, scales)):
        return None
    wide_out, word = scales.shape[1], 32 if weight.dtype == "int32" else 0
    bits, rest = divmod(word * zeros.shape[1], wide_out or 1)
    if rest or not 1 < bits <= 8:
        return None
    if weight.shape[1] == zeros.shape[1] and weight.shape[1] < wide_out:
        return weight.shape[0] * wide_out
    wide_in, rest = divmod(weight.shape[0] * word, bits)
    return None if rest or weight.shape[1] != wide_out else wide_in * wide_out


def _halves(weight: Tensor, scale: Tensor | None) -> int | None:
    """Two 4-bit floats to a byte, (out, in / 2), with a scale for each 16 (NVFP4) or 32 (MXFP4) of them."""
    if weight.dtype != "uint8" or scale is None or len(weight.shape) != 2 or scale.shape[:1] != weight.shape[:1]:
        return None
    block = {"float8_e4m3fn": 16, "uint8": 32, "float8_e8m0fnu": 32}.get(scale.dtype, 0)
    return 2 * weight.numel if scale.numel * block == 2 * weight.numel else None


def _quanto(weight: Tensor, scale: Tensor | None) -> int | None:
    """Two or four numbers to a byte, with a scale for each 128, 64 or 32 of them."""
    sizes = (128, 64, 32)
    fits = {2 * weight.numel, 4 * weight.numel} & {scale.numel * size for size in sizes if scale is not None}
    return fits.pop() if len(fits) == 1 else None


def _mlx(weight: Tensor, scales: Tensor) -> int | None:
    """Words of 32 bits, (out, in · bits / 32), with a scale for each group of 32, 64 or 128 numbers."""
    if len(weight.shape) != len(scales.shape) or not scales.numel or weight.shape[:-1] != scales.shape[:-1]:
        return None
    fits = {group * scales.numel for bits, group in _MLX if group * scales.numel * bits == 32 * weight.numel}
    if len(fits) > 1 and weight.storage is not None:
        fits &= {group * scales.numel for group in _groups_of_config(weight.storage.file.parent / "config.json")}
    return fits.pop() if len(fits) == 1 else None


@lru_cache(maxsize=8)
def _groups_of_config(path: Path) -> frozenset[int]:
    """The group sizes in the `quantization` of a model's configuration, which MLX writes beside its weights."""
    # Imported here, since few files need it and others open faster without it.
    import json

    try:
        with File(path) as file:
            config = json.loads(file.read(0, _MOST_BYTES * 1024))
        chosen = config["quantization"]
        groups = [chosen["group_size"], *(each["group_size"] for each in chosen.values() if isinstance(each, dict))]
    except (ConvInspectError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return frozenset()
    return frozenset(group for group in groups if type(group) is int)


def _bitsandbytes(state: Tensor) -> int | None:
    """The shape that a 4-bit weight's `quant_state` records, JSON in bytes."""
    import json

    text = _bytes_of(state)
    try:
        shape = json.loads(text)["shape"] if text is not None else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return _product(shape)


def _recorded(shape: Tensor | None) -> int | None:
    """The number of elements that a tensor of sizes records."""
    code = {"int64": "q", "int32": "i"}.get(shape.dtype) if shape is not None and len(shape.shape) == 1 else None
    raw = None if shape is None or code is None else _bytes_of(shape)
    if raw is None or shape is None:
        return None
    sizes = list(struct.unpack(f"<{shape.numel}{code}", raw))
    return _product(sizes)


def _held(count: int | None, weight: Tensor) -> int | None:
    """A recorded number of elements; None where the packed ones cannot be so many or so few: each holds one at least,
    in a bit or more.
    """
    return count if count is not None and weight.numel <= count <= 8 * weight.nbytes else None


def _product(shape: object) -> int | None:
    """The product of a list of sizes; None for anything else."""
    if not isinstance(shape, list) or not shape or not all(type(size) is int and 0 < size < 2**31 for size in shape):
        return None
    return prod(shape)


def _bytes_of(tensor: Tensor) -> bytes | None:
    """The bytes of a small tensor; None where they do not lie plainly in a file."""
    storage = tensor.storage
    size = tensor.nbytes
    if storage is None or storage.start is None or storage.packed_nbytes is not None or not 0 < size <= _MOST_BYTES:
        return None
    if not tensor.whole or tensor.layout != "strided" or storage.byteorder != "little" or tensor.stride != (1,):
        return None
    try:
        with File(storage.file) as file:
            start = storage.start
            if storage.local_header:
                start += 30 + sum(struct.unpack("<HH", file.read(start + 26, struct.calcsize("<HH"))))
            raw = file.read(start + tensor.offset * (size // tensor.numel), size)
    except (ConvInspectError, struct.error):
        return None
    return raw if len(raw) == size else None
