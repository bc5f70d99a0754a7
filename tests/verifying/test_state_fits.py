"""`verify`: optimizer state and copies of weights must fit the weights that they belong to. torch makes the files."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.state_dict_saver import save

from convinspect.showing.verify import verdict
from support import program
from support.in_process import run
from support.verifying import report_of, report_of_objects

optim: Any = torch.optim


def _trained(*layers: nn.Module, kind: Any = None, names: bool = False, **settings: Any) -> dict[str, Any]:
    model = nn.Sequential(*layers)
    given = model.named_parameters() if names else model.parameters()
    optimizer = (kind or optim.AdamW)(given, **settings)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}


def _after(
    before: dict[str, Any], weights: tuple[int, ...] = (), states: tuple[int, ...] = (), copies: bool = False
) -> dict[str, Any]:
    """The file with these layers as Linear, and the state of these parameters like a Linear's."""
    after = copy.deepcopy(before)
    for number in weights:
        after["model"][f"{number}.weight"] = after["model"][f"{number}.weight"].flatten(1)
        if copies:
            after["ema"][f"{number}.weight"] = after["ema"][f"{number}.weight"].flatten(1)
    for number in states:
        state = after["optimizer"]["state"][number]
        after["optimizer"]["state"][number] = {
            name: one.flatten(1) if isinstance(one, torch.Tensor) and one.ndim > 2 else one
            for name, one in state.items()
        }
    return after


def _two() -> tuple[nn.Module, nn.Module]:
    return nn.Conv1d(8, 8, 1), nn.Conv1d(8, 8, 1)


@pytest.mark.parametrize("names", [False, True])
@pytest.mark.parametrize(
    ("weights", "states", "fits"),
    [
        ((0, 1), (0, 2), True),
        ((0, 1), (0,), False),
        ((0, 1), (2,), False),
        ((0, 1), (), False),
        ((0,), (0,), True),
        ((0,), (), False),
        ((0,), (0, 2), False),
        ((1,), (2,), True),
        ((), (0,), False),
        ((), (0, 2), False),
    ],
)
def test_state_of_two_layers_of_one_shape(
    tmp_path: Path, weights: tuple[int, ...], states: tuple[int, ...], fits: bool, names: bool
) -> None:
    before = _trained(*_two(), names=names)
    found = report_of_objects(tmp_path, before, _after(before, weights, states), bits=True)
    assert found.equal is fits, verdict(found)
    assert fits or "optimizer.state" in verdict(found)


def test_names_tell_which_state_is_the_wrong_one(tmp_path: Path) -> None:
    before = _trained(*_two(), names=True)
    found = report_of_objects(tmp_path, before, _after(before, (0,), (2,)), bits=True)
    assert "optimizer.state.0.exp_avg: it did not follow its weight" in verdict(found)


def test_all_of_a_parameters_state_changes_alike(tmp_path: Path) -> None:
    before = _trained(*_two())
    after = _after(before, (0,), (0,))
    after["optimizer"]["state"][0]["exp_avg_sq"] = before["optimizer"]["state"][0]["exp_avg_sq"]
    found = report_of_objects(tmp_path, before, after, bits=True)
    assert "optimizer.state.0.exp_avg_sq" in verdict(found)


def test_what_an_optimizer_cannot_tell_hides_no_copy(tmp_path: Path) -> None:
    """Which of two weights its state belongs to is unknown; whose the copy is stands in its name."""
    before = _trained(*_two())
    before["ema"] = copy.deepcopy(before["model"])
    found = report_of_objects(tmp_path, before, _after(before, (0,), (0,)), bits=True)
    assert "ema.0.weight: it did not follow its weight" in verdict(found)


@pytest.mark.parametrize("kind", [optim.SGD, optim.RMSprop, optim.Adagrad])
def test_state_of_other_optimizers(tmp_path: Path, kind: Any) -> None:
    settings: dict[str, Any] = {"lr": 0.1, "momentum": 0.9} if kind is optim.SGD else {}
    before = _trained(*_two(), nn.Conv1d(8, 4, 1), kind=kind, **settings)
    assert report_of_objects(tmp_path, before, _after(before, (0, 1, 2), (0, 2, 4)), bits=True).equal
    for states in ((0, 2), (0, 4), (2, 4), ()):
        assert not report_of_objects(tmp_path, before, _after(before, (0, 1, 2), states), bits=True).equal, states


# --------------------------------------------------------------------------- copies inside the root in use


def _with_copy() -> dict[str, torch.Tensor]:
    """As latent diffusion's EMA keeps it: the names of the model without their dots."""
    weight = torch.randn(4, 6, 1)
    return {"model.out.weight": weight, "model.out.bias": torch.randn(4),
            "model_ema.outweight": weight / 2, "model_ema.outbias": torch.randn(4)}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "fits"),
    [(("model.out.weight", "model_ema.outweight"), True), (("model.out.weight",), False),
     (("model_ema.outweight",), False), ((), True)],
)  # fmt: skip
def test_a_copy_without_dots(tmp_path: Path, changed: tuple[str, ...], fits: bool) -> None:
    before = _with_copy()
    after = before | {name: before[name].flatten(1) for name in changed}
    found = report_of_objects(tmp_path, before, after, bits=True)
    assert found.equal is fits, verdict(found)


@pytest.mark.parametrize("root", [None, "."])
@pytest.mark.parametrize(
    ("parts", "fits"),
    [(("model", "ema", "optimizer"), True), (("model", "optimizer"), False), (("model", "ema"), False),
     (("ema",), False), (("optimizer",), False)],
)  # fmt: skip
def test_all_roots_as_one(tmp_path: Path, parts: tuple[str, ...], fits: bool, root: str | None) -> None:
    before = _trained(nn.Conv1d(6, 4, 1), nn.Conv1d(4, 6, 1))
    before["ema"] = copy.deepcopy(before["model"])
    after = _after(before, (0, 1), (0, 2), copies=True)
    after |= {name: before[name] for name in before if name not in parts}
    torch.save(before, tmp_path / "a.pt")
    torch.save(after, tmp_path / "b.pt")
    options = ("--root", root) if root else ()
    done = run("verify", tmp_path / "a.pt", tmp_path / "b.pt", "--bits", *options)
    assert done.returncode == (0 if fits else 1), done.stdout


# ---------------------------------------------------------------------------------------- keys that became text


def _by_dcp(folder: Path, change: Callable[[nn.Module], nn.Module] = lambda layer: layer) -> Path:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save(_trained(change(nn.Conv1d(6, 8, 1))), checkpoint_id=folder / "dcp")
        dcp_to_torch_save(folder / "dcp", folder / "a.pt")
    return folder / "a.pt"


def test_state_whose_keys_became_text_is_noted(tmp_path: Path) -> None:
    source = _by_dcp(tmp_path)
    stored = torch.load(source)["optimizer"]
    model = nn.Conv1d(6, 8, 1)
    optimizer = optim.AdamW(model.parameters())
    optimizer.load_state_dict(stored)
    assert not any("exp_avg" in optimizer.state[parameter] for parameter in model.parameters()), "torch finds it now"
    assert run("convert", source, "-o", tmp_path / "b.pt", "--to", "linear").returncode == 0
    found = report_of(source, tmp_path / "b.pt", bits=True)
    assert found.equal
    noted = [note for note in found.notes if "is keyed by text" in note]
    assert [note.partition(":")[0] for note in noted] == ["a.pt", "b.pt"]
    assert "lost-state" in run("check", source).stdout


def test_the_remedy_that_check_gives_brings_it_back(tmp_path: Path) -> None:
    source = _by_dcp(tmp_path)
    whole = torch.load(source)
    whole["optimizer"]["state"] = {int(key): value for key, value in whole["optimizer"]["state"].items()}
    torch.save(whole, tmp_path / "mended.pt")
    assert "lost-state" not in run("check", tmp_path / "mended.pt").stdout
    model = nn.Conv1d(6, 8, 1)
    optimizer = optim.AdamW(model.parameters())
    optimizer.load_state_dict(whole["optimizer"])
    assert all("exp_avg" in optimizer.state[parameter] for parameter in model.parameters())
    found = report_of(source, tmp_path / "mended.pt", bits=True)
    assert sum("is keyed by text" in note for note in found.notes) == 1


def test_numbers_as_keys_are_not_noted(tmp_path: Path) -> None:
    before = _trained(nn.Conv1d(6, 8, 1))
    found = report_of_objects(tmp_path, before, before, bits=True)
    assert not any("keyed by text" in note for note in found.notes)
    assert "lost-state" not in run("check", tmp_path / "before.pt").stdout


@pytest.mark.parametrize("damage", ["", "part", "group", "weight", "epoch"])
def test_a_dropped_optimizer_is_noted_and_no_more_may_be_gone(tmp_path: Path, damage: str) -> None:
    model: Any = nn.Conv1d(3, 4, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.rand(1, 3, 2)).sum().backward()
    optimizer.step()
    whole = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
    torch.save(whole, tmp_path / "a.pt")
    words = ("convert", "a.pt", "-o", "b.pt", "--to", "linear", "--drop-optimizer")
    program.run(*words, folder=tmp_path).check_returncode()
    made = torch.load(tmp_path / "b.pt", weights_only=True)
    resumed = torch.optim.AdamW(nn.Linear(3, 4).parameters())
    resumed.load_state_dict(made["optimizer"])
    assert not resumed.state
    if damage == "part":
        made["optimizer"]["state"] = {0: whole["optimizer"]["state"][0]}
    elif damage == "group":
        made["optimizer"]["param_groups"][0]["lr"] = 1.0
    elif damage == "weight":
        made["model"]["weight"][0, 0] += 1
    elif damage == "epoch":
        made["epoch"] = 4
    torch.save(made, tmp_path / "b.pt")
    found = program.run("verify", "a.pt", "b.pt", "--format", "json", folder=tmp_path)
    said = json.loads(found.stdout)
    assert (found.returncode, said["ok"]) == ((1, False) if damage else (0, True)), said
    if damage != "part":
        assert any("all state of the optimizer at 'optimizer' (6 tensors) is gone" in note for note in said["notes"])
    assert not any("plain state_dict" in note for note in said["notes"])
