"""Files of Paddle's state_dicts."""

from __future__ import annotations

import inspect
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


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int64"])
def test_parameters_that_paddle_cuts_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int, dtype: str
) -> None:
    """It cuts what is larger than a gigabyte; here another number stands in its code."""
    paddle = pytest.importorskip("paddle")
    io, utils = paddle.framework.io, paddle.framework.io_utils
    space = dict(vars(utils))
    exec(inspect.getsource(utils._unpack_saved_dict).replace("2**30 - 1", "60"), space)
    monkeypatch.setattr(io, "_unpack_saved_dict", space["_unpack_saved_dict"])
    state = {
        name: paddle.randn(shape).astype(dtype) for name, shape in (("a.weight", (7, 9)), ("b", (31,)), ("c", (2,)))
    }
    path = tmp_path / "m.pdparams"
    paddle.save(state, str(path), protocol=protocol)
    assert b"a.weight@@.1" in path.read_bytes()
    loaded = paddle.load(str(path))
    checkpoint = convinspect.open(path)
    assert {name: (list(one.shape), one.dtype) for name, one in checkpoint.items()} == {
        name: (one.shape, str(one.dtype).removeprefix("paddle.")) for name, one in loaded.items()
    }
    for name, theirs in loaded.items():
        ours = checkpoint.read(name)
        np.testing.assert_array_equal(ours.astype("f8"), theirs.astype("float64").numpy(), err_msg=name)
    assert facts(layers_at(path)["a"])[:3] == ("Linear", 7, 9)
