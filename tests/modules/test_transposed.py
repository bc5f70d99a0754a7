"""Transposed convolutions of kernel size 1 in live models: a Linear of the transposed weight, and back. The oracle is
PyTorch.
"""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from convinspect.modules import (
    ChannelsFirstLinear,
    PointwiseLinear,
    expose_linears,
    linear_to_conv1d,
    swap_patches,
    swap_pointwise,
)
from support.sampling import times

pytestmark = pytest.mark.filterwarnings("ignore")

PRUNE: Any = prune
TRANSPOSED: list[Any] = [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d]
ORDERS = [torch.contiguous_format, torch.channels_last, torch.channels_last_3d]


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    """Equal up to the rounding of float64, in which every test here computes."""
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


def swapped(module: nn.Module, to: Any = "linear") -> Any:
    swaps = swap_pointwise(module, to)
    assert len(swaps.swapped) == 1, swaps.left
    return swaps.model


@settings(deadline=None, max_examples=times(40, 80))
@given(st.data())
def test_it_computes_the_same_with_the_same_gradients_and_goes_back(data: st.DataObject) -> None:
    dims = data.draw(st.integers(1, 3))
    wide_in, wide_out = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))
    conv: Any = TRANSPOSED[dims - 1](
        wide_in, wide_out, 1, bias=data.draw(st.booleans()), dilation=data.draw(st.integers(1, 3)), dtype=torch.float64
    )
    leads: list[tuple[int, ...]] = [(), (1,), (3,), (0,)]
    lead = data.draw(st.sampled_from(leads))
    x = torch.randn(*lead, wide_in, *[data.draw(st.integers(1, 4)) for _ in range(dims)], dtype=torch.float64)
    turned: bool = data.draw(st.booleans())
    if lead and turned:
        x = x.to(memory_format=ORDERS[dims - 1])
    x.requires_grad_()
    trained = data.draw(st.booleans())
    if trained:
        conv(x).square().sum().backward()
    linear = swapped(conv)
    assert isinstance(linear, PointwiseLinear)
    assert linear.weight.shape == (wide_out, wide_in)
    assert linear.weight.is_contiguous()
    assert torch.equal(linear.weight, conv.weight.flatten(1).T)
    if linear.weight.grad is not None:
        assert torch.equal(linear.weight.grad, conv.weight.grad.flatten(1).T)
    assert (linear.weight.grad is not None) == trained
    y, z = conv(x), linear(x)
    close(z, y)
    close(expose_linears(copy.deepcopy(linear)).model(x), y)
    g = torch.randn_like(y)
    before = torch.autograd.grad(y, [x, *conv.parameters()], g)
    after = torch.autograd.grad(z, [x, *linear.parameters()], g)
    for found, wanted in zip(after, before, strict=True):
        close(found.T.reshape(wanted.shape) if found is after[1] else found, wanted)
    back = swapped(linear, f"conv{dims}d")
    assert type(back) is type(conv)
    assert repr(back) == repr(conv)
    assert all(torch.equal(back.state_dict()[key], value) for key, value in conv.state_dict().items())


@pytest.mark.parametrize(
    ("conv", "word"),
    [
        (nn.ConvTranspose1d(4, 6, 3), "kernel size is 3"),
        (nn.ConvTranspose2d(4, 6, 2, 2), "kernel size is 2×2"),
        (nn.ConvTranspose2d(4, 6, 1, (1, 2)), "stride=(1, 2)"),
        (nn.ConvTranspose1d(4, 6, 1, padding=1), "padding=1"),
        (nn.ConvTranspose3d(4, 6, 1, dilation=2, output_padding=1), "output_padding=1"),
        (nn.ConvTranspose2d(4, 6, 1, groups=2), "groups=2"),
        (nn.LazyConvTranspose1d(4, 1), "lazy"),
        (weight_norm(nn.ConvTranspose1d(4, 6, 1)), "WeightNorm"),
        (spectral_norm(nn.ConvTranspose1d(4, 6, 1)), "SpectralNorm"),
        (parametrizations.weight_norm(nn.ConvTranspose2d(4, 6, 1)), "WeightNorm"),
        (parametrizations.spectral_norm(nn.ConvTranspose2d(4, 6, 1)), "SpectralNorm"),
    ],
)
def test_what_is_no_linear_stays_with_the_reason(conv: nn.Module, word: str) -> None:
    model = nn.Sequential(conv)
    swaps = swap_pointwise(model)
    assert swaps.swapped == ()
    assert word in swaps.left[0].reason
    assert model[0] is conv


class OwnForward(nn.ConvTranspose1d):
    def forward(self, input: torch.Tensor, output_size: Any = None) -> torch.Tensor:
        return super().forward(input) * 2


class Renamed(nn.ConvTranspose1d):
    """A subclass that computes nothing of its own."""


def test_subclasses_with_code_of_their_own_stay() -> None:
    (left,) = swap_pointwise(nn.Sequential(OwnForward(4, 6, 1))).left
    assert "OwnForward computes something of its own" in left.reason
    assert type(swapped(nn.Sequential(Renamed(4, 6, 1)))[0]) is PointwiseLinear


@pytest.mark.parametrize("wide_out", [4, 6])
def test_flags_hooks_pruning_and_attributes_go_along(wide_out: int) -> None:
    conv: Any = nn.ConvTranspose1d(4, wide_out, 1).double().eval()
    conv.weight._no_weight_decay = True
    conv.bias.requires_grad_(False)
    seen: list[torch.Size] = []
    handle = conv.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    x = torch.randn(2, 4, 5, dtype=torch.float64)
    wanted = conv(x)
    model: Any = swapped(nn.Sequential(conv))
    close(model(x), wanted)
    assert model[0].weight._no_weight_decay
    assert not model[0].bias.requires_grad
    assert not model[0].training
    handle.remove()
    model(x)
    assert len(seen) == 2
    PRUNE.ln_structured(conv, "weight", 0.5, n=2, dim=1)
    wanted = conv(x)
    pruned: Any = swapped(nn.Sequential(conv))
    assert torch.equal(pruned[0].weight_mask, conv.weight_mask.flatten(1).T)
    close(pruned(x), wanted)
    PRUNE.remove(pruned[0], "weight")
    close(swapped(pruned, "conv1d")(x), wanted)


@pytest.mark.parametrize("wide_out", [4, 6])
def test_tied_weights_turn_together_or_not_at_all(wide_out: int) -> None:
    both: Any = nn.ModuleList([nn.ConvTranspose1d(4, wide_out, 1) for _ in range(2)]).double()
    both[1].weight = both[0].weight
    x = torch.randn(2, 4, 5, dtype=torch.float64)
    wanted = both[1](x)
    assert len(swap_pointwise(both).swapped) == 2
    assert both[0].weight is both[1].weight
    close(both[1](x), wanted)
    assert len(swap_pointwise(both, "conv1d").swapped) == 2
    assert both[0].weight is both[1].weight
    close(both[1](x), wanted)

    # An encoder's convolution and its decoder's, which share one weight and read it in opposite ways.
    pair: Any = nn.ModuleList([nn.Conv1d(wide_out, 4, 1), nn.ConvTranspose1d(4, wide_out, 1)]).double()
    pair[1].weight = pair[0].weight
    swaps = swap_pointwise(pair)
    assert swaps.swapped == ()
    assert ["transposed" in left.reason for left in swaps.left] == [True, True]
    assert "tied to 1.weight" in swaps.left[0].reason
    assert pair[0].weight is pair[1].weight
    close(pair[1](x), nn.functional.conv_transpose1d(x, pair[0].weight, pair[1].bias))


def test_ties_that_were_made_after_swapping_hold_the_way_back() -> None:
    model: Any = nn.ModuleList([nn.ConvTranspose1d(4, 4, 1), nn.Linear(4, 4)])
    swap_pointwise(model)
    model[1].weight = model[0].weight
    swaps = swap_pointwise(model, "conv1d")
    assert swaps.swapped == ()
    assert len(swaps.left) == 2


def test_it_answers_as_its_convolution_and_survives_pickling() -> None:
    conv = nn.ConvTranspose2d(4, 6, 1, dilation=(2, 1), bias=False)
    x = torch.randn(2, 4, 5, 3)
    linear = swapped(copy.deepcopy(conv))
    for name in (
        "in_channels", "out_channels", "kernel_size", "stride", "padding", "output_padding", "dilation", "groups",
        "padding_mode", "transposed",
    ):  # fmt: skip
        assert getattr(linear, name) == getattr(conv, name), name
    torch.testing.assert_close(linear(x, output_size=[5, 3]), conv(x, output_size=[5, 3]))
    for module in (conv, linear):
        with pytest.raises(ValueError, match="output"):
            module(x, output_size=[6, 3])
    assert "transposed" in repr(linear)
    for again in (pickle.loads(pickle.dumps(linear)), copy.deepcopy(linear)):
        assert type(swapped(again, "conv2d")) is nn.ConvTranspose2d
    assert type(linear_to_conv1d(swapped(nn.ConvTranspose1d(4, 6, 1)))) is nn.Conv1d


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_other_targets_are_named(dims: int) -> None:
    other: Any = f"conv{dims % 3 + 1}d"
    (left,) = swap_pointwise(nn.Sequential(TRANSPOSED[dims - 1](4, 6, 1)), other).left
    assert f"that of a {other.capitalize()} has {dims % 3 + 1}" in left.reason
    linear = swapped(nn.Sequential(TRANSPOSED[dims - 1](4, 6, 1)))
    (left,) = swap_pointwise(linear, other).left
    assert f"it stands for a ConvTranspose{dims}d" in left.reason
    assert swap_patches(nn.Sequential(TRANSPOSED[dims - 1](4, 6, 1))).left == ()


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_exported_compiled_mapped_and_exposed(dims: int) -> None:
    conv = TRANSPOSED[dims - 1](4, 6, 1).eval()
    x, y = (torch.randn(n, 4, *(n + 5, 6, 7)[:dims]) for n in (2, 3))
    linear = swapped(copy.deepcopy(conv))
    sizes = {0: torch.export.Dim("batch"), 2: torch.export.Dim("length")}
    program: Any = torch.export.export(linear, (x,), dynamic_shapes=(sizes,)).module()
    torch.testing.assert_close(program(y), conv(y))
    compiled: Any = torch.compile(linear, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(y), conv(y))
    torch.testing.assert_close(torch.func.vmap(linear)(x[:, None]), conv(x)[:, None])
    exposed: Any = expose_linears(nn.Sequential(linear)).model
    assert type(exposed[0]) is ChannelsFirstLinear
    torch.testing.assert_close(torch.fx.symbolic_trace(exposed)(y), conv(y))
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x).dtype == conv(x).dtype == torch.bfloat16
