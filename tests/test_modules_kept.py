"""Swapping keeps or names what a model holds beside PyTorch's registers: lists, methods, subclasses' code, children."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from convinspect.errors import CannotConvert
from convinspect.modules import PointwiseLinear, conv1d_to_linear, swap_pointwise


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
