"""Files of other libraries, written by them: each is named for what it is, by every command alike."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from convinspect.checking.scan import check
from convinspect.errors import NotACheckpoint
from convinspect.formats import read_contents

ARRAYS = {"weight": np.arange(24.0, dtype=np.float32).reshape(4, 6), "bias": np.zeros(4, np.float32)}


def onnx_model(onnx: Any, folder: Path) -> Path:
    helper, number = onnx.helper, onnx.TensorProto.FLOAT
    ends = [helper.make_tensor_value_info(name, number, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph), folder / "model.onnx")
    return folder / "model.onnx"


def onnx_with_numbers(onnx: Any, folder: Path) -> Path:
    path = onnx_model(onnx, folder)
    model = onnx.load(path)
    model.graph.initializer.append(onnx.numpy_helper.from_array(ARRAYS["weight"], "w"))
    model.producer_name, model.doc_string, model.domain = "maker", "a model", "org.example"
    model.metadata_props.add(key="a", value="b")
    onnx.save(model, path)
    return path


def onnx_functions(onnx: Any, folder: Path) -> Path:
    path = onnx_model(onnx, folder)
    model = onnx.load(path)
    node = onnx.helper.make_node("Relu", ["a"], ["b"])
    opset = [onnx.helper.make_opsetid("", 17)]
    model.functions.append(onnx.helper.make_function("org.example", "F", ["a"], ["b"], [node], opset))
    onnx.save(model, path)
    return path


class Relu(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x)


def core_ml(coremltools: Any, folder: Path, to: str, name: str) -> Path:
    traced = torch.jit.trace(Relu().eval(), torch.zeros(1, 3))  # type: ignore[no-untyped-call]
    model = coremltools.convert(traced, inputs=[coremltools.TensorType(shape=(1, 3))], convert_to=to)
    model.save(str(folder / name))
    return folder / name


def core_ml_network(coremltools: Any, folder: Path) -> Path:
    return core_ml(coremltools, folder, "neuralnetwork", "model.mlmodel")


def core_ml_package(coremltools: Any, folder: Path) -> Path:
    return core_ml(coremltools, folder, "mlprogram", "model.mlpackage")


def core_ml_program(coremltools: Any, folder: Path) -> Path:
    return core_ml_package(coremltools, folder) / "Data" / "com.apple.CoreML" / "model.mlmodel"


def frozen_graph(protos: Any, folder: Path) -> Path:
    graph = protos.GraphDef()
    for name, op in (("x", "Placeholder"), ("y", "Identity")):
        node = graph.node.add()
        node.name, node.op = name, op
    graph.versions.producer = 1087
    (folder / "frozen.pb").write_bytes(graph.SerializeToString())
    return folder / "frozen.pb"


def keras_weights(keras: Any, folder: Path) -> Path:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.save_weights(folder / "model.weights.h5")
    return folder / "model.weights.h5"


def keras_whole(keras: Any, folder: Path) -> Path:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.save(folder / "model.keras")
    return folder / "model.keras"


def keras_sharded(keras: Any, folder: Path) -> Path:
    model = keras.Sequential([keras.Input((300,)), keras.layers.Dense(300), keras.layers.Dense(300)])
    model.save_weights(folder / "model.weights.json", max_shard_size=0.0005)
    return folder / "model.weights.json"


def flax_bytes(serialization: Any, folder: Path) -> Path:
    (folder / "flax_model.msgpack").write_bytes(
        serialization.to_bytes({"params": {"dense": {"kernel": ARRAYS["weight"]}}})
    )
    return folder / "flax_model.msgpack"


def executorch_program(exir: Any, folder: Path) -> Path:
    exported = torch.export.export(Relu().eval(), (torch.zeros(1, 3),))
    (folder / "model.pte").write_bytes(exir.to_edge(exported).to_executorch().buffer)
    return folder / "model.pte"


Build = Callable[[Any, Path], Path]
FILES: list[tuple[str, Build, str]] = [
    ("onnx", onnx_model, "an ONNX model"),
    ("onnx", onnx_with_numbers, "an ONNX model"),
    ("onnx", onnx_functions, "an ONNX model"),
    ("coremltools", core_ml_network, "a Core ML model"),
    ("coremltools", core_ml_package, "a Core ML model"),
    ("coremltools", core_ml_program, "a Core ML model"),
    ("tensorboard.compat.proto.graph_pb2", frozen_graph, "a frozen TensorFlow graph"),
    ("keras", keras_weights, "an HDF5 file"),
    ("keras", keras_whole, "a Keras archive"),
    ("keras", keras_sharded, "the index of a Keras model"),
    ("flax.serialization", flax_bytes, "a MessagePack file"),
    ("executorch.exir", executorch_program, "an ExecuTorch program"),
]


@pytest.mark.parametrize(("package", "build", "what"), FILES, ids=[build.__name__ for _, build, _ in FILES])
def test_a_file_is_named_for_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, build: Build, what: str
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    pytest.importorskip(package.partition(".")[0])
    path = build(importlib.import_module(package), tmp_path)
    with pytest.raises(NotACheckpoint, match=re.escape(f"it is {what}")) as raised:
        read_contents(path)
    assert raised.value.problem in {finding.message for finding in check(path).findings}
