"""Which convolutions cut their input into patches: their stride is their kernel size, so each number is met once.

Without padding, dilation and groups such a convolution is a Linear over flattened patches (Dosovitskiy et al., 2020,
arXiv:2010.11929), as a pointwise one is over channels. A state_dict does not record the stride, but has names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from convinspect.doubts import Doubt
from convinspect.records import Layer

_NAMES = re.compile(
    r"(?:.*\.)?(?:\w*patch_?embed\w*(?:\.proj\w*|\.\d+)?|\w*patchify\w*(?:\.proj\w*)?|\w*conv_proj|patch_conv"
    r"|(?:pos_embed|x_embedder)\.proj|visual\.conv1)"
)
"""Of patch embeddings in transformers, timm, torchvision, diffusers, OpenAI's CLIP, and the models after these."""


def is_patch(layer: Layer, settings: Mapping[str, Any]) -> bool:
    """Whether a convolution whose settings are known meets each number of its input once, in a window of several.

    Args:
        layer: With `kernel_size`, `stride`, `padding`, `dilation` and `groups`, as far as they are recorded.
        settings: Its module's other settings: `output_padding` of a transposed convolution.
    """
    kernel = layer.kernel_size
    known = isinstance(layer.padding, tuple) or layer.padding == "valid"
    pads = (*(layer.padding or ()), *_numbers(settings.get("output_padding"))) if layer.padding != "valid" else ()
    gaps = layer.dilation is None or any(step != 1 for step, n in zip(layer.dilation, kernel, strict=True) if n != 1)
    moved = {Doubt.PADDED, Doubt.MAY_BE_PADDED, Doubt.CALLS_DIFFER} & set(layer.doubts)
    return (
        any(size != 1 for size in kernel)
        and layer.stride == kernel
        and known
        and not any(pads)
        and not gaps
        and not moved
        and layer.groups == 1
    )


def _numbers(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value or 0,)


def grid_of(count: int, dims: int) -> tuple[int, ...]:
    """So many patches along each of the axes, in the last two as near to a square as the count allows.

    Args:
        count: Of all patches; one at least. More than 2³², which no memory holds, are given in one row.
        dims: Number of axes, 1 to 3.
    """
    if dims == 1:
        return (count,)
    # To look for the divisors of any number takes a minute where it has 17 digits.
    sides = range(math.isqrt(count), 0, -1) if count <= 1 << 32 else (1,)
    high = next(number for number in sides if count % number == 0)
    return (*(1,) * (dims - 2), high, count // high)


def is_patch_by_name(layer: Layer) -> bool:
    """Whether a convolution of a state_dict is one by its name and shape.

    Windows of an odd size overlap in most layers of these names (SegFormer, PVT 2, Hiera), and so do those over one
    channel (spectrograms); then the name says nothing.
    """
    kernel = layer.kernel_size
    sizes = [size for size in kernel if size != 1]
    even = bool(sizes) and all(size % 2 == 0 for size in sizes)
    return even and layer.weight.shape[1] > 1 and says_patches(layer.name)


def says_patches(name: str) -> bool:
    """Whether a layer's name says that it multiplies patches, as a convolution or as a Linear."""
    # What an adapter is put on is one level further down.
    return _NAMES.fullmatch(name.removesuffix(".base_layer")) is not None
