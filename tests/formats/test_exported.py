"""`.pt2` archives of either layout, whole and malformed, and what their graph says of the layers."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from convinspect.checkpoint import open_checkpoint
from convinspect.errors import BrokenFile, RefusedFile
from convinspect.formats import read_contents
from convinspect.formats.torch import exported
from convinspect.layers.find import find_layers
from convinspect.records import Contents
from support import hostile

GRAPH: dict[str, Any] = {"graph_module": {"signature": {"input_specs": []}, "graph": {"nodes": []}}}
CONFIG = "data/weights/model_weights_config.json"


def weight(**changes: Any) -> dict[str, Any]:
    """One weight's description, of the six float32 numbers in the record `data/weights/weight_0`."""
    meta = {
        "dtype": 7,
        "sizes": [{"as_int": 2}, {"as_int": 3}, {"as_int": 1}],
        "strides": [{"as_int": 3}, {"as_int": 1}, {"as_int": 1}],
        "storage_offset": {"as_int": 0},
        "requires_grad": True,
        "device": {"type": "cpu", "index": None},
    }
    return {"path_name": "weight_0", "is_param": True, "use_pickle": False, "tensor_meta": meta | changes}


def archive(folder: Path, config: Any, graph: Any = GRAPH, **records: bytes) -> Path:
    parts = {"models/model.json": graph if isinstance(graph, bytes) else json.dumps(graph).encode(),
             "data/weights/weight_0": bytes(24)}  # fmt: skip
    if config is not None:
        parts[CONFIG] = config if isinstance(config, bytes) else json.dumps({"config": config}).encode()
    return hostile.zip_of(folder / "model.pt2", parts | records)


def nodes(*given: dict[str, Any]) -> dict[str, Any]:
    """A graph of these nodes, whose input `p_c_weight` is the parameter `c.weight`."""
    specs = [{"parameter": {"arg": {"name": "p_c_weight"}, "parameter_name": "c.weight"}}, {"user_input": {}}]
    return {"graph_module": {"signature": {"input_specs": specs}, "graph": {"nodes": list(given)}}}


def node(target: str, **arguments: Any) -> dict[str, Any]:
    inputs = {"weight": {"as_tensor": {"name": "p_c_weight"}}} | arguments
    return {"target": f"torch.ops.aten.{target}.default",
            "inputs": [{"name": name, "arg": arg} for name, arg in inputs.items()], "metadata": {}}  # fmt: skip


def test_a_weight_is_what_its_description_says(tmp_path: Path) -> None:
    (root,) = read_contents(archive(tmp_path, {"c.weight": weight()})).roots
    (tensor,) = root.tensors
    assert (tensor.key, tensor.dtype, tensor.shape, tensor.stride) == ("c.weight", "float32", (2, 3, 1), (3, 1, 1))
    assert (tensor.requires_grad, tensor.device, tensor.layout) == (True, "cpu", "strided")


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": 99},
        {"sizes": [{"as_int": 2}]},
        {"sizes": [{"as_expr": {"expr_str": "s0"}}] * 3},
        {"sizes": [{"as_int": -1}] * 3},
        {"sizes": [{"as_int": 2**63}] * 3},
        {"sizes": [{"as_int": True}] * 3},
        {"sizes": None},
        {"storage_offset": {"as_int": -1}},
        {"device": "cpu"},
    ],
)
def test_a_malformed_description_is_named(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(BrokenFile, match=r"tensor 'c\.weight': its description is malformed"):
        read_contents(archive(tmp_path, {"c.weight": weight(**changes)}))


@pytest.mark.parametrize(
    ("config", "graph", "words"),
    [
        (b"{", GRAPH, "is not valid JSON"),
        (b"[" * 100_000, GRAPH, "is not valid JSON"),
        (b"[]", GRAPH, "is not a dictionary"),
        (b"{}", GRAPH, "lists no weights"),
        ([], GRAPH, "lists no weights"),
        ({}, b"nothing", "'models/model.json' is not valid JSON"),
    ],
)
def test_a_malformed_text_is_named(tmp_path: Path, config: Any, graph: Any, words: str) -> None:
    with pytest.raises(BrokenFile, match=words):
        read_contents(archive(tmp_path, config, graph))


def test_a_text_out_of_all_proportion_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive(tmp_path, {"c.weight": weight()})
    read_contents(path)
    with monkeypatch.context() as patch:
        patch.setattr(exported, "_LARGEST_JSON", 100)
        with pytest.raises(BrokenFile, match="is larger than"):
            read_contents(path)
    with monkeypatch.context() as patch:
        patch.setattr(exported, "_ANY_PARTS", -path.stat().st_size)
        with pytest.raises(RefusedFile, match="describes far more than"):
            read_contents(path)
    monkeypatch.setattr(exported, "_ANY_WEIGHTS", -100)
    with pytest.raises(RefusedFile, match="lists 1 tensors"):
        read_contents(path)


@pytest.mark.parametrize("graph", [{}, {"graph_module": []}, {"graph_module": {"signature": {}, "graph": None}}])
def test_without_a_readable_graph_the_shapes_remain(tmp_path: Path, graph: Any) -> None:
    (root,) = read_contents(archive(tmp_path, {"c.weight": weight()}, graph)).roots
    assert [tensor.shape for tensor in root.tensors] == [(2, 3, 1)]
    assert root.modules == {}


def kinds(folder: Path, *given: dict[str, Any], **changes: Any) -> dict[str, Any]:
    (root,) = read_contents(archive(folder, {"c.weight": weight(**changes)}, nodes(*given))).roots
    return {name: (module.class_name.rpartition(".")[2], module.attributes) for name, module in root.modules.items()}


def test_the_core_convolution_tells_dimensions_and_direction(tmp_path: Path) -> None:
    """After `run_decompositions` all convolutions are one operator."""
    plain = node("convolution", stride={"as_ints": [2]}, transposed={"as_bool": False}, groups={"as_int": 1})
    assert kinds(tmp_path, plain)["c"] == (
        "Conv1d", {"stride": (2,), "padding": (0,), "dilation": (1,), "groups": 1}
    )  # fmt: skip
    turned = node("convolution", transposed={"as_bool": True})
    four = {name: [{"as_int": 1}] * 4 for name in ("sizes", "strides")}
    assert kinds(tmp_path, turned, **four)["c"][0] == "ConvTranspose2d"
    two = {name: [{"as_int": 1}] * 2 for name in ("sizes", "strides")}
    assert kinds(tmp_path, plain, **two) == {}, "no convolution has a weight of two dimensions"


def test_words_for_padding_are_kept(tmp_path: Path) -> None:
    assert kinds(tmp_path, node("conv1d", padding={"as_string": "same"}))["c"][1]["padding"] == "same"


def test_operators_that_tell_no_kind_are_passed_over(tmp_path: Path) -> None:
    assert kinds(tmp_path, node("mul"), {"target": "torch.ops.aten.relu.default", "inputs": []}) == {}
    assert kinds(tmp_path, node("linear", weight={"as_tensor": {"name": "x"}})) == {}


# ------------------------------------------------------------------------------------------------- the older layout


def older(folder: Path, weights: bytes | None, compressed: bool = False) -> Contents:
    """As PyTorch wrote it before 2.8: the state_dict is a `torch.save` file inside."""
    path = folder / "old.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as file:
        file.writestr("serialized_exported_program.json", json.dumps(GRAPH))
        if weights is not None:
            file.writestr("serialized_state_dict.pt", weights)
    return read_contents(path)


def test_weights_inside_are_listed_where_they_can_be_read(tmp_path: Path) -> None:
    state = nn.Conv1d(3, 4, 1).state_dict()
    out = io.BytesIO()
    torch.save(state, out)
    found = {tensor.key: tensor.shape for tensor in older(tmp_path, out.getvalue()).roots[0].tensors}
    assert found == {key: tuple(value.shape) for key, value in state.items()}
    with pytest.raises(BrokenFile, match=r"'serialized_state_dict\.pt' is compressed"):
        older(tmp_path, out.getvalue(), compressed=True)


@pytest.mark.parametrize("weights", [None, b""])
def test_a_model_without_weights_has_none(tmp_path: Path, weights: bytes | None) -> None:
    (root,) = older(tmp_path, weights).roots
    assert root.tensors == ()


def test_attention_keeps_its_kind_where_a_graph_multiplies_by_its_packed_matrix(tmp_path: Path) -> None:
    """The operator is a Linear's; the module that the matrix belongs to is none."""
    layer = nn.TransformerEncoderLayer(4, 2, 6).eval()
    torch.export.save(torch.export.export(layer, (torch.randn(3, 2, 4),)), tmp_path / "m.pt2")
    with open_checkpoint(tmp_path / "m.pt2") as checkpoint:
        layers = {found.name: found.kind for found in find_layers(checkpoint)}
    assert layers["self_attn"] == "MultiheadAttention"
    assert layers["linear1"] == layers["self_attn.out_proj"] == "Linear"


class Subclass(torch.Tensor):
    """Without numbers of its own."""


def test_a_weight_in_a_pickle_is_what_the_pickle_says(tmp_path: Path) -> None:
    exported = torch.export.export(nn.Sequential(nn.Conv1d(6, 4, 1)), (torch.randn(2, 6, 8),))
    weight = exported.state_dict["0.weight"].detach()
    exported.state_dict["0.weight"] = nn.Parameter(weight.as_subclass(Subclass))
    torch.export.save(exported, tmp_path / "a.pt2")
    checkpoint = open_checkpoint(tmp_path / "a.pt2")
    tensor = checkpoint["0.weight"]
    assert (tensor.shape, tensor.subclass and tensor.subclass.rpartition(".")[2]) == ((4, 6, 1), "Subclass")
    assert torch.equal(torch.from_numpy(checkpoint.read("0.weight")), weight)
    (layer,) = find_layers(checkpoint)
    assert (layer.kind, layer.evidence, "view" in layer.tags) == ("Conv1d", "module", False)


@pytest.mark.parametrize("pickled", [b"", b"nothing of the kind", b"PK\x03\x04"])
def test_a_weight_whose_pickle_cannot_be_read_has_its_shape_alone(tmp_path: Path, pickled: bytes) -> None:
    path = archive(tmp_path, {"w": weight() | {"use_pickle": True}}, **{"data/weights/weight_0": pickled})
    tensor = read_contents(path).roots[0].tensors[0]
    assert (tensor.shape, tensor.layout, tensor.storage) == ((2, 3, 1), "pickled", None)
