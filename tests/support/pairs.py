"""Random pairs of models: one's state_dict, and another that is to load it."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.masked import masked_tensor

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
    ]
    return chance.choice(makers)()


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
    changed = {name: chance.randrange(400) if chance.random() < 0.25 else seed for name, seed in parts.items()}
    for name in [name for name in changed if chance.random() < 0.07]:
        del changed[name]
    if chance.random() < 0.1:
        changed[chance.choice(NAMES)] = chance.randrange(400)
    return changed


def drawn(seed: int) -> tuple[State, Callable[[], nn.Module]]:
    """A's state_dict, and how to make the model that is to load it."""
    chance = random.Random(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = chance.sample(NAMES, chance.randint(1, 4))
        parts = {name: chance.randrange(400) for name in names}
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
    return state, lambda: _model(theirs, other)


def _half(state: State) -> None:
    for key, value in state.items():
        if type(value) is torch.Tensor and value.dtype == torch.float32 and value.layout == torch.strided:
            state[key] = value.half()
