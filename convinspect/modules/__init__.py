"""The same conversion on live modules: a pointwise convolution ↔ a Linear, alone or everywhere in a model.

    conv1d_to_linear(conv)            nn.Conv1d (O, I, 1)  →  nn.Linear (O, I)
    linear_to_conv1d(linear)          and back; also 2d and 3d
    transformers_to_linear(layer)     transformers' Conv1D (I, O)  →  nn.Linear (O, I)
    swap_pointwise(model)             every pointwise layer of a model, which then runs as before
    swap_patches(model)               every convolution whose stride is its kernel size, as a Linear over patches
    expose_linears(model)             stand-ins as plain nn.Linear children, for quantizers and adapters

A convolution is a Linear at each position when its kernel is 1 everywhere, stride 1, padding 0, groups 1 and it is
not transposed: with that, the formulas in the documentation of `torch.nn.Conv1d` and `torch.nn.Linear` are the same
sum over channels, as "Network In Network" (Lin, Chen, Yan, 2013, arXiv:1312.4400) reads it. Dilation does nothing to
a kernel of size 1. Stride and padding act on positions before the weights do, so `PointwiseLinear` does them exactly;
what no Linear can do is refused by name. A transposed convolution of kernel 1, stride 1, without padding and
output_padding, is a Linear too, of its weight transposed: `torch.nn.ConvTranspose1d` stores (I, O, 1). transformers'
`Conv1D` is `transformers.pytorch_utils.Conv1D`, `x @ weight + bias`.

Numbers are shared with the old module where strides allow, not copied. Make optimizers after converting: weights are
new parameters, with the attributes that the old ones had. Biases and whatever else keeps its shape are the same
objects. A single module that was converted lives on beside the new one, so each has hooks, norms, pruning and buffers
of its own.
"""

from __future__ import annotations

from convinspect.modules.choosing import Where
from convinspect.modules.patches import PatchLinear
from convinspect.modules.pointwise import (
    ChannelsFirstLinear,
    PointwiseConv1d,
    PointwiseConv2d,
    PointwiseConv3d,
    PointwiseLinear,
)
from convinspect.modules.single import (
    conv1d_to_linear,
    conv2d_to_linear,
    conv3d_to_linear,
    linear_to_conv1d,
    linear_to_conv2d,
    linear_to_conv3d,
    transformers_to_linear,
)
from convinspect.modules.swap import Left, Skipped, Swap, Swaps, Target, expose_linears, swap_patches, swap_pointwise

__all__ = [
    "ChannelsFirstLinear",
    "Left",
    "PatchLinear",
    "PointwiseConv1d",
    "PointwiseConv2d",
    "PointwiseConv3d",
    "PointwiseLinear",
    "Skipped",
    "Swap",
    "Swaps",
    "Target",
    "Where",
    "conv1d_to_linear",
    "conv2d_to_linear",
    "conv3d_to_linear",
    "expose_linears",
    "linear_to_conv1d",
    "linear_to_conv2d",
    "linear_to_conv3d",
    "swap_patches",
    "swap_pointwise",
    "transformers_to_linear",
]
