"""Weights that compressed-tensors packs: kind, and as many parameters as the module had; none is converted."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from convinspect.checkpoint import open_checkpoint
from convinspect.layers.find import find_layers
from support.in_process import run

compressed = pytest.importorskip("compressed_tensors", reason="needs compressed-tensors")

FORMATS: dict[str, dict[str, Any]] = {
    "pack-quantized": {"num_bits": 4, "strategy": "group", "group_size": 32},
    "int-quantized": {"num_bits": 8, "strategy": "channel"},
    "float-quantized": {"num_bits": 8, "type": "float", "strategy": "channel"},
    "naive-quantized": {"num_bits": 8, "strategy": "tensor"},
}


def quantized(name: str) -> nn.Module:
    compressors = importlib.import_module("compressed_tensors.compressors")
    of = importlib.import_module("compressed_tensors.quantization")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 48, bias=False))
    scheme = of.QuantizationScheme(targets=["Linear"], weights=of.QuantizationArgs(**FORMATS[name]))
    config = of.QuantizationConfig(config_groups={"all": scheme}, format=name)
    of.apply_quantization_config(model, config)
    for module in model:
        scale: Any = module.weight_scale
        scale.data.fill_(0.01)
    compressors.ModelCompressor(quantization_config=config).compress_model(model)
    return model


@pytest.mark.parametrize("name", FORMATS)
def test_packed_weights_are_counted_as_what_they_stand_for(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.safetensors"
    save_file({key: value.contiguous() for key, value in quantized(name).state_dict().items()}, path, {"format": "pt"})
    layers = find_layers(open_checkpoint(path))
    assert {layer.name: layer.kind for layer in layers} == dict.fromkeys("01", "Linear (quantized)")
    assert "3,616 parameters" in run("shapes", path).stdout
    done = run("convert", path, "--to", "conv1d", "-o", tmp_path / "b.safetensors")
    assert done.returncode == 2
    assert not (tmp_path / "b.safetensors").exists()
