"""What accelerate saves: a model in shards, and the folder of `save_state`; both go back into the other model."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from convinspect.checkpoint import open_checkpoint
from support.in_process import run
from support.makers import said, true
from support.verifying import report_of

accelerate = pytest.importorskip("accelerate", reason="needs accelerate")

X = torch.linspace(-1, 1, 36).reshape(2, 6, 3)


def conv() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(6, 4, 1), nn.ReLU(), nn.Conv1d(4, 5, 1))


def linear() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 5))


def trained(accelerator: Any) -> tuple[Any, Any]:
    model = conv()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    model, optimizer = accelerator.prepare(model, optimizer)
    step(model, optimizer)
    return model, optimizer


def step(model: nn.Module, optimizer: Any, turn: bool = False) -> None:
    optimizer.zero_grad()
    model(X.transpose(1, 2) if turn else X).square().mean().backward()
    optimizer.step()


def test_shards_go_into_a_model_of_linear(tmp_path: Path) -> None:
    accelerator = accelerate.Accelerator(cpu=True)
    model, _ = trained(accelerator)
    accelerator.save_model(model, tmp_path / "a", max_shard_size=100)
    assert open_checkpoint(tmp_path / "a").shards > 1
    assert said(tmp_path / "a") == true(model)
    assert run("convert", tmp_path / "a", "--to", "linear", "-o", tmp_path / "b").returncode == 0
    assert report_of(tmp_path / "a", tmp_path / "b").equal
    other = linear()
    accelerate.load_checkpoint_in_model(other, tmp_path / "b", strict=True)
    assert torch.allclose(other(X.transpose(1, 2)).transpose(1, 2), model(X), atol=1e-6)


def test_a_saved_state_is_resumed_with_linear(tmp_path: Path) -> None:
    accelerator = accelerate.Accelerator(cpu=True)
    model, optimizer = trained(accelerator)
    accelerator.save_state(tmp_path / "a", safe_serialization=False)
    assert said(tmp_path / "a" / "pytorch_model.bin") == true(model)
    both = {
        "model": torch.load(tmp_path / "a" / "pytorch_model.bin"),
        "optimizer": torch.load(tmp_path / "a" / "optimizer.bin"),
    }
    torch.save(both, tmp_path / "both.pt")
    assert run("convert", tmp_path / "both.pt", "--to", "linear", "-o", tmp_path / "c.pt").returncode == 0
    assert report_of(tmp_path / "both.pt", tmp_path / "c.pt").equal
    saved = torch.load(tmp_path / "c.pt")
    other = linear()
    other.load_state_dict(saved["model"], strict=True)
    resumed = torch.optim.AdamW(other.parameters(), 1e-2)
    resumed.load_state_dict(copy.deepcopy(saved["optimizer"]))
    step(other, resumed, turn=True)
    step(model, optimizer)
    for mine, its in zip(other.parameters(), model.parameters(), strict=True):
        assert torch.allclose(mine.reshape(-1), its.reshape(-1), atol=1e-6)
