"""Weights in PyTorch's C++ objects and in quantized convolutions' own state; models without numbers; compiled ones."""

# mypy: allow-untyped-calls

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.ao.quantization as quantization
from torch import nn

from convinspect.checking.scan import check
from convinspect.checkpoint import open_checkpoint
from convinspect.layers.find import find_layers
from support.in_process import run

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")


class Dynamic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 5)
        self.cell = nn.GRUCell(5, 5)
        self.fc = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.cell(self.lstm(x)[0][0]))  # type: ignore[no-any-return]


class Static(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant = quantization.QuantStub()
        self.conv = nn.Conv2d(6, 4, 1)
        self.relu = nn.ReLU()
        self.conv1 = nn.Conv1d(4, 3, 1, bias=False)
        self.dequant = quantization.DeQuantStub()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dequant(self.conv1(self.relu(self.conv(self.quant(x))).flatten(2)))  # type: ignore[no-any-return]


def dynamic() -> nn.Module:
    model: nn.Module = quantization.quantize_dynamic(Dynamic().eval(), {nn.LSTM, nn.GRUCell, nn.Linear})
    return model


def static() -> nn.Module:
    model = Static().eval()
    fused = quantization.fuse_modules(model, [["conv", "relu"]])
    fused.qconfig = quantization.get_default_qconfig("fbgemm")
    prepared = quantization.prepare(fused)
    prepared(torch.randn(2, 6, 4, 4))
    converted: nn.Module = quantization.convert(prepared)
    return converted


def quantized(path: Path) -> list[tuple[str, str, tuple[int, ...]]]:
    layers = find_layers(open_checkpoint(path))
    return [(layer.name, layer.kind, layer.weight.shape) for layer in layers if "quantized" in layer.kind]


def shapes(path: Path) -> list[tuple[int, ...]]:
    return sorted(tensor.shape for tensor in open_checkpoint(path).tensors.values() if tensor.dtype == "qint8")


_MATRICES = [(2, 5), (15, 5), (15, 5), (20, 3), (20, 5)]


def test_dynamic_models(tmp_path: Path) -> None:
    model = dynamic()
    torch.save(model, tmp_path / "whole.pt")
    torch.save(model.state_dict(), tmp_path / "state.pt")
    script = torch.jit.script(model)
    torch.jit.save(script, tmp_path / "script.pt")
    for name in ("whole.pt", "state.pt", "script.pt"):
        assert quantized(tmp_path / name) == [("fc", "Linear (quantized)", (2, 5))], name
        assert shapes(tmp_path / name) == _MATRICES, name
        assert check(tmp_path / name).exit_code < 2


def test_a_frozen_one_keeps_no_names(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.freeze(torch.jit.script(dynamic())), tmp_path / "a.pt")
    found = quantized(tmp_path / "a.pt")
    assert [(kind, shape) for _, kind, shape in found if shape == (2, 5)] == [("Linear (quantized)", (2, 5))]
    assert (20, 3) not in {shape for _, _, shape in found}, "an LSTM is no Linear"
    assert shapes(tmp_path / "a.pt") == _MATRICES


def test_a_scripted_linear_alone(tmp_path: Path) -> None:
    model = quantization.quantize_dynamic(nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 2)), {nn.Linear})
    torch.jit.save(torch.jit.script(model), tmp_path / "a.pt")
    done = run("shapes", tmp_path / "a.pt")
    assert (done.returncode, done.stdout.count("Linear (quantized)")) == (0, 2)
    layer = find_layers(open_checkpoint(tmp_path / "a.pt"))[0]
    assert (layer.in_width, layer.out_width, layer.numel) == (5, 3, 18)


def test_quantized_convolutions_of_whole_models(tmp_path: Path) -> None:
    model = static()
    torch.save(model, tmp_path / "whole.pt")
    torch.save(model.state_dict(), tmp_path / "state.pt")
    torch.jit.save(torch.jit.script(model), tmp_path / "script.pt")
    torch.jit.save(torch.jit.trace(model, torch.randn(2, 6, 4, 4)), tmp_path / "trace.pt")
    expected = [("conv", "Conv (quantized)", (4, 6, 1, 1)), ("conv1", "Conv (quantized)", (3, 4, 1))]
    for name in ("state.pt", "whole.pt", "script.pt", "trace.pt"):
        assert quantized(tmp_path / name) == expected, name
        # Its numbers need their scales, and PyTorch packs them for a convolution: left.
        done = run("convert", tmp_path / name, "--to", "linear", "-o", tmp_path / "out.pt")
        assert (done.returncode, (tmp_path / "out.pt").exists()) == (2, False), name


def test_an_exported_model_on_the_meta_device(tmp_path: Path) -> None:
    path = tmp_path / "a.pt2"
    model = nn.Sequential(nn.Conv1d(6, 4, 1), nn.BatchNorm1d(4)).eval().to("meta")
    torch.export.save(torch.export.export(model, (torch.randn(2, 6, 8, device="meta"),)), path)
    loaded = torch.export.load(path)
    assert {tensor.device.type for tensor in loaded.state_dict.values()} == {"meta"}
    assert check(path).findings == ()
    done = run("shapes", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "meta" in done.stdout
    assert "cut" not in done.stdout
    checkpoint = open_checkpoint(path)
    assert {tensor.layout for tensor in checkpoint.tensors.values()} == {"meta"}
    assert run("weights", path, "0").returncode == 2


def package(path: Path) -> None:
    """A zip as `torch._inductor.aoti_compile_and_package` writes it with PyTorch 2.13, without the library's bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("c1.wrapper.cpp", "c1.wrapper_metadata.json", "c1.wrapper.so"):
            archive.writestr(f"a/data/aotinductor/model/{name}", b"\x7fELF" if name.endswith(".so") else b"{}")
        for name, text in (("archive_format", b"pt2"), ("archive_version", b"0"), ("byteorder", b"little")):
            archive.writestr(f"a/{name}", text)


def test_a_compiled_package_is_named(tmp_path: Path) -> None:
    package(tmp_path / "a.pt2")
    done = run("shapes", tmp_path / "a.pt2")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "AOTInductor" in done.stderr
    assert "machine code" in run("check", tmp_path / "a.pt2").stdout


def test_a_state_that_only_looks_like_one(tmp_path: Path) -> None:
    state: dict[str, Any] = {"w": torch.randn(3, 2), "n": (6, 4, (1,), (1,), (0,), (1,), False, (0,), 1, "zeros")}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    (tmp_path / "a.pt").write_bytes(buffer.getvalue())
    assert list(open_checkpoint(tmp_path / "a.pt").tensors) == ["w"]
