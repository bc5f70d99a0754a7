"""Files of Paddle's state_dicts."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import convinspect
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


def test_parameters_in_parts_are_said_and_the_advice_makes_them_whole(tmp_path: Path) -> None:
    """The keys are those of paddle/framework/io_utils.py, which cuts what is larger than a gigabyte."""
    paddle = pytest.importorskip("paddle")
    numbers = np.arange(12, dtype=np.float32)
    names = [f"fc.weight@@.{n}" for n in range(3)]
    state = {
        **dict(zip(names, (numbers[:5], numbers[5:10], numbers[10:]), strict=True)),
        "fc.bias": np.ones(4, np.float32),
        "UnpackBigParamInfor@@": {"fc.weight": {"OriginShape": (3, 4), "slices": names}},
    }
    (tmp_path / "big.pdparams").write_bytes(pickle.dumps(state, protocol=2))
    checkpoint = convinspect.open(tmp_path / "big.pdparams")
    assert any(note.startswith("fc.weight: cut by paddle.save into flat parts") for note in checkpoint.notes)
    loaded = paddle.load(str(tmp_path / "big.pdparams"))
    assert np.array_equal(loaded["fc.weight"], numbers.reshape(3, 4))
    paddle.save(loaded, str(tmp_path / "whole.pdparams"), protocol=4)
    assert facts(layers_at(tmp_path / "whole.pdparams")["fc"])[:3] == ("Linear", 3, 4)
