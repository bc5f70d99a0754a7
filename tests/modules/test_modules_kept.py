"""Swapping keeps or names what a model holds beside PyTorch's registers: lists, methods, subclasses' code, children."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from convinspect.errors import CannotConvert
from convinspect.modules import (
    PointwiseLinear,
    conv1d_to_linear,
    conv2d_to_linear,
    conv3d_to_linear,
    linear_to_conv1d,
    linear_to_conv2d,
    linear_to_conv3d,
    swap_pointwise,
)

PRUNE: Any = prune


class Listed(nn.Module):
    """Its layers are registered and also run from a plain list, as many lateral convolutions are."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.free = nn.Conv1d(4, 4, 1), nn.Conv1d(4, 4, 1), nn.Conv1d(4, 4, 1)
        self.layers = [self.one, self.two]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        result: torch.Tensor = self.free(x)
        return result


def test_a_layer_that_is_also_in_a_list_stays_and_is_named() -> None:
    model = Listed()
    swaps = swap_pointwise(model)
    assert [one.name for one in swaps.swapped] == ["free"]
    assert {one.name: one.reason for one in swaps.left} == {
        "one": "the model also keeps it in layers[0], which would stay with the old one",
        "two": "the model also keeps it in layers[1], which would stay with the old one",
    }
    model(torch.randn(2, 4, 3)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("attribute", "place"),
    [
        (lambda conv: conv.forward, r"kept \(a method of it\)"),
        (lambda conv: {"a": [conv.weight]}, r"kept\['a'\]\[0\]"),
        (lambda conv: functools.partial(functional.conv1d, weight=conv.weight), r"kept\[1\]"),
        (lambda conv: (None, {conv}), r"kept\[1\]\[0\]"),
    ],
)
def test_weights_and_methods_kept_elsewhere_are_seen(attribute: Callable[[nn.Module], Any], place: str) -> None:
    model = nn.Sequential(nn.Conv1d(4, 4, 1), nn.Conv1d(4, 4, 1))
    model.kept = attribute(model[0])
    swaps = swap_pointwise(model)
    assert [one.name for one in swaps.swapped] == ["1"]
    assert re.search(place, swaps.left[0].reason)


def test_modules_inside_a_convolution_are_not_lost() -> None:
    conv = nn.Conv1d(8, 4, 1)
    conv.extra = nn.Linear(2, 2)
    model = nn.Sequential(conv)
    keys = list(model.state_dict())
    swaps = swap_pointwise(model)
    assert swaps.left[0].reason == "it holds modules of its own (extra), which its successor would not have"
    assert list(model.state_dict()) == keys
    with pytest.raises(CannotConvert, match="modules of its own"):
        conv1d_to_linear(conv)


class Named(nn.Conv1d):
    """Another name for a Conv1d and nothing else."""

    def __init__(self, wide_in: int, wide_out: int) -> None:
        super().__init__(wide_in, wide_out, 1)


class Scaled(Named):
    def scale(self) -> float:
        return 2.0


class Saving(Named):
    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "more"] = torch.zeros(1)


@pytest.mark.parametrize(("cls", "word"), [(Scaled, "scale"), (Saving, "_save_to_state_dict")])
def test_a_subclass_with_code_of_its_own_stays(cls: type[Named], word: str) -> None:
    assert swap_pointwise(nn.Sequential(Named(4, 3))).left == ()
    (left,) = swap_pointwise(nn.Sequential(cls(4, 3))).left
    assert left.reason == f"its class {cls.__name__} has code of its own ({word})"


@pytest.mark.parametrize("name", [
    "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode",
])  # fmt: skip
def test_a_stand_in_answers_as_the_convolution_did(name: str) -> None:
    conv = nn.Conv2d(6, 4, 1, stride=(2, 1), padding=1, dilation=3, padding_mode="reflect")
    model = nn.Sequential(conv)
    swap_pointwise(model)
    assert isinstance(model[0], PointwiseLinear)
    assert getattr(model[0], name) == getattr(conv, name)
    swap_pointwise(model, "conv2d")
    assert getattr(model[0], name) == getattr(conv, name)


# ------------------------------------------------------------------------------------- two modules, each on its own


def test_hooks_registered_afterwards_belong_to_one_module() -> None:
    conv = nn.Conv1d(4, 6, 1)
    linear = conv1d_to_linear(conv)
    seen: list[str] = []
    linear.register_forward_hook(lambda module, *_: seen.append(type(module).__name__))
    conv.register_forward_pre_hook(lambda module, *_: seen.append(type(module).__name__))
    register: Any = linear.register_state_dict_post_hook
    register(lambda module, *_: seen.append("state of " + type(module).__name__))
    conv(torch.zeros(1, 4, 2))
    linear(torch.zeros(1, 2, 4))
    conv.state_dict()
    assert seen == ["Conv1d", "Linear"]


def test_a_hook_on_loading_stays_with_the_one_that_lives_on() -> None:
    stand_in = PointwiseLinear(4, 6)
    seen: list[nn.Module] = []
    register: Any = stand_in.register_load_state_dict_pre_hook
    register(lambda module, *_: seen.append(module))
    conv = linear_to_conv1d(stand_in)
    stand_in.load_state_dict(stand_in.state_dict())
    conv.load_state_dict(conv.state_dict())
    assert seen == [stand_in, conv]


REMOVED: list[tuple[Callable[..., Any], Callable[..., Any]]] = [
    (weight_norm, nn.utils.remove_weight_norm),
    (spectral_norm, nn.utils.remove_spectral_norm),
    (parametrizations.weight_norm, lambda module: parametrize.remove_parametrizations(module, "weight")),
    (parametrizations.spectral_norm, lambda module: parametrize.remove_parametrizations(module, "weight")),
    (lambda module: PRUNE.l1_unstructured(module, "weight", 0.5), lambda module: PRUNE.remove(module, "weight")),
]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(("wrap", "remove"), REMOVED)
@pytest.mark.parametrize("wide_out", [4, 6])
def test_removing_a_norm_from_one_leaves_the_other(
    wrap: Callable[..., Any], remove: Callable[..., Any], wide_out: int
) -> None:
    x = torch.randn(2, 4, 5, dtype=torch.float64)
    for first in (0, 1):
        conv = wrap(nn.Conv1d(4, wide_out, 1).double()).eval()
        keys = list(conv.state_dict())
        wanted = conv(x)
        both = [conv, conv1d_to_linear(conv)]
        remove(both[first])
        assert list(both[1 - first].state_dict()) == keys
        for _ in range(2):
            torch.testing.assert_close(conv(x), wanted)
            torch.testing.assert_close(both[1](x.mT).mT, wanted)
            if keys == list(both[1 - first].state_dict()):
                remove(both[1 - first])


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("wrap", [spectral_norm, parametrizations.spectral_norm])
def test_a_power_iteration_of_one_does_not_step_the_other(wrap: Callable[..., Any]) -> None:
    conv = wrap(nn.Conv1d(4, 6, 1)).train()
    linear = conv1d_to_linear(conv)
    before = {name: one.clone() for name, one in conv.named_buffers()}
    linear(torch.randn(2, 5, 4))
    assert all(torch.equal(one, before[name]) for name, one in conv.named_buffers())


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("to", ["conv1d", "conv2d", "conv3d"])
@pytest.mark.parametrize("wrap", [spectral_norm, parametrizations.spectral_norm])
def test_one_forward_takes_one_step_of_the_power_iteration(wrap: Callable[..., Any], to: Any) -> None:
    models = []
    for _ in range(2):
        torch.manual_seed(1)
        models.append(nn.Sequential(wrap(nn.Linear(6, 5).double())).train())
    swap_pointwise(models[0], to)
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    for _ in range(2):
        torch.testing.assert_close(models[0](x), models[1](x), rtol=1e-12, atol=1e-13)


def test_pruning_one_again_leaves_the_other() -> None:
    conv = PRUNE.l1_unstructured(nn.Conv1d(4, 6, 1), "weight", 0.5)
    linear: Any = conv1d_to_linear(conv)
    PRUNE.l1_unstructured(linear, "weight", 0.5)
    assert int((conv.weight_mask == 0).sum()) == 12
    assert int((linear.weight_mask == 0).sum()) == 18
    assert conv(torch.randn(2, 4, 5)).shape == (2, 6, 5)


# --------------------------------------------------------------------------------------------------- parameters


@pytest.mark.parametrize("to", ["linear", "conv1d", "conv3d"])
@pytest.mark.parametrize("wide_out", [4, 6])
def test_attributes_of_parameters_go_along(to: Any, wide_out: int) -> None:
    layer: Any = nn.Conv1d(4, wide_out, 1) if to == "linear" else nn.Linear(4, wide_out)
    layer.weight._no_weight_decay = True
    layer.bias.rate = 2
    new: Any = swap_pointwise(nn.Sequential(layer), to).model[0]  # type: ignore[index]
    assert new.weight is not layer.weight
    assert new.weight._no_weight_decay is True
    assert new.bias.rate == 2


def test_attributes_of_a_parametrized_weight_go_along() -> None:
    conv: Any = parametrizations.weight_norm(nn.Conv1d(4, 6, 1))
    conv.parametrizations.weight.original1.tag = "v"
    new: Any = swap_pointwise(nn.Sequential(conv)).model[0]  # type: ignore[index]
    assert new.parametrizations.weight.original1.tag == "v"


def test_weights_made_for_inference_alone_are_refused_by_name() -> None:
    with torch.inference_mode():
        conv = nn.Conv1d(4, 6, 1)
    model = nn.Sequential(conv)
    (left,) = swap_pointwise(model).left
    assert "inference_mode" in left.reason
    assert model[0] is conv
    with pytest.raises(CannotConvert, match="inference_mode"):
        conv1d_to_linear(conv)


@pytest.mark.parametrize("to", ["linear", "conv2d"])
def test_a_model_swapped_in_inference_mode_still_trains(to: Any) -> None:
    model = nn.Sequential(nn.Conv1d(4, 6, 1) if to == "linear" else nn.Linear(4, 6))
    with torch.inference_mode():
        swap_pointwise(model, to)
    model(torch.randn(2, 4, 4)).sum().backward()
    assert all(one.grad is not None and not one.is_inference() for one in model.parameters())


@settings(deadline=None, max_examples=60)
@given(
    dims=st.integers(1, 3), wide_in=st.integers(1, 6), wide_out=st.integers(1, 6), square=st.booleans(),
    bias=st.booleans(), alone=st.booleans(),
)  # fmt: skip
def test_there_and_back_with_gradients(
    dims: int, wide_in: int, wide_out: int, square: bool, bias: bool, alone: bool
) -> None:
    """From a Linear, of square and of other sizes, whose weight two layers share."""
    wide_out = wide_in if square else wide_out
    first: Any = nn.Linear(wide_in, wide_out, bias).double()
    second: Any = nn.Linear(wide_in, wide_out, bias).double()
    second.weight = first.weight
    x = torch.randn(2, 3, wide_in, dtype=torch.float64)
    (first(x) * second(x)).sum().backward()
    wanted, grads = first(x), [one.grad.clone() for one in first.parameters()]
    if alone:
        to_conv: list[Any] = [linear_to_conv1d, linear_to_conv2d, linear_to_conv3d]
        to_linear: list[Any] = [conv1d_to_linear, conv2d_to_linear, conv3d_to_linear]
        there: Any = to_conv[dims - 1](first)
        back: Any = to_linear[dims - 1](there)
        y = there(x.mT.reshape(2, wide_in, 3, *(1,) * (dims - 1))).flatten(2).mT
        torch.testing.assert_close(y, wanted, rtol=1e-12, atol=1e-13)
    else:
        to: Any = f"conv{dims}d"
        model: Any = swap_pointwise(nn.ModuleList([first, second]), to).model
        assert model[0].weight is model[1].weight
        torch.testing.assert_close(model[0](x), wanted, rtol=1e-12, atol=1e-13)
        swap_pointwise(model)
        assert model[0].weight is model[1].weight
        back = model[0]
    assert type(back) is nn.Linear
    assert torch.equal(back(x), wanted)
    for one, grad in zip(back.parameters(), grads, strict=True):
        torch.testing.assert_close(one.grad, grad, rtol=0, atol=0)
