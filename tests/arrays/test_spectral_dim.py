"""The dimension of spectral norm, from the file, the shapes or the numbers; the oracle is PyTorch's forward pass."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from convinspect.arrays.effective import effective_weight, spectral_reading
from convinspect.checkpoint import open_checkpoint
from convinspect.layers.find import find_layers
from convinspect.records import Doubt, Layer
from support import program
from support.in_process import run

pytestmark = pytest.mark.filterwarnings("ignore")

OLD, NEW = nn.utils.spectral_norm, parametrizations.spectral_norm
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "pointwise": lambda: nn.Conv1d(4, 4, 1),
    "k = 3": lambda: nn.Conv1d(6, 6, 3),
    "plane": lambda: nn.Conv2d(5, 5, 1),
    "three of a size": lambda: nn.Conv1d(4, 4, 4),
    "transposed": lambda: nn.ConvTranspose1d(4, 4, 1),
    "linear": lambda: nn.Linear(6, 6),
    "oblong": lambda: nn.Linear(6, 4),
}


@pytest.fixture(autouse=True)
def _same_numbers_each_time() -> None:
    torch.manual_seed(0)


def iterated(layer: Any, steps: int = 1) -> Any:
    """The layer after a few training steps, which leave u and v a little behind the weight."""
    optimizer = torch.optim.SGD(layer.parameters(), 1e-3)
    x = torch.randn(2, layer.weight.shape[1] if isinstance(layer, nn.Linear) else layer.in_channels, *[8] * (
        layer.weight.dim() - 2))  # fmt: skip
    for _ in range(steps):
        layer(x).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    layer.eval()
    with torch.no_grad():
        layer(x)
    return layer


def only_layer(path: Path) -> Layer:
    return next(layer for layer in find_layers(open_checkpoint(path)) if layer.norm == "spectral_norm")


def assert_is_weight_of(layer: Layer, module: Any) -> None:
    ours = torch.from_numpy(np.array(effective_weight(layer)))
    torch.testing.assert_close(ours, module.weight.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dim", [None, 0, 1, -1])
@pytest.mark.parametrize("wrap", [OLD, NEW])
@pytest.mark.parametrize("name", LAYERS)
def test_a_state_dicts_numbers_tell_it(tmp_path: Path, name: str, wrap: Any, dim: int | None) -> None:
    if dim == -1 and wrap is OLD:
        pytest.skip("the old hook takes no negative dim")
    module = iterated(wrap(LAYERS[name](), dim=dim), 3)
    torch.save(nn.ModuleDict({"up": module}).state_dict(), tmp_path / "a.pt")
    layer = only_layer(tmp_path / "a.pt")
    assert_is_weight_of(layer, module)
    reading = spectral_reading(layer)
    assert reading is not None
    assert reading.known


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("name", LAYERS)
def test_a_whole_modules_hook_records_it(tmp_path: Path, name: str, dim: int) -> None:
    module: Any = OLD(LAYERS[name](), dim=dim)  # u and v are random: nothing was run
    module.eval()
    torch.save(nn.Sequential(module), tmp_path / "whole.pt")
    layer = only_layer(tmp_path / "whole.pt")
    assert layer.norm_dims == (dim,)
    with torch.no_grad():
        module(torch.randn(2, 6 if "linear" in name or name == "oblong" else module.in_channels, *[8] * (
            module.weight.dim() - 2)))  # fmt: skip
    assert_is_weight_of(layer, module)


@pytest.mark.parametrize("dim", [0, 1])
def test_a_traced_parametrization_records_it(tmp_path: Path, dim: int) -> None:
    module: Any = NEW(nn.Conv1d(4, 4, 1), dim=dim).eval()
    trace: Any = torch.jit.trace
    for step in ("_u", "_v"):
        vector = getattr(module.parametrizations["weight"][0], step)
        vector.copy_(nn.functional.normalize(torch.randn(4), dim=0))
    trace(module, torch.zeros(1, 4, 3)).save(tmp_path / "traced.pt")
    layer = only_layer(tmp_path / "traced.pt")
    assert layer.norm_dims == (dim,)
    assert_is_weight_of(layer, module)


def unrun(path: Path, dim: int) -> Any:
    """A file of which nothing tells `dim`: the old hook's u and v are random until the first step of training."""
    module = OLD(nn.Conv1d(5, 5, 1), dim=dim)
    module.eval()
    torch.save(nn.ModuleDict({"c": module}).state_dict(), path)
    return module


def test_what_nothing_tells_is_said_to_be_assumed(tmp_path: Path) -> None:
    source, target = tmp_path / "a.pt", tmp_path / "b.pt"
    unrun(source, 1)
    layer = only_layer(source)
    assert layer.doubts == (Doubt.NORM_DIM,)
    reading = spectral_reading(layer)
    assert reading is not None
    assert (reading.dim, reading.known) == (0, False)
    assert "dim=0 is assumed" in run("weights", source, "c").stdout
    assert Doubt.NORM_DIM.value in run("weights", source, "--stats").stdout
    refused = run("convert", source, "-o", target, "--fuse")
    assert refused.returncode == 2
    assert "--layer c" in refused.stderr
    assert not target.exists()
    # Converted to Linear it keeps its norm, and says why.
    done = run("convert", source, "-o", target, "--fuse", "--to", "linear")
    assert done.returncode == 0
    assert "c is not fused" in done.stderr
    assert torch.load(target)["c.weight_orig"].shape == (5, 5)


def test_a_user_who_names_the_layer_takes_the_assumption(tmp_path: Path) -> None:
    source, target = tmp_path / "a.pt", tmp_path / "b.pt"
    module = unrun(source, 0)
    done = run("convert", source, "-o", target, "--fuse", "--layer", "c")
    assert done.returncode == 0
    assert "dim=0" in done.stderr
    with torch.no_grad():
        module(torch.zeros(1, 5, 2))
    torch.testing.assert_close(torch.load(target)["c.weight"], module.weight.detach())
    found = json.loads(run("verify", source, target, "--format", "json").stdout)
    assert found["layers"][0]["assumed"][-1] == "spectral norm's dim 0"


@pytest.mark.parametrize("wrap", [OLD, NEW])
@pytest.mark.parametrize("dim", [0, 1])
def test_fused_layers_give_the_same_outputs(tmp_path: Path, wrap: Any, dim: int) -> None:
    module = iterated(wrap(nn.Conv1d(6, 6, 1), dim=dim))
    torch.save(nn.ModuleDict({"c": module}).state_dict(), tmp_path / "a.pt")
    source, target = tmp_path / "a.pt", tmp_path / "b.pt"
    assert run("convert", source, "-o", target, "--fuse", "--to", "linear").returncode == 0
    assert run("verify", source, target).returncode == 0
    linear = nn.Linear(6, 6)
    linear.load_state_dict({key.removeprefix("c."): value for key, value in torch.load(target).items()})
    x = torch.randn(2, 6, 7)
    torch.testing.assert_close(linear(x.mT).mT, module(x))


@pytest.mark.parametrize("wrap", [OLD, NEW, nn.utils.weight_norm, parametrizations.weight_norm])
def test_a_norm_over_the_kernel_is_not_converted(tmp_path: Path, wrap: Any) -> None:
    module = wrap(nn.Conv1d(6, 4, 1), dim=2)
    torch.save(nn.ModuleDict({"c": module}).state_dict(), tmp_path / "a.pt")
    words = ["convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--to", "linear", "--layer", "c"]
    done = run(*words)
    assert done.returncode == 2
    assert "dimension of the kernel" in done.stderr


@pytest.mark.parametrize("wrap", [nn.utils.weight_norm, parametrizations.weight_norm])
@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_norm_of_other_dims_loads_after_conversion(tmp_path: Path, wrap: Any, dim: int | None) -> None:
    module = wrap(nn.Conv1d(6, 4, 1), dim=dim)
    torch.save(module.state_dict(), tmp_path / "a.pt")
    assert run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--to", "linear").returncode == 0
    linear = wrap(nn.Linear(6, 4), dim=dim)
    linear.load_state_dict(torch.load(tmp_path / "b.pt"))
    x = torch.randn(2, 6, 7)
    torch.testing.assert_close(linear(x.mT).mT, module(x))


@pytest.mark.parametrize("wrap", [OLD, NEW])
def test_the_models_code_tells_it(tmp_path: Path, wrap: Any) -> None:
    (tmp_path / "its_code.py").write_text(
        f"from {wrap.__module__} import spectral_norm\nfrom torch import nn\n\n\n"
        "def make():\n    return nn.ModuleDict({'c': spectral_norm(nn.Conv1d(5, 5, 1), dim=1)})\n"
    )
    module = wrap(nn.Conv1d(5, 5, 1), dim=1)
    state = module.state_dict()
    for vector in [key for key in state if key.endswith("_u")]:
        state[vector] = nn.functional.normalize(torch.randn(5), dim=0)
    module.load_state_dict(state)
    module.eval()
    torch.save({f"c.{key}": value for key, value in state.items()}, tmp_path / "a.pt")
    source, target = tmp_path / "a.pt", tmp_path / "b.pt"
    assert run("convert", source, "-o", target, "--fuse").returncode == 2
    # In a process of its own, since this one would keep the user's module.
    done = program.run("convert", source, "-o", target, "--fuse", "--model", "its_code:make", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        module(torch.zeros(1, 5, 2))
    torch.testing.assert_close(torch.load(target)["c.weight"], module.weight.detach())


class Halved(nn.Module):
    """A parametrization of the user's that keeps the buffers of PyTorch's spectral norm."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("_u", torch.ones(4))
        self.register_buffer("_v", torch.ones(4))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight / 2


class Plain(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * 3


def test_parametrizations_of_others_are_not_taken_for_a_norm(tmp_path: Path) -> None:
    halved: Any = nn.Conv1d(4, 4, 1)
    parametrize.register_parametrization(halved, "weight", Halved())
    chained: Any = parametrizations.weight_norm(nn.Conv1d(4, 4, 1))
    parametrize.register_parametrization(chained, "weight", Plain())
    orthogonal = parametrizations.orthogonal(nn.Linear(4, 4))
    trace: Any = torch.jit.trace
    for name, module in {"halved": halved, "chained": chained}.items():
        path = tmp_path / f"{name}.pt"
        trace(copy.deepcopy(module), torch.zeros(1, 4, 3)).save(path)
        layers = find_layers(open_checkpoint(path))
        assert [layer.norm for layer in layers if layer.norm] == ["parametrized"], name
    torch.save(orthogonal.state_dict(), tmp_path / "o.pt")
    assert [layer.norm for layer in find_layers(open_checkpoint(tmp_path / "o.pt")) if layer.norm] == ["parametrized"]
