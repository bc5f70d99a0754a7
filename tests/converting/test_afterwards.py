"""What `convert` says of things that treat a converted layer differently, in one line and only where it applies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from support.in_process import run

optim: Any = torch.optim


def _saved(folder: Path, model: nn.Module, *optimizers: torch.optim.Optimizer) -> Path:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    states = {f"optimizer{number or ''}": one.state_dict() for number, one in enumerate(optimizers)}
    torch.save({"model": model.state_dict(), **states}, folder / "a.pt")
    return folder / "a.pt"


def _told(path: Path, to: str, *options: str) -> tuple[list[str], list[dict[str, Any]]]:
    """The line, and the JSON."""
    words = ("convert", path, "--to", to, "--from", "any", "--dry-run", *options)
    done = run(*words)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "outputs are the same" in line]
    return lines, json.loads(run(*words, "--format", "json").stdout)["afterwards"]


def _layers(kind: str = "Conv1d", outer: int = 8) -> nn.Sequential:
    layer = nn.Linear(6, outer) if kind == "Linear" else getattr(nn, kind)(6, outer, 1)
    return nn.Sequential(layer, nn.LayerNorm(outer))


def test_nothing_is_said_of_an_ordinary_file(tmp_path: Path) -> None:
    model = _layers()
    assert _told(_saved(tmp_path, model, optim.AdamW(model.parameters())), "linear") == ([], [])
    matrices = [one for one in model.parameters() if one.ndim > 1]
    vectors = [one for one in model.parameters() if one.ndim == 1]
    decaying = optim.AdamW([{"params": matrices}, {"params": vectors, "weight_decay": 0.0}])
    assert _told(_saved(tmp_path, model, decaying), "linear") == ([], [])


@pytest.mark.parametrize("options", [("--drop-optimizer",), ("--keep-optimizer",)])
def test_adafactor_keeps_other_state(tmp_path: Path, options: tuple[str, ...]) -> None:
    model = _layers()
    (line,), data = _told(_saved(tmp_path, model, optim.Adafactor(model.parameters())), "linear", *options)
    assert "the optimizer at 'optimizer' is Adafactor, which keeps state of another size" in line
    found = {
        "topic": "optimizer",
        "where": "optimizer",
        "name": "Adafactor",
        "effect": "keeps other state",
        "layers": 0,
    }
    assert data == [found]


def test_torchs_muon_takes_no_convolution(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 8, bias=False))
    path = _saved(tmp_path, model, optim.Muon(model.parameters()))
    (line,), data = _told(path, "conv1d", "--layer", "0", "--drop-optimizer")
    assert "Muon, which takes weights of two dimensions alone" in line
    assert [one["effect"] for one in data] == ["takes matrices alone"]


def test_groups_chosen_by_dimensions(tmp_path: Path) -> None:
    """As for Muon: matrices in one group, everything else in another."""
    model = nn.Sequential(nn.Conv1d(6, 8, 1), nn.Linear(8, 4))
    matrices = [one for one in model.parameters() if one.ndim == 2]
    others = [one for one in model.parameters() if one.ndim != 2]
    optimizer = optim.AdamW([{"params": matrices}, {"params": others}])
    (line,), data = _told(_saved(tmp_path, model, optimizer), "linear")
    assert "the groups of the optimizer at 'optimizer'" in line
    assert [one["topic"] for one in data] == ["optimizer groups"]
    after = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4))
    again = [[one for one in after.parameters() if (one.ndim == 2) is wanted] for wanted in (True, False)]
    with pytest.raises(ValueError, match="parameter group"):
        optim.AdamW([{"params": group} for group in again]).load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize(("dim", "said"), [(0, False), (1, True)])
@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm"])
def test_a_norm_along_the_inputs(tmp_path: Path, norm: str, dim: int, said: bool) -> None:
    model = nn.Sequential(getattr(parametrizations, norm)(nn.Linear(6, 8), dim=dim))
    lines, data = _told(_saved(tmp_path, model), "conv1d", "--layer", "0")
    assert [one["topic"] for one in data] == ["parametrization"] * said
    assert all(f"the {norm} of 0 is taken along the inputs" in line for line in lines)


def test_masks_of_pruning(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv1d(6, 8, 1), nn.Conv1d(8, 4, 1))
    for layer in model:
        prune.random_unstructured(layer, "weight", 0.5)  # type: ignore[no-untyped-call]
    (line,), data = _told(_saved(tmp_path, model), "linear")
    assert "pruning 0 and 1 other layer again with dim=-1" in line
    assert [(one["topic"], one["layers"]) for one in data] == [("pruning", 2)]


def _dora(names: tuple[str, ...], dims: int) -> dict[str, torch.Tensor]:
    """Pairs with magnitudes as peft keeps them: (O,) beside a Linear, (1, O, 1, …) beside a convolution."""
    ones = (1,) * dims
    state: dict[str, torch.Tensor] = {}
    for name in names:
        state |= {f"{name}.lora_A.weight": torch.ones(2, 5, *ones), f"{name}.lora_B.weight": torch.ones(6, 2, *ones)}
        state[f"{name}.lora_magnitude_vector"] = torch.ones(1, 6, *ones) if dims else torch.ones(6)
    return state


@pytest.mark.parametrize(("dims", "to", "said"), [(1, "linear", True), (0, "conv2d", True), (1, "conv2d", False)])
def test_doras_magnitudes(tmp_path: Path, dims: int, to: str, said: bool) -> None:
    torch.save(_dora(("q", "v"), dims), tmp_path / "a.pt")
    lines, data = _told(tmp_path / "a.pt", to, "--layer", "*")
    assert [(one["topic"], one["name"], one["effect"]) for one in data] == [("adapter", "DoRA", None)] * said
    # Either half of a pair takes its magnitudes along; they are told of once.
    assert [one["layers"] for one in data] == [2] * said
    assert all("DoRA's magnitudes (q.lora_" in line and "by which code may choose groups" in line for line in lines)


def test_one_line_says_all(tmp_path: Path) -> None:
    model = _layers()
    prune.random_unstructured(model[0], "weight", 0.5)  # type: ignore[no-untyped-call]
    path = _saved(tmp_path, model, optim.Adafactor(model.parameters()))
    (line,), data = _told(path, "linear", "--drop-optimizer")
    assert [one["topic"] for one in data] == ["optimizer", "pruning"]
    assert "; pruning 0 again" in line


def test_another_models_optimizer_is_not_concerned(tmp_path: Path) -> None:
    model, other = _layers(), _layers("Linear", 5)
    adafactor = optim.Adafactor(other.parameters())
    for parameter in other.parameters():
        parameter.grad = torch.ones_like(parameter)
    adafactor.step()
    thing = {"model": model.state_dict(), "critic": other.state_dict(), "critic_optimizer": adafactor.state_dict()}
    torch.save(thing, tmp_path / "a.pt")
    assert _told(tmp_path / "a.pt", "linear", "--root", "model") == ([], [])


def test_a_norm_in_another_shape_is_no_adapter(tmp_path: Path) -> None:
    torch.save({"norm.weight": torch.rand(8), "pw.weight": torch.rand(4, 8, 1)}, tmp_path / "a.pt")
    torch.save({"norm.weight": torch.rand(8, 1), "pw.weight": torch.rand(4, 8)}, tmp_path / "b.pt")
    done = run("convert", "a.pt", "-o", "c.pt", "--like", "b.pt", "--format", "json", folder=tmp_path)
    assert json.loads(done.stdout)["afterwards"] == []
