"""What a convolution over patches computes: an image is cut into patches, each becomes a row, whose dot products with
the kernels are a row of the result.

A convolution whose stride is its kernel size meets each number once, so its weight (O, C, kh, kw), flattened, is that
of a Linear over the flattened patches. PyTorch computes both, and they are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from convinspect.errors import CannotShow, Option, Wording
from convinspect.explaining.example import Example, Image, check_same, real, sizes_text
from convinspect.explaining.words import Parts, Said
from convinspect.kinds import CONVOLUTIONS
from convinspect.layers.patches import grid_of
from convinspect.text import with_article

if TYPE_CHECKING:
    from convinspect.records import Layer

_CONVOLVE = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_WANTED = {1: "L", 2: "H, W", 3: "T, H, W"}

_PIXELS = [
    [1.0, -0.5, 2.0, 1.5], [0.5, 2.0, -1.0, 0.5], [0.0, 1.0, -2.0, 3.0], [1.5, -1.0, 0.5, 1.0],
    [0.2, 0.4, -0.6, 0.8], [1.0, -0.2, 0.6, 0.4], [-0.4, 0.8, 0.2, -1.0], [0.6, 0.0, 1.2, -0.8],
]  # fmt: skip
"""Two channels of 4 × 4."""
_KERNELS = [
    [0.5, -0.2, 0.1, 0.3, 0.4, -0.6, 0.2, 0.1], [-0.1, 0.7, 0.2, 0.0, 0.8, -0.3, 0.5, -0.4],
    [0.9, 0.2, -0.5, 0.6, -0.7, 0.1, 0.3, 0.2],
]  # fmt: skip
_BIASES = [0.1, -0.2, 0.3]


def built_in_patches(image: torch.Tensor | None, count: int) -> Example:
    """A patch embedding in small: Conv2d(2, 3, 2, stride=2), where 2 channels of 2 × 2 become 3 numbers.

    Args:
        image: (2, H, W); by default one of 2 × 2 patches, or of as many as are asked for.
        count: Patches, if no image is given.

    Raises:
        CannotShow: The image does not fit.
    """
    weight = torch.tensor(_KERNELS, dtype=torch.float64).reshape(3, 2, 2, 2)
    if image is None:
        down, across = grid_of(count, 2)
        small = torch.tensor(_PIXELS, dtype=torch.float64).reshape(2, 4, 4)
        # Larger ones repeat the small one, each time with numbers one higher.
        rows, columns = torch.arange(2 * down), torch.arange(2 * across)
        image = small[:, rows % 4][:, :, columns % 4] + (rows // 4)[:, None] + columns // 4
    bias = torch.tensor(_BIASES, dtype=torch.float64)
    return patch_example("patch_embed", "Conv2d", (3, 2, 2, 2), weight, bias, image)


def patches_of_layer(layer: Layer, image: torch.Tensor | None, count: int, seed: int) -> Example:
    """A file's layer on the given image, or on a random one of numbers rounded to one decimal.

    Args:
        layer: Any.
        image: (C, …) in float64, or None.
        count: Patches, if no image is given.
        seed: Of the numbers, if no image is given.

    Raises:
        CannotShow: The layer cuts no patches, or the image does not fit it.
        ConvInspectError: Its numbers cannot be read.
    """
    from convinspect.arrays.to_torch import weight_and_bias

    name = layer.name or "(root)"
    _check_layer(layer, name)
    stored, bias = weight_and_bias(layer)
    weight = real(stored, f"{name} has")
    if image is None and weight.numel():
        patch = weight.shape[2:]
        sizes = [step * number for step, number in zip(patch, grid_of(count, len(patch)), strict=True)]
        drawn = torch.randn(weight.shape[1], *sizes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        # A division by ten gives the number that is nearest to the printed decimal.
        image = (drawn * 10).round() / 10
    kept = None if bias is None else real(bias, f"{name} has")
    return patch_example(name, layer.kind, layer.weight.shape, weight, kept, image, _assumed(layer))


def _check_layer(layer: Layer, name: str) -> None:
    """Only of a convolution that cuts patches can these be drawn.

    Raises:
        CannotShow: It is another layer.
    """
    from convinspect.converting.eligibility import patch_obstacle

    without = Wording("leave out ", Option("patches"))
    if layer.kind == "Linear":
        problem = f"{name} is a Linear, and the size of its patches is not in the file"
        raise CannotShow(problem, Wording(without, " to draw its rows"))
    if layer.kind not in CONVOLUTIONS:
        raise CannotShow(f"{name} is {with_article(layer.kind)}, and patches can be drawn of Conv1d, Conv2d and Conv3d")
    if layer.pointwise:
        raise CannotShow(f"{name} has kernel size 1, so that its patches are single positions", without)
    why = patch_obstacle(layer, exact=True)
    if why is not None:
        slides = layer.kind == "Conv1d" and layer.groups in (None, 1)
        remedy = Wording(without, " to draw its sliding window") if slides else ""
        raise CannotShow(f"{name} does not cut patches: {why}", remedy)


def _assumed(layer: Layer) -> str:
    settings = ((Said("stride as the kernel's size"), layer.stride), ("padding 0", layer.padding),
                ("dilation 1", layer.dilation), ("groups 1", layer.groups))  # fmt: skip
    unknown = [what for what, value in settings if value is None]
    return (
        Said("assumed, since the file does not record it: {settings}", settings=Parts(", ".join(unknown), unknown))
        if unknown
        else ""
    )


def patch_example(
    name: str,
    kind: str,
    stored: Sequence[int],
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    image: torch.Tensor | None,
    note: str = "",
) -> Example:
    """Run a convolution over patches, and the Linear that it is.

    Args:
        name: Of the layer.
        kind: Of the layer.
        stored: Shape of its weight in the file.
        weight: (O, C, …) in float64, with one to three dimensions of positions.
        bias: (O,) or None.
        image: (C, …) in float64, or one such image as a batch; of one channel also without its axis.
        note: Said beside the drawing.

    Raises:
        CannotShow: The weight holds no numbers, the image does not fit, or both results differ by more than rounding.
    """
    if weight.numel() == 0 or image is None:
        raise CannotShow(f"{name} has a weight of {sizes_text(stored)}, with no numbers to draw")
    patch, dims = tuple(weight.shape[2:]), weight.dim() - 2
    image = _fitting(image, weight, name)
    from convinspect.modules.patches import Patches

    rows = Patches(patch).rows(image).flatten(0, dims - 1)
    f = _CONVOLVE[dims](image.unsqueeze(0), weight, bias, stride=patch)[0].flatten(1).T
    y = functional.linear(rows, weight.flatten(1), bias)
    check_same(f, y, (rows, weight.flatten(1), bias), name)
    times, down, across = (1,) * (3 - dims) + patch
    whole = image.reshape(image.shape[0], *(1,) * (3 - dims), *image.shape[1:])
    sizes = (whole.shape[1], whole.shape[2], whole.shape[3])
    return Example(
        name,
        kind,
        tuple(stored),
        rows.tolist(),
        weight.flatten(1).unsqueeze(-1).tolist(),
        None if bias is None else bias.tolist(),
        f.tolist(),
        y.tolist(),
        note,
        Image(whole.tolist(), sizes, (times, down, across), dims),
    )


def _fitting(image: torch.Tensor, weight: torch.Tensor, name: str) -> torch.Tensor:
    """The image as (C, …).

    Raises:
        CannotShow: It has another number of channels or dimensions, or is smaller than a patch.
    """
    given, patch, dims, channels = image.shape, weight.shape[2:], weight.dim() - 2, weight.shape[1]
    if image.dim() == dims + 2 and image.shape[0] == 1:
        image = image[0]
    if image.dim() == dims and channels == 1:
        image = image[None]
    if image.dim() != dims + 1 or image.shape[0] != channels:
        raise CannotShow(f"the data are {sizes_text(given)}, and {name} takes ({channels}, {_WANTED[dims]})",
                         "give them in that shape, as .npy or .pt")  # fmt: skip
    if any(size < step for size, step in zip(image.shape[1:], patch, strict=True)):
        raise CannotShow(
            f"the data are {sizes_text(given)}, less than one patch of {name}, {sizes_text(patch)}", "give more"
        )
    return image
