"""Changes that a model's code needs after a convolution over patches became a Linear, or the reverse."""

from __future__ import annotations

import math

from convinspect.converting.plan import Conversion

_SPATIAL = {1: "L", 2: "H, W", 3: "T, H, W"}


def patch_advice(name: str, conversion: Conversion) -> list[str]:
    """The layer's line before and after, and what goes around it where only PyTorch's own classes are used.

    Args:
        name: The layer's, in the model.
        conversion: Of a convolution over patches, or of the Linear in its place.
    """
    kernel = conversion.patch
    wide_out, *rest = conversion.old_shape
    to_linear = len(rest) > 1
    channels = rest[0] if to_linear else rest[0] // math.prod(kernel)
    bias = ", bias=False" * (conversion.layer.bias is None)
    size = str(kernel[0]) if len(set(kernel)) == 1 else str(kernel)
    dims = f", dims={len(kernel)}" * (len(kernel) != 2)
    conv = f"nn.Conv{len(kernel)}d({channels}, {wide_out}, {size}, stride={size}{bias})"
    linear = f"nn.Linear({channels * math.prod(kernel)}, {wide_out}{bias})"
    patch_linear = f"PatchLinear({channels}, {wide_out}, {size}{bias}{dims})"
    if to_linear:
        return [f"{name}: {conv} → {patch_linear}, from convinspect.modules", *_plain_linear(linear, channels, kernel)]
    return [f"{name}: {patch_linear} or {linear} → {conv}", *_plain_convolution(channels, kernel)]


def _plain_linear(linear: str, channels: int, kernel: tuple[int, ...]) -> list[str]:
    """What goes around a plain Linear so that it does what the convolution did."""
    dims, numbers = len(kernel), channels * math.prod(kernel)
    unfolds = "".join(f".unfold({axis}, {size}, {size})" for axis, size in enumerate(kernel, 2))
    into = f"x{unfolds}.movedim(1, {1 + dims}).flatten({1 + dims})"
    return [
        f"  or {linear}:",
        f"    for x of (N, C, {_SPATIAL[dims]}): {into} before it, x.movedim(-1, 1) after it",
        f"    for x of (…, {numbers}), patches that are cut already: as it is, without a reshape before or after it",
    ]


def _plain_convolution(channels: int, kernel: tuple[int, ...]) -> list[str]:
    """What goes around the convolution where a plain Linear was given patches."""
    patch = ", ".join(map(str, (channels, *kernel)))
    return [
        "  where PatchLinear stood: nothing else; where nn.Linear stood, for any x of flattened patches, giving y:",
        f"    x.reshape(-1, {patch}) before it, y.reshape(*x.shape[:-1], -1) after it",
    ]
