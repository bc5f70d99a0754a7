"""Optimizers of every common form: state follows its weight, or the conversion is refused. torch is the oracle."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict
from torch.optim.swa_utils import AveragedModel

from convinspect.errors import CannotConvert
from support.conversions import converted, load
from support.in_process import run
from support.program import assert_one_line


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(6, 8, 1), nn.Conv1d(8, 8, 1), nn.Conv1d(8, 4, 1), nn.Tanh())


def _as_linear(model: nn.Module, changed: tuple[int, ...]) -> nn.Module:
    """The same model with Linear where the file has it after."""
    layers = list(copy.deepcopy(model).children())
    for at in changed:
        conv: Any = layers[at]
        linear = nn.Linear(conv.in_channels, conv.out_channels)
        layers[at] = nn.Sequential(_Last(), linear, _Last())
        layers[at].load_state_dict({"1.weight": conv.weight.squeeze(-1), "1.bias": conv.bias})
    return nn.Sequential(*layers)


class _Last(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(1, 2)


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for seed in range(steps):
        torch.manual_seed(seed)
        optimizer.zero_grad()
        model(torch.randn(5, 6, 7)).square().mean().backward()
        optimizer.step()


Make = Callable[[nn.Module], torch.optim.Optimizer]


def _weights_and_biases(model: nn.Module) -> torch.optim.Optimizer:
    named = list(model.named_parameters())
    return torch.optim.AdamW(
        [
            {"params": [one for _, one in named if one.dim() > 1], "weight_decay": 0.1},
            {"params": [one for _, one in named if one.dim() == 1], "weight_decay": 0.0},
        ]
    )


@pytest.mark.parametrize(
    "make",
    [
        _weights_and_biases,
        lambda model: torch.optim.AdamW([*model[2].parameters(), *model[1].parameters(), *model[0].parameters()]),
        lambda model: torch.optim.AdamW(model[1:].parameters()),
        lambda model: torch.optim.SGD(model[2].parameters(), lr=0.1, momentum=0.9),
    ],
    ids=["decay groups", "reversed", "first frozen", "last alone"],
)
def test_training_goes_on_whatever_the_order(tmp_path: Path, make: Make) -> None:
    model = _model()
    optimizer = make(model)
    _train(model, optimizer, 2)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "a.pt")
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--to", "linear")
    assert done.returncode == 0, done.stderr
    after = _as_linear(model, (0, 1, 2))
    state = load(tmp_path / "b.pt")
    assert [value.shape for value in state["model"].values()] == [value.shape for value in after.state_dict().values()]
    resumed = make(after)
    resumed.load_state_dict(state["optimizer"])
    _train(model, optimizer, 3)
    _train(after, resumed, 3)
    for old, new in zip(model.parameters(), after.parameters(), strict=True):
        torch.testing.assert_close(new, old.reshape(new.shape))
    assert run("verify", tmp_path / "a.pt", tmp_path / "b.pt").returncode == 0


def _alike() -> nn.ModuleDict:
    return nn.ModuleDict({name: nn.Conv1d(4, 4, 1) for name in "abc"})


@pytest.mark.parametrize("order", ["abc", "cba"])
@pytest.mark.parametrize("split", [False, True])
def test_an_order_that_shapes_do_not_tell_is_refused(tmp_path: Path, order: str, split: bool) -> None:
    model = _alike()
    given: Any = [{"params": model[name].parameters()} for name in order] if split else [
        parameter for name in order for parameter in model[name].parameters()
    ]  # fmt: skip
    optimizer = torch.optim.AdamW(given)
    sum(layer(torch.ones(1, 4, 2)).sum() for layer in model.values()).backward()
    optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "a.pt")
    words = ["convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--to", "linear"]
    said = "a.weight changes and b.weight does not", "--drop-optimizer", "--keep-optimizer"
    assert_one_line(run(*words, "--layer", "a"), *said)
    assert not (tmp_path / "b.pt").exists()
    assert run(*words).returncode == 0


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("names", [(), ("1",)])
def test_state_keyed_by_names_follows(tmp_path: Path, flat: bool, names: tuple[str, ...]) -> None:
    """As `torch.distributed.checkpoint.state_dict` writes it, and loads it."""
    model = nn.Sequential(nn.Conv1d(6, 6, 1), nn.Conv1d(6, 6, 1))
    optimizer = torch.optim.AdamW(model.parameters())
    _train(model, optimizer, 1)
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    weights, state = get_state_dict(model, optimizer, options=options)
    torch.save({"model": weights, "optim": state}, tmp_path / "a.pt")
    converted(tmp_path / "a.pt", tmp_path / "b.pt", names=names)
    after = load(tmp_path / "b.pt")
    for name, value in after["model"].items():
        kept = after["optim"][f"state.{name}.exp_avg"] if flat else after["optim"]["state"][name]["exp_avg"]
        assert kept.shape == value.shape, name
    assert after["model"]["1.weight"].dim() == 2
    assert after["model"]["0.weight"].dim() == (3 if names else 2)
    assert run("verify", tmp_path / "a.pt", tmp_path / "b.pt").returncode == 0


def test_an_averaged_model_beside_it_follows(tmp_path: Path) -> None:
    model = _model()
    optimizer = torch.optim.AdamW(model.parameters())
    averaged = AveragedModel(model)
    _train(model, optimizer, 1)
    averaged.update_parameters(model)
    thing = {"model": model.state_dict(), "swa_model": averaged.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(thing, tmp_path / "a.pt")
    converted(tmp_path / "a.pt", tmp_path / "b.pt")
    after = load(tmp_path / "b.pt")
    assert after["swa_model"]["module.0.weight"].shape == after["model"]["0.weight"].shape == (8, 6)
    assert after["optimizer"]["state"][0]["exp_avg"].shape == (8, 6)


def test_one_flat_vector_of_all_parameters_stays(tmp_path: Path) -> None:
    model = _model()
    flat = nn.Parameter(torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()]).half())
    optimizer = torch.optim.SGD([flat], lr=0.1, momentum=0.9)
    flat.grad = torch.ones_like(flat)
    optimizer.step()
    thing = {"model": model.state_dict(), "last_optimizer_state": optimizer.state_dict()}
    torch.save(thing, tmp_path / "a.pt")
    converted(tmp_path / "a.pt", tmp_path / "b.pt")
    after = load(tmp_path / "b.pt")
    assert after["model"]["0.weight"].shape == (8, 6)
    assert str(after["last_optimizer_state"]) == str(thing["last_optimizer_state"])


# --------------------------------------------------------------------------------- optimizers that see the shape


def _with_state(folder: Path, state: dict[str, torch.Tensor], group: dict[str, Any], shape: tuple[int, ...]) -> Path:
    optimizer = {"state": {0: state}, "param_groups": [{"params": [0], "lr": 0.1, **group}]}
    torch.save(
        {"model": {"c.weight": torch.randn(shape), "n.bias": torch.ones(3)}, "optimizer": optimizer}, folder / "a.pt"
    )
    return folder / "a.pt"


@pytest.mark.parametrize(
    ("group", "said"),
    [
        ({"update_proj_gap": 50}, "GaLore"),
        ({"projection_type": "std"}, "GaLore"),
        ({"max_dim": 1000, "ema_rate": 0.9}, "SPlus"),
        ({"extra_l2": 0.0, "beta": 0.99}, "Amos"),
    ],
)
def test_an_optimizer_that_sees_the_shape_is_refused_by_its_groups(tmp_path: Path, group: Any, said: str) -> None:
    source = _with_state(tmp_path, {"exp_avg": torch.ones(4, 6, 1)}, group, (4, 6, 1))
    done = run("convert", source, "-o", tmp_path / "b.pt", "--to", "linear")
    assert_one_line(done, f"is {said}", "--drop-optimizer")
    assert run("convert", source, "-o", tmp_path / "b.pt", "--to", "linear", "--drop-optimizer").returncode == 0


def test_muon_takes_matrices_alone(tmp_path: Path) -> None:
    source = _with_state(tmp_path, {"momentum_buffer": torch.ones(4, 6)}, {"ns_steps": 5}, (4, 6))
    with pytest.raises(CannotConvert, match="Muon"):
        converted(source, tmp_path / "b.pt", "Conv1d", names=("c",))


@pytest.mark.parametrize("inputs", [6, 1])
def test_adafactor_is_refused(tmp_path: Path, inputs: int) -> None:
    """With one input its `col_var` has the shape of the weight, and its `row_var` with a kernel of one number."""
    model = nn.Sequential(nn.Conv1d(inputs, 4, 1))
    optimizer: Any = torch.optim.Adafactor(model.parameters())
    model(torch.randn(2, inputs, 5)).square().mean().backward()
    optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "a.pt")
    with pytest.raises(CannotConvert, match="factored state"):
        converted(tmp_path / "a.pt", tmp_path / "b.pt", names=("0",))


def test_state_that_depends_on_no_shape_stays(tmp_path: Path) -> None:
    """bitsandbytes' 8-bit state, and one number for a whole parameter."""
    state = {
        "state1": torch.ones(4, 6, 1, dtype=torch.uint8),
        "state2": torch.ones(4, 6, 1, dtype=torch.uint8),
        "qmap1": torch.ones(256),
        "absmax1": torch.ones(2),
        "beta1_weight": torch.ones(1),
        "step": torch.tensor(1.0),
    }
    source = _with_state(tmp_path, state, {}, (4, 6, 1))
    converted(source, tmp_path / "b.pt")
    after = load(tmp_path / "b.pt")["optimizer"]["state"][0]
    shapes = {name: tuple(value.shape) for name, value in after.items()}
    assert shapes == {name: tuple(value.shape) for name, value in state.items()} | {"state1": (4, 6), "state2": (4, 6)}


def test_old_names_that_key_a_state_are_said_to_stay(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv1d(6, 6, 1))
    optimizer = torch.optim.AdamW(model.parameters())
    _train(model, optimizer, 1)
    weights, state = get_state_dict(model, optimizer)
    torch.save({"model": weights, "optim": state}, tmp_path / "a.pt")
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--rename", "0=first")
    assert "note: the optimizer keeps the old names: 0.bias, 0.weight" in done.stderr
