"""Weights as quantizing libraries pack them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from support.in_process import run

State = dict[str, torch.Tensor]


def one_layer(path: Path, state: State) -> tuple[str, int | None]:
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    layers = json.loads(run("shapes", path, "--format", "json").stdout)["layers"]
    assert len(layers) == 1
    return layers[0]["kind"], layers[0].get("logical_parameters")


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_bitsandbytes(tmp_path: Path, kind: str) -> None:
    bnb = pytest.importorskip("bitsandbytes")
    layer = nn.Sequential(bnb.nn.Linear4bit(64, 24, quant_type=kind)).to("cpu")
    assert one_layer(tmp_path / "m.safetensors", layer.state_dict()) == ("Linear (quantized)", 64 * 24 + 24)


@pytest.mark.parametrize("name", ["qint8", "qint4"])
def test_quanto(tmp_path: Path, name: str) -> None:
    quanto = pytest.importorskip("optimum.quanto")
    model = nn.Sequential(nn.Linear(256, 16))
    quanto.quantize(model, weights=getattr(quanto, name))
    quanto.freeze(model)
    assert one_layer(tmp_path / "m.safetensors", model.state_dict()) == ("Linear (quantized)", 256 * 16 + 16)


def test_hqq(tmp_path: Path) -> None:
    hqq = pytest.importorskip("hqq.core.quantize")
    config = hqq.BaseQuantizeConfig(nbits=4, group_size=64)
    state = hqq.HQQLinear(nn.Linear(256, 16), config, compute_dtype=torch.float32, device="cpu").state_dict()
    assert one_layer(tmp_path / "m.safetensors", {f"l.{k}": v for k, v in state.items()}) == (
        "Linear (quantized)", 256 * 16 + 16,
    )  # fmt: skip


def test_torchao(tmp_path: Path) -> None:
    torchao = pytest.importorskip("torchao.quantization")
    support = pytest.importorskip("torchao.prototype.safetensors.safetensors_support")
    model = nn.Sequential(nn.Linear(256, 16))
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig(version=2))
    state, _ = support.flatten_tensor_state_dict(model.state_dict())
    assert one_layer(tmp_path / "m.safetensors", state) == ("Linear (quantized)", 256 * 16 + 16)
