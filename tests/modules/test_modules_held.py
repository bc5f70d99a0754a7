"""Layers that other objects hold, that PyTorch's own layers read, or that TorchScript owns stay, and are named."""

from __future__ import annotations

import collections
import functools
import types
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from convinspect.modules import expose_linears, swap_pointwise


class Helper:
    def __init__(self, layer: Any) -> None:
        self.layer = layer


class Slotted:
    __slots__ = ("_layer", "empty")

    def __init__(self, layer: Any) -> None:
        self._layer = layer


@dataclass(frozen=True)
class Config:
    layer: Any


class Registering(collections.UserList):  # type: ignore[type-arg]
    """A sequence of its own kind."""


def closing(layer: Any) -> Callable[..., Any]:
    return lambda x: layer(x)


def unregistered(layer: nn.Module) -> list[nn.Module]:
    return [nn.Sequential(layer)]


HOLDERS: list[tuple[Callable[[Any], Any], str]] = [
    (lambda conv: collections.deque([conv]), "kept[0]"),
    (lambda conv: types.SimpleNamespace(layer=conv), "kept.layer"),
    (Helper, "kept.layer"),
    (Config, "kept.layer"),
    (Slotted, "kept._layer"),
    (lambda conv: Helper({"a": [conv.weight]}), "kept.layer['a'][0]"),
    (lambda conv: Helper(conv).layer.forward, "kept (a method of it)"),
    (lambda conv: Registering([conv]), "kept.data[0]"),
    (lambda conv: types.MappingProxyType({1: conv}), "kept[1]"),
    (lambda conv: functools.partial(lambda layer, x: layer(x), Helper(conv)), "kept[1].layer"),
    (lambda conv: {conv: 1}, "kept (a key of it)"),
    (closing, "kept (its variable layer)"),
    (weakref.ref, "kept()"),
    (unregistered, "kept[0].0"),
]


@pytest.mark.parametrize(("holder", "place"), HOLDERS)
@pytest.mark.parametrize("exposing", [False, True])
def test_what_any_object_holds_is_seen(holder: Callable[[Any], Any], place: str, exposing: bool) -> None:
    model = nn.Sequential(nn.Conv1d(4, 4, 1), nn.Conv1d(4, 4, 1))
    if exposing:
        swap_pointwise(model)
    model.kept = holder(model[0])
    swaps = expose_linears(model) if exposing else swap_pointwise(model)
    assert [one.name for one in swaps.swapped] == ["1"]
    assert [(one.name, one.reason) for one in swaps.left] == [
        ("0", f"the model also keeps it in {place}, which would stay with the old one")
    ]


class Watching:
    """Whatever looks into it by its own code is caught."""

    @property
    def value(self) -> Any:
        raise AssertionError("a property was called")

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was asked for")

    def __iter__(self) -> Any:
        raise AssertionError("it was gone through")

    def __eq__(self, other: object) -> bool:
        raise AssertionError("it was compared")

    __hash__ = None  # type: ignore[assignment]


def test_no_code_of_the_objects_runs_and_circles_end() -> None:
    model: Any = nn.Sequential(nn.Conv1d(4, 4, 1))
    model.watching = Watching()
    circle = Helper(None)
    circle.layer = [circle, model]
    model.circle = circle
    model.owner = [model, torch, Helper, len, "text"]
    assert swap_pointwise(model).left == ()


def test_a_long_list_does_not_take_long() -> None:
    model = nn.Sequential(nn.Conv1d(4, 4, 1))
    model.names = [[str(number)] for number in range(300_000)]  # type: ignore[assignment]
    assert len(swap_pointwise(model).swapped) == 1


# ---------------------------------------------------------------------------- PyTorch's own layers, TorchScript


class Encoder(nn.TransformerEncoderLayer):
    """Another name."""


class Attention(nn.MultiheadAttention):
    def __init__(self) -> None:
        super().__init__(8, 2, batch_first=True)
        self.out_proj: Any = nn.Linear(8, 8)

    def forward(self, x: Any) -> Any:  # type: ignore[override]
        return super().forward(x, x, x)[0]


class Block(nn.Sequential):
    """A container of the user's own, which calls what it holds."""


class Adapted(nn.Linear):
    """A layer of the user's own with another beside it."""

    def __init__(self) -> None:
        super().__init__(8, 8)
        self.beside = nn.Linear(8, 8)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.beside(input)
        return super().forward(input) + y


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "swapped"),
    [
        (lambda: Encoder(8, 2, 16, batch_first=True), []),
        (lambda: nn.TransformerEncoder(Encoder(8, 2, 16, batch_first=True), 2), []),
        (Attention, []),
        (lambda: Block(nn.Linear(8, 8)), ["0"]),
        (Adapted, ["beside"]),
    ],
)
def test_subclasses_of_layers_that_read_weights_keep_them(make: Callable[[], Any], swapped: list[str]) -> None:
    model = make().eval()
    x = torch.randn(2, 5, 8)
    with torch.no_grad():
        wanted = model(x)
        swaps = swap_pointwise(model, "conv1d")
        assert [one.name for one in swaps.swapped] == swapped
        torch.testing.assert_close(swaps.model(x), wanted)
    if not swapped:
        assert any("reads its weight" in one.reason for one in swaps.left)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("compiled", ["script", "trace"])
def test_scripted_layers_stay_and_are_named(compiled: str) -> None:
    x = torch.randn(2, 4, 5)

    def made(module: nn.Module, example: torch.Tensor) -> Any:
        jit: Any = torch.jit
        return jit.script(module) if compiled == "script" else jit.trace(module, example)

    model = nn.Sequential(made(nn.Conv1d(4, 5, 1), x), nn.Conv1d(5, 5, 1))
    wanted = model(x)
    swaps = swap_pointwise(model)
    assert [one.name for one in swaps.swapped] == ["1"]
    assert [(one.name, one.kind, one.reason) for one in swaps.left] == [
        ("0", "Conv1d", "it is a TorchScript module, which cannot be changed")
    ]
    torch.testing.assert_close(model(x), wanted)
    whole = nn.Sequential(made(nn.Sequential(nn.Linear(5, 3)), x))
    assert [(one.name, one.kind) for one in swap_pointwise(whole, "conv1d").left] == [("0.0", "Linear")]
