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
    if conversion.last and to_linear:
        # PatchLinear takes PyTorch's order alone.
        return [f"{name}: {conv} → {linear}", *_around_linear(channels, kernel, last=True)]
    if conversion.last:
        return [f"{name}: {linear} → {conv}", *_around_convolution(channels, kernel, last=True)]
    if to_linear:
        return [
            f"{name}: {conv} → {patch_linear}, from convinspect.modules",
            f"  or {linear}:",
            *_around_linear(channels, kernel),
        ]
    return [f"{name}: {patch_linear} or {linear} → {conv}", _WHERE, *_around_convolution(channels, kernel)]


_WHERE = "  where PatchLinear stood: nothing else; where nn.Linear stood, for any x of flattened patches, giving y:"


def _around_linear(channels: int, kernel: tuple[int, ...], last: bool = False) -> list[str]:
    """What goes around a plain Linear that does what the convolution did; `last`: channels are last in a patch."""
    dims, numbers = len(kernel), channels * math.prod(kernel)
    unfolds = "".join(f".unfold({axis}, {size}, {size})" for axis, size in enumerate(kernel, 2))
    into = f"x{unfolds}.movedim(1, {-1 if last else 1 + dims}).flatten({1 + dims})"
    return [
        f"    for x of (N, C, {_SPATIAL[dims]}): {into} before it, x.movedim(-1, 1) after it",
        f"    for x of (…, {numbers}), patches that are cut already: as it is, without a reshape before or after it",
    ]


def _around_convolution(channels: int, kernel: tuple[int, ...], last: bool = False) -> list[str]:
    """What goes around the convolution where a plain Linear was given patches; `last`: channels are last in them."""
    patch = ", ".join(map(str, (*kernel, channels) if last else (channels, *kernel)))
    turned = ".movedim(-1, 1)" * last
    line = f"    x.reshape(-1, {patch}){turned} before it, y.reshape(*x.shape[:-1], -1) after it"
    return [*["  for any x of flattened patches, giving y:"] * last, line]
