"""A drawn training: a model beside its optimizer, stopped, converted and resumed, against the run that went on."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import nn

import convinspect
from support.drawing.models import copied
from support.drawing.truth import is_plain_pointwise

STEPS = 2

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "SGD without momentum": lambda p: torch.optim.SGD(p, lr=0.1),
    "Adam": lambda p: torch.optim.Adam(p, amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.1),
    "NAdam": torch.optim.NAdam,
    "RAdam": torch.optim.RAdam,
    "Adamax": torch.optim.Adamax,
    "Adagrad": torch.optim.Adagrad,
    "Adadelta": torch.optim.Adadelta,
    "RMSprop": lambda p: torch.optim.RMSprop(p, centered=True, momentum=0.5),
    "Rprop": torch.optim.Rprop,
    "ASGD": torch.optim.ASGD,
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=0.1),
}

WIDTHS = (1, 3, 4, 4, 4, 6)


def _layers(random: Random) -> list[nn.Module]:
    """A few layers; often all of one shape, so that an order cannot be told by shapes."""
    widths = (random.choice(WIDTHS),) if random.random() < 0.4 else WIDTHS
    bias = random.random() < 0.7
    return [_layer(random, widths, bias) for _ in range(random.randint(1, 4))]


def _layer(random: Random, widths: tuple[int, ...], bias: bool) -> nn.Module:
    inner, outer = random.choice(widths), random.choice(widths)
    kind = random.choice(("Linear", "Linear", "Conv1d", "Conv1d", "Conv1d", "Conv2d", "k", "norm", "Embedding"))
    if kind == "k":
        return nn.Conv1d(inner, outer, 3, bias=bias)
    if kind == "norm":
        return nn.LayerNorm(outer)
    if kind == "Embedding":
        return nn.Embedding(7, outer)
    return nn.Linear(inner, outer, bias) if kind == "Linear" else getattr(nn, kind)(inner, outer, 1, bias=bias)


def _groups(model: nn.Module, how: str, random: Random) -> list[list[str]]:
    """The names of the parameters that an optimizer is given, group by group."""
    names = [name for name, _ in model.named_parameters()]
    if how == "decay":
        by_rank = {name: value.dim() for name, value in model.named_parameters()}
        return [[name for name in names if by_rank[name] > 1], [name for name in names if by_rank[name] <= 1]]
    if how == "shuffled":
        random.shuffle(names)
    if how == "frozen":
        names = names[random.randrange(len(names)) :]
    return [names]


def _optimizer(
    model: nn.Module, make: Callable[[Any], torch.optim.Optimizer], groups: list[list[str]], named: bool
) -> Any:
    parameters = dict(model.named_parameters())
    if named:
        return make([(name, parameters[name]) for group in groups for name in group])
    return make([{"params": [parameters[name] for name in group]} for group in groups if group])


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    """A step on gradients that are the same numbers whatever shape the parameters have."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        numbers = torch.randn(parameter.numel(), generator=generator)
        parameter.grad = numbers.reshape(parameter.shape) if parameter.requires_grad else None
    optimizer.step()


def run(seed: int, folder: Path) -> Counter[str]:
    """Draw a training, convert what it saved, and resume both.

    Returns:
        What was seen, counted.

    Raises:
        AssertionError: The resumed run moves differently, or does not load.
    """
    random = Random(seed)
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _run(random, folder)


def _run(random: Random, folder: Path) -> Counter[str]:
    model: Any = nn.Sequential(*_layers(random))
    if random.random() < 0.2 and len(model) > 1 and isinstance(model[0], nn.Conv1d):
        model.append(nn.Conv1d(model[0].in_channels, model[0].out_channels, model[0].kernel_size, bias=False))  # type: ignore[arg-type]
        model[-1].weight = model[0].weight
    which = random.choice(tuple(OPTIMIZERS))
    how = random.choice(("model's order", "model's order", "decay", "shuffled", "frozen"))
    named = how in ("model's order", "shuffled") and random.random() < 0.3
    groups = _groups(model, how, random)
    optimizer = _optimizer(model, OPTIMIZERS[which], groups, named)
    for step in range(STEPS):
        _step(model, optimizer, step)
    saved: dict[str, Any] = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
    if random.random() < 0.2:
        saved["ema"] = {name: value.detach() / 2 for name, value in model.state_dict().items()}
    source, target = folder / "source.pt", folder / "target.pt"
    torch.save(saved, source, _use_new_zipfile_serialization=random.random() < 0.8)
    seen = Counter({"trainings": 1, f"optimizer {which}": 1, f"parameters in {how}": 1})
    options: dict[str, Any] = {"to": random.choice(("linear", "conv1d")), "from_": random.choice(((), ("any",)))}
    layers = [name for name, part in model.named_children() if is_plain_pointwise(part) or isinstance(part, nn.Linear)]
    if layers and random.random() < 0.3:
        options["layer"] = random.choice(layers)
    what = f"{which}, {how}{', named' if named else ''}, {model}, {options}"
    try:
        job = convinspect.convert(source, target, **options)
    except convinspect.ConvInspectError as error:
        return seen + Counter({"refused": 1, f"refused, {how}": 1, f"because {' '.join(str(error).split())[-90:]}": 1})
    conversions = {conversion.layer.name: conversion.to for conversion in job.plan.conversions}
    if not conversions:
        return seen + Counter({"nothing to convert": 1})
    after = torch.load(target, weights_only=False)
    other: Any = copied(model)
    for name, to in conversions.items():
        old = other.get_submodule(name)
        outer, inner = old.weight.shape[:2]
        bias = old.bias is not None
        new = nn.Linear(inner, outer, bias) if to == "Linear" else getattr(nn, to)(inner, outer, 1, bias=bias)
        other.set_submodule(name, new)
    if len(model) > 1 and model[0]._parameters.get("weight") is model[-1]._parameters.get("weight", 0):
        other[-1].weight = other[0].weight
    other.load_state_dict(after["model"], strict=True)
    if "ema" in after:
        copied(other).load_state_dict(after["ema"], strict=True)
    resumed = _optimizer(other, OPTIMIZERS[which], groups, named)
    resumed.load_state_dict(after["optimizer"])
    for step in range(STEPS, STEPS + 2):
        _step(model, optimizer, step)
        try:
            _step(other, resumed, step)
        except RuntimeError as error:
            raise AssertionError(f"resumed, it raises {str(error).splitlines()[0]}: {what}") from error
    state = other.state_dict()
    for name, value in model.state_dict().items():
        assert torch.allclose(state[name].reshape(-1), value.reshape(-1), rtol=1e-5, atol=1e-6), (
            f"{name} moves differently: {what}"
        )
    report = convinspect.verify(source, target, bits=True)
    assert report.equal, f"verify says {report.cause}: {what}"
    return seen + Counter({"resumed": 1, f"resumed, {how}": 1, "conversions": len(conversions)})
