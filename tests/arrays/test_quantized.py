"""Quantized tensors: the numbers shown are those of PyTorch's `dequantize()`, of every scheme and origin."""

from __future__ import annotations

import json
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import convinspect
from convinspect.arrays.quantized import dequantized, quantizer_of
from convinspect.arrays.stats import of, of_layers
from convinspect.errors import BrokenFile, CannotShow
from convinspect.layers.find import find_layers
from convinspect.records import Tensor
from support.in_process import call_main

pytestmark = pytest.mark.filterwarnings("ignore")


def by_channel(shape: tuple[int, ...], axis: int, dtype: torch.dtype) -> torch.Tensor:
    count = shape[axis]
    scales = torch.rand(count, dtype=torch.float64) * 0.1 + 1e-3
    return torch.quantize_per_channel(torch.randn(shape), scales, torch.arange(count) + 1, axis, dtype)


def values() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    found = {}
    for dtype in (torch.qint8, torch.quint8, torch.qint32):
        name = str(dtype).rpartition(".")[2]
        for shape in ((6, 4, 1), (5, 7), (3, 4, 3, 3), (9,), ()):
            zero = 128 if dtype is torch.quint8 else -3
            made = torch.quantize_per_tensor(torch.randn(shape), 0.0371, zero, dtype)
            found[f"{name}_{len(shape)}.weight"] = made
        for axis in range(2):
            if dtype is not torch.qint32:
                found[f"{name}_axis_{axis}.weight"] = by_channel((6, 4, 1), axis, dtype)
    found["turned.weight"] = torch.quantize_per_tensor(torch.randn(5, 7), 0.02, 3, torch.qint8).t()
    found["part.weight"] = torch.quantize_per_tensor(torch.randn(9, 7), 0.02, 3, torch.qint8)[2:5]
    found["large.weight"] = torch.quantize_per_tensor(torch.randn(40, 40) * 1e8, 1.0, 7, torch.qint32)
    return found


def test_numbers_are_those_of_pytorch(tmp_path: Path) -> None:
    made = values()
    torch.save(made, tmp_path / "q.pt")
    checkpoint = convinspect.open(tmp_path / "q.pt")
    for key, tensor in made.items():
        expected = tensor.dequantize().numpy()
        found = dequantized(checkpoint[key])
        assert (found.dtype.name, found.shape) == ("float32", expected.shape)
        assert np.array_equal(found, expected), key


@cache
def quantized_model() -> nn.Module:
    """A model that no test changes."""
    torch.manual_seed(1)
    from torch.ao import quantization

    torch.backends.quantized.engine = "fbgemm"
    model = nn.Sequential(
        quantization.QuantStub(), nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(64, 5)
    ).eval()
    model.qconfig = quantization.get_default_qconfig("fbgemm")  # type: ignore[no-untyped-call]
    prepared = quantization.prepare(model)  # type: ignore[no-untyped-call]
    prepared(torch.randn(2, 3, 6, 6))
    made: nn.Module = quantization.convert(prepared)  # type: ignore[no-untyped-call]
    return made


@pytest.mark.parametrize("form", ["state_dict", "module", "script"])
def test_layers_of_quantized_models(tmp_path: Path, form: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = quantized_model()
        path = tmp_path / "q.pt"
        if form == "script":
            torch.jit.save(torch.jit.script(model), path)
        else:
            torch.save(model if form == "module" else model.state_dict(), path)
        weights = {str(at): model[at].weight().dequantize() for at in (1, 3, 5)}  # type: ignore[index]
        biases = {str(at): model[at].bias().detach() for at in (1, 3, 5)}  # type: ignore[index]
    shown = json.loads(call_main("weights", path, "--format", "json").out)["layers"]
    assert [one["name"] for one in shown] == ["1", "3", "5"]
    for one in shown:
        assert np.array_equal(np.array(one["weight"], np.float32), weights[one["name"]].numpy())
        assert np.array_equal(np.array(one["bias"], np.float32), biases[one["name"]].numpy())
        assert one["quantizer"]["scheme"] == "per_channel_affine"
        assert len(one["quantizer"]["scale"]) == len(one["weight"])
    layers = [layer for layer in find_layers(convinspect.open(path)) if layer.name in weights]
    assert list(of_layers(layers)) == [of(weights[layer.name].numpy()) for layer in layers]
    said = call_main("weights", path, "5").out
    assert "dequantized from qint8: (integer − zero point) · scale; by channel along axis 0: scales" in said
    assert "quantized layers: of the numbers that their integers stand for" in call_main("weights", path, "--stats").out


def test_what_cannot_be_read_says_so(tmp_path: Path) -> None:
    scales, zeros = torch.rand(4), torch.rand(4)
    packed = torch.quantize_per_channel(torch.randn(4, 8), scales, zeros, 0, torch.quint4x2)
    torch.save({"fc.weight": packed, "a.weight": values()["qint8_3.weight"]}, tmp_path / "q.pt")
    checkpoint = convinspect.open(tmp_path / "q.pt")
    with pytest.raises(CannotShow, match="quint4x2 of scheme per_channel_affine; dequantize it"):
        dequantized(checkpoint["fc.weight"])
    sound = checkpoint["a.weight"]
    for words in ("torch.per_tensor_affine", "torch.per_tensor_affine, x, 1", "torch.per_tensor_affine, nan, 1"):
        with pytest.raises(BrokenFile, match="do not fit"):
            quantizer_of(sound._replace(quantizer=words))
    parts = (Tensor("s", "float64", (3,), (1,)), Tensor("z", "int64", (3,), (1,)))
    for axis in ("0", "7", "inf", "-1"):
        with pytest.raises(BrokenFile, match="do not fit"):
            quantizer_of(sound._replace(quantizer=f"torch.per_channel_affine, {axis}", parts=parts))
