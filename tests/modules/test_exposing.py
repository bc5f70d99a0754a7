"""`expose_linears`: tools that replace `nn.Linear` and nothing else find it, in PyTorch's own quantization."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from convinspect.modules import ChannelsFirstLinear, PointwiseLinear, expose_linears, swap_pointwise

pytestmark = pytest.mark.filterwarnings("ignore")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(3, 8, 1)
        self.second = nn.Conv1d(8, 6, 1, stride=2, padding=1)
        self.head = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.second(self.first(x).relu()).relu()
        z: torch.Tensor = self.head(y.mean(-1))
        return z


def exposed() -> Any:
    torch.manual_seed(0)
    net = swap_pointwise(Net()).model.eval()
    swaps = expose_linears(net)
    assert [(one.name, one.after) for one in swaps.swapped] == [
        ("first", "ChannelsFirstLinear"), ("second", "ChannelsFirstLinear"),
    ]  # fmt: skip
    return swaps.model


@pytest.mark.parametrize("options", [{}, {"stride": 3}, {"padding": 2}, {"padding": 1, "padding_mode": "circular"}])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_it_computes_the_same_and_keeps_the_parameters(dims: int, options: Any) -> None:
    convs: list[Any] = [nn.Conv1d, nn.Conv2d, nn.Conv3d]
    model = nn.Sequential(convs[dims - 1](4, 5, 1, **options)).double()
    x = torch.randn(2, 4, *(5, 6, 7)[:dims], dtype=torch.float64)
    wanted, alone = model(x), model(x[0])
    swap_pointwise(model)
    parameters = list(map(id, model.parameters()))
    expose_linears(model)
    assert type(model[0]) is ChannelsFirstLinear
    assert type(model[0].linear) is nn.Linear
    torch.testing.assert_close(model(x), wanted)
    torch.testing.assert_close(model(x[0]), alone)
    assert list(map(id, model.parameters())) == parameters
    assert list(model.state_dict()) == ["0.linear.weight", "0.linear.bias"]


def test_what_cannot_move_inside_stays_and_is_named() -> None:
    model: Any = nn.Sequential(nn.Conv1d(4, 4, 1), nn.Conv1d(4, 4, 1), parametrizations.weight_norm(nn.Conv1d(4, 4, 1)))
    swap_pointwise(model)
    model[0].register_forward_hook(lambda *_: None)
    model.kept = [model[1]]
    swaps = expose_linears(model)
    assert [one.name for one in swaps.swapped] == ["2"]
    assert ["hooks" in swaps.left[0].reason, "kept[0]" in swaps.left[1].reason] == [True, True]
    assert isinstance(model[0], PointwiseLinear)
    assert expose_linears(nn.Sequential(nn.Linear(2, 2))).swapped == ()


def test_dynamic_quantization() -> None:
    ao = pytest.importorskip("torch.ao.quantization")
    net, x = exposed(), torch.randn(2, 3, 9)
    quantized = ao.quantize_dynamic(copy.deepcopy(net), {nn.Linear})
    for one in (quantized.first.linear, quantized.second.linear, quantized.head):
        assert "dynamic" in type(one).__module__
    torch.testing.assert_close(quantized(x), net(x), rtol=0.1, atol=0.1)


def test_static_quantization() -> None:
    ao = pytest.importorskip("torch.ao.quantization")
    net, x = exposed(), torch.randn(16, 3, 9)
    wrapped = ao.QuantWrapper(copy.deepcopy(net))
    wrapped.qconfig = ao.get_default_qconfig("x86")
    ready = ao.prepare(wrapped.eval())
    ready(x)
    quantized = ao.convert(ready)
    assert "quantized" in type(quantized.module.first.linear).__module__
    torch.testing.assert_close(quantized(x), net(x), rtol=0.2, atol=0.1)


def test_fx_quantization() -> None:
    ao = pytest.importorskip("torch.ao.quantization")
    fx = pytest.importorskip("torch.ao.quantization.quantize_fx")
    net, x = exposed(), torch.randn(16, 3, 9)
    ready = fx.prepare_fx(copy.deepcopy(net), ao.get_default_qconfig_mapping("x86"), (x,))
    ready(x)
    quantized = fx.convert_fx(ready)
    assert "quantized" in type(quantized.get_submodule("first.linear")).__module__
    torch.testing.assert_close(quantized(x), net(x), rtol=0.2, atol=0.1)


def test_symbolic_tracing_compiling_and_exporting() -> None:
    net, x = exposed(), torch.randn(2, 3, 9)
    wanted = net(x)
    trace: Any = torch.fx.symbolic_trace
    torch.testing.assert_close(trace(net)(x), wanted)
    compiled: Any = torch.compile
    torch.testing.assert_close(compiled(net, fullgraph=True, backend="eager")(x), wanted)
    exported: Any = torch.export.export(net, (x,)).module()
    torch.testing.assert_close(exported(x), wanted)


@pytest.mark.parametrize("to", ["linear", "conv1d"])
def test_what_compilers_take_is_as_documented(to: Any) -> None:
    """The docstring of `swap_pointwise` says which take a swapped model."""
    model: Any = nn.Sequential(nn.Conv1d(4, 4, 1) if to == "linear" else nn.Linear(4, 4)).eval()
    x = torch.randn(2, 4, 4)
    wanted = model(x)
    swap_pointwise(model, to)
    jit: Any = torch.jit
    torch.testing.assert_close(jit.trace(model, x)(x), wanted)
    with pytest.raises(RuntimeError):
        jit.script(model)
    trace: Any = torch.fx.symbolic_trace
    with pytest.raises(torch.fx.proxy.TraceError):
        trace(model)
