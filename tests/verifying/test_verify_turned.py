"""`verify` of matrices that `convert --like` turned. The oracle is PyTorch: the state_dict that was turned."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from convinspect.showing.verify import verdict
from support.in_process import run
from support.turning import model, turned
from support.verifying import report_of, report_of_objects


def test_square_matrices_that_were_turned_with_the_others_are_the_same(tmp_path: Path) -> None:
    state = model().state_dict()
    found = report_of_objects(tmp_path, turned(state), state)
    assert (found.verdict, found.strength, found.unchanged) == ("equal", "layer", 3)
    assert [check.note for check in found.layers if check.name in "12"] == ["same, its rows and columns exchanged"] * 2


def test_square_matrices_that_were_left_are_noted(tmp_path: Path) -> None:
    state = model().state_dict()
    before = turned(state)
    found = report_of_objects(tmp_path, before, state | {name: before[name] for name in ("1.weight", "2.weight")})
    assert found.equal
    assert any(note.startswith("1, 2 are square and unchanged, while others were transposed") for note in found.notes)


@pytest.mark.parametrize("back", [False, True])
def test_without_a_bias_nothing_shows_which_way_round_it_is(tmp_path: Path, back: bool) -> None:
    state = model(bias=False).state_dict()
    sides = [turned(state), state]
    found = report_of_objects(tmp_path, *(sides[::-1] if back else sides))
    assert found.verdict == "not verified"
    assert verdict(found) == "layer 0: its rows and columns are exchanged, which nothing in the files shows to be meant"
    assert all(check.outputs is not None and check.outputs.difference == 0 for check in found.layers)
    named = run("verify", "before.pt", "after.pt", "--layer", "*", "--format", "json", folder=tmp_path)
    assert (named.returncode, json.loads(named.stdout)["verdict"]) == (0, "equal")
    unnamed = run("verify", "before.pt", "after.pt", "--format", "json", folder=tmp_path)
    found_there = json.loads(unnamed.stdout)
    assert (unnamed.returncode, found_there["verdict"]) == (1, "not verified")
    assert not any(layer["ok"] for layer in found_there["layers"])


def test_one_matrix_that_was_turned_alone_is_a_difference(tmp_path: Path) -> None:
    state = model(bias=False).state_dict()
    found = report_of_objects(tmp_path, state, state | {"0.weight": state["0.weight"].t().contiguous()})
    assert found.verdict == "different"
    found = report_of_objects(tmp_path, state, state | {"1.weight": state["1.weight"].t().contiguous()})
    assert found.verdict == "different"


def test_other_numbers_in_a_turned_matrix_are_found(tmp_path: Path) -> None:
    state = model().state_dict()
    for name in ("0.weight", "1.weight"):
        wrong = {key: value.clone() for key, value in state.items()}
        wrong[name][1, 2] += 1
        assert report_of_objects(tmp_path, turned(state), wrong).verdict == "different"


def trained() -> tuple[nn.Sequential, torch.optim.Optimizer]:
    net = model()
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(3):
        step(net, optimizer)
    return net, optimizer


def step(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    net(torch.linspace(-1, 1, 30).reshape(5, 6)).square().mean().backward()
    optimizer.step()


def training(net: nn.Module, optimizer: torch.optim.Optimizer, turn: bool) -> dict[str, Any]:
    model_state, state = dict(net.state_dict()), copy.deepcopy(optimizer.state_dict())
    average = {key: value + 0.1 for key, value in model_state.items()}
    if not turn:
        return {"model": model_state, "ema": average, "optimizer": state}
    state["state"] = {number: turned(one) for number, one in state["state"].items()}
    return {"model": turned(model_state), "ema": turned(average), "optimizer": state}


def test_optimizer_and_average_follow_a_turned_square_and_training_goes_on(tmp_path: Path) -> None:
    net, optimizer = trained()
    torch.save(training(net, optimizer, turn=True), tmp_path / "a.pt")
    torch.save(training(net, optimizer, turn=False), tmp_path / "b.pt")
    done = run("convert", "a.pt", "--like", "b.pt", "--turn-square", "-o", "c.pt", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = report_of(tmp_path / "a.pt", tmp_path / "c.pt")
    assert found.equal, verdict(found)
    assert "8 tensors of optimizer were converted too" in found.notes
    saved = torch.load(tmp_path / "c.pt")
    assert all(torch.equal(saved["ema"][key], value + 0.1) for key, value in net.state_dict().items())
    again = model()
    again.load_state_dict(saved["model"], strict=True)
    resumed = torch.optim.Adam(again.parameters(), 1e-2)
    resumed.load_state_dict(saved["optimizer"])
    step(again, resumed)
    step(net, optimizer)
    assert all(torch.equal(mine, its) for mine, its in zip(again.parameters(), net.parameters(), strict=True))


@pytest.mark.parametrize(
    ("root", "key"), [("optimizer", "exp_avg"), ("ema", "1.weight"), ("optimizer", "oblong"), ("ema", "0.weight")]
)
def test_state_that_did_not_follow_a_turned_matrix_is_found(tmp_path: Path, root: str, key: str) -> None:
    net, optimizer = trained()
    before, after = (training(net, optimizer, turn) for turn in (True, False))
    if root == "ema":
        after["ema"][key] = before["ema"][key]
    else:
        number = 0 if key == "oblong" else 2
        after["optimizer"]["state"][number]["exp_avg"] = before["optimizer"]["state"][number]["exp_avg"]
    found = report_of_objects(tmp_path, before, after)
    assert found.verdict == "different"
    assert root in verdict(found)


def test_a_vector_that_is_only_named_like_an_adapters_scales_may_not_change(tmp_path: Path) -> None:
    state = {"0.ia3_l.weight": torch.ones(5), "1.weight": torch.randn(3, 4)}
    for shape in ((5, 1), (1, 5), (1, 5, 1, 1)):
        changed = state | {"0.ia3_l.weight": torch.ones(shape)}
        assert report_of_objects(tmp_path, state, changed).verdict == "different"
        assert report_of_objects(tmp_path, changed, state).verdict == "different"
    scales = {"0.ia3_l": torch.ones(1, 5, 1, 1), "1.weight": torch.randn(3, 4, 1)}
    after = {"0.ia3_l": torch.ones(1, 5), "1.weight": scales["1.weight"].squeeze(-1)}
    assert report_of_objects(tmp_path, scales, after).equal
