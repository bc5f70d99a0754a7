"""Live modules: what comes out computes what went in, and keeps all that can be kept. The oracle is PyTorch."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from convinspect import modules
from convinspect.errors import CannotConvert, NotThere
from convinspect.modules import (
    PointwiseConv1d,
    PointwiseConv2d,
    PointwiseConv3d,
    PointwiseLinear,
    swap_pointwise,
)
from support.sampling import times

PRUNE: Any = prune
CONVS: list[Any] = [nn.Conv1d, nn.Conv2d, nn.Conv3d]
TO_LINEAR: list[Any] = [modules.conv1d_to_linear, modules.conv2d_to_linear, modules.conv3d_to_linear]
TO_CONV: list[Any] = [modules.linear_to_conv1d, modules.linear_to_conv2d, modules.linear_to_conv3d]


def positions(dims: int, size: int = 4) -> tuple[int, ...]:
    return (size, size - 1, size + 1)[:dims]


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    """Equal up to the rounding of float64, in which every test here computes."""
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


# ------------------------------------------------------------------------------------------------- one module


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_a_pointwise_convolution_becomes_a_linear_and_back(dims: int, bias: bool) -> None:
    conv = CONVS[dims - 1](6, 4, 1, bias=bias, dilation=3, dtype=torch.float64)
    linear = TO_LINEAR[dims - 1](conv)
    x = torch.randn(2, 6, *positions(dims), dtype=torch.float64)
    close(linear(x.movedim(1, -1)).movedim(-1, 1), conv(x))
    assert type(linear) is nn.Linear
    assert linear.weight.shape == (4, 6)
    assert linear.weight.data_ptr() == conv.weight.data_ptr()
    back = TO_CONV[dims - 1](linear)
    assert type(back) is CONVS[dims - 1]
    assert torch.equal(back.weight, conv.weight)
    close(back(x), conv(x))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_gradients_are_those_of_the_convolution(dims: int) -> None:
    conv = CONVS[dims - 1](3, 2, 1, dtype=torch.float64)
    linear = TO_LINEAR[dims - 1](copy.deepcopy(conv))
    x = torch.randn(2, 3, *positions(dims, 3), dtype=torch.float64, requires_grad=True)
    g = torch.randn_like(conv(x))
    before = torch.autograd.grad((conv(x) * g).sum(), [x, conv.weight, conv.bias])
    y = linear(x.movedim(1, -1)).movedim(-1, 1)
    after = torch.autograd.grad((y * g).sum(), [x, linear.weight, linear.bias])
    close(after[0], before[0])
    close(after[1], before[1].reshape(2, 3))
    close(after[2], before[2])


@pytest.mark.parametrize(
    ("conv", "word"),
    [
        (nn.Conv1d(6, 4, 3), "kernel size is 3"),
        (nn.Conv1d(6, 4, 1, stride=2), "stride=2"),
        (nn.Conv1d(6, 4, 1, padding=1), "padding=1"),
        (nn.Conv1d(6, 4, 1, groups=2), "groups=2"),
        (nn.LazyConv1d(4, 1), "no shape"),
    ],
)
def test_what_a_linear_cannot_do_is_refused_by_name(conv: nn.Conv1d, word: str) -> None:
    with pytest.raises(CannotConvert, match=word):
        modules.conv1d_to_linear(conv)


def test_other_classes_are_refused() -> None:
    wrong: Any = nn.ConvTranspose1d(6, 4, 1)
    with pytest.raises(CannotConvert, match="no Conv1d"):
        modules.conv1d_to_linear(wrong)
    wrong = nn.Conv2d(6, 4, 1)
    with pytest.raises(CannotConvert, match="no Conv1d"):
        modules.conv1d_to_linear(wrong)
    wrong = nn.Embedding(6, 4)
    with pytest.raises(CannotConvert, match="no Linear"):
        modules.linear_to_conv1d(wrong)
    with pytest.raises(CannotConvert, match="no transformers"):
        modules.transformers_to_linear(wrong)


class Scaled(nn.Conv1d):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input).mul(2)


class Renamed(nn.Conv1d):
    """A subclass that computes nothing of its own."""


def test_a_subclass_with_its_own_forward_is_refused_and_a_mere_name_is_not() -> None:
    with pytest.raises(CannotConvert, match="Scaled computes something of its own"):
        modules.conv1d_to_linear(Scaled(6, 4, 1))
    assert type(modules.conv1d_to_linear(Renamed(6, 4, 1))) is nn.Linear
    out_proj: Any = nn.MultiheadAttention(4, 2).out_proj
    with pytest.raises(CannotConvert, match="NonDynamicallyQuantizableLinear"):
        modules.linear_to_conv1d(out_proj)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.complex64, torch.float8_e4m3fn])
def test_dtype_flags_and_gradients_are_kept(dtype: torch.dtype) -> None:
    conv = nn.Conv1d(6, 4, 1).to(dtype).eval()
    conv.weight.requires_grad_(False)
    linear = modules.conv1d_to_linear(conv)
    assert linear.weight.dtype == dtype
    assert linear.bias is conv.bias
    assert not linear.training
    assert not linear.weight.requires_grad
    assert linear.bias.requires_grad


def test_a_gradient_that_waits_goes_along() -> None:
    conv = nn.Conv1d(6, 4, 1)
    conv(torch.randn(2, 6, 5)).sum().backward()
    linear = modules.conv1d_to_linear(conv)
    assert conv.weight.grad is not None
    assert linear.weight.grad is not None
    assert torch.equal(linear.weight.grad, conv.weight.grad[..., 0])


def test_it_works_on_the_meta_device_and_uses_no_random_numbers() -> None:
    state = torch.get_rng_state()
    assert modules.conv1d_to_linear(nn.Conv1d(6, 4, 1, device="meta")).weight.device.type == "meta"
    conv = nn.Conv1d(6, 4, 1, device="meta")
    swap_pointwise(nn.Sequential(conv))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_no_numbers_are_drawn_to_be_dropped(dims: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Initialising took most of the time; classes and settings are those of layers that were initialised."""
    convs = nn.Sequential(CONVS[dims - 1](3, 5, 1, stride=2), CONVS[dims - 1](3, 5, 1, bias=False))
    linears = nn.Sequential(nn.Linear(3, 5), nn.Linear(3, 5, bias=False))
    pointwise = nn.Sequential(PointwiseLinear(3, 5, dims=dims, stride=2), PointwiseLinear(3, 5, False, dims=dims))
    special = [PointwiseConv1d, PointwiseConv2d, PointwiseConv3d][dims - 1]
    turned = nn.Sequential(special(3, 5, 1), special(3, 5, 1, bias=False))
    told = [repr(one) for one in (convs, linears, pointwise, turned)]

    def draw(self: nn.Module) -> None:
        raise AssertionError("numbers were drawn")

    monkeypatch.setattr(nn.Linear, "reset_parameters", draw)
    monkeypatch.setattr(nn.modules.conv._ConvNd, "reset_parameters", draw)
    to: Any = f"conv{dims}d"
    assert repr(swap_pointwise(convs).model) == told[2]
    assert {type(one) for one in convs} == {PointwiseLinear}
    assert repr(modules.expose_linears(copy.deepcopy(convs)).model).count("Linear(in_features=3, out_features=5") == 2
    assert repr(swap_pointwise(convs, to).model) == told[0]
    assert repr(swap_pointwise(linears, to).model) == told[3]
    assert {type(one) for one in linears} == {special}
    assert repr(swap_pointwise(linears).model) == told[1]
    assert {type(one) for one in linears} == {nn.Linear}


# ------------------------------------------------------------------------------------------------- norms and pruning


def pruned(module: nn.Module) -> nn.Module:
    PRUNE.l1_unstructured(module, "weight", 0.5)
    return module


def pruned_channels(module: nn.Module) -> nn.Module:
    PRUNE.ln_structured(module, "weight", 0.5, n=2, dim=0)
    PRUNE.random_unstructured(module, "bias", 0.3)
    return module


NORMS: list[Callable[..., nn.Module]] = [
    weight_norm,
    lambda m: weight_norm(m, dim=cast(Any, None)),
    lambda m: weight_norm(m, dim=1),
    spectral_norm,
    parametrizations.weight_norm,
    lambda m: parametrizations.weight_norm(m, dim=1),
    parametrizations.spectral_norm,
    pruned,
    pruned_channels,
]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("wrap", NORMS)
@pytest.mark.parametrize("training", [False, True])
def test_norms_and_pruning_are_kept(wrap: Callable[..., nn.Module], training: bool) -> None:
    conv, before = (_seeded(wrap).train(training) for _ in range(2))
    swaps = swap_pointwise(nn.Sequential(conv))
    linear = swaps.model[0]  # type: ignore[index]
    assert not swaps.left
    assert isinstance(linear, PointwiseLinear)
    assert list(linear.state_dict()) == list(before.state_dict())
    x = torch.randn(2, 6, 5, dtype=torch.float64)
    for _ in range(2):
        close(linear(x), before(x))
    grads = [[p.grad for p in module.parameters()] for module in (linear, before) if _backward(module, x)]
    for after, wanted in zip(*grads, strict=True):
        assert after is not None
        assert wanted is not None
        close(after, wanted.reshape(after.shape))
    for key, tensor in before.state_dict().items():
        assert torch.equal(linear.state_dict()[key].reshape(tensor.shape), tensor), key
    back = swap_pointwise(nn.Sequential(linear), "conv1d").model[0]  # type: ignore[index]
    close(back(x), before(x))


def _seeded(wrap: Callable[..., nn.Module]) -> nn.Module:
    """Built anew, since PyTorch cannot copy a module under the older weight norm."""
    torch.manual_seed(1)
    return wrap(nn.Conv1d(6, 4, 1, dtype=torch.float64))


def _backward(module: nn.Module, x: torch.Tensor) -> bool:
    module(x).square().sum().backward()
    return True


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_removing_the_norm_afterwards_still_works() -> None:
    conv = weight_norm(nn.Conv1d(6, 4, 1, dtype=torch.float64))
    x = torch.randn(2, 6, 5, dtype=torch.float64)
    wanted = conv(x)
    linear = TO_LINEAR[0](conv)
    nn.utils.remove_weight_norm(linear)
    assert "weight" in dict(linear.named_parameters())
    close(linear(x.mT).mT, wanted)
    other = modules.conv1d_to_linear(parametrizations.weight_norm(nn.Conv1d(6, 4, 1)))
    parametrize.remove_parametrizations(other, "weight")
    assert type(other) is nn.Linear


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_unknown_parametrizations_and_lost_dimensions_are_refused() -> None:
    class Doubled(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return 2 * weight

    conv = nn.Conv1d(6, 4, 1)
    parametrize.register_parametrization(conv, "weight", Doubled())
    with pytest.raises(CannotConvert, match="computed by Doubled"):
        modules.conv1d_to_linear(conv)
    with pytest.raises(CannotConvert, match="along dimension 2"):
        modules.conv1d_to_linear(weight_norm(nn.Conv1d(6, 4, 1), dim=2))


def test_spectral_norm_takes_no_step_of_its_power_iteration() -> None:
    conv = parametrizations.spectral_norm(nn.Conv1d(6, 4, 1)).train()
    before = copy.deepcopy(conv.state_dict())
    linear = TO_LINEAR[0](conv)
    assert torch.equal(linear.state_dict()["parametrizations.weight.0._u"], before["parametrizations.weight.0._u"])


# ------------------------------------------------------------------------------------------------- PointwiseLinear


@settings(deadline=None, max_examples=times(50, 100))
@given(data=st.data())
def test_a_swapped_convolution_computes_the_same(data: st.DataObject) -> None:
    dims = data.draw(st.integers(1, 3))
    wide_in, wide_out = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    each = st.tuples(*[st.integers(1, 3)] * dims)
    mode = data.draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    pads = st.one_of(st.tuples(*[st.integers(0, 2)] * dims), st.sampled_from(["same", "valid"]))
    padding = data.draw(pads)
    stride = (1,) * dims if padding == "same" else data.draw(each)
    conv = CONVS[dims - 1](
        wide_in, wide_out, 1, stride, padding, data.draw(each), 1, data.draw(st.booleans()), mode, dtype=torch.float64
    )
    sizes = data.draw(st.tuples(*[st.integers(3, 6)] * dims))
    batch = data.draw(st.sampled_from([(), (1,), (3,)]))
    if not batch and mode != "zeros":
        batch = (2,)
    x = torch.randn(*batch, wide_in, *sizes, dtype=torch.float64, requires_grad=True)
    linear = swap_pointwise(copy.deepcopy(conv)).model
    assert isinstance(linear, PointwiseLinear)
    wanted, found = conv(x), linear(x)
    close(found, wanted)
    assert found.is_contiguous()
    g = torch.randn_like(wanted)
    (a,), (b,) = torch.autograd.grad(wanted, x, g), torch.autograd.grad(found, x, g)
    close(b, a)
    back = swap_pointwise(linear, f"conv{dims}d").model  # type: ignore[arg-type]
    assert type(back) is CONVS[dims - 1]
    close(back(x), wanted)
    assert torch.equal(back.weight, conv.weight)  # type: ignore[arg-type]


def test_channels_last_stays_channels_last() -> None:
    conv = nn.Conv2d(6, 4, 1, dtype=torch.float64).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(2, 6, 5, 3, dtype=torch.float64).to(memory_format=torch.channels_last)
    wanted = conv(x)
    found = swap_pointwise(nn.Sequential(conv)).model(x)
    close(found, wanted)
    assert found.stride() == wanted.stride()


@pytest.mark.parametrize("shape", [(6,), (2, 6, 5, 3)])
def test_an_input_of_another_rank_is_an_error_as_for_a_convolution(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(N, C, L\)"):
        PointwiseLinear(6, 4)(torch.zeros(shape))


@pytest.mark.parametrize("to", ["conv1d", "conv2d", "conv3d"])
def test_what_is_no_linear_and_of_another_kind_is_listed(to: Any) -> None:
    """A convolution takes another input than one of other dimensions: it stays, and that is said."""
    convs = {f"conv{dims}d": CONVS[dims - 1](3, 4, 1) for dims in (1, 2, 3)}
    net = nn.ModuleDict({**convs, "wide": nn.Conv2d(3, 4, 3), "linear": nn.Linear(3, 4), "norm": nn.BatchNorm1d(4)})
    swaps = swap_pointwise(net, to)
    assert [swap.name for swap in swaps.swapped] == ["linear"]
    reasons = {skipped.name: skipped.reason for skipped in swaps.left}
    wide = set() if to == "conv2d" else {"wide"}
    assert set(reasons) == set(convs) - {to} | wide
    assert all(f"that of a {to.capitalize()} has {to[4]}" in reasons[name] for name in set(reasons) - {"wide"})
    assert reasons.get("wide", "its kernel size is 3×3, not 1") == "its kernel size is 3×3, not 1"
    assert all(net[name] is conv for name, conv in convs.items())
    other = {"conv1d": "conv2d", "conv2d": "conv3d", "conv3d": "conv1d"}[to]
    again = swap_pointwise(net, cast(Any, other), where="linear")
    kind = f"PointwiseC{to[1:]}"
    assert [(skipped.kind, kind in skipped.reason) for skipped in again.left] == [(kind, True)]


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"padding": 1, "padding_mode": "circular"}])
@pytest.mark.parametrize("turned", [False, True])
def test_a_stand_in_is_mapped_as_its_convolution_is(dims: int, options: dict[str, Any], turned: bool) -> None:
    conv = CONVS[dims - 1](3, 5, 1, dtype=torch.float64, **options)
    net = swap_pointwise(copy.deepcopy(conv)).model
    x = torch.randn(2, 2, 3, *positions(dims), dtype=torch.float64)
    if turned:
        # Channels last in memory, which the layers look for.
        x = x.movedim(2, -1).contiguous().movedim(-1, 2)
    for in_dims in (0, 1):
        close(torch.func.vmap(net, in_dims)(x), torch.func.vmap(conv, in_dims)(x))
    twice = torch.stack([x, -x])
    close(torch.func.vmap(torch.func.vmap(net))(twice), torch.func.vmap(torch.func.vmap(conv))(twice))

    def gradients(layer: nn.Module) -> torch.Tensor:
        mapped: torch.Tensor = torch.func.vmap(torch.func.grad(lambda each: layer(each).square().sum()))(x)
        return mapped

    close(gradients(net), gradients(conv))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_an_ensemble_of_stand_ins_runs_as_one_of_convolutions(dims: int) -> None:
    """As in PyTorch's tutorial on ensembles: the weights are mapped, and the data may be the same for all."""
    convs = [CONVS[dims - 1](3, 5, 1, dtype=torch.float64) for _ in range(3)]
    nets = [swap_pointwise(copy.deepcopy(conv)).model for conv in convs]
    x = torch.randn(2, 3, *positions(dims), dtype=torch.float64).movedim(1, -1).contiguous().movedim(-1, 1)
    found = torch.func.vmap(
        lambda state: torch.func.functional_call(nets[0], state, (x,)),
    )(torch.func.stack_module_state(nets)[0])
    close(found, torch.stack([conv(x) for conv in convs]))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_convolution_in_place_of_a_linear_is_mapped_as_it_is(dims: int) -> None:
    linear = nn.Linear(3, 5, dtype=torch.float64)
    net = swap_pointwise(copy.deepcopy(linear), cast(Any, f"conv{dims}d")).model
    for shape in ((4, 3), (4, 2, 3), (4, 2, 2, 3), (4, 2, 2, 2, 3)):
        x = torch.randn(shape, dtype=torch.float64)
        close(torch.func.vmap(net)(x), torch.func.vmap(linear)(x))


@pytest.mark.parametrize("to", ["conv1d", "conv2d", "conv3d"])
@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 5, 6), (2, 3, 5, 6), (0, 6), (2, 0, 6)])
def test_a_swapped_linear_computes_the_same(to: Any, shape: tuple[int, ...]) -> None:
    linear = nn.Linear(6, 4, dtype=torch.float64)
    x = torch.randn(shape, dtype=torch.float64)
    wanted = linear(x)
    conv = swap_pointwise(nn.Sequential(linear), to).model[0]  # type: ignore[index]
    close(conv(x), wanted)
    assert isinstance(conv, nn.modules.conv._ConvNd)
    assert type(swap_pointwise(nn.Sequential(conv)).model[0]) is nn.Linear  # type: ignore[index]


SWAPPED: list[tuple[nn.Module, tuple[int, ...]]] = [
    (PointwiseLinear(3, 2, dtype=torch.float64, stride=2, padding=1), (2, 3, 3)),
    (PointwiseLinear(3, 2, False, dtype=torch.float64, padding=1, padding_mode="reflect"), (2, 3, 3)),
    (PointwiseLinear(3, 2, dtype=torch.float64, dims=2, stride=(1, 2)), (2, 3, 3, 2)),
    (PointwiseLinear(3, 2, dtype=torch.float64, dims=3), (1, 3, 2, 1, 2)),
    (PointwiseConv1d(3, 2, 1, dtype=torch.float64), (2, 3, 3)),
    (PointwiseConv2d(3, 2, 1, dtype=torch.float64), (2, 3, 3)),
    (PointwiseConv3d(3, 2, 1, dtype=torch.float64), (2, 3)),
]


@pytest.mark.parametrize(("module", "shape"), SWAPPED)
def test_gradcheck(module: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: module(x), (x, *module.parameters()))


# ------------------------------------------------------------------------------------------------- a whole model


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(3, 8, 1)
        self.norm = nn.BatchNorm1d(8)
        self.wide = nn.Conv1d(8, 8, 3, padding=1)
        self.down = nn.Conv1d(8, 8, 1, stride=2)
        self.grouped = nn.Conv1d(8, 8, 1, groups=2)
        self.up = nn.ConvTranspose1d(8, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.norm(self.first(x)).relu()
        x = self.up(self.grouped(self.down(self.wide(x))))
        return self.head(x.view(x.shape[0], 8, -1).mean(-1))


def test_a_model_is_swapped_and_the_reasons_are_given() -> None:
    net = Net().double().eval()
    x = torch.randn(2, 3, 9, dtype=torch.float64)
    wanted = net(x)
    keys = list(net.state_dict())
    swaps = swap_pointwise(net)
    assert [one.name for one in swaps.swapped] == ["first", "down", "up"]
    assert {one.name: one.reason.split(",")[0] for one in swaps.left} == {
        "wide": "its kernel size is 3",
        "grouped": "it has groups=2",
    }
    assert swaps.model is net
    assert isinstance(net.first, PointwiseLinear)
    assert list(net.state_dict()) == keys
    close(net(x), wanted)
    swap_pointwise(net, "conv1d", ["first", "down"])
    assert type(net.first) is nn.Conv1d
    assert net.down.stride == (2,)
    assert type(net.head) is nn.Linear
    close(net(x), wanted)


def test_where_chooses_by_name_glob_or_function() -> None:
    assert [one.name for one in swap_pointwise(Net(), where="first").swapped] == ["first"]
    assert [one.name for one in swap_pointwise(Net(), where=["d*", "wide"]).swapped] == ["down"]
    found = swap_pointwise(Net(), where=lambda name, module: getattr(module, "in_channels", 0) == 3)
    assert [one.name for one in found.swapped] == ["first"]
    with pytest.raises(NotThere, match=r"frist.*first"):
        swap_pointwise(Net(), where="frist")
    wrong: Any = "conv4d"
    with pytest.raises(CannotConvert, match="no kind"):
        swap_pointwise(Net(), wrong)


def test_hooks_fire_and_can_still_be_removed() -> None:
    conv = nn.Conv1d(3, 4, 1)
    seen: list[tuple[int, ...]] = []
    handle = conv.register_forward_hook(lambda module, args, output: seen.append(tuple(output.shape)))
    conv.register_full_backward_hook(lambda module, inputs, outputs: seen.append((-1,)))
    with pytest.raises(CannotConvert, match="it has hooks"):
        modules.conv1d_to_linear(conv)
    net = swap_pointwise(nn.Sequential(conv)).model
    x = torch.randn(2, 3, 5, requires_grad=True)
    net(x).sum().backward()
    assert seen == [(2, 4, 5), (-1,)]
    handle.remove()
    net(x)
    assert len(seen) == 2


def test_a_hook_on_loading_gets_the_new_module() -> None:
    conv = nn.Conv1d(3, 4, 1)
    seen: list[nn.Module] = []
    register: Any = conv.register_load_state_dict_pre_hook
    register(lambda module, *_: seen.append(module))
    net = swap_pointwise(nn.Sequential(conv)).model
    del conv
    net.load_state_dict(net.state_dict())
    assert seen == [net[0]]  # type: ignore[index]


def test_a_hook_on_the_weight_itself_is_refused_and_one_on_the_bias_is_kept() -> None:
    conv = nn.Conv1d(3, 4, 1)
    weight: Any = conv.weight
    weight.register_hook(lambda grad: grad)
    assert "hook of its own" in swap_pointwise(nn.Sequential(conv)).left[0].reason
    other = nn.Conv1d(3, 4, 1)
    bias: Any = other.bias
    calls: list[int] = []
    bias.register_hook(lambda grad: calls.append(1))
    swap_pointwise(nn.Sequential(other)).model(torch.randn(2, 3, 5)).sum().backward()
    assert calls == [1]


def test_a_patched_forward_is_refused() -> None:
    conv = nn.Conv1d(3, 4, 1)
    conv.forward = lambda input: input  # type: ignore[method-assign]
    assert "forward was replaced" in swap_pointwise(nn.Sequential(conv)).left[0].reason


def test_ties_are_kept_or_hold_both_back() -> None:
    a, b = nn.Conv1d(4, 4, 1), nn.Conv1d(4, 4, 1)
    b.weight = a.weight
    net = nn.Sequential(a, b)
    swap_pointwise(net)
    assert net[0].weight is net[1].weight
    assert net[0].weight.shape == (4, 4)
    a, b = nn.Conv1d(4, 4, 1), nn.Conv1d(4, 4, 1, groups=1)
    b.weight = a.weight
    left = swap_pointwise(nn.Sequential(a, b), where="0").left
    assert left[0].name == "0"
    assert "tied to 1.weight" in left[0].reason
    head, embedding = nn.Linear(6, 9, bias=False), nn.Embedding(9, 6)
    head.weight = embedding.weight
    left = swap_pointwise(nn.Sequential(embedding, head), "conv1d").left
    assert "tied to 0.weight" in left[0].reason


def test_a_weight_that_goes_by_another_name_elsewhere_stays() -> None:
    net = nn.Module()
    net.conv = nn.Conv1d(4, 4, 1)
    net.scale = net.conv.weight
    left = swap_pointwise(net).left
    assert "tied to scale" in left[0].reason
    assert net.scale is net.conv.weight
    listed = nn.Sequential(nn.Conv1d(4, 4, 1))
    listed.append(nn.ParameterList([listed[0].weight]))
    assert "tied to 1.0" in swap_pointwise(listed).left[0].reason


def test_ties_of_parametrized_weights_are_kept() -> None:
    a, b = (parametrizations.weight_norm(nn.Conv1d(4, 4, 1)) for _ in range(2))
    lists: Any = [one.parametrizations for one in (a, b)]
    lists[1].weight.original1 = lists[0].weight.original1
    net = nn.Sequential(a, b)
    assert len(swap_pointwise(net).swapped) == 2
    after: Any = [one.parametrizations for one in net]
    assert after[0].weight.original1 is after[1].weight.original1
    assert after[0].weight.original1.shape == (4, 4)


def test_a_model_under_ddp_is_refused() -> None:
    class Wrapped(nn.parallel.DistributedDataParallel):
        def __init__(self) -> None:
            # PyTorch's own asks for a group of processes.
            nn.Module.__init__(self)
            self.module = nn.Conv1d(4, 4, 1)

    with pytest.raises(CannotConvert, match="swap first, then wrap"):
        swap_pointwise(Wrapped())


@pytest.mark.filterwarnings("ignore")
def test_export_with_stride_and_dynamic_sizes() -> None:
    net = nn.Sequential(nn.Conv2d(4, 5, 1, stride=2)).eval()
    x, y = torch.randn(2, 4, 6, 6), torch.randn(3, 4, 9, 7)
    wanted = net(y)
    auto: Any = torch.export.Dim.AUTO
    swapped = swap_pointwise(net).model
    program: Any = torch.export.export(swapped, (x,), dynamic_shapes=({0: auto, 2: auto, 3: auto},)).module()
    torch.testing.assert_close(program(y), wanted)


def test_a_shared_module_stays_shared() -> None:
    conv = nn.Conv1d(4, 4, 1)
    net = nn.Sequential(conv, nn.ReLU(), conv)
    swaps = swap_pointwise(net)
    assert net[0] is net[2]
    assert len(swaps.swapped) == 1
    net = nn.Sequential(conv, nn.ReLU(), conv)
    assert "also 2" in swap_pointwise(net, where="0").left[0].reason


def test_linears_that_torch_reads_by_itself_stay() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x = torch.randn(2, 5, 8)
    with torch.no_grad():
        wanted = layer(x)
        swaps = swap_pointwise(layer, "conv1d")
        assert not swaps.swapped
        assert all("reads its weight" in one.reason or "class" in one.reason for one in swaps.left)
        assert torch.equal(layer(x), wanted)


def test_other_attributes_go_along() -> None:
    conv = nn.Conv1d(3, 4, 1)
    conv.note = "mine"  # type: ignore[assignment]
    assert swap_pointwise(conv).model.note == "mine"


def test_it_survives_pickling_copying_and_strict_loading() -> None:
    net = swap_pointwise(Net()).model.eval()
    x = torch.randn(2, 3, 9)
    wanted = net(x)
    assert torch.equal(pickle.loads(pickle.dumps(net))(x), wanted)
    assert torch.equal(copy.deepcopy(net)(x), wanted)
    buffer = io.BytesIO()
    torch.save(net.state_dict(), buffer)
    buffer.seek(0)
    fresh = swap_pointwise(Net()).model.eval()
    fresh.load_state_dict(torch.load(buffer, weights_only=True), strict=True)
    assert torch.equal(fresh(x), wanted)
    assert "stride=(2,)" in repr(net)
    assert "dims=1" in repr(net)


@pytest.mark.filterwarnings("ignore")
def test_it_works_under_export_autocast_and_data_parallel() -> None:
    net = swap_pointwise(Net()).model.eval()
    x = torch.randn(2, 3, 9)
    wanted = net(x)
    exported = torch.export.export(net, (x,)).module()
    torch.testing.assert_close(exported(x), wanted)
    length = torch.export.Dim("length", min=4, max=64)
    dynamic = torch.export.export(net.first, (x,), dynamic_shapes=({2: length},)).module()  # type: ignore[arg-type]
    y = torch.randn(2, 3, 21)
    torch.testing.assert_close(dynamic(y), net.first(y))  # type: ignore[operator]
    with torch.autocast("cpu", torch.bfloat16):
        assert net.first(x).dtype == torch.bfloat16  # type: ignore[operator]
    torch.testing.assert_close(nn.DataParallel(net)(x), wanted)


@pytest.mark.filterwarnings("ignore")
def test_it_works_under_compile() -> None:
    net = swap_pointwise(Net()).model.eval()
    x = torch.randn(2, 3, 9)
    # The graph is what is asked about; "eager" spares the test a C++ compiler.
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), net(x))


def test_a_lazy_layer_waits_for_its_shape() -> None:
    net = nn.Sequential(nn.LazyLinear(4), nn.LazyConv1d(4, 1))
    for swaps, name in ((swap_pointwise(net, "conv1d"), "0"), (swap_pointwise(net, "linear"), "1")):
        assert swaps.swapped == ()
        assert [one.name for one in swaps.left] == [name], swaps.left
    assert isinstance(net[0], nn.LazyLinear)
    with pytest.raises(CannotConvert):
        modules.linear_to_conv1d(nn.LazyLinear(4))


def test_a_stand_in_goes_back_to_its_own_dimensions_alone() -> None:
    net = swap_pointwise(nn.Sequential(nn.Conv2d(3, 4, 1, padding=1)).double(), "linear").model
    shown = repr(net)
    assert "dims=2" in shown
    swaps = swap_pointwise(net, "conv1d")
    assert swaps.swapped == ()
    assert [one.reason for one in swaps.left] == ["it stands for a Conv2d, not a Conv1d"]
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    expected = net(x)
    back = swap_pointwise(net, "conv2d").model
    assert isinstance(back[0], nn.Conv2d)  # type: ignore[index]
    close(back(x), expected)


@pytest.mark.parametrize("to", ["conv1d", "conv2d", "conv3d"])
@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 5, 6), (2, 3, 5, 6), (2, 1, 6), (1, 5, 6), (0, 6), (2, 0, 6)])
@pytest.mark.parametrize("turned", [False, True])
def test_a_swapped_linear_gives_rows_whole_in_memory(to: Any, shape: tuple[int, ...], turned: bool) -> None:
    """As a Linear does, whose outputs are viewed in other shapes."""
    linear = nn.Linear(6, 4)
    x = torch.randn(shape[::-1]).permute(*reversed(range(len(shape)))) if turned else torch.randn(shape)
    assert linear(x).is_contiguous()
    found = swap_pointwise(nn.Sequential(linear), to).model(x)
    assert found.is_contiguous()
    assert found.view(*shape[:-1], 2, 2).shape == (*shape[:-1], 2, 2)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [{"stride": 2, "padding": 1}, {"padding": 1}, {}])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_export_where_the_convolution_exports(options: Any, order: torch.memory_format) -> None:
    net = nn.Sequential(nn.Conv2d(4, 5, 1, **options)).eval()
    x, y = (torch.randn(n, 4, h, 6).to(memory_format=order) for n, h in ((2, 6), (3, 21)))
    wanted = net(y)
    sizes = {0: torch.export.Dim("n"), 2: torch.export.Dim("height")}
    program: Any = torch.export.export(swap_pointwise(net).model, (x,), dynamic_shapes=(sizes,)).module()
    torch.testing.assert_close(program(y), wanted)
