"""Convolutions in MLX's layout, (out, kernel…, in), as MLX writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from convinspect import verify
from convinspect.checkpoint import open_checkpoint
from convinspect.converting.job import convert
from convinspect.converting.options import Options
from convinspect.errors import CannotConvert
from convinspect.layers.find import find_layers
from convinspect.layouts import KnownFrom, Maker
from convinspect.records import Doubt, Layer
from support.in_process import run

Saved = dict[str, torch.Tensor]


def write(path: Path, tensors: dict[str, tuple[int, ...]], metadata: Any) -> Path:
    """A safetensors file as MLX writes it: `metadata` may be None, and the header is not padded."""
    arrays = {name: np.random.default_rng(0).random(shape, np.float32) for name, shape in tensors.items()}
    header: dict[str, Any] = {"__metadata__": metadata}
    at = 0
    for name, array in arrays.items():
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(a.tobytes() for a in arrays.values()))
    return path


CONVOLUTIONS = {
    "pw.weight": (4, 1, 6), "pw.bias": (4,), "dw.weight": (6, 3, 1), "dw.bias": (6,),
    "lin.weight": (4, 6), "lin.bias": (4,),
}  # fmt: skip
SAYS = {"format": "mlx"}


def layers_of(path: Path) -> dict[str, Layer]:
    return {layer.name: layer for layer in find_layers(open_checkpoint(path))}


def test_the_metadata_name_the_layout(tmp_path: Path) -> None:
    layers = layers_of(write(tmp_path / "m.safetensors", CONVOLUTIONS, SAYS))
    pointwise, depthwise = layers["pw"], layers["dw"]
    assert (pointwise.kind, pointwise.pointwise, pointwise.kernel_size, pointwise.out_width) == (
        "Conv1d",
        True,
        (1,),
        4,
    )
    assert (depthwise.pointwise, depthwise.kernel_size) == (False, (3,))
    assert pointwise.layout is not None
    assert pointwise.layout == (Maker.MLX, KnownFrom.METADATA)
    assert "MLX layout" in pointwise.tags
    assert pointwise.evidence == "shape"


def test_the_layout_is_shown(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", CONVOLUTIONS, SAYS)
    text = run("shapes", path).stdout
    assert "6 → 4" in text
    assert "MLX layout: weights are (out, kernel…, in), as the file's metadata says" in text
    listed = json.loads(run("shapes", path, "--format", "json").stdout)["layers"]
    by_name = {layer["name"]: layer for layer in listed}
    assert by_name["dw"]["layout"] == {
        "maker": "MLX", "axes": ["out", "kernel_size[0]", "in"], "known_from": "metadata", "sure": True,
    }  # fmt: skip


def test_without_metadata_the_layout_is_in_doubt(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", CONVOLUTIONS, None)
    layers = layers_of(path)
    assert Doubt.LAYOUT in layers["pw"].doubts
    assert layers["pw"].evidence == "ambiguous"
    assert layers["lin"].evidence == "shape"
    job = convert(path, None, Options(to="linear", dry_run=True))
    assert not job.plan.conversions
    assert {refusal.name for refusal in job.plan.refusals} == {"pw", "dw"}
    named = convert(path, tmp_path / "named.safetensors", Options(to="linear", layer=("pw",)))
    assert [conversion.new_shape for conversion in named.plan.conversions] == [(4, 6)]


@pytest.mark.parametrize(("shape", "sure"), [((4, 1, 1, 6), True), ((6, 3, 3, 1), True), ((4, 3, 3, 3), False)])
def test_kernels_even_in_one_order_alone_settle_it(tmp_path: Path, shape: tuple[int, ...], sure: bool) -> None:
    path = write(tmp_path / "m.safetensors", {**CONVOLUTIONS, "c.weight": shape}, None)
    layout = layers_of(path)["pw"].layout
    assert layout is not None
    assert layout.known_from.sure is sure


def test_kernels_against_the_metadata_are_in_doubt(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", {"pw.weight": (4, 1, 6), "stem.weight": (64, 3, 7, 7)}, SAYS)
    layout = layers_of(path)["pw"].layout
    assert layout == (Maker.MLX, KnownFrom.CONTRADICTED)


def test_files_of_pytorch_are_pytorchs(tmp_path: Path) -> None:
    state = {
        "a.weight": torch.zeros(4, 1, 6),
        "b.weight": torch.zeros(4, 1, 1, 6),
        "c.weight": torch.zeros(8, 1, 1, 1, 64),
    }
    for metadata in (None, {"format": "pt"}, {"format": "np"}):
        save_file(state, tmp_path / "m.safetensors", metadata)
        assert all(layer.layout is None for layer in layers_of(tmp_path / "m.safetensors").values())


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_there_and_back_gives_the_same_bytes(tmp_path: Path, dims: int) -> None:
    path = write(tmp_path / "m.safetensors", {"c.weight": (4, *(1,) * dims, 6), "c.bias": (4,)}, SAYS)
    convert(path, tmp_path / "linear.safetensors", Options(to="linear", from_=(f"conv{dims}d",)))
    assert open_checkpoint(tmp_path / "linear.safetensors")["c.weight"].shape == (4, 6)
    convert(tmp_path / "linear.safetensors", tmp_path / "back.safetensors", Options(to=f"conv{dims}d"))
    assert (tmp_path / "back.safetensors").read_bytes() == path.read_bytes()
    report = verify(path, tmp_path / "linear.safetensors")
    assert report.equal
    assert [layer.outputs is not None for layer in report.layers] == [True]


def test_verify_sees_a_kernel_that_was_turned(tmp_path: Path) -> None:
    before = write(tmp_path / "a.safetensors", {"c.weight": (4, 1, 6), "c.bias": (4,)}, SAYS)
    after = write(tmp_path / "b.safetensors", {"c.weight": (4, 6, 1), "c.bias": (4,)}, SAYS)
    assert not verify(before, after).equal


def test_depthwise_is_not_converted(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", {"dw.weight": (6, 3, 1), "one.weight": (6, 1, 1)}, SAYS)
    with pytest.raises(CannotConvert, match="its kernel size is 3, not 1"):
        convert(path, tmp_path / "x.safetensors", Options(to="linear", layer=("dw",)))
    job = convert(path, None, Options(to="linear", dry_run=True))
    assert "depthwise" in next(refusal.reason for refusal in job.plan.refusals if refusal.name == "one")


def test_a_file_that_would_not_say_it_is_not_written(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", CONVOLUTIONS, SAYS)
    with pytest.raises(CannotConvert, match="MLX's layout, which the new file would not record"):
        convert(path, tmp_path / "m.pt", Options(to="linear"))
    assert not (tmp_path / "m.pt").exists()


def test_weights_and_explain_use_the_right_axes(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", {"c.weight": (4, 3, 6), "c.bias": (4,)}, SAYS)
    stored = torch.from_numpy(open_checkpoint(path).read("c.weight").copy())
    shown = json.loads(run("weights", path, "--format", "json").stdout)["layers"][0]
    assert shown["stored_axes"] == ["out", "kernel_size[0]", "in"]
    assert torch.equal(torch.tensor(shown["weight"]), stored.permute(0, 2, 1))
    from convinspect import explain

    example = explain(path, "c", samples=5)
    bias = torch.from_numpy(open_checkpoint(path).read("c.bias").copy()).double()
    x = torch.tensor(example.x, dtype=torch.float64)
    expected = nn.functional.conv1d(x.T[None], stored.double().permute(0, 2, 1), bias)[0].T
    assert torch.allclose(torch.tensor(example.f, dtype=torch.float64), expected)


def test_another_layout_is_not_taken_for_a_reshape(tmp_path: Path) -> None:
    a = write(tmp_path / "a.safetensors", {"c.weight": (4, 1, 6), "s.weight": (4, 4, 4)}, SAYS)
    save_file({"c.weight": torch.zeros(4, 6, 1), "s.weight": torch.zeros(4, 4, 4)}, tmp_path / "b.safetensors")
    with pytest.raises(CannotConvert, match="MLX's layout against PyTorch's"):
        convert(a, tmp_path / "x.safetensors", Options(like=tmp_path / "b.safetensors"))
    answer = run("diff", a, tmp_path / "b.safetensors")
    assert answer.returncode == 1
    assert answer.stdout.count("MLX's layout against PyTorch's, permute(0, 2, 1)") == 2
    assert "for k in ('c.weight', 's.weight'): sd[k] = sd[k].permute(0, 2, 1).contiguous()" in answer.stdout


# -------------------------------------------------------------------------------------------------- with MLX itself
