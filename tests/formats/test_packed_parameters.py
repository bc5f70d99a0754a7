"""TorchScript of quantized models, whose weights PyTorch's C++ objects pack; compared with what the model unpacks."""

# mypy: disable-error-code="no-untyped-call, no-any-return"

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.ao import quantization

from convinspect.arrays.read import read_tensor
from convinspect.checking.scan import check
from convinspect.checkpoint import open_checkpoint
from convinspect.layers.find import find_layers
from convinspect.layers.parameters import counted_in, parameters_of
from convinspect.records import Layer, Tensor, contiguous

pytestmark = pytest.mark.filterwarnings("ignore")
ENGINES = [name for name in torch.backends.quantized.supported_engines if name in ("fbgemm", "x86", "qnnpack")]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = quantization.QuantStub(), quantization.DeQuantStub()
        self.point = nn.Conv2d(4, 8, 1)
        self.conv = nn.Conv2d(8, 6, 3, padding=1, groups=2, bias=False)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(self.point(self.quant(x)))
        return self.dequant(self.fc(x.mean((2, 3))))


@cache
def quantized(engine: str) -> Any:
    """A model of this engine, which no test changes."""
    torch.backends.quantized.engine = engine
    torch.manual_seed(3)
    net = Net().eval()
    net.qconfig = quantization.get_default_qconfig(engine)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantization.prepare(net, inplace=True)
        net(torch.randn(2, 4, 5, 5))
        return quantization.convert(net)


@pytest.fixture(autouse=True)
def _engine() -> Any:
    engine = torch.backends.quantized.engine
    yield
    torch.backends.quantized.engine = engine


def integers(tensor: Tensor) -> torch.Tensor:
    """The numbers that a quantized tensor is stored as."""
    assert tensor.dtype == "qint8"
    return torch.from_numpy(read_tensor(tensor._replace(dtype="int8", layout="strided")).copy())


def same_as(layer: Layer, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    """The weight's numbers, scale and zero point are those of PyTorch's, and the bias is."""
    assert layer.weight.shape == tuple(weight.shape)
    assert torch.equal(integers(layer.weight), weight.int_repr())
    if weight.qscheme() == torch.per_tensor_affine:
        assert layer.weight.quantizer == f"torch.per_tensor_affine, {weight.q_scale()}, {weight.q_zero_point()}"
    else:
        scales, zeros = (read_tensor(part) for part in layer.weight.parts)
        assert (scales == weight.q_per_channel_scales().numpy()).all()
        assert (zeros == weight.q_per_channel_zero_points().numpy()).all()
    if bias is None:
        # One engine packs a bias of zeros where there is none.
        assert layer.bias is None or not read_tensor(layer.bias).any()
    else:
        assert layer.bias is not None
        assert (read_tensor(layer.bias) == bias.detach().numpy()).all()


@cache
def scripted(engine: str, traced: bool) -> tuple[Any, Any]:
    """A quantized model, and its script, which freezing leaves as it is."""
    net = quantized(engine)
    return net, torch.jit.trace(net, torch.randn(2, 4, 5, 5)) if traced else torch.jit.script(net)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
def test_packed_layers_are_listed(tmp_path: Path, engine: str, traced: bool, frozen: bool) -> None:
    torch.backends.quantized.engine = engine
    net, script = scripted(engine, traced)
    (torch.jit.freeze(script) if frozen else script).save(tmp_path / "model.pt")
    layers = [layer for layer in find_layers(open_checkpoint(tmp_path / "model.pt")) if "quantized" in layer.kind]
    assert [layer.kind for layer in layers] == ["Conv (quantized)", "Conv (quantized)", "Linear (quantized)"]
    for layer, module in zip(layers, (net.point, net.conv, net.fc), strict=True):
        same_as(layer, module.weight(), module.bias() if module is not net.conv else None)
    if not frozen:
        point, conv, _ = layers
        assert (point.in_width, point.out_width, point.kernel_size, point.pointwise) == (4, 8, (1, 1), False)
        assert (conv.in_width, conv.out_width, conv.kernel_size, conv.groups) == (8, 6, (3, 3), 2)
    assert not check(tmp_path / "model.pt").findings


class Packed(nn.Module):
    """What is packed is an attribute of the module, as in lowered FX graphs."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, matrix: torch.Tensor) -> None:
        super().__init__()
        self.packed = torch.ops.quantized.conv2d_prepack(weight, bias, [2, 1], [1, 0], [1, 1], 1)
        self.plain = torch.ops.quantized.conv2d_prepack(weight, None, [1, 1], [0, 0], [1, 1], 1)
        self.linear = torch.ops.quantized.linear_prepack(matrix, None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.quantized.conv2d(x, self.packed, 0.1, 0)


def test_packed_attributes(tmp_path: Path) -> None:
    torch.backends.quantized.engine = ENGINES[0]
    scales, zeros = torch.rand(8) / 10 + 0.01, torch.zeros(8, dtype=torch.long)
    weight = torch.quantize_per_channel(torch.randn(8, 4, 3, 3), scales, zeros, 0, torch.qint8)
    matrix, bias = torch.quantize_per_tensor(torch.randn(3, 8), 0.1, 0, torch.qint8), torch.randn(8)
    torch.jit.script(Packed(weight, bias, matrix)).save(tmp_path / "model.pt")
    checkpoint = open_checkpoint(tmp_path / "model.pt")
    layers = {layer.name: layer for layer in find_layers(checkpoint)}
    if ENGINES[0] == "qnnpack":
        return
    same_as(layers["packed"], weight, bias)
    same_as(layers["plain"], weight, None)
    assert torch.equal(integers(layers["linear.0"].weight), matrix.int_repr())
    config = checkpoint["packed.config"]
    # Dimensions, stride, padding, dilation, output padding, groups, flags.
    assert config.stride == contiguous(config.shape)
    assert list(checkpoint.read("packed.config")) == [2, 2, 1, 1, 0, 1, 1, 0, 0, 1, 0]


class Dynamic(nn.Module):
    """What PyTorch quantizes without data."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.plain = nn.Linear(6, 4), nn.Linear(4, 2, bias=False)
        self.lstm, self.cell = nn.LSTM(6, 3), nn.GRUCell(6, 4)
        self.table, self.bag = nn.Embedding(10, 4), nn.EmbeddingBag(10, 4, mode="sum")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.plain(self.wide(x))


def _saved(net: nn.Module, path: Path, form: str) -> None:
    if form == "TorchScript":
        torch.jit.script(net).save(path)
    else:
        torch.save(net.state_dict() if form == "state_dict" else net, path)


@pytest.mark.parametrize("form", ["state_dict", "module", "TorchScript"])
@pytest.mark.parametrize("dtype", [torch.qint8, torch.float16])
@pytest.mark.parametrize("engine", ENGINES)
def test_layers_that_were_quantized_without_data(tmp_path: Path, engine: str, dtype: torch.dtype, form: str) -> None:
    if engine == "qnnpack" and dtype == torch.float16:
        pytest.skip("this engine packs no half precision")
    torch.backends.quantized.engine = engine
    net = quantization.quantize_dynamic(Dynamic().eval(), {nn.Linear, nn.LSTM, nn.GRUCell}, dtype=dtype)
    path = tmp_path / "model.pt"
    _saved(net, path, form)
    checkpoint = open_checkpoint(path)
    layers = {layer.name: layer for layer in find_layers(checkpoint)}
    for name in ("wide", "plain"):
        module = getattr(net, name)
        layer = layers[name]
        assert (layer.kind, layer.in_width, layer.out_width) == (
            "Linear (quantized)", module.in_features, module.out_features
        )  # fmt: skip
        if dtype == torch.qint8:
            same_as(layer, module.weight(), module.bias())
    # Those of recurrent layers are parameters too, though no layer is made of them.
    packed = [layer for layer in layers.values() if layer.kind == "Parameter" and layer.weight.dtype == "qint8"]
    counted = sum(parameters_of([layer], counted_in(checkpoint)) for layer in packed)
    matrices = [one for name, one in Dynamic().named_parameters() if name.startswith(("lstm.w", "cell.w"))]
    assert counted == sum(one.numel() for one in matrices) * (dtype == torch.qint8)


@pytest.mark.parametrize("form", ["state_dict", "module", "TorchScript"])
@pytest.mark.parametrize("bits", [8, 4])
def test_quantized_embeddings_are_no_linear_layers(tmp_path: Path, bits: int, form: str) -> None:
    net = nn.Sequential(nn.Embedding(10, 4), nn.EmbeddingBag(12, 4, mode="sum")).eval()
    name = "float_qparams_weight_only_qconfig" + ("_4bit" if bits == 4 else "")
    net.qconfig = getattr(quantization, name)
    net = quantization.convert(quantization.prepare(net))
    path = tmp_path / "model.pt"
    _saved(net, path, form)
    layers = find_layers(open_checkpoint(path))
    assert [(layer.kind, layer.weight.shape, layer.in_width) for layer in layers] == [
        ("Embedding (quantized)", (10, 4), None), ("Embedding (quantized)", (12, 4), None)
    ]  # fmt: skip
    assert {finding.code for finding in check(path).findings} <= {"global-library"}
