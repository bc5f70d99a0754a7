"""A layer over patches gives a convolution's outputs and gradients, as far apart as rounding may put them.

Both sum the same products in some order, with some fused: by Higham, "Accuracy and Stability of Numerical Algorithms"
(2nd ed. 2002), each is within γₙ Σ|xᵢwᵢ| of the exact sum of n products, γₙ = n·u / (1 − n·u), and for complex numbers
within √2·γ₂ₙ₊₂ (section 3.6). That holds for whatever sums in the dtype itself or in a wider one.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from convinspect.arrays.error_bound import agreement
from convinspect.modules import PatchLinear, expose_linears, swap_patches
from support.sampling import times

CONVS: list[Any] = [nn.Conv1d, nn.Conv2d, nn.Conv3d]
ORDERS = [torch.contiguous_format, torch.channels_last, torch.channels_last_3d]
WIDE = {True: torch.complex128, False: torch.float64}
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64, torch.complex128]


def gradients(module: Any, x: torch.Tensor, g: torch.Tensor) -> list[torch.Tensor]:
    """Of Σ g·y: by the input, the weight and the bias."""
    return list(torch.autograd.grad(module(x), [x, *module.parameters()], g))


def within(found: torch.Tensor, wanted: torch.Tensor, size: torch.Tensor, terms: int) -> None:
    """Both results of one shape, as far apart as sums of so many products may be, whose absolute values sum to `size`.

    Args:
        found: One result.
        wanted: The other, in the same dtype.
        size: As real numbers in float64.
        terms: Products and biases in one sum.
    """
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    found, wanted = found.detach(), wanted.detach()
    if not found.numel():
        return
    dtype = found.dtype
    if dtype == torch.float64:
        assert agreement(wanted, found, size, terms).ok
        return
    info = torch.finfo(dtype)
    if dtype.is_complex:
        terms = 2 * terms + 2
    gamma = terms * info.eps / 2 / (1 - terms * info.eps / 2)
    bound = 2 * (math.sqrt(2) if dtype.is_complex else 1) * gamma * size + 2 * terms * info.tiny
    wide = WIDE[dtype.is_complex]
    assert bool(((found.to(wide) - wanted.to(wide)).abs() <= bound).all())


@st.composite
def inputs(draw: Any, lead: tuple[int, ...], channels: int, sizes: list[int], dtype: torch.dtype) -> torch.Tensor:
    """An input in some layout in memory."""
    dims = len(sizes)
    layout = draw(st.sampled_from(["whole", "channels last", "every other", "turned", "expanded"]))
    if layout == "every other":
        return torch.randn(*lead, channels, *sizes[:-1], 2 * sizes[-1]).to(dtype)[..., ::2]
    if layout == "turned":
        return (
            torch.randn(*lead, channels, *reversed(sizes))
            .to(dtype)
            .permute(*range(len(lead) + 1), *reversed(range(len(lead) + 1, len(lead) + 1 + dims)))
        )
    x = torch.randn(*lead, channels, *sizes).to(dtype)
    if layout == "expanded":
        return x[..., :1].expand(x.shape)
    if layout == "channels last" and lead:
        return x.to(memory_format=ORDERS[dims - 1])
    return x


@settings(deadline=None, max_examples=times(40, 80))
@given(st.data())
def test_outputs_and_gradients_are_those_of_the_convolution(data: st.DataObject) -> None:
    """Of any dimensions, channels, kernels, sizes, dtypes, layouts, with and without a bias and a batch; and back."""
    dims = data.draw(st.integers(1, 3))
    kernel = data.draw(st.tuples(*[st.integers(1, 3)] * dims).filter(lambda sizes: any(size > 1 for size in sizes)))
    channels, out, dtype = (
        data.draw(st.integers(1, 3)),
        data.draw(st.integers(1, 5)),
        data.draw(st.sampled_from(DTYPES)),
    )
    lead = data.draw(st.sampled_from([(), (1,), (2,), (0,)]))
    sizes = [data.draw(st.integers(size, 2 * size + 1)) for size in kernel]
    torch.manual_seed(data.draw(st.integers(0, 2**20)))
    conv = CONVS[dims - 1](channels, out, kernel, kernel, bias=data.draw(st.booleans()), dtype=dtype)
    if dims > 1 and data.draw(st.booleans()):
        conv.to(memory_format=ORDERS[dims - 1])
    x = data.draw(inputs(lead, channels, sizes, dtype)).detach().requires_grad_()

    linear: Any = swap_patches(copy.deepcopy(conv)).model
    assert type(linear) is PatchLinear
    assert linear.weight.is_contiguous()
    assert torch.equal(linear.weight, conv.weight.flatten(1))
    positive = CONVS[dims - 1](channels, out, kernel, kernel, bias=conv.bias is not None, dtype=torch.float64)
    positive.load_state_dict({key: value.abs().double() for key, value in conv.state_dict().items()})
    absolute = x.detach().abs().double().requires_grad_()

    y = conv(x)
    g = torch.randn(y.shape, dtype=torch.float32).to(dtype)
    bounds = gradients(positive, absolute, g.abs().double())
    size, positions = positive(absolute).detach(), y.numel() // out
    terms = [out, positions, positions]
    for module in (linear, expose_linears(copy.deepcopy(linear)).model):
        z = module(x)
        within(z, y, size, channels * math.prod(kernel) + 1)
        assert z.is_contiguous() or z.is_contiguous(memory_format=ORDERS[dims - 1])
        for found, wanted, bound, count in zip(
            gradients(module, x, g), gradients(conv, x, g), bounds, terms, strict=False
        ):
            within(found.reshape(wanted.shape), wanted, bound, max(count, 1))

    back = swap_patches(linear, to="conv").model
    assert type(back) is type(conv)
    assert repr(back) == repr(conv)
    assert all(torch.equal(back.state_dict()[key], value) for key, value in conv.state_dict().items())
