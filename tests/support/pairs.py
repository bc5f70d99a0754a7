"""Random pairs of models: one's state_dict, and another that is to load it."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.ao.nn import quantized
from torch.masked import masked_tensor
from torch.nn.utils import parametrizations, parametrize, prune
from torch.testing._internal.two_tensor import TwoTensor

State = dict[str, Any]


class Extra(nn.Module):
    """A layer whose module keeps something else in its state_dict too."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value, self.pw = value, nn.Linear(3, 2)

    def get_extra_state(self) -> Any:
        return self.value

    def set_extra_state(self, state: Any) -> None:
        pass


class Held(nn.Module):
    """Parameters and buffers of any kind, by name."""

    def __init__(self, parameters: State, buffers: State | None = None, lost: State | None = None) -> None:
        super().__init__()
        for name, value in parameters.items():
            self.register_parameter(name, nn.Parameter(value, requires_grad=value.is_floating_point()))
        for name, value in (buffers or {}).items():
            self.register_buffer(name, value)
        for name, value in (lost or {}).items():
            self.register_buffer(name, value, persistent=False)


class Tied(nn.Module):
    def __init__(self, a: nn.Module, b: nn.Module) -> None:
        super().__init__()
        self.a, self.b = a, b
        if a.weight.shape == b.weight.shape:
            b.weight = a.weight


class Named(torch.Tensor):
    """A subclass that wraps nothing: a plain tensor under another class."""


class Doubled(nn.Module):
    """A parametrization that adds no key of its own but its original's."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


class Several(nn.Module):
    """One tensor under several names: a parameter, a buffer and a parameter of another module."""

    def __init__(self, sizes: tuple[int, ...], buffer: bool) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.rand(sizes))
        self.inner = Held({})
        if buffer:
            self.inner.register_buffer("two", self.one.detach())
        else:
            self.inner.two = self.one


def _quantized(scheme: int, sizes: tuple[int, ...]) -> Any:
    if scheme:
        return torch.quantize_per_channel(
            torch.rand(sizes), torch.ones(sizes[0]), torch.zeros(sizes[0]), 0, torch.qint8
        )
    return torch.quantize_per_tensor(torch.rand(sizes), 0.1, 0, torch.qint8)


def _norm(chance: random.Random, layer: nn.Module) -> nn.Module:
    ways: list[Callable[[Any], Any]] = [
        nn.utils.weight_norm,
        nn.utils.parametrizations.weight_norm,
        nn.utils.spectral_norm,
        nn.utils.parametrizations.spectral_norm,
    ]
    made: nn.Module = chance.choice(ways)(layer)
    return made


_prune: Any = prune
_two: Any = TwoTensor


def _parametrized(chance: random.Random) -> nn.Module:
    """A layer whose weight other tensors give: a parametrization, two of them, or pruning."""
    layer = chance.choice([nn.Linear(3, 2), nn.Conv1d(3, 2, 1), nn.Linear(3, 3)])
    ways: list[Callable[[Any], Any]] = [
        lambda layer: parametrize.register_parametrization(layer, "weight", Doubled()),
        lambda layer: parametrize.register_parametrization(parametrizations.weight_norm(layer), "weight", Doubled()),
        lambda layer: parametrizations.orthogonal(layer) if isinstance(layer, nn.Linear) else layer,
        lambda layer: _prune.l1_unstructured(layer, "weight", 0.5),
        lambda layer: _prune.remove(_prune.l1_unstructured(layer, "weight", 0.5), "weight"),
        lambda layer: parametrize.register_parametrization(layer, "bias", Doubled()),
    ]
    made: nn.Module = chance.choice(ways)(layer)
    return made


def _lazy(chance: random.Random, size: int) -> nn.Module:
    """A lazy module, before or after its first call, or without its bias."""
    made: list[tuple[nn.Module, tuple[int, ...]]] = [
        (nn.LazyLinear(size), (1, 2)), (nn.LazyLinear(size, bias=False), (1, 2)), (nn.LazyConv1d(size, 1), (1, 2, 3)),
        (nn.LazyConv2d(size, 1), (1, 2, 1, 1)), (nn.LazyBatchNorm1d(), (4, 2)),
        (nn.LazyBatchNorm1d(affine=False), (4, size)), (nn.LazyConvTranspose1d(size, 1), (1, 2, 3)),
    ]  # fmt: skip
    module, shape = chance.choice(made)
    if chance.random() < 0.5:
        module(torch.rand(shape))
    return module


def weighted(chance: random.Random) -> nn.Module:
    """A layer with a weight of 1 to 5 dimensions, whose sizes are few, so that two often have as many numbers."""
    i, o = chance.choice([(2, 4), (4, 2), (4, 4), (1, 4), (4, 1), (2, 2), (4, 8)])
    bias = chance.random() < 0.5
    makers: list[Callable[[], nn.Module]] = [
        lambda: nn.Linear(i, o, bias=bias),
        lambda: nn.Conv1d(i, o, 1, bias=bias),
        lambda: nn.Conv2d(i, o, 1, bias=bias),
        lambda: nn.Conv3d(i, o, 1, bias=bias),
        lambda: nn.Conv1d(i, o, 2, bias=bias),
        lambda: nn.Conv2d(i, o, 2, stride=2, bias=bias),
        lambda: nn.Linear(4 * i, o, bias=bias),
        lambda: nn.ConvTranspose1d(i, o, 1, bias=bias),
        lambda: nn.Conv1d(o, o, 1, groups=o, bias=bias),
        lambda: nn.Embedding(o, i),
        lambda: Held({"weight": torch.rand(2, 2, 2, i, o)}),
        lambda: Held({"weight": torch.rand(o, 2, 2, 2, i)}),
        lambda: Held({"weight": torch.rand(i, o), **({"bias": torch.rand(o)} if bias else {})}),
        lambda: Held({"weight": torch.rand(o, i, 2, 2).to(memory_format=torch.channels_last)}),
        lambda: Held({"weight": torch.rand(i, o).T}),
    ]
    return chance.choice(makers)()


def part(chance: random.Random) -> nn.Module:
    """A module of any kind that keeps something in a state_dict."""
    size = chance.choice([1, 2, 3])
    shape = chance.choice([(), (1,), (1, 1), (size,), (size, 1), (1, size), (0,), (0, 3), (3, 0), (2, 3), (3, 2), (6,)])
    dtype = chance.choice([torch.float32, torch.float32, torch.float16, torch.float64, torch.int64, torch.bool,
                           torch.complex64, torch.bfloat16, torch.float8_e4m3fn])  # fmt: skip
    plain = torch.zeros(shape, dtype=dtype)
    makers: list[Callable[[], nn.Module]] = [
        lambda: weighted(chance),
        lambda: weighted(chance),
        lambda: weighted(chance),
        lambda: _norm(chance, chance.choice([nn.Linear(3, 2), nn.Conv1d(3, 2, 1), nn.Conv1d(3, 2, 2)])),
        lambda: nn.BatchNorm1d(size, track_running_stats=chance.random() < 0.8, affine=chance.random() < 0.8),
        lambda: nn.LayerNorm(size),
        lambda: nn.LSTM(2, 3),
        lambda: nn.MultiheadAttention(4, 2),
        lambda: nn.LazyLinear(size) if chance.random() < 0.5 else nn.LazyConv1d(size, 1),
        lambda: Extra(chance.choice([None, {"scale": 1}, torch.ones(3), torch.ones(2), [1], "x"])),
        lambda: Held({"p": plain}),
        lambda: Held({}, {"b": plain}),
        lambda: Held({}, {"b": plain}, {"lost": torch.ones(2)}),
        lambda: Held({}, {}, {"lost": plain}),
        lambda: Held({}, {"q": _quantized(chance.randrange(2), (2, 3))}),
        lambda: Held({}, {"s": torch.eye(3).to_sparse() if size == 1 else torch.eye(3).to_sparse_csr()}),
        lambda: Held({}, {"m": masked_tensor(torch.ones(2, 3), torch.ones(2, 3).bool())}),
        lambda: Held({}, {"n": torch.empty(2, 3, device=chance.choice(["cpu", "meta"]))}),
        lambda: Tied(weighted(chance), weighted(chance)),
        lambda: nn.ParameterList([torch.rand(size) for _ in range(size)]),
        lambda: nn.ParameterDict({chance.choice("ab"): torch.rand(size), "c": torch.rand(shape)}),
        lambda: _parametrized(chance),
        lambda: _lazy(chance, size),
        lambda: Several(chance.choice([(2, 3), (3, 2), (3, 2, 1), (6,)]), chance.random() < 0.5),
        lambda: Held({}, {"t": chance.choice([_two(plain.float(), plain.float()), plain])}),
        lambda: Held({"p": torch.rand(2, 3).as_subclass(Named if size > 1 else torch.Tensor)}),
        lambda: Held({}, {"n": _nested(chance, size)}),
        lambda: Held({}, {"q": _quantized(chance.randrange(2), (2, 3)) if size > 1 else torch.rand(2, 3)}),
        lambda: chance.choice([nn.Linear(3, 2), nn.Conv1d(3, 2, 1), nn.BatchNorm1d(2)]).to("meta"),
        lambda: _packed(size > 1),
        lambda: nn.Sequential(Extra({"a": 1}), Extra(None)) if size > 1 else nn.Sequential(nn.Identity()),
        lambda: nn.GroupNorm(1, size) if size > 1 else nn.InstanceNorm1d(size, True, track_running_stats=True),
        lambda: Held({}, {"z": plain.view(torch.int8) if dtype == torch.float8_e4m3fn else plain.contiguous()}),
    ]
    return chance.choice(makers)()


def _packed(linear: bool) -> nn.Module:
    makers: tuple[Any, Any] = (quantized.Conv2d, quantized.Linear)
    made: nn.Module = makers[1](3, 2) if linear else makers[0](3, 2, 1)
    return made


def _nested(chance: random.Random, size: int) -> torch.Tensor:
    if size > 1:
        return torch.rand(2, 3)
    layout = chance.choice([torch.jagged, torch.strided])
    return torch.nested.nested_tensor([torch.rand(2), torch.rand(3)], layout=layout)


PARTS = 2_000
"""So many different modules are drawn from."""
NAMES = ["conv", "proj", "norm", "head", "embed", "c_attn", "q_proj", "0", "1", "module", "lora_A"]
FRONTS = ["", "", "", "", "model", "module", "encoder.net", "_orig_mod"]


def _again(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return part(random.Random(seed))


def _model(parts: dict[str, int], front: str) -> nn.Module:
    model = nn.ModuleDict()
    for name, seed in parts.items():
        model.add_module(name, _again(seed))
    whole: nn.Module = model
    for level in reversed(front.split(".") if front else []):
        outer = nn.Module()
        outer.add_module(level, whole)
        whole = outer
    return whole


def _as_other_kind(parts: dict[str, int], chance: random.Random) -> dict[str, int]:
    """The same parts, some of them replaced, removed or added."""
    changed = {name: chance.randrange(PARTS) if chance.random() < 0.25 else seed for name, seed in parts.items()}
    for name in [name for name in changed if chance.random() < 0.07]:
        del changed[name]
    if chance.random() < 0.1:
        changed[chance.choice(NAMES)] = chance.randrange(PARTS)
    return changed


def drawn(seed: int) -> tuple[State, Callable[[], nn.Module]]:
    """A's state_dict, and how to make the model that is to load it."""
    chance = random.Random(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = chance.sample(NAMES, chance.randint(1, 4))
        parts = {name: chance.randrange(PARTS) for name in names}
        theirs = parts if chance.random() < 0.3 else _as_other_kind(parts, chance)
        front = chance.choice(FRONTS)
        other = front if chance.random() < 0.5 else chance.choice(FRONTS)
        state: State = _model(parts, front).state_dict()
    if chance.random() < 0.1:
        state[chance.choice(["epoch", "stray.key"])] = chance.choice([3, "x", None, torch.ones(2)])
    if chance.random() < 0.1 and state:
        state[chance.choice(list(state))] = chance.choice([3, None, {"a": 1}, torch.ones(2)])
    if chance.random() < 0.1 and state:
        state.pop(chance.choice(list(state)))
    if chance.random() < 0.1:
        _half(state)
    if chance.random() < 0.1:
        # As loops over the keys leave it: without `_metadata`, which records the modules' versions.
        state = dict(state)
    return state, lambda: _model(theirs, other)


def _half(state: State) -> None:
    for key, value in state.items():
        if type(value) is torch.Tensor and value.dtype == torch.float32 and value.layout == torch.strided:
            state[key] = value.half()
