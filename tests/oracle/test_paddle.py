"""Files of Paddle's state_dicts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from convinspect import explain
from support.makers import facts, layers_at


def test_paddle_agrees(tmp_path: Path) -> None:
    paddle = pytest.importorskip("paddle")
    model = paddle.nn.Sequential(paddle.nn.BatchNorm1D(6), paddle.nn.Linear(6, 4))
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    save_file({name: np.ascontiguousarray(array) for name, array in state.items()}, tmp_path / "m.safetensors")
    layer = layers_at(tmp_path / "m.safetensors")["1"]
    assert facts(layer) == ("Linear", 6, 4, ())
    x = torch.randn(3, 6, dtype=torch.float64)
    ours = torch.tensor(explain(tmp_path / "m.safetensors", "1", input=x).f)
    theirs = torch.from_numpy(model[1](paddle.to_tensor(x.float().numpy())).numpy())
    assert torch.allclose(ours.float(), theirs, atol=1e-5)
