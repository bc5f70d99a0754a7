"""A model before and after, run in this process: what does not fit or cannot be swapped is one error."""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from convinspect.checkpoint import Checkpoint, open_checkpoint
from convinspect.errors import CannotConvert, CannotShow
from convinspect.showing.flags import flagged
from convinspect.verifying.model import ModelCheck, try_models
from convinspect.verifying.model_runs import RunOptions


class Net(nn.Module):
    """A pointwise layer that can be swapped, and one that cannot where the model has it in a list of its own too."""

    def __init__(self, listed: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 1)
        self.down = nn.Conv1d(4, 4, 1)
        self.layers = [self.down] if listed else []

    def forward(self, x: torch.Tensor) -> Any:
        return self.down(self.conv(x))


@pytest.fixture(autouse=True)
def code(monkeypatch: pytest.MonkeyPatch) -> None:
    """`their_net:Net` and `their_net:listed`."""
    module: Any = types.ModuleType("their_net")
    module.Net, module.listed = Net, lambda: Net(listed=True)
    monkeypatch.setitem(sys.modules, "their_net", module)


def saved(path: Path, state: Mapping[str, torch.Tensor]) -> Checkpoint:
    torch.save(dict(state), path)
    return open_checkpoint(path)


def tried(folder: Path, after: Mapping[str, torch.Tensor] | None, kinds: Mapping[str, str], model: str = "Net") -> Any:
    torch.manual_seed(0)
    state = Net().state_dict()
    before, other = (
        saved(folder / "a.pt", state),
        saved(folder / "b.pt", state if after is None else {**state, **after}),
    )
    return try_models(before, other, kinds, RunOptions(f"their_net:{model}", "", (torch.randn(2, 3, 5),)))


def test_swapped_layers_give_what_the_model_gave(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weight = Net().state_dict()["conv.weight"].squeeze(2)
    found: ModelCheck = tried(tmp_path, {"conv.weight": weight}, {"conv": "Linear"})
    assert not found.cause
    wrong = tried(tmp_path, {"conv.weight": weight * 1.5}, {"conv": "Linear"})
    assert wrong.cause


def test_a_file_that_does_not_load_after_the_swap_is_the_cause(tmp_path: Path) -> None:
    found = tried(tmp_path, {"conv.weight": torch.zeros(4, 5), "more": torch.zeros(1)}, {"conv": "Linear"})
    assert "b.pt does not load strictly into their_net:Net with its layers swapped" in found.cause
    assert "more" in found.cause
    many = {f"more.{n}": torch.zeros(1) for n in range(5)} | {
        "conv.weight": torch.zeros(4, 9),
        "down.bias": torch.ones(9),
    }
    assert "(and 1 more)" in tried(tmp_path, many, {"conv": "Linear"}).cause


@pytest.mark.parametrize(
    ("kinds", "model", "words"),
    [
        ({"conv": "Embedding"}, "Net", "layers became Embedding, which is not swapped here"),
        ({"down": "Linear"}, "listed", "layer down of the model cannot be swapped: "),
        ({"gone": "Linear"}, "Net", "the model has no layer gone to swap"),
    ],
)
def test_what_cannot_be_swapped_is_named(tmp_path: Path, kinds: dict[str, str], model: str, words: str) -> None:
    with pytest.raises(CannotConvert, match=words) as caught:
        tried(tmp_path, None, kinds, model)
    assert flagged(caught.value.remedy) == "give --model-after"


def test_a_tensor_without_plain_numbers_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(CannotShow) as caught:
        tried(tmp_path, {"conv.weight": torch.zeros(4, 3, 1).to_sparse()}, {})
    assert caught.value.path == tmp_path / "b.pt"
