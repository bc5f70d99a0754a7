"""Adapters beside a layer change with it, or neither does; in peft the outputs stay the same on both sides."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from support.in_process import run

CONV = {1: "conv1d", 2: "conv2d"}


def layer(dims: int, inputs: int = 8, outputs: int = 6) -> nn.Module:
    if dims == 0:
        return nn.Linear(inputs, outputs)
    return (nn.Conv1d, nn.Conv2d)[dims - 1](inputs, outputs, 1)


class Model(nn.Module):
    def __init__(self, dims: int, inputs: int = 8) -> None:
        super().__init__()
        self.dims, self.q = dims, layer(dims, inputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, L) → (N, O, L), whatever the layer takes."""
        y: torch.Tensor
        if self.dims == 2:
            y = self.q(x[..., None])[..., 0]
        else:
            y = self.q(x.movedim(1, -1)).movedim(-1, 1) if self.dims == 0 else self.q(x)
        return y


CONFIGS: dict[str, Callable[[Any], Any]] = {
    "lora, rank 1": lambda peft: peft.LoraConfig(r=1, target_modules=["q"]),
    "lora": lambda peft: peft.LoraConfig(r=2, target_modules=["q"]),
    "dora": lambda peft: peft.LoraConfig(r=1, use_dora=True, target_modules=["q"]),
    "loha": lambda peft: peft.LoHaConfig(r=2, target_modules=["q"]),
    "lokr": lambda peft: peft.LoKrConfig(r=2, target_modules=["q"]),
    "lokr in parts": lambda peft: peft.LoKrConfig(r=1, target_modules=["q"]),
    "ia3": lambda peft: peft.IA3Config(target_modules=["q"], feedforward_modules=[]),
    "ia3 of inputs": lambda peft: peft.IA3Config(target_modules=["q"], feedforward_modules=["q"]),
    "boft": lambda peft: peft.BOFTConfig(boft_block_size=2, target_modules=["q"]),
    "hra": lambda peft: peft.HRAConfig(r=2, target_modules=["q"]),
}


TWO_DIMENSIONS_ONLY = {"ia3", "ia3 of inputs", "boft", "hra"}


REFUSED = {("lokr", 1)}


def adapted(peft: Any, name: str, dims: int, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(Model(dims), CONFIGS[name](peft))
    for key, parameter in model.named_parameters():
        if "base_layer" not in key:
            parameter.data = torch.randn_like(parameter) * 0.3
    return model.eval()


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("name", CONFIGS)
def test_base_and_adapter_load_in_peft_on_the_other_layer(tmp_path: Path, name: str, dims: int) -> None:
    """Both ways: the whole converted state_dict loads strictly into peft on the other layer, with the same outputs."""
    peft = pytest.importorskip("peft")
    if dims == 1 and name in TWO_DIMENSIONS_ONLY:
        pytest.skip("peft does not put it on a Conv1d")
    x = torch.randn(2, 8, 5)
    for before, after, to, origin in ((dims, 0, "linear", CONV[dims]), (0, dims, CONV[dims], "linear")):
        model = adapted(peft, name, before)
        source, target, back = (tmp_path / f"{each}{before}.pt" for each in "abc")
        torch.save(model.state_dict(), source)
        done = run("convert", source, "-o", target, "--to", to, "--from", origin, "--layer", "*q*")
        if (name, dims) in REFUSED:
            assert done.returncode == 2
            assert "merge the adapter first" in done.stderr
            assert not target.exists()
            continue
        assert done.returncode == 0, done.stderr
        other = adapted(peft, name, after, seed=1)
        other.load_state_dict(torch.load(target), strict=True)
        with torch.no_grad():
            assert torch.allclose(other(x), model(x), atol=1e-5)
        assert run("verify", source, target, "--bits").returncode == 0
        again = run("convert", target, "-o", back, "--to", origin, "--from", to, "--layer", "*q*")
        assert again.returncode == 0, again.stderr
        assert back.read_bytes() == source.read_bytes()


@pytest.mark.parametrize(("before", "after", "to"), [(1, 0, "linear"), (0, 2, "conv2d"), (1, 2, "conv2d")])
def test_groups_by_ndim_of_doras_magnitudes_are_told_of(tmp_path: Path, before: int, after: int, to: str) -> None:
    """It is said exactly where `ndim >= 2` takes other parameters of the adapter after the conversion."""
    peft = pytest.importorskip("peft")

    def decaying(dims: int) -> set[str]:
        model = adapted(peft, "dora", dims)
        return {key for key, one in model.named_parameters() if one.ndim >= 2 and "lora" in key}

    torch.save(adapted(peft, "dora", before).state_dict(), tmp_path / "a.pt")
    words = ("--to", to, "--from", "any", "--layer", "*q*", "--dry-run", "--format", "json")
    done = run("convert", tmp_path / "a.pt", *words)
    assert done.returncode == 0, done.stderr
    told = [one["name"] for one in json.loads(done.stdout)["afterwards"]]
    assert told == ["DoRA"] * (decaying(before) != decaying(after))
