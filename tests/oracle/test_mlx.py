"""Files that MLX writes, loads and runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convinspect.converting.job import convert
from convinspect.converting.options import Options


def mlx_layers() -> dict[str, Callable[[], Any]]:
    mlx_nn = pytest.importorskip("mlx.nn")
    return {
        "conv1d": lambda: mlx_nn.Conv1d(6, 4, 1),
        "conv2d": lambda: mlx_nn.Conv2d(6, 4, 1, bias=False),
        "conv3d": lambda: mlx_nn.Conv3d(6, 4, 1),
    }


@pytest.mark.parametrize("kind", ["conv1d", "conv2d", "conv3d"])
def test_mlx_loads_and_runs_what_was_converted(tmp_path: Path, kind: str) -> None:
    mx = pytest.importorskip("mlx.core")
    mlx_nn = pytest.importorskip("mlx.nn")
    model = mlx_nn.Sequential(mlx_layers()[kind]())
    model.save_weights(str(tmp_path / "m.safetensors"))
    convert(tmp_path / "m.safetensors", tmp_path / "l.safetensors", Options(to="linear", from_=(kind,), layer=("*",))
            if kind != "conv1d" else Options(to="linear", layer=("layers.0",)))  # fmt: skip
    linear = mlx_nn.Sequential(mlx_nn.Linear(6, 4, bias=kind != "conv2d"))
    linear.load_weights(str(tmp_path / "l.safetensors"), strict=True)
    x = mx.random.normal((2, *(3,) * int(kind[4]), 6))
    assert mx.allclose(model(x), linear(x), atol=1e-6).item()
    convert(tmp_path / "l.safetensors", tmp_path / "b.safetensors", Options(to=kind, layer=("layers.0",)))
    assert (tmp_path / "b.safetensors").read_bytes() == (tmp_path / "m.safetensors").read_bytes()
