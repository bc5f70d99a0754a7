"""Weights that Keras makes, as safetensors under its own paths, and a Dense that runs what was converted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from convinspect.checkpoint import open_checkpoint
from convinspect.layers.find import find_layers
from convinspect.layouts import torch_shape
from support.makers import facts, layers_at
from support.program import run
from support.verifying import report_of

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras", reason="needs keras")


def arrays_of(model: Any) -> dict[str, np.ndarray]:
    """The weights by their paths; the first part is the model's own name, which another model does not have."""
    return {
        weight.path.partition("/")[2].replace("/", "."): np.array(keras.ops.convert_to_numpy(weight.value))
        for weight in model.weights
    }


def load(model: Any, arrays: dict[str, np.ndarray]) -> None:
    assert set(arrays_of(model)) == set(arrays)
    for weight in model.weights:
        weight.assign(arrays[weight.path.partition("/")[2].replace("/", ".")])


def test_every_layer_is_what_keras_made(tmp_path: Path) -> None:
    of = keras.layers
    model = keras.Sequential(
        [
            keras.Input((12, 6)), of.Conv1D(4, 1, name="pointwise"), of.Conv1D(5, 3, name="wide"),
            of.DepthwiseConv1D(3, depth_multiplier=2, name="depthwise"), of.SeparableConv1D(7, 3, name="separable"),
            of.Conv1DTranspose(3, 2, name="up"), of.BatchNormalization(name="bn"),
            of.EinsumDense("abc,cd->abd", output_shape=(None, 8), bias_axes="d", name="einsum"),
            of.LSTM(9, return_sequences=True, name="lstm"), of.Dense(2, use_bias=False, name="dense"),
        ]
    )  # fmt: skip
    save_file(arrays_of(model), tmp_path / "a.safetensors")
    found = layers_at(tmp_path / "a.safetensors")
    # The inputs of a convolution are not said, since its groups are not recorded.
    assert facts(found["pointwise"]) == ("Conv1d", None, 4, (1,))
    assert facts(found["wide"]) == ("Conv1d", None, 5, (3,))
    assert [torch_shape(found[name])[1] for name in ("pointwise", "wide")] == [6, 4]
    assert facts(found["depthwise"]) == ("DepthwiseConv1d", 5, 10, (3,))
    assert facts(found["up"])[0] == "ConvTranspose1d"
    assert facts(found["up"])[2:] == (3, (2,))
    assert facts(found["einsum"]) == ("Linear", 3, 8, ())
    assert facts(found["dense"])[:3] == ("Linear", 9, 2)
    kinds = {name: layer.kind for name, layer in found.items()}
    assert (kinds["separable"], kinds["bn"]) == ("SeparableConv1d", "BatchNorm")
    assert next(layer.kind for name, layer in found.items() if name.startswith("lstm")) == "LSTM"
    assert [name for name, layer in found.items() if layer.pointwise] == ["pointwise"]


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_keras_runs_what_was_converted(tmp_path: Path, dims: int, bias: bool) -> None:
    shape = (*(5, 4, 3)[:dims], 6)

    def model(pointwise: Any) -> Any:
        return keras.Sequential([keras.Input(shape), pointwise, keras.layers.Dense(3, name="last")])

    before = model(getattr(keras.layers, f"Conv{dims}D")(4, 1, use_bias=bias, bias_initializer="normal", name="p"))
    after = model(keras.layers.Dense(4, use_bias=bias, name="p"))
    source, target, back = (tmp_path / f"{name}.safetensors" for name in "abc")
    save_file(arrays_of(before), source)
    assert run("convert", source, "-o", target, "--to", "linear", "--from", f"conv{dims}d").returncode == 0
    assert report_of(source, target).equal
    load(after, load_file(target))
    x = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)
    first, second = (keras.ops.convert_to_numpy(each(x)) for each in (before, after))
    assert np.allclose(first, second, atol=1e-6)
    done = run("convert", target, "-o", back, "--to", f"conv{dims}d", "--layer", "p")
    assert done.returncode == 0, done.stderr
    assert back.read_bytes() == source.read_bytes()


def test_an_archive_of_weights_by_path(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
    arrays = arrays_of(model)
    np.savez_compressed(tmp_path / "m.npz", **arrays)  # type: ignore[arg-type]
    checkpoint = open_checkpoint(tmp_path / "m.npz")
    (layer,) = find_layers(checkpoint)
    assert (layer.kind, layer.in_width, layer.out_width) == ("Linear", 6, 4)
    assert all(np.array_equal(checkpoint.read(name), array) for name, array in arrays.items())


def test_files_of_keras_that_are_not_read_are_named(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
    model.save_weights(tmp_path / "m.weights.h5")
    model.save(tmp_path / "m.keras")
    said = {"m.weights.h5": "HDF5 file, as Keras writes", "m.keras": "Keras archive"}
    for name, text in said.items():
        done = run("shapes", tmp_path / name)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
        assert text in done.stderr
