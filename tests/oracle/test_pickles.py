"""Pickles of other makers: numbers as they read them themselves, and what a state_dict of them holds."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch
from torch import nn

from convinspect.arrays.read import read_tensor
from convinspect.checkpoint import Checkpoint
from convinspect.formats import read_contents
from convinspect.layouts import KnownFrom, Maker
from support.makers import facts, layers_at
from support.program import run


def check(path: Path, expected: dict[str, Any], root: str | None = None) -> Checkpoint:
    """Hold the tensors of a root against a maker's."""
    checkpoint = Checkpoint(read_contents(path), root)
    found = {tensor.key: read_tensor(tensor) for tensor in checkpoint.root.tensors}
    assert set(found) == set(expected)
    for key, theirs in expected.items():
        np.testing.assert_array_equal(found[key], np.asarray(theirs), err_msg=key)
    return checkpoint


@pytest.fixture
def paddle_model() -> Any:
    paddle: Any = pytest.importorskip("paddle")
    return paddle.nn.Sequential(paddle.nn.Linear(4, 6), paddle.nn.BatchNorm1D(6), paddle.nn.Conv1D(6, 3, 1))


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("nested", [False, True])
def test_paddle(tmp_path: Path, paddle_model: Any, protocol: int, nested: bool) -> None:
    paddle: Any = pytest.importorskip("paddle")
    path = tmp_path / "m.pdparams"
    state = paddle_model.state_dict()
    paddle.save({"model": state, "epoch": 3} if nested else state, str(path), protocol=protocol)
    loaded = paddle.load(str(path), return_numpy=True)
    checkpoint = check(path, {key: one for key, one in (loaded["model"] if nested else loaded).items() if key in state})
    assert checkpoint.layout == (Maker.PADDLE, KnownFrom.WRITTEN)
    layers = layers_at(path)
    assert facts(layers["0"]) == ("Linear", 4, 6, ())
    assert facts(layers["2"]) == ("Conv1d", None, 3, (1,))
    target = tmp_path / "m.safetensors"
    assert not run("convert", path, "-o", target).returncode
    for key, one in load_file(target).items():
        np.testing.assert_array_equal(one, state[key].numpy())
    assert facts(layers_at(target)["0"]) == ("Linear", 4, 6, ())


def test_paddle_without_a_place_for_its_layout(tmp_path: Path) -> None:
    paddle = pytest.importorskip("paddle")
    path = tmp_path / "m.pdparams"
    paddle.save(paddle.nn.Linear(4, 6).state_dict(), str(path))
    done = run("convert", path, "-o", tmp_path / "m.pt")
    assert done.returncode == 2
    assert "its matrices are (in, out), Paddle's layout, which the new file would not record" in done.stderr


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("nested", [False, True])
def test_paddle_bfloat16(tmp_path: Path, paddle_model: Any, protocol: int, nested: bool) -> None:
    """Paddle keeps it as uint16, and takes each uint16 for it."""
    paddle: Any = pytest.importorskip("paddle")
    path, target = tmp_path / "m.pdparams", tmp_path / "m.safetensors"
    paddle_model[0].to(dtype="bfloat16")
    state = dict(paddle_model.state_dict())
    value = {"model": state, "counts": np.arange(3, dtype="u2")} if nested else state
    paddle.save(value, str(path), protocol=protocol)
    loaded = paddle.load(str(path))
    theirs = {key: one for key, one in (loaded["model"] if nested else loaded).items() if key in state}
    dtypes = {key: str(one.dtype).removeprefix("paddle.") for key, one in theirs.items()}
    assert "bfloat16" in dtypes.values()
    check(path, {key: one.astype("float32").numpy() for key, one in theirs.items()}, "model" if nested else None)
    contents = read_contents(path)
    found = {tensor.key: tensor.dtype for root in contents.roots for tensor in root.tensors}
    assert {key: found[key] for key in dtypes} == dtypes
    assert found.get("counts") == ("uint16" if nested else None)
    assert "2 of them are bfloat16, which Paddle keeps as uint16" in contents.notes
    done = run("convert", path, "-o", target, *(["--root", "model"] if nested else []))
    assert not done.returncode, done.stderr
    written = load_torch(target)
    for key, one in theirs.items():
        assert str(written[key].dtype) == f"torch.{dtypes[key]}"
        np.testing.assert_array_equal(written[key].float().numpy(), one.astype("float32").numpy())


class Net(nn.Module):
    """A model of the caller's own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 1)
        self.scale = nn.Parameter(torch.ones(2))


def test_cloudpickle(tmp_path: Path) -> None:
    cloudpickle = pytest.importorskip("cloudpickle")
    namespace: dict[str, Any] = {"nn": nn, "torch": torch, "__name__": "__main__"}
    lines = ("class Own(nn.Module):", "    def __init__(self):", "        super().__init__()",
             "        self.conv = nn.Conv1d(3, 4, 1)")  # fmt: skip
    exec("\n".join(lines), namespace)
    for model, name in ((namespace["Own"](), "__main__.Own"), (Net(), f"{__name__}.Net")):
        path = tmp_path / "m.pkl"
        path.write_bytes(cloudpickle.dumps(model))
        checkpoint = check(path, {key: one.detach() for key, one in model.state_dict().items()})
        assert checkpoint.modules[""].class_name == name
        assert layers_at(path)["conv"].evidence == "module"


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_dill(tmp_path: Path, protocol: int) -> None:
    """It writes arrays in a way of its own, with what each is rebuilt by as an argument."""
    dill = pytest.importorskip("dill")
    path = tmp_path / "m.pkl"
    arrays = {"fc.weight": np.ones((4, 3), "f4"), "turned": np.asfortranarray(np.arange(6.0).reshape(2, 3))}
    path.write_bytes(dill.dumps(arrays, protocol=protocol))
    check(path, dill.loads(path.read_bytes()))
    assert facts(layers_at(path)["fc"]) == ("Linear", 3, 4, ())
    for model in (Net(), Net().state_dict()):
        path.write_bytes(dill.dumps(model, protocol=protocol))
        state = model.state_dict() if isinstance(model, nn.Module) else model
        check(path, {key: one.detach() for key, one in state.items()})


def test_flax(tmp_path: Path) -> None:
    linen: Any = pytest.importorskip("flax.linen")
    jax: Any = pytest.importorskip("jax")
    jnp, freeze = jax.numpy, pytest.importorskip("flax.core").freeze
    model = linen.Sequential([linen.Conv(5, (3,)), linen.Dense(4), linen.BatchNorm(use_running_average=True)])
    variables = model.init(jax.random.PRNGKey(0), jnp.ones((1, 8, 2)))
    params = variables["params"]
    expected = {f"{module}.{name}": one for module, inner in params.items() for name, one in inner.items()}
    as_numpy = jax.tree_util.tree_map(np.asarray, variables)
    for value in (variables, freeze(variables), as_numpy):
        path = tmp_path / "m.pkl"
        path.write_bytes(pickle.dumps(value))
        check(path, expected)
        assert [root.path for root in read_contents(path).roots if root.role == "model"] == ["params"]
        assert facts(layers_at(path)["layers_0"]) == ("Conv1d", None, 5, (3,))
        assert facts(layers_at(path)["layers_1"]) == ("Linear", 5, 4, ())
    path.write_bytes(pickle.dumps(params))
    check(path, expected)
    half = jax.tree_util.tree_map(lambda one: one.astype(jnp.bfloat16), params)
    path.write_bytes(pickle.dumps(half))
    checkpoint = Checkpoint(read_contents(path))
    assert {tensor.dtype for tensor in checkpoint.root.tensors} == {"bfloat16"}
    for tensor in checkpoint.root.tensors:
        module, name = tensor.key.split(".")
        np.testing.assert_array_equal(read_tensor(tensor), np.asarray(half[module][name]))
