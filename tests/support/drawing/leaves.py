"""Modules with random settings, one function for each kind: what a drawn model is made of.

A leaf is the live module with an input that it takes. Widths are small, and equal as often as not, since square weights
are where readings go wrong.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from random import Random
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

Inputs: TypeAlias = tuple[torch.Tensor, ...]


Drawn: TypeAlias = tuple[Any, Inputs]
"""A live module, and arguments for its `forward`; () if it is not run."""

WIDTHS = (1, 2, 3, 4, 4, 4, 6, 8)


def _conv(dims: int, transposed: bool = False, **fixed: Any) -> Callable[[Random], Drawn]:
    """A convolution of `dims` dimensions, with all settings drawn that are not fixed."""

    def draw(random: Random) -> Drawn:
        groups = fixed.get("groups", random.choice((1, 1, 1, 2)))
        settings = {
            "kernel_size": random.choice((1, 1, 1, 2, 3)),
            "stride": random.choice((1, 1, 1, 2)),
            "padding": random.choice((0, 0, 0, 1)),
            "dilation": random.choice((1, 1, 1, 2)),
            "bias": random.random() < 0.7,
            **fixed,
            "groups": groups,
        }
        depthwise = groups == "depthwise"
        inner = random.choice(WIDTHS) * (1 if depthwise else groups)
        outer = inner * random.choice((1, 1, 2)) if depthwise else random.choice(WIDTHS) * groups
        settings["groups"] = inner if depthwise else groups
        if not transposed and settings["padding"] and random.random() < 0.3:
            settings["padding_mode"] = random.choice(("circular", "reflect", "replicate"))
        module = getattr(nn, f"Conv{'Transpose' if transposed else ''}{dims}d")(inner, outer, **settings)
        return module, (torch.randn(2, inner, *([7] * dims)),)

    return draw


def _on(*shape: int) -> Inputs:
    return (torch.randn(*shape),)


def _linear(random: Random, bias: bool | None = None) -> Drawn:
    inner, outer = random.choice(WIDTHS), random.choice(WIDTHS)
    return nn.Linear(inner, outer, bias=random.random() < 0.7 if bias is None else bias), _on(2, 3, inner)


def _pointwise(random: Random, dims: int = 1) -> Drawn:
    return _conv(dims, kernel_size=1, stride=1, padding=0, dilation=1, groups=1)(random)


def _with(change: Callable[[nn.Module], Any]) -> Callable[[Random], Drawn]:
    """A pointwise Conv1d, a Conv1d of any settings, or a Linear, changed."""

    def draw(random: Random) -> Drawn:
        module, inputs = random.choice((_pointwise, _linear, _conv(1), lambda r: _pointwise(r, 2)))(random)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return change(module) or module, inputs

    return draw


class OwnConv(nn.Conv1d):
    """A subclass that computes what its base computes."""


class TwiceConv(nn.Conv1d):
    """A subclass that computes something else."""

    def forward(self, x: torch.Tensor) -> Any:
        return 2 * super().forward(x)


class Residual(nn.Module):
    """A module around a pointwise convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(width, width, 1)
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x: torch.Tensor) -> Any:
        return x + self.norm(self.conv1(x))


class Tied(nn.Module):
    """Two layers over one weight."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.a = nn.Conv1d(inner, outer, 1)
        self.b = nn.Conv1d(inner, outer, 1, stride=stride)
        self.b.weight, self.b.bias = self.a.weight, self.a.bias

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.a(x), self.b(x)


class Scale(nn.Module):
    """A parameter with a convolution's shape that is none."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.randn(*shape))

    def forward(self, x: torch.Tensor) -> Any:
        return x * self.gamma.reshape(-1)[0]


class Buffers(nn.Module):
    """A module that keeps buffers only."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("table", torch.arange(size))
        self.register_buffer("window", torch.hann_window(size), persistent=False)

    def forward(self, x: torch.Tensor) -> Any:
        return x


class LoraLinear(nn.Module):
    """A base layer with a low-rank pair, under peft's names."""

    def __init__(self, inner: int, outer: int, rank: int) -> None:
        super().__init__()
        self.base_layer = nn.Linear(inner, outer)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(inner, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, outer, bias=False)})

    def forward(self, x: torch.Tensor) -> Any:
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))


def _recurrent(cls: type[nn.Module], cell: bool) -> Callable[[Random], Drawn]:
    def draw(random: Random) -> Drawn:
        inner, hidden = random.choice(WIDTHS), random.choice(WIDTHS)
        more = {} if cell else {"num_layers": random.choice((1, 2)), "bidirectional": random.random() < 0.3}
        return cls(inner, hidden, bias=random.random() < 0.7, **more), _on(*((2, inner) if cell else (3, 2, inner)))

    return draw


def _normed(cls: Callable[..., nn.Module], *spatial: int, **more: Any) -> Callable[[Random], Drawn]:
    def draw(random: Random) -> Drawn:
        width = random.choice((2, 4, 6))
        return cls(width, **more), _on(2, width, *spatial)

    return draw


def _attention(random: Random) -> Drawn:
    width, more = random.choice((4, 8)), random.choice(({}, {"kdim": 2, "vdim": 6}, {"add_bias_kv": True}))
    module = nn.MultiheadAttention(width, 2, bias=random.random() < 0.7, **more)
    return module, (torch.randn(3, 2, width), torch.randn(3, 2, module.kdim), torch.randn(3, 2, module.vdim))


def _transposed_linear(random: Random) -> Drawn:
    module, inputs = _linear(random)
    module.weight = nn.Parameter(module.weight.detach().t().contiguous().t())
    return module, inputs


def _channels_last(random: Random) -> Drawn:
    module, inputs = _pointwise(random, 2)
    return module.to(memory_format=torch.channels_last), inputs


def _expanded(random: Random) -> Drawn:
    module, inputs = _pointwise(random)
    if module.bias is not None:
        module.bias = nn.Parameter(torch.zeros(1).expand(module.bias.shape[0]))
    return module, inputs


def _view(random: Random) -> Drawn:
    module, inputs = _pointwise(random)
    block = torch.randn(module.weight.numel() + 5)
    module.weight = nn.Parameter(block[3 : 3 + module.weight.numel()].view_as(module.weight))
    return module, inputs


def _quantized_dynamic(random: Random) -> Drawn:
    module, inputs = _linear(random)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(  # type: ignore[no-untyped-call]
            nn.Sequential(module), {nn.Linear}
        ), inputs


def _residual(random: Random) -> Drawn:
    width = random.choice(WIDTHS[1:])
    return Residual(width).eval(), _on(2, width, 7)


def _adaptive(random: Random) -> Drawn:
    return nn.AdaptiveLogSoftmaxWithLoss(4, 9, [3, 6]), (torch.randn(2, 4), torch.tensor([1, 5]))


LEAVES: dict[str, Callable[[Random], Drawn]] = {
    "Linear": _linear,
    "Linear without bias": lambda random: _linear(random, bias=False),
    "pointwise Conv1d": _pointwise,
    "pointwise Conv2d": lambda random: _pointwise(random, 2),
    "pointwise Conv3d": lambda random: _pointwise(random, 3),
    "Conv1d": _conv(1),
    "Conv2d": _conv(2),
    "Conv3d": _conv(3),
    "depthwise Conv1d": _conv(1, groups="depthwise"),
    "depthwise Conv2d": _conv(2, groups="depthwise", kernel_size=3),
    "depthwise pointwise": _conv(1, groups="depthwise", kernel_size=1),
    "grouped pointwise": _conv(1, groups=2, kernel_size=1, stride=1, padding=0),
    "strided pointwise": _conv(1, kernel_size=1, stride=2, groups=1),
    "padded pointwise": _conv(1, kernel_size=1, stride=1, padding=1, groups=1),
    "padded pointwise 2d": _conv(2, kernel_size=1, stride=1, padding=1, groups=1),
    "same": _conv(1, padding="same", stride=1),
    "ConvTranspose1d": _conv(1, transposed=True, dilation=1),
    "ConvTranspose2d": _conv(2, transposed=True, dilation=1),
    "ConvTranspose3d": _conv(3, transposed=True, dilation=1),
    "pointwise ConvTranspose1d": _conv(1, transposed=True, kernel_size=1, padding=0, stride=1, groups=1),
    "subclass": lambda random: (OwnConv(4, random.choice(WIDTHS), 1), _on(2, 4, 7)),
    "subclass that computes another": lambda random: (TwiceConv(4, random.choice(WIDTHS), 1), _on(2, 4, 7)),
    "Bilinear": lambda random: (nn.Bilinear(3, random.choice(WIDTHS[1:4]), 4), ()),
    "Embedding": lambda random: (nn.Embedding(9, random.choice(WIDTHS)), (torch.tensor([[1, 2, 8]]),)),
    "EmbeddingBag": lambda random: (nn.EmbeddingBag(9, random.choice(WIDTHS)), (torch.tensor([[1, 2, 8]]),)),
    "LayerNorm": lambda random: (nn.LayerNorm(4, bias=random.random() < 0.7), _on(2, 4)),
    "LayerNorm 2d": lambda random: (nn.LayerNorm((3, 4)), _on(2, 3, 4)),
    "RMSNorm": lambda random: (nn.RMSNorm(4), _on(2, 4)),
    "GroupNorm": _normed(lambda width: nn.GroupNorm(2, width), 5),
    "BatchNorm1d": _normed(nn.BatchNorm1d, 5),
    "BatchNorm2d": _normed(nn.BatchNorm2d, 5, 5),
    "BatchNorm3d": _normed(nn.BatchNorm3d, 5, 5, 5),
    "BatchNorm1d without affine": _normed(nn.BatchNorm1d, 5, affine=False),
    "InstanceNorm1d": _normed(nn.InstanceNorm1d, 5, affine=True),
    "InstanceNorm2d": _normed(nn.InstanceNorm2d, 5, 5, affine=True, track_running_stats=True),
    "PReLU": lambda random: (nn.PReLU(random.choice((1, 4))), _on(2, 4)),
    "RNN": _recurrent(nn.RNN, False),
    "LSTM": _recurrent(nn.LSTM, False),
    "GRU": _recurrent(nn.GRU, False),
    "RNNCell": _recurrent(nn.RNNCell, True),
    "LSTMCell": _recurrent(nn.LSTMCell, True),
    "GRUCell": _recurrent(nn.GRUCell, True),
    "LSTM with projection": lambda random: (nn.LSTM(3, 6, proj_size=2), _on(3, 2, 3)),
    "MultiheadAttention": _attention,
    "TransformerEncoderLayer": lambda random: (nn.TransformerEncoderLayer(4, 2, 6).eval(), _on(3, 2, 4)),
    "TransformerDecoderLayer": lambda random: (
        nn.TransformerDecoderLayer(4, 2, 6).eval(),
        (torch.randn(3, 2, 4), torch.randn(3, 2, 4)),
    ),
    "AdaptiveLogSoftmaxWithLoss": _adaptive,
    "weight_norm (old)": _with(lambda module: nn.utils.weight_norm(module)),
    "weight_norm": _with(lambda module: parametrizations.weight_norm(module)),
    "weight_norm of all": _with(lambda module: parametrizations.weight_norm(module, dim=None)),  # type: ignore[arg-type]
    "spectral_norm (old)": _with(lambda module: nn.utils.spectral_norm(module)),
    "spectral_norm": _with(lambda module: parametrizations.spectral_norm(module)),
    "spectral_norm over dim 1": _with(lambda module: parametrizations.spectral_norm(module, dim=1)),
    "orthogonal": lambda random: (parametrizations.orthogonal(nn.Linear(4, 4)), _on(2, 4)),
    "pruned": _with(lambda module: prune.l1_unstructured(module, "weight", 0.3)),  # type: ignore[no-untyped-call]
    "float16": lambda random: (_pointwise(random)[0].half(), ()),
    "float64": lambda random: (_pointwise(random)[0].double(), ()),
    "bfloat16": lambda random: (_linear(random)[0].bfloat16(), ()),
    "complex": lambda random: (_pointwise(random)[0].to(torch.complex64), ()),
    "frozen": lambda random: (_pointwise(random)[0].requires_grad_(False), ()),
    "transposed strides": _transposed_linear,
    "channels last": _channels_last,
    "expanded bias": _expanded,
    "view of a block": _view,
    "quantized dynamically": _quantized_dynamic,
    "residual block": _residual,
    "tied": lambda random: (Tied(4, random.choice(WIDTHS), random.choice((1, 1, 2))), _on(2, 4, 7)),
    "scale": lambda random: (Scale(4, 1, 1), _on(2, 4)),
    "token": lambda random: (Scale(1, 1, 4), _on(2, 4)),
    "position table": lambda random: (Scale(1, 5, 4), _on(2, 4)),
    "buffers": lambda random: (Buffers(5), _on(2, 4)),
    "LoRA": lambda random: (LoraLinear(4, random.choice(WIDTHS), random.choice((1, 2))), _on(2, 4)),
    "ParameterList": lambda random: (nn.ParameterList([torch.randn(3), torch.randn(4, 2)]), ()),
    "ParameterDict": lambda random: (nn.ParameterDict({"w": torch.randn(4, 2), "k": torch.randn(4, 2, 1)}), ()),
    "no parameters": lambda random: (random.choice((nn.ReLU, nn.Identity, nn.Dropout, nn.Flatten))(), _on(2, 4)),
}

NAMES = {
    "Linear": ("fc", "fc1", "proj", "classifier", "dense", "out_proj"),
    "Linear without bias": ("q_proj", "lm_head", "to_q", "gate_proj", "w"),
    "pointwise Conv1d": ("conv", "conv1", "mlp_convs", "proj", "cls_head", "downsample"),
    "pointwise Conv2d": ("conv", "lateral", "shortcut", "convs"),
    "ConvTranspose1d": ("up", "ups", "deconv"),
    "Embedding": ("wte", "embed_tokens", "embedding"),
    "PReLU": ("act", "prelu"),
}
"""Names that people give; every other leaf is called as its kind, or is a number."""

MISLEADING = (
    "c_attn", "c_proj", "c_fc", "bilinear", "embedding", "wte", "up", "deconv", "lora_A", "lora_B", "shortcut", "prelu",
    "scale", "ia3_l", "norm", "weight", "kernel", "optimizer", "ema", "state", "bias", "weight_g", "w1",
)  # fmt: skip
"""Names that say something else of most of what they are given to."""
