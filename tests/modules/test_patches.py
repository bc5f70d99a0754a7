"""Live convolutions that cut their input into patches: the Linear computes what they do. The oracle is PyTorch."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from convinspect.errors import CannotConvert, NotThere
from convinspect.modules import ChannelsFirstLinear, PatchLinear, expose_linears, swap_patches, swap_pointwise
from support.sampling import EVERY_CASE

PRUNE: Any = prune
CONVS: list[Any] = [nn.Conv1d, nn.Conv2d, nn.Conv3d]


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    """Equal up to the rounding of float64, in which every test here computes."""
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


def patch_conv(kernel: tuple[int, ...], channels: int = 3, out: int = 4, **options: Any) -> Any:
    return CONVS[len(kernel) - 1](channels, out, kernel, kernel, dtype=torch.float64, **options)


def swapped(conv: nn.Module) -> Any:
    swaps = swap_patches(copy.deepcopy(conv))
    assert len(swaps.swapped) == 1, swaps.left
    return swaps.model


@pytest.mark.parametrize("kernel", [(3,), (2, 3), (2, 1, 2)])
def test_gradients_are_those_of_the_formula(kernel: tuple[int, ...]) -> None:
    linear = swapped(patch_conv(kernel, 2, 2))
    x = torch.randn(2, 2, *(2 * size + 1 for size in kernel), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(linear, (x,))
    assert torch.autograd.gradgradcheck(linear, (x,))


@pytest.mark.parametrize(
    ("conv", "word"),
    [
        (nn.Conv2d(3, 4, 3, 2), "stride"),
        (nn.Conv2d(3, 4, 3), "stride"),
        (nn.Conv2d(3, 4, (2, 3), (3, 2)), "stride"),
        (nn.Conv2d(3, 4, 2, 2, padding=1), "padding"),
        (nn.Conv1d(3, 4, 2, 2, padding=1, padding_mode="circular"), "padding"),
        (nn.Conv3d(3, 4, 2, 2, dilation=2), "dilation"),
        (nn.Conv2d(4, 4, 2, 2, groups=2), "groups"),
        (nn.Conv2d(4, 4, 7, padding=3, groups=4), "stride"),
        (nn.ConvTranspose2d(3, 4, 2, 2), "transposed"),
        (nn.Conv2d(3, 4, 3, padding="same"), "stride"),
    ],
)
def test_what_is_no_patch_convolution_stays_with_the_reason(conv: nn.Module, word: str) -> None:
    model = nn.Sequential(conv)
    swaps = swap_patches(model)
    assert swaps.swapped == ()
    assert word in swaps.left[0].reason
    assert model[0] is conv


def test_dilation_of_a_side_of_one_does_nothing() -> None:
    conv = nn.Conv2d(3, 4, (1, 4), (1, 4), dilation=(3, 1), dtype=torch.float64)
    x = torch.randn(2, 3, 5, 9, dtype=torch.float64)
    close(swapped(conv)(x), conv(x))


def test_pointwise_layers_are_left_to_the_other_swap() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 2, 2))
    swaps = swap_patches(model)
    assert [(swap.name, swap.before, swap.after) for swap in swaps.swapped] == [("1", "Conv2d", "PatchLinear")]
    assert swaps.left == ()
    assert [swap.name for swap in swap_pointwise(model).swapped] == ["0"]


class OwnForward(nn.Conv2d):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) * 2


class Kept(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, 4, 2, 2)
        self.others = [self.proj]


def test_a_layer_that_cannot_be_replaced_where_it_is_stays() -> None:
    tied = nn.Sequential(nn.Conv2d(3, 4, 2, 2), nn.Conv2d(3, 4, 2, 1))
    tied[1].weight = tied[0].weight
    for model, word in (
        (nn.Sequential(OwnForward(3, 4, 2, 2)), "OwnForward"),
        (Kept(), "others"),
        (torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 2, 2))), "TorchScript"),
        (tied, "tied"),
        (nn.Sequential(nn.LazyConv2d(4, 2, 2)), "lazy"),
        (nn.Sequential(weight_norm(nn.Conv2d(3, 4, 2, 2), dim=1)), "dimension 1"),
        (nn.Sequential(parametrizations.orthogonal(nn.Conv2d(3, 4, 2, 2))), "Orthogonal"),
    ):
        swaps = swap_patches(model)
        assert swaps.swapped == ()
        assert word in swaps.left[0].reason
    with pytest.raises(NotThere):
        swap_patches(nn.Sequential(nn.Conv2d(3, 4, 2, 2)), where="encoder")
    with pytest.raises(CannotConvert, match="linear or conv"):
        swap_patches(nn.Sequential(), to="conv2d")  # type: ignore[arg-type]


NORMS: dict[str, Any] = {
    "weight_norm": lambda conv: weight_norm(conv),
    "weight_norm of all": lambda conv: weight_norm(conv, dim=None),  # type: ignore[arg-type]
    "parametrized weight_norm": lambda conv: parametrizations.weight_norm(conv),
    "spectral_norm": lambda conv: spectral_norm(conv),
    "parametrized spectral_norm": lambda conv: parametrizations.spectral_norm(conv),
    "pruned": lambda conv: PRUNE.l1_unstructured(conv, "weight", amount=0.5),
}


@pytest.mark.parametrize("name", NORMS)
def test_norms_and_pruning_go_on(name: str) -> None:
    made: list[Any] = []
    for _ in range(2):
        torch.manual_seed(0)
        made.append(NORMS[name](patch_conv((2, 3))).train())
    conv, twin = made
    swaps = swap_patches(twin)
    assert len(swaps.swapped) == 1, swaps.left
    other: Any = swaps.model
    x = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    for _ in range(3):
        close(other(x), conv(x))
    keys = set(conv.state_dict())
    assert set(other.state_dict()) == keys
    back = swap_patches(other, to="conv").model
    close(back(x), conv(x))
    assert {key: value.shape for key, value in back.state_dict().items()} == {
        key: value.shape for key, value in conv.state_dict().items()
    }


def test_ties_flags_hooks_and_gradients_are_kept() -> None:
    model: Any = nn.Sequential(nn.Conv2d(3, 3, 2, 2), nn.Conv2d(3, 3, 2, 2)).double()
    model[1].weight = model[0].weight
    model[0].bias.requires_grad_(False)
    seen: list[torch.Size] = []
    handle = model[0].register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    x = torch.randn(2, 3, 9, 8, dtype=torch.float64)
    model(x).sum().backward()
    kept = copy.deepcopy(model)
    before, gradient = model(x), model[0].weight.grad
    swap_patches(model.eval())
    assert model[0].weight is model[1].weight
    assert not model[0].bias.requires_grad
    assert torch.equal(model[0].weight.grad.reshape(gradient.shape), gradient)
    close(model(x), before)
    handle.remove()
    model(x)
    assert len(seen) == 3
    assert not model[0].training
    with pytest.raises(RuntimeError):
        kept.load_state_dict(model.state_dict())


def test_inputs_that_a_convolution_refuses_are_refused() -> None:
    conv = nn.Conv2d(3, 4, 4, 4)
    for model in (swapped(conv), expose_linears(swapped(conv)).model):
        for shape in [(3, 3, 9), (2, 3, 9, 3)]:
            with pytest.raises(RuntimeError):
                conv(torch.zeros(shape))
            with pytest.raises(RuntimeError, match="smaller than a patch of 4×4"):
                model(torch.zeros(shape))
        with pytest.raises(ValueError, match="expected an input of shape"):
            model(torch.zeros(1, 1, 3, 8, 8))


class Patchify(nn.Module):
    def __init__(self, kernel: tuple[int, ...]) -> None:
        super().__init__()
        self.proj = CONVS[len(kernel) - 1](3, 8, kernel, kernel)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.norm(self.proj(x).flatten(2).mT)
        return y


# Compilers take seconds; each kernel and each form is compiled once.
@pytest.mark.parametrize(("kernel", "compiled_exposed"), [((4,), False), ((4, 2), True), ((2, 4, 4), False)])
def test_exported_traced_compiled_and_saved(kernel: tuple[int, ...], compiled_exposed: bool) -> None:
    model = Patchify(kernel).eval()
    x = torch.randn(2, 3, *(2 * size + 1 for size in kernel))
    with torch.no_grad():
        y = model(x)
        swap_patches(model)
        for exposed in (False, True):
            torch.testing.assert_close(model(x), y, rtol=1e-5, atol=1e-6)
            if exposed == compiled_exposed or EVERY_CASE:
                batch = torch.export.Dim("batch", min=1, max=8)
                program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
                torch.testing.assert_close(program.module()(x[:1]), y[:1], rtol=1e-5, atol=1e-6)
                compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
                torch.testing.assert_close(compiled(x), y, rtol=1e-5, atol=1e-6)
            traced = torch.jit.trace(model, x)  # type: ignore[no-untyped-call]
            torch.testing.assert_close(traced(x), y, rtol=1e-5, atol=1e-6)
            buffer = io.BytesIO()
            torch.save(model, buffer)
            buffer.seek(0)
            loaded = torch.load(buffer, weights_only=False)
            torch.testing.assert_close(loaded(x), y, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(pickle.loads(pickle.dumps(model))(x), y, rtol=1e-5, atol=1e-6)
            expose_linears(model)
        assert isinstance(model.proj, ChannelsFirstLinear)
        assert type(model.proj.linear) is nn.Linear
        symbolic = torch.fx.symbolic_trace(model)
        torch.testing.assert_close(symbolic(x), y, rtol=1e-5, atol=1e-6)


def test_vmap_autocast_and_dtypes() -> None:
    conv = nn.Conv2d(3, 8, 2, 2)
    linear = swapped(conv)
    x = torch.randn(5, 2, 3, 6, 5)
    torch.testing.assert_close(torch.func.vmap(linear)(x), torch.func.vmap(conv)(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x[0]).dtype == conv(x[0]).dtype == torch.bfloat16
    for dtype in (torch.float16, torch.bfloat16, torch.complex64):
        again = swapped(copy.deepcopy(conv).to(dtype))
        assert again.weight.dtype == dtype
        torch.testing.assert_close(
            again(x[0].to(dtype)), copy.deepcopy(conv).to(dtype)(x[0].to(dtype)), rtol=2e-2, atol=2e-2
        )


def test_quantizers_find_the_exposed_linear() -> None:
    model = swap_patches(Patchify((4, 4)).eval()).model
    expose_linears(model)
    quantized: Any = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})  # type: ignore[no-untyped-call]
    assert "quantized" in type(quantized.proj.linear).__module__
    x = torch.randn(2, 3, 9, 9)
    assert (quantized(x) - model(x)).abs().max() < 0.1


def test_a_patch_linear_answers_as_its_convolution() -> None:
    conv = nn.Conv3d(3, 4, (2, 4, 5), (2, 4, 5), bias=False)
    linear = swapped(conv)
    for name in (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
        "padding_mode",
    ):
        assert getattr(linear, name) == getattr(conv, name)
    assert "patch=2×4×5" in repr(linear)
    made = PatchLinear(3, 4, 2, dims=3)
    assert made.weight.shape == (4, 24)
