"""DoRA's magnitudes change with the low-rank pair that they belong to; shapes are those that peft and LyCORIS give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from convinspect.checkpoint import open_checkpoint
from convinspect.layers.find import find_layers
from support.conversions import load
from support.in_process import run

DIMS = {"linear": 0, "conv1d": 1, "conv2d": 2, "conv3d": 3}
KEYS = {
    # as peft saves an adapter, as it did before, and as a whole model's state_dict has them
    "peft": ("q.lora_A.weight", "q.lora_B.weight", "q.lora_magnitude_vector"),
    "older peft": ("q.lora_A.default.weight", "q.lora_B.default.weight", "q.lora_magnitude_vector.default"),
    "model": ("q.lora_A.default.weight", "q.lora_B.default.weight", "q.lora_magnitude_vector.default.weight"),
    "lycoris": ("q.lora_down.weight", "q.lora_up.weight", "q.dora_scale"),
}


def adapter(way: str, kind: str) -> dict[str, torch.Tensor]:
    """Rank 2, from 5 channels to 6: the same numbers for every kind."""
    torch.manual_seed(0)
    ones = (1,) * DIMS[kind]
    down, up, magnitude = torch.randn(2, 5), torch.randn(6, 2), torch.rand(6)
    base = magnitude.reshape(6, 1, *ones)
    if way != "lycoris":
        # peft: torch.linalg.norm(weight, dim=1), and of a convolution weight.norm(dim=…, keepdim=True).transpose(1, 0)
        base = magnitude if kind == "linear" else base.transpose(1, 0)
    return dict(zip(KEYS[way], (down.reshape(2, 5, *ones), up.reshape(6, 2, *ones), base), strict=True))


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert found[key].shape == value.shape, key
        assert torch.equal(found[key], value), key


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    ("old", "new"), [("conv1d", "linear"), ("linear", "conv1d"), ("conv2d", "linear"), ("conv1d", "conv2d")]
)
@pytest.mark.parametrize("way", KEYS)
def test_the_magnitudes_of_a_pair_change_with_it(tmp_path: Path, way: str, old: str, new: str, suffix: str) -> None:
    source, target, back = (tmp_path / f"{name}{suffix}" for name in "abc")
    state = adapter(way, old)
    if suffix == ".pt":
        torch.save(state, source)
    else:
        save_file({key: value.contiguous() for key, value in state.items()}, source)
    done = run("convert", source, "-o", target, "--to", new, "--from", old)
    assert done.returncode == 0, done.stderr
    assert_same(load(target), adapter(way, new) if suffix == ".pt" else dict(sorted(adapter(way, new).items())))
    found = run("verify", source, target)
    assert found.returncode == 0, found.stdout
    assert run("convert", target, "-o", back, "--to", old, "--from", new).returncode == 0
    assert back.read_bytes() == source.read_bytes()
    torch.save(adapter(way, old), tmp_path / "wanted.pt")
    like = run("convert", target, "-o", tmp_path / f"d{suffix}", "--like", tmp_path / "wanted.pt")
    assert like.returncode == 0, like.stderr
    assert_same(load(tmp_path / f"d{suffix}"), load(source))
    different = run("diff", target, tmp_path / "wanted.pt", "--values")
    assert "A will load after converting 3 layers, wherever B loads" in different.stdout


def test_a_change_of_format_takes_them_along(tmp_path: Path) -> None:
    torch.save(adapter("peft", "conv1d"), tmp_path / "a.pt")
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.safetensors", "--to", "linear")
    assert done.returncode == 0, done.stderr
    assert_same(load(tmp_path / "b.safetensors"), dict(sorted(adapter("peft", "linear").items())))


def test_the_optimizers_state_of_them_follows(tmp_path: Path) -> None:
    state = adapter("peft", "conv1d")
    parameters = [torch.nn.Parameter(value) for value in state.values()]
    optimizer = torch.optim.Adam(parameters)
    sum(one.square().sum() for one in parameters).backward()  # type: ignore[union-attr]
    optimizer.step()
    torch.save({"model": state, "optimizer": optimizer.state_dict()}, tmp_path / "a.pt")
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--to", "linear")
    assert done.returncode == 0, done.stderr
    after = load(tmp_path / "b.pt")
    shapes = [after["optimizer"]["state"][number]["exp_avg"].shape for number in range(3)]
    assert shapes == [value.shape for value in after["model"].values()]


@pytest.mark.parametrize("shape", [(7, 7), (2, 6, 1), (6, 1, 3)])
def test_magnitudes_of_no_known_form_keep_their_pair_as_it_is(tmp_path: Path, shape: Any) -> None:
    state = adapter("model", "conv1d") | {KEYS["model"][2]: torch.ones(shape)}
    torch.save(state | {"p.weight": torch.ones(5, 2, 1)}, tmp_path / "a.pt")
    found = json.loads(run("convert", tmp_path / "a.pt", "--to", "linear", "-n", "--format", "json").stdout)
    assert [one["name"] for one in found["converted"]] == ["p"]
    assert {one["name"] for one in found["refused"]} == {"q.lora_A.default", "q.lora_B.default"}
    assert any("q.lora_magnitude_vector.default" in one["reason"] for one in found["refused"])


def test_half_a_pair_moves_no_magnitudes(tmp_path: Path) -> None:
    torch.save(adapter("peft", "conv1d") | {"p.weight": torch.ones(5, 2, 1)}, tmp_path / "a.pt")
    words = ["--to", "linear", "--layer", "q.lora_A", "--layer", "p", "-n", "--format", "json"]
    found = json.loads(run("convert", tmp_path / "a.pt", *words).stdout)
    assert [one["name"] for one in found["converted"]] == ["p"]
    assert [one["name"] for one in found["refused"]] == ["q.lora_A"]


def test_magnitudes_are_no_convolution(tmp_path: Path) -> None:
    torch.save(adapter("model", "conv1d"), tmp_path / "a.pt")
    kinds = {layer.name: layer.kind for layer in find_layers(open_checkpoint(tmp_path / "a.pt"))}
    assert kinds["q.lora_magnitude_vector.default"] == "Parameter"


@pytest.mark.parametrize("shape", [(3,), (4, 3), (4, 3, 1), (1, 4, 1)])
def test_parameters_of_the_root_module_are_no_magnitudes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    torch.save({"weight": torch.rand(shape), "conv.weight": torch.rand(4, 3, 1)}, tmp_path / "a.pt")
    done = run("convert", "a.pt", "-o", "b.pt", "--to", "linear", "--layer", "conv", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    made = torch.load(tmp_path / "b.pt", weights_only=True)
    assert {key: tuple(one.shape) for key, one in made.items()} == {"weight": shape, "conv.weight": (4, 3)}
