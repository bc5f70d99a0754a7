"""Files with torchao's tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from support.in_process import run
from support.program import assert_one_line


def test_state_in_eight_bits_keeps_its_weights(tmp_path: Path) -> None:
    optim = pytest.importorskip("torchao.optim")
    model = nn.Sequential(nn.Conv1d(64, 128, 1))
    optimizer = optim.AdamW8bit(model.parameters())
    model(torch.randn(2, 64, 5)).sum().backward()
    optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "a.pt")
    done = run("convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--to", "linear", "--layer", "0")
    assert_one_line(done, "OptimState8bit", "--drop-optimizer")


def test_weights_of_torchao_are_left(tmp_path: Path) -> None:
    quantization = pytest.importorskip("torchao.quantization")
    model = nn.Sequential(nn.Conv1d(8, 64, 1), nn.Linear(64, 32, bias=False), nn.Linear(32, 64))
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    torch.save(model.state_dict(), tmp_path / "a.pt")
    words = ["convert", tmp_path / "a.pt", "-o", tmp_path / "b.pt", "--to", "conv1d", "--from", "linear"]
    assert_one_line(run(*words, "--layer", "2"), "a subclass around other tensors")
    assert_one_line(run(*words[:3], tmp_path / "b.safetensors", *words[4:]), "only its own library reads")
    assert run("verify", tmp_path / "a.pt", tmp_path / "a.pt").returncode == 0
