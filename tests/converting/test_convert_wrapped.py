"""`convert` and `verify` on Tensor subclasses around other tensors: DTensor, torchao's, and any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.masked import masked_tensor

from convinspect.checkpoint import open_checkpoint
from support.in_process import run
from support.paths import FIXTURES
from support.program import assert_one_line

PARALLEL = FIXTURES / "parallel"
WHOLE = ["fsdp2_1of1.pt", "replicated_1of2.pt", "fsdp2_training_1of1.pt"]
PART = ["fsdp2_1of2.pt", "fsdp2_training_1of2.pt"]


def as_linear() -> nn.Sequential:
    """The model of `fixtures/parallel.py` with its pointwise convolutions as Linear."""
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 7), nn.Linear(7, 1), nn.Conv1d(1, 5, 3))


def as_convolutions() -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(6, 4, 1), nn.ReLU(), nn.Conv1d(4, 7, 1), nn.Conv1d(7, 1, 1), nn.Conv1d(1, 5, 3))


def loaded(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        return load_file(path)
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)
    return state


def plain_numbers(path: Path) -> dict[str, torch.Tensor]:
    """What a file of whole DTensors holds, read by PyTorch."""
    # Unpickling a DTensor needs no process group.
    thing = torch.load(path, weights_only=False)
    return {name: one.to_local() for name, one in thing.get("model", thing).items()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("name", WHOLE)
def test_a_dtensor_that_is_whole_is_written_as_plain_tensors(tmp_path: Path, name: str, suffix: str) -> None:
    target = tmp_path / f"b{suffix}"
    assert run("convert", PARALLEL / name, "-o", target, "--to", "linear", "--state-dict").returncode == 0
    model, original = as_linear(), as_convolutions()
    state = loaded(target)
    assert not any(type(one) is not torch.Tensor for one in state.values())
    model.load_state_dict(state, strict=True)
    original.load_state_dict(plain_numbers(PARALLEL / name), strict=True)
    x = torch.randn(3, 6, 5)
    between = model[:4](x.movedim(1, -1)).movedim(-1, 1)
    assert torch.allclose(model[4](between), original(x), atol=1e-6)
    done = run("verify", PARALLEL / name, target, "--format", "json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["verdict"]) == (0, "equal"), report["cause"]
    assert sum(layer["before"] != layer["after"] for layer in report["layers"]) == 3


@pytest.mark.parametrize("name", WHOLE)
def test_the_numbers_of_a_whole_dtensor_are_read(name: str) -> None:
    checkpoint = open_checkpoint(PARALLEL / name)
    for key, one in plain_numbers(PARALLEL / name).items():
        assert torch.equal(torch.from_numpy(checkpoint.read(key)), one)


@pytest.mark.parametrize(("name", "way"), [(WHOLE[0], "--state-dict"), (PART[0], "full_state_dict=True")])
def test_a_dtensor_is_left_with_the_way_out(tmp_path: Path, name: str, way: str) -> None:
    words = ["convert", PARALLEL / name, "-o", tmp_path / "b.pt", "--to", "linear"]
    assert_one_line(run(*words, "--layer", "0"), "layer 0: its weight is a DTensor", way)
    listed = json.loads(run(*words, "--dry-run", "--format", "json").stdout)
    reasons = {one["name"]: one["reason"] for one in listed["refused"]}
    assert not listed["converted"]
    assert way in reasons["0"]
    assert "kernel size is 3" in reasons["4"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("target", ["b.safetensors", "b.pt"])
@pytest.mark.parametrize("name", PART)
def test_a_part_of_a_dtensor_is_never_written_as_the_whole(tmp_path: Path, name: str, target: str) -> None:
    done = run("convert", PARALLEL / name, "-o", tmp_path / target, "--to", "linear", "--state-dict")
    assert_one_line(done, "full_state_dict=True")
    assert "--state-dict" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_part_is_listed_as_one() -> None:
    layers = json.loads(run("shapes", PARALLEL / PART[0], "--format", "json").stdout)["layers"]
    assert layers[0]["weight"]["shape"] == [4, 6, 1]
    assert "a DTensor, of which this file holds (2, 6, 1)" in layers[0]["notes"]
    assert (
        "wrapped: a Tensor subclass around other tensors; the shape is the whole's"
        in run("shapes", PARALLEL / PART[0]).stdout
    )


class Scaled(torch.Tensor):
    """A subclass that is its own numbers, and keeps a tensor beside them."""


def wrapped_weights() -> dict[str, Any]:
    two_tensor = pytest.importorskip("torch.testing._internal.two_tensor").TwoTensor
    weight = torch.randn(4, 6, 1)
    scaled = torch.randn(4, 6, 1).as_subclass(Scaled)
    scaled.scale = torch.ones(4, 1, 1)  # type: ignore[attr-defined]
    return {
        "two": two_tensor(weight, weight.clone()),
        "masked": masked_tensor(weight, weight > 0),
        "parameter": nn.Parameter(two_tensor(weight, weight.clone())),
        "scaled": scaled,
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["two", "masked", "parameter", "scaled"])
def test_any_wrapper_is_left_and_its_neighbour_converted(tmp_path: Path, kind: str) -> None:
    state = {"w.weight": wrapped_weights()[kind], "p.weight": torch.randn(4, 6, 1), "p.bias": torch.randn(4)}
    torch.save(state, tmp_path / "a.pt")
    words = ["convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--to", "linear"]
    assert_one_line(run(*words, "--layer", "w"), "layer w: its weight is", "a subclass around other tensors")
    assert run(*words).returncode == 0
    after = torch.load(tmp_path / "b.pt", weights_only=False)
    assert after["p.weight"].shape == (4, 6)
    assert after["w.weight"].shape == (4, 6, 1)
    done = run("verify", tmp_path / "a.pt", tmp_path / "b.pt")
    assert done.returncode == 0, done.stdout


@pytest.mark.filterwarnings("ignore")
def test_an_average_that_is_a_wrapper_keeps_its_weight(tmp_path: Path) -> None:
    state = {"a.weight": torch.randn(4, 6, 1), "b.weight": torch.randn(3, 4, 1), "b.bias": torch.zeros(3)}
    averages = {**state, "a.weight": wrapped_weights()["two"]}
    torch.save({"state_dict": state, "ema": averages}, tmp_path / "a.pt")
    words = ["convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--to", "linear"]
    assert_one_line(run(*words, "--layer", "a"), "its copy a.weight is", "--state-dict")
    assert run(*words).returncode == 0
    after = torch.load(tmp_path / "b.pt", weights_only=False)
    shapes = [[tuple(root[name].shape) for name in ("a.weight", "b.weight")] for root in after.values()]
    assert shapes == [[(4, 6, 1), (3, 4)]] * 2
    assert run(*words[:3], tmp_path / "c.pt", *words[4:], "--state-dict").returncode == 0


def trained() -> tuple[nn.Sequential, Any]:
    """A model of two pointwise convolutions, and the state of its optimizer after one step."""
    model = nn.Sequential(nn.Conv1d(6, 4, 1), nn.Conv1d(4, 3, 1))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(2, 6, 5)).sum().backward()
    optimizer.step()
    return model, optimizer.state_dict()


@pytest.mark.filterwarnings("ignore")
def test_optimizer_state_that_is_a_wrapper_keeps_its_weight(tmp_path: Path) -> None:
    two_tensor = pytest.importorskip("torch.testing._internal.two_tensor").TwoTensor
    model, saved = trained()
    average = saved["state"][0]["exp_avg"]
    saved["state"][0]["exp_avg"] = two_tensor(average, average.clone())
    torch.save({"model": model.state_dict(), "optimizer": saved}, tmp_path / "a.pt")
    words = ["convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--to", "linear"]
    assert_one_line(run(*words, "--layer", "0"), "its optimizer state state.0.exp_avg is", "--drop-optimizer")
    assert run(*words).returncode == 0
    after = torch.load(tmp_path / "b.pt", weights_only=False)
    assert after["model"]["0.weight"].shape == after["optimizer"]["state"][0]["exp_avg_sq"].shape == (4, 6, 1)
    assert after["model"]["1.weight"].shape == after["optimizer"]["state"][2]["exp_avg"].shape == (3, 4)
    assert run(*words[:3], tmp_path / "c.pt", *words[4:], "--drop-optimizer").returncode == 0


@pytest.mark.filterwarnings("ignore")
def test_no_name_is_advised_that_would_be_refused_for_what_cannot_follow(tmp_path: Path) -> None:
    two_tensor = pytest.importorskip("torch.testing._internal.two_tensor").TwoTensor
    model, saved = trained()
    for state in saved["state"].values():
        state["exp_avg"] = two_tensor(state["exp_avg"], state["exp_avg"].clone())
    torch.save({"model": model.state_dict(), "optimizer": saved}, tmp_path / "a.pt")
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--to", "linear")
    assert_one_line(done, "nothing can be converted", "--drop-optimizer leaves all state out")
    assert "--layer" not in done.stderr
