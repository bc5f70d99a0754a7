"""An average that is kept as a module beside the model's own, in one state_dict: its copies follow their weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from support.conversions import load
from support.in_process import run


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(6, 4, 1), nn.BatchNorm1d(4), nn.Conv1d(4, 4, 3, padding=1))


def beside(model: nn.Module, average: nn.Module, names: tuple[str, str]) -> dict[str, torch.Tensor]:
    """The state_dict of a module that has both as parts; "" for a model whose own module has the average."""
    whole: Any = nn.Module() if names[0] else model
    for name, part in zip(names, (model, average), strict=True):
        parent, _, last = name.rpartition(".")
        if name:
            holder = whole
            for level in filter(None, parent.split(".")):
                if not hasattr(holder, level):
                    holder.add_module(level, nn.Module())
                holder = getattr(holder, level)
            holder.add_module(last, part)
    return {key: value + (not key.startswith(names[0])) for key, value in whole.state_dict().items()}


def averaged(kind: str) -> nn.Module:
    return AveragedModel(net()) if kind == "AveragedModel" else copy.deepcopy(net())


NAMES = [
    ("model", "ema_model"),
    ("online_model", "ema_model"),
    ("net", "net_ema"),
    ("net", "shadow"),
    ("net", "avg_net"),
    ("a.unet", "a.swa_unet"),
    ("", "ema"),
]


@pytest.mark.parametrize("kind", ["copy", "AveragedModel"])
@pytest.mark.parametrize("names", NAMES, ids=" ".join)
def test_an_average_follows(tmp_path: Path, names: tuple[str, str], kind: str) -> None:
    state = beside(net(), averaged(kind), names)
    torch.save(state, tmp_path / "a.pt")
    first, second = (f"{name}." * bool(name) for name in names)
    second += "module." * (kind == "AveragedModel")
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--to", "linear", "--layer", f"{first}0")
    assert done.returncode == 0, done.stderr
    assert "1 layer converted with 1 copy" in done.stdout
    after = load(tmp_path / "b.pt")
    assert list(after) == list(state)
    for key, value in state.items():
        shape = (4, 6) if key in (f"{first}0.weight", f"{second}0.weight") else value.shape
        assert torch.equal(after[key], value.reshape(shape)), key
    found = run("verify", tmp_path / "a.pt", tmp_path / "b.pt")
    assert found.returncode == 0, found.stdout
    every = run("convert", tmp_path / "a.pt", "-o", tmp_path / "c.pt", "--to", "linear")
    assert "2 layers converted" in every.stdout
    for one, other in (("a.pt", "c.pt"), ("c.pt", "a.pt")):
        assert run("verify", tmp_path / one, tmp_path / other).returncode == 0


@pytest.mark.parametrize(
    ("changed", "said"), [("model", "it did not follow its weight"), ("ema_model", "unlike its weight")]
)
def test_one_without_the_other_is_not_equal(tmp_path: Path, changed: str, said: str) -> None:
    state = beside(net(), averaged("copy"), ("model", "ema_model"))
    torch.save(state, tmp_path / "a.pt")
    torch.save(state | {f"{changed}.0.weight": state[f"{changed}.0.weight"].squeeze(-1)}, tmp_path / "b.pt")
    done = run("verify", tmp_path / "a.pt", tmp_path / "b.pt")
    assert done.returncode == 1, done.stdout
    assert "ema_model.0.weight" in done.stdout
    assert said in done.stdout


def test_an_excluded_average_stays_and_is_named(tmp_path: Path) -> None:
    state = beside(net(), averaged("copy"), ("model", "ema_model"))
    torch.save(state, tmp_path / "a.pt")
    words = ("--to", "linear", "--exclude", "ema_model.*")
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", *words)
    assert done.returncode == 0, done.stderr
    assert "left unchanged: ema_model.0.weight" in done.stdout
    assert load(tmp_path / "b.pt")["ema_model.0.weight"].shape == (4, 6, 1)


def test_the_original_of_a_copy_that_alone_was_chosen_is_named(tmp_path: Path) -> None:
    torch.save(beside(net(), averaged("copy"), ("model", "ema_model")), tmp_path / "a.pt")
    words = ("--to", "linear", "--layer", "ema_model.0")
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", *words)
    assert done.returncode == 0, done.stderr
    assert "left unchanged: model.0.weight" in done.stdout
    assert run("verify", tmp_path / "a.pt", tmp_path / "b.pt").returncode == 1


def test_the_other_checkpoints_shapes_come_first(tmp_path: Path) -> None:
    state = beside(net(), averaged("copy"), ("model", "ema_model"))
    torch.save(state, tmp_path / "a.pt")
    torch.save(state | {"model.0.weight": state["model.0.weight"].squeeze(-1)}, tmp_path / "b.pt")
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "c.pt", "--like", tmp_path / "b.pt")
    assert done.returncode == 0, done.stderr
    wanted, after = load(tmp_path / "b.pt"), load(tmp_path / "c.pt")
    assert {key: one.shape for key, one in after.items()} == {key: one.shape for key, one in wanted.items()}


def _twins() -> dict[str, torch.Tensor]:
    return {f"{name}.{key}": one for name in ("a", "b") for key, one in net().state_dict().items()}


@pytest.mark.parametrize(
    "others",
    [
        # Two modules that it may be of; another width; a layer more; called otherwise; a single layer.
        {**_twins(), **{f"ema_c.{key}": one for key, one in net().state_dict().items()}},
        {**_twins(), **{f"ema_a.{key}": one[..., :3, :] if key == "0.weight" else one
                        for key, one in net().state_dict().items()}},
        {**_twins(), **{f"ema_a.{key}": one for key, one in net().state_dict().items()},
         "ema_a.7.weight": torch.ones(2, 2)},
        {**_twins(), **{f"schema.{key}": one for key, one in net().state_dict().items()}},
        {"a.0.weight": torch.ones(4, 6, 1), "ema.weight": torch.ones(4, 6, 1)},
        {"a.0.0.weight": torch.ones(4, 6, 1), "pool.avg.0.weight": torch.ones(4, 6, 1)},
    ],
)  # fmt: skip
def test_nothing_is_said_of_what_may_be_no_copy(tmp_path: Path, others: dict[str, torch.Tensor]) -> None:
    torch.save(others, tmp_path / "a.pt")
    layer = "a.0.0" if "a.0.0.weight" in others else "a.0"
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--to", "linear", "--layer", layer)
    assert done.returncode == 0, done.stderr
    assert "1 layer converted" in done.stdout
    assert "copy" not in done.stdout
    assert "left unchanged" not in done.stdout
    assert run("verify", tmp_path / "a.pt", tmp_path / "b.pt").returncode == 0
