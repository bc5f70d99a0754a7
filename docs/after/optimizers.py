"""Optimizers stepped ten times on weights of shape (O, I, 1), (O, I, 1, 1) and (O, I) with the same numbers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import nn

from after.forms import FORMS, Cells, Row, fill, percent

WIDTHS = (64, 128, 32)
"""Two layers: (128, 64) and (32, 128). Optimizers with 8 or 4 bits quantize weights of 4096 numbers and more."""

STEPS = 10

MOVED = 1e-3
"""Differences below this share of the way are rounding. The least real one that was seen is 0.1."""

Build = Callable[[nn.Module], Any]


class Step(NamedTuple):
    """How an optimizer wants to be stepped: with a closure, and with a graph of the gradients."""

    closure: bool = False
    graph: bool = False


class Net(nn.Module):
    """`Linear → tanh → Linear` in one of the forms. All compute the same: parameters are used as matrices."""

    def __init__(self, form: str) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layers = nn.ModuleList()
        for inputs, outputs in pairwise(WIDTHS):
            layer = nn.Linear(inputs, outputs) if form == "Linear" else getattr(nn, form)(inputs, outputs, 1)
            weight = torch.randn(outputs, inputs, generator=generator) / inputs**0.5
            fill(layer, weight, torch.randn(outputs, generator=generator) / 10)
            self.layers.append(layer)

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        first, second = ((layer.weight.flatten(1), layer.bias) for layer in self.layers)
        return torch.tanh(data @ first[0].T + first[1]) @ second[0].T + second[1]


def trained(form: str, build: Build, how: Step) -> torch.Tensor:
    """All parameters as one vector after `STEPS` steps. Each step's random numbers are the same for every form."""
    model = Net(form)
    torch.manual_seed(1)
    optimizer = build(model)
    generator = torch.Generator().manual_seed(2)
    data, wanted = (torch.randn(256, width, generator=generator) for width in (WIDTHS[0], WIDTHS[-1]))

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(data), wanted)
        loss.backward(create_graph=how.graph)
        return loss

    # Compiling a step takes torchao longer than all the rest of the page, and changes no more than rounding.
    with torch.compiler.set_stance("force_eager"):
        for step in range(STEPS):
            torch.manual_seed(100 + step)
            if not how.closure:
                closure()
            optimizer.step(*[closure] * how.closure)
    return torch.cat([one.detach().flatten().double() for one in model.parameters()])


def attempt(form: str, build: Build) -> torch.Tensor | str:
    """The first way of stepping that works; where none does, the exception's name."""
    failed = ""
    for how in (Step(), Step(closure=True), Step(closure=True, graph=True)):
        try:
            return trained(form, build, how)
        except Exception as error:
            failed = failed or type(error).__name__
    return failed


def compared(build: Build) -> tuple[str, str] | None:
    """How far Conv1d and Conv2d end from Linear, relative to its way ("" for nowhere); None where Linear has no run."""
    conv1d, conv2d, linear = (attempt(form, build) for form in FORMS)
    if isinstance(linear, str):
        return None
    start = torch.cat([one.detach().flatten().double() for one in Net("Linear").parameters()])

    def said(other: torch.Tensor | str) -> str:
        if isinstance(other, str):
            return f"raises {other}"
        apart, way = float((other - linear).norm()), float((linear - start).norm())
        return percent(apart / way) if apart > MOVED * way else ""

    return said(conv1d), said(conv2d)


def plain(kind: Any, **options: Any) -> Build:
    return lambda model: kind(model.parameters(), **options)


def grouped(kind: Any, **weights: Any) -> Build:
    """Matrices in a group with these settings, biases in one without."""

    def build(model: nn.Module) -> Any:
        kinds: tuple[list[nn.Parameter], list[nn.Parameter]] = [], []
        for one in model.parameters():
            kinds[one.ndim < 2].append(one)
        switch = {name: not value for name, value in weights.items() if value is True}
        return kind([{"params": kinds[0], **weights}, {"params": kinds[1], **switch}])

    return build


def weights_only(kind: Any) -> Build:
    return lambda model: kind([one for one in model.parameters() if one.ndim >= 2])


def of_model(kind: Any) -> Build:
    return lambda model: kind(model)


def builds(kind: Any) -> Iterator[Build]:
    """In this order: with defaults, with a learning rate, then as the families of optimizers want their parameters."""
    if kind.__name__ in LOW_RANK:
        yield grouped(kind, rank=8, **LOW_RANK[kind.__name__])
    yield plain(kind)
    yield plain(kind, lr=1e-3)
    yield grouped(kind, use_muon=True)
    yield weights_only(kind)
    yield of_model(kind)
    yield plain(kind, num_iterations=STEPS)
    yield plain(kind, num_data=256)


_GALORE: dict[str, Any] = {"update_proj_gap": 5, "scale": 0.25, "projection_type": "std"}
LOW_RANK: dict[str, dict[str, Any]] = {
    "GaLore": _GALORE,
    "Fira": _GALORE,
    "APOLLO": {**_GALORE, "scale_type": "channel"},
}
"""These do nothing of their own unless a group has a rank."""


def survey(kinds: dict[str, Any]) -> Cells:
    """One row for a package: how many ran, and which of them end elsewhere."""
    found = {}
    for name, kind in kinds.items():
        results = (compared(build) for build in builds(kind))
        if (result := next((one for one in results if one is not None), None)) is not None:
            found[name] = result

    def said(at: int) -> str:
        apart = [(name, both[at]) for name, both in found.items() if both[at]]
        listed = ", ".join(f"{name} {how}" for name, how in apart)
        return f"{len(apart)} of {len(found)} end elsewhere{': ' * bool(apart)}{listed}"

    return said(0), said(1), "reference"


def of_torch() -> dict[str, Any]:
    base = torch.optim.Optimizer
    found = {name: one for name, one in vars(torch.optim).items() if inspect.isclass(one) and issubclass(one, base)}
    return {name: found[name] for name in sorted(found) if found[name] is not base}


def of_pytorch_optimizer() -> dict[str, Any]:
    import pytorch_optimizer

    known = pytorch_optimizer.optimizer.OPTIMIZERS.values()
    return {one.__name__: one for one in sorted(known, key=lambda one: str(one.__name__))}


def of_torchao() -> dict[str, Any]:
    from torchao import optim

    return {name: getattr(optim, name) for name in ("AdamW8bit", "AdamW4bit", "AdamWFp8")}


def of_bitsandbytes() -> dict[str, Any]:
    from bitsandbytes import optim

    return {name: getattr(optim, name) for name in ("AdamW8bit", "Lion8bit", "AdEMAMix8bit")}


def of_transformers() -> dict[str, Any]:
    from transformers.optimization import Adafactor

    return {"Adafactor": Adafactor}


def adafactor_state() -> Cells:
    """Numbers that torch's Adafactor keeps of one weight (256, 256), without the count of its steps."""

    def numbers(extra: int) -> str:
        weight = nn.Parameter(torch.randn(256, 256, *[1] * extra))
        optimizer = torch.optim.Adafactor([weight])
        weight.square().sum().backward()
        optimizer.step()
        kept = {name: value.numel() for name, value in optimizer.state[weight].items() if name != "step"}
        return f"{sum(kept.values()):,}"

    return numbers(1), numbers(2), numbers(0)


def muon() -> Cells:
    def said(extra: int) -> str:
        try:
            torch.optim.Muon([nn.Parameter(torch.randn(8, 4, *[1] * extra))])
        except ValueError:
            return "raises ValueError"
        return "taken"

    return said(1), said(2), said(0)


def _parts(name: str, value: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The tensors in a value of an optimizer's state, by name, with their shapes; single numbers are left out."""
    if isinstance(value, torch.Tensor):
        if value.ndim:
            yield name, tuple(value.shape)
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from _parts(f"{name}.{key}", one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _parts(name, one)


def state_of(name: str, **settings: Any) -> Callable[[], Cells]:
    """The state of one weight (128, 64) after two steps that is not of the weight's own shape."""

    def said(extra: int) -> str:
        torch.manual_seed(0)
        weight = nn.Parameter(torch.randn(128, 64, *[1] * extra))
        optimizer = of_pytorch_optimizer()[name]([weight], lr=1e-3, **settings)
        for _ in range(2):
            weight.grad = torch.randn_like(weight)
            optimizer.step()
        shapes: dict[str, list[str]] = {}
        for key, value in optimizer.state[weight].items():
            for part, shape in _parts(key, value):
                if shape != tuple(weight.shape):
                    shapes.setdefault(part, []).append(str(shape))
        return ", ".join(f"{part} {' '.join(every)}" for part, every in shapes.items())

    return lambda: (said(1), said(2), said(0))


def steps_with(name: str, **settings: Any) -> Callable[[], Cells]:
    """How far the weights end from the Linear's with one optimizer of pytorch_optimizer in these settings."""

    def measure() -> Cells:
        found = compared(plain(of_pytorch_optimizer()[name], **settings))
        assert found is not None
        first, second = (one or "ends on the same" for one in found)
        return first, second, "reference"

    return measure


def takes(name: str, **group: Any) -> Callable[[], Cells]:
    """Whether an optimizer of pytorch_optimizer steps on one weight (8, 4) in a group with these settings."""

    def said(extra: int) -> str:
        weight = nn.Parameter(torch.randn(8, 4, *[1] * extra))
        weight.grad = torch.ones_like(weight)
        try:
            of_pytorch_optimizer()[name]([{"params": [weight], **group}]).step()
        except Exception as error:
            return f"raises {type(error).__name__}"
        return "taken"

    return lambda: (said(1), said(2), said(0))


def first_step(name: str) -> Callable[[], Cells]:
    """How long the first step of one weight (128, 64) is, in percent of the Linear's."""

    def length(extra: int) -> float:
        torch.manual_seed(0)
        weight = nn.Parameter(torch.randn(128, 64, *[1] * extra))
        start = weight.detach().clone()
        weight.grad = torch.randn_like(weight)
        of_pytorch_optimizer()[name]([weight], lr=1e-3).step()
        return float((weight.detach() - start).norm())

    def measure() -> Cells:
        wanted = length(0)
        return percent(length(1) / wanted), percent(length(2) / wanted), "reference"

    return measure


def surveyed(kinds: Callable[[], dict[str, Any]]) -> Callable[[], Cells]:
    return lambda: survey(kinds())


_SAME = f"{STEPS} steps of"
_PO = ("torch", "pytorch_optimizer")
ROWS = (
    Row("wants", "`torch.optim.Muon`", ("torch",), muon),
    Row("wants", "pytorch_optimizer `Muon`, which flattens kernels", _PO, takes("Muon", use_muon=True)),
    Row("wants", "pytorch_optimizer `SpectralSphere`", _PO, takes("SpectralSphere")),
    Row("behaves", "numbers of state in `torch.optim.Adafactor`, (256, 256)", ("torch",), adafactor_state),
    Row("behaves", f"{_SAME} `torch.optim`'s", ("torch",), surveyed(of_torch)),
    Row("behaves", f"{_SAME} pytorch_optimizer's", _PO, surveyed(of_pytorch_optimizer)),
    *(
        Row("behaves", f"state of {name} besides the weight's own shape, (128, 64)", _PO, state_of(name))
        for name in ("Adalite", "Kron", "SM3", "SOAP")
    ),
    Row("behaves", "first step of Amos, against Linear's", _PO, first_step("Amos")),
    Row("behaves", f"{_SAME} `Ranger(gc_conv_only=True)`", _PO, steps_with("Ranger", gc_conv_only=True)),
    Row("behaves", f"{_SAME} torchao's 8-bit, 4-bit and float8 AdamW", ("torch", "torchao"), surveyed(of_torchao)),
    Row("behaves", f"{_SAME} bitsandbytes' 8-bit AdamW, Lion, AdEMAMix", ("torch", "bitsandbytes"),
        surveyed(of_bitsandbytes)),
    Row("behaves", f"{_SAME} transformers' Adafactor", ("torch", "transformers"), surveyed(of_transformers)),
)  # fmt: skip
