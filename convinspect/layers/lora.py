"""DoRA magnitudes, which belong to a LoRA pair by name only, and change with it."""

from __future__ import annotations

import re

from convinspect.records import Edit, Tensor

_MAGNITUDES = {
    "lora_A": "lora_magnitude_vector",
    "lora_B": "lora_magnitude_vector",
    "lora_down": "dora_scale",
    "lora_up": "dora_scale",
}
"""Half of a low-rank pair → what DoRA's magnitudes beside it are called, by peft and by LyCORIS."""


_FIRST_HALVES = frozenset({"lora_down", "lora_A"})
_FOLLOWS = re.compile(r"(?:^|\.)(?:ia3_l|boft_s|lokr_w2)(?=\.|$)")


def same_rank(name: str, weight: Tensor, partner: Tensor | None) -> bool:
    """Whether both halves of a low-rank pair have one rank, so that its second half has no groups.

    Args:
        name: One half's.
        weight: Its weight.
        partner: The other's weight; None where the file does not have it, which is no evidence against the pair.
    """
    if partner is None or min(len(partner.shape), len(weight.shape)) < 2:
        return True
    first, second = (partner, weight) if _FIRST_HALVES.isdisjoint(name.split(".")) else (weight, partner)
    return first.shape[0] == second.shape[1]


def follows_a_layer(name: str) -> bool:
    """Whether a tensor that is no layer gets another shape with the layer that it belongs to: DoRA's magnitudes, and
    what IA³, BOFT and LoKr keep beside a convolution of kernel size 1.
    """
    return is_magnitude(name) or _FOLLOWS.search(name) is not None


def is_magnitude(name: str) -> bool:
    """Whether DoRA's magnitudes are called so: of a convolution they have a convolution's shape, (1, out, 1)."""
    return "lora_magnitude_vector" in name or name.endswith("dora_scale")


def magnitudes_of(name: str) -> str | None:
    """The layer with the DoRA magnitudes of the low-rank pair of layer `name`; None if that is not half of a pair."""
    parts = name.split(".")
    half = next((part for part in parts if part in _MAGNITUDES), None)
    return None if half is None else ".".join(_MAGNITUDES[half] if one == half else one for one in parts)


def magnitudes_edit(tensor: Tensor, extra: int) -> Edit | None:
    """The edit that gives magnitudes the shape beside weights with `extra` trailing dimensions of size 1.

    Args:
        tensor: peft's, (out,) beside a Linear and (1, out, 1, …) beside a convolution; or LyCORIS's, which has the
            weight's dimensions, all but one of size 1.
        extra: Trailing dimensions of size 1 of the converted weights; 0 for a Linear.

    Returns:
        None for any other shape.
    """
    ones = (1,) * extra
    if tensor.key.endswith("dora_scale"):
        matrix = len(tensor.shape) >= 2 and set(tensor.shape[2:]) <= {1} and 1 in tensor.shape[:2]
        return Edit(tensor, tensor.shape[:2] + ones, tensor.stride[:2] + ones) if matrix else None
    vector = as_vector(tensor)
    if vector is None:
        return None
    if not extra:
        return Edit(tensor, vector.shape, vector.stride)
    # peft's code makes it as a transposed view, so all its strides are the vector's.
    return Edit(tensor, (1, *vector.shape, *ones), vector.stride * (2 + extra))


def as_vector(tensor: Tensor) -> Tensor | None:
    """Magnitudes (out,) or (1, out, 1, …) as (out,), and so an adapter's scales (1, n, 1, …) and (n, 1): the same
    numbers; None for any other shape. What is named like an adapter's scales and is (n,) belongs to no adapter.
    """
    if len(tensor.shape) == 1:
        return tensor if is_magnitude(tensor.key) else None
    if _FOLLOWS.search(tensor.key) is not None and max(tensor.shape, default=0) == tensor.numel > 1:
        axis = tensor.shape.index(tensor.numel)
        if axis > 1 or len(tensor.shape) > 5:
            return None
        return tensor._replace(shape=(tensor.numel,), stride=(tensor.stride[axis],))
    if len(tensor.shape) < 3 or {tensor.shape[0], *tensor.shape[2:]} != {1}:
        return None
    return tensor._replace(shape=tensor.shape[1:2], stride=tensor.stride[1:2])
