"""Pruning of what a parametrization computes the kernel from: layers with their kinds and shapes, never converted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from convinspect.checkpoint import open_checkpoint
from convinspect.layers.find import find_layers
from support.in_process import run


class Doubled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


def plain() -> nn.Module:
    module = nn.Conv1d(6, 4, 1)
    parametrize.register_parametrization(module, "weight", Doubled())
    return module


def normed() -> nn.Module:
    return parametrizations.weight_norm(nn.Conv1d(6, 4, 1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (plain, ["original"]),
        (normed, ["original0"]),
        (normed, ["original1"]),
        (normed, ["original0", "original1"]),
    ],
)
def test_they_are_layers_of_the_weights_shape(tmp_path: Path, make: object, names: list[str]) -> None:
    module: nn.Module = make()  # type: ignore[operator]
    for name in names:
        prune.l1_unstructured(module.parametrizations.weight, name, 0.3)  # type: ignore[no-untyped-call, union-attr]
    model = nn.Sequential(module)
    torch.save(model.state_dict(), tmp_path / "a.pt")
    (layer,) = find_layers(open_checkpoint(tmp_path / "a.pt"))
    assert (layer.kind, layer.weight.shape, layer.bias is not None) == ("Conv1d", (4, 6, 1), True)
    assert layer.norm == "parametrized"
    done = run("convert", tmp_path / "a.pt", "--to", "linear", "-o", tmp_path / "b.pt")
    assert (done.returncode, (tmp_path / "b.pt").exists()) == (2, False)
    assert "parametrization" in done.stderr


def test_half_of_a_pair_stays_incomplete(tmp_path: Path) -> None:
    state = nn.Sequential(normed()).state_dict()
    del state["0.parametrizations.weight.original0"]
    torch.save(state, tmp_path / "a.pt")
    (layer,) = find_layers(open_checkpoint(tmp_path / "a.pt"))
    assert layer.kind == "Incomplete"
