"""What `.pt2` and traced files say of pads, ties and several calls; the oracle is the live module, run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from convinspect.checkpoint import open_checkpoint
from convinspect.layers.find import find_layers
from convinspect.records import Doubt, Layer
from support.in_process import run

pytestmark = pytest.mark.filterwarnings("ignore")


def exported(module: nn.Module, path: Path, example: torch.Tensor, how: str = "export") -> dict[str, Layer]:
    """The layers of a module that was exported, by name."""
    module.eval()
    if how == "trace":
        torch.jit.trace(module, example).save(str(path))  # type: ignore[no-untyped-call]
    else:
        program = torch.export.export(module, (example,), strict=how == "strict")
        torch.export.save(program.run_decompositions() if how == "decomposed" else program, path)
    return {layer.name: layer for layer in find_layers(open_checkpoint(path))}


def assert_is(layer: Layer, module: Any) -> None:
    """What is said of the layer is what the live module has."""
    assert layer.kind == type(module).__name__
    assert (layer.stride, layer.dilation, layer.groups) == (module.stride, module.dilation, module.groups)
    assert layer.padding == module.padding


HOW = ["export", "strict", "decomposed", "trace"]
PLANES = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


MODES = ["circular", "reflect", "replicate", "zeros"]


@pytest.mark.parametrize(
    ("dims", "mode", "how"),
    # Exporting takes long: each two of these values together once, in one case or another.
    [(1 + (row + column) % 3, MODES[row], HOW[column]) for row in range(4) for column in range(4)],
)
def test_padding_modes_are_padding(tmp_path: Path, dims: int, mode: Any, how: str) -> None:
    padding: Any = (1, 2, 1)[:dims]
    conv = PLANES[dims](4, 6, 1, padding=padding, padding_mode=mode)
    x = torch.randn(1, 4, *[5] * dims)
    layer = exported(nn.Sequential(conv, nn.ReLU()), tmp_path / "a.pt2", x, how)["0"]
    assert conv(x).shape[2:] == tuple(5 + 2 * pad for pad in padding)
    assert_is(layer, conv)
    words = ["--to", "linear", "--from", "any", "--state-dict", "--layer", "0"]
    done = run("convert", tmp_path / "a.pt2", "-o", tmp_path / "b.pt", *words)
    assert done.returncode == 2 or torch.load(tmp_path / "b.pt")["0.weight"].dim() == dims + 2
    assert "pad" in done.stderr + done.stdout


@pytest.mark.parametrize("how", HOW)
def test_a_pad_of_another_module_is_not_the_layers(tmp_path: Path, how: str) -> None:
    net = nn.Sequential(nn.ReflectionPad1d(1), nn.Conv1d(4, 6, 1), nn.ConstantPad1d(2, 0.0), nn.Conv1d(6, 4, 3))
    layers = exported(net, tmp_path / "a.pt2", torch.randn(1, 4, 8), how)
    for name in ("1", "3"):
        assert_is(layers[name], net[int(name)])
        assert layers[name].doubts == ()


@pytest.mark.parametrize("how", HOW)
def test_convolutions_without_a_pad_stay_plain(tmp_path: Path, how: str) -> None:
    net = nn.Sequential(
        nn.Conv1d(4, 6, 1, padding_mode="circular"), nn.ReLU(), nn.Conv1d(6, 6, 1), nn.Conv1d(6, 4, 3, padding=1)
    )
    for example in (torch.randn(2, 4, 8), torch.randn(4, 8)):
        layers = exported(net, tmp_path / f"{example.dim()}.pt2", example, how)
        for name in ("0", "2", "3"):
            assert_is(layers[name], net[int(name)])
            assert layers[name].doubts == ()


class Own(nn.Conv1d):
    """A layer of the user's that pads by itself."""

    def __init__(self, pad: tuple[int, int]) -> None:
        super().__init__(4, 6, 1)
        self.pad = pad

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.conv1d(functional.pad(x, self.pad, "reflect"), self.weight, self.bias)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("pad", [(2, 2), (2, 0)])
def test_a_users_own_pad_counts(tmp_path: Path, how: str, pad: tuple[int, int]) -> None:
    layer = exported(nn.Sequential(Own(pad)), tmp_path / "a.pt2", torch.randn(1, 4, 8), how)["0"]
    assert layer.padding in ((2,), None)
    assert (layer.padding is None) == (layer.doubts != ())
    done = run("convert", tmp_path / "a.pt2", "-o", tmp_path / "b.pt", "--to", "linear", "--state-dict")
    assert done.returncode == 2 or torch.load(tmp_path / "b.pt")["0.weight"].dim() == 3


class Tied(nn.Module):
    """Two layers with one weight and bias, and other strides."""

    def __init__(self, first: dict[str, Any], second: dict[str, Any]) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(4, 4, 1, **first), nn.Conv1d(4, 4, 1, **second)
        self.b.weight, self.b.bias = self.a.weight, self.a.bias

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [self.a(x), self.b(x)]


@pytest.mark.parametrize(
    ("first", "how"),
    [
        *(
            (first, "export")
            for first in ({"stride": 2}, {"padding": 1}, {"padding": 1, "padding_mode": "reflect"}, {})
        ),
        ({"padding": 1, "padding_mode": "reflect"}, "strict"),
        ({"padding": 1}, "decomposed"),
        ({}, "decomposed"),
    ],
)
def test_tied_layers_have_the_settings_of_their_own_calls(tmp_path: Path, how: str, first: dict[str, Any]) -> None:
    for number, settings in enumerate(((first, {"stride": 3}), ({"stride": 3}, first))):
        net = Tied(*settings)
        layers = exported(net, tmp_path / f"{number}.pt2", torch.randn(1, 4, 8), how)
        for name in ("a", "b"):
            assert_is(layers[name], getattr(net, name))


class Twice(nn.Module):
    """A layer, one registered under two names, and weights that are given to functions too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Conv1d(4, 4, 1), nn.Conv1d(4, 4, 1, stride=2)
        self.same = self.c
        self.only = nn.Conv1d(4, 4, 1)
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [
            self.a(self.a(x)),
            functional.conv1d(x, self.a.weight, self.a.bias, stride=2),
            self.same(self.c(x)),
            functional.conv1d(x, self.only.weight, stride=2),
            functional.conv1d(x, self.only.weight, stride=3),
            functional.conv1d(x, self.linear.weight.unsqueeze(-1), self.linear.bias, stride=2),
            functional.conv1d(x, self.a.weight.transpose(0, 1)),
        ]


@pytest.mark.parametrize("how", ["export", "strict", "decomposed"])
def test_several_calls_with_one_weight(tmp_path: Path, how: str) -> None:
    net = Twice()
    layers = exported(net, tmp_path / "a.pt2", torch.randn(1, 4, 64), how)
    assert_is(layers["a"], net.a)
    assert layers["a"].doubts == (Doubt.CALLS_DIFFER,)
    for name in {"c", "same"} & set(layers):
        assert_is(layers[name], net.c)
        assert layers[name].doubts == ()
    # No call is its own, so that nothing is known of its stride.
    assert (layers["only"].stride, layers["only"].doubts) == (None, (Doubt.CALLS_DIFFER,))
    assert (layers["linear"].kind, layers["linear"].in_width) == ("Linear", 4)
    words = ["--to", "linear", "--state-dict", "--format", "json"]
    done = run("convert", tmp_path / "a.pt2", "-o", tmp_path / "b.pt", *words)
    assert done.returncode == 2 or torch.load(tmp_path / "b.pt")["a.weight"].dim() == 3


@pytest.mark.parametrize("bias", [True, False])
def test_a_decomposed_linear_is_known(tmp_path: Path, bias: bool) -> None:
    net = nn.Sequential(nn.Linear(4, 6, bias=bias), nn.ReLU(), nn.Linear(6, 6, bias=bias))
    for number, x in enumerate((torch.randn(3, 4), torch.randn(2, 3, 4))):
        layers = exported(net, tmp_path / f"{number}.pt2", x, "decomposed")
        for name in ("0", "2"):
            layer = layers[name]
            assert (layer.kind, layer.evidence) == ("Linear", "module")
            live: Any = net[int(name)]
            assert (layer.in_width, layer.out_width) == (live.in_features, live.out_features)
