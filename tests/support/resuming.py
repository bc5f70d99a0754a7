"""A training that is saved, converted and resumed in the other form, against the same file resumed unconverted.

The model computes the same in every form, with the weights as matrices, so that gradients are the same bits. What then
differs is what the optimizer makes of a weight's shape.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

import convinspect
from convinspect.showing.afterwards import afterwards_lines

Build = Callable[[nn.Module], Any]

WIDTHS = (64, 80, 32)
"""Two layers. Optimizers with 8 or 4 bits quantize weights of 4096 numbers and more."""

BEFORE, AFTER = 3, 4
"""Steps before the file is written, and after."""

SAME = 1e-4
"""Of the way that the weights go after resuming: what is below is rounding."""

MOVES = (("Conv1d", "Linear"), ("Linear", "Conv1d"), ("Conv2d", "Linear"))
PATCHES = {"Patches1d": (8,), "Patches2d": (2, 4), "Patches3d": (2, 2, 2)}
"""Forms of convolutions over patches, with their kernel size."""
PATCH_MOVES = (("Patches2d", "Linear"), ("Linear", "Patches2d"), ("Patches1d", "Linear"), ("Patches3d", "Linear"))


class Net(nn.Module):
    """Linear-like layers with tanh between, in one form, a norm after, and a table that no gradient is asked for."""

    def __init__(self, form: str, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layers = nn.ModuleList()
        for inputs, outputs in pairwise(widths):
            layer = _layer(form, inputs, outputs)
            for one in layer.parameters():
                numbers = torch.randn(one.numel(), generator=generator) / inputs**0.5
                one.data.copy_(numbers.reshape(one.shape))
            self.layers.append(layer)
        self.norm = nn.LayerNorm(widths[-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            weight: Any = layer.weight
            x = torch.tanh(x @ weight.flatten(1).T + layer.bias)
        normed: torch.Tensor = self.norm(x)
        return normed


def _layer(form: str, inputs: int, outputs: int) -> nn.Module:
    """A layer whose weight has `inputs` numbers for each output."""
    if form == "Linear":
        return nn.Linear(inputs, outputs)
    if form not in PATCHES:
        conv: nn.Module = getattr(nn, form)(inputs, outputs, 1)
        return conv
    kernel = PATCHES[form]
    of_patches: nn.Module = getattr(nn, f"Conv{len(kernel)}d")(inputs // 8, outputs, kernel, stride=kernel)
    return of_patches


def _wish(move: tuple[str, str]) -> dict[str, Any]:
    """The options of `convert` that make the move."""
    before, after = move
    if before in PATCHES:
        return {"to": "linear", "patches": True}
    if after in PATCHES:
        kernel = PATCHES[after]
        return {"to": f"conv{len(kernel)}d", "patch": kernel}
    return {"to": after.lower(), "from_": ("any",)}


class How(NamedTuple):
    """How an optimizer wants to be stepped: with a closure, with a graph of the gradients."""

    closure: bool = False
    graph: bool = False


class End(Enum):
    """What became of a training."""

    SAME = "goes on the same"
    REFUSED = "refused"
    SAID = "goes on otherwise, and it is said"
    SILENT = "goes on otherwise, without a word"
    RAISES = "cannot go on, without a word"
    CANNOT = "cannot be resumed, converted or not"


class Outcome(NamedTuple):
    """What became of it, and in which words."""

    end: End
    words: str = ""


class _CannotRun(Exception):
    pass


def steps(model: nn.Module, optimizer: Any, how: How, numbers: range) -> None:
    """Train on data that depend on the number of the step alone."""
    widths = [layer.weight[0].numel() for layer in model.layers], model.layers[-1].weight.shape[0]  # type: ignore
    for number in numbers:
        generator = torch.Generator().manual_seed(100 + number)
        data, wanted = (torch.randn(32, width, generator=generator) for width in (widths[0][0], widths[1]))

        def closure(data: torch.Tensor = data, wanted: torch.Tensor = wanted) -> torch.Tensor:
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(data), wanted)
            loss.backward(create_graph=how.graph)  # type: ignore[no-untyped-call]
            return loss

        torch.manual_seed(number)
        if not how.closure:
            closure()
        optimizer.step(*[closure] * how.closure)


def _training(optimizer: Any) -> Any:
    """Some keep other weights for training than for evaluation (schedule-free ones)."""
    getattr(optimizer, "train", bool)()
    return optimizer


def _flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([one.detach().flatten().double() for one in model.parameters()])


def trained(form: str, build: Build, path: Path, widths: Sequence[int]) -> How:
    """Train, and write the checkpoint.

    Raises:
        _CannotRun: The optimizer does not take this model.
    """
    failed = "no way of stepping"
    for how in (How(), How(closure=True), How(closure=True, graph=True)):
        try:
            model = Net(form, widths)
            torch.manual_seed(1)
            optimizer = _training(build(model))
            steps(model, optimizer, how, range(BEFORE))
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
        except Exception as error:
            failed = f"{type(error).__name__}: {error}"
        else:
            return how
    raise _CannotRun(failed)


def resumed(form: str, build: Build, path: Path, how: How, widths: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The weights as one vector, as they were loaded and after some more steps."""
    saved = torch.load(path, weights_only=False)
    model = Net(form, widths)
    model.load_state_dict(saved["model"])
    start = _flat(model)
    torch.manual_seed(1)
    optimizer = _training(build(model))
    optimizer.load_state_dict(saved["optimizer"])
    steps(model, optimizer, how, range(BEFORE, BEFORE + AFTER))
    return start, _flat(model)


def outcome(build: Build, move: tuple[str, str], folder: Path, widths: Sequence[int] = WIDTHS) -> Outcome | None:
    """Train in one form, convert the file, and resume it in the other; None where the optimizer takes no such model.

    Args:
        build: Makes the optimizer of a model.
        move: The forms before and after.
        folder: Where the two files are written.
        widths: Of the layers.
    """
    with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):
        warnings.simplefilter("ignore")
        return _outcome(build, move, folder, widths)


def _outcome(build: Build, move: tuple[str, str], folder: Path, widths: Sequence[int]) -> Outcome | None:
    source, target = folder / "source.pt", folder / "target.pt"
    before, after = move
    try:
        how = trained(before, build, source, widths)
    except _CannotRun:
        return None
    try:
        start, wanted = resumed(before, build, source, how, widths)
    except Exception as error:
        return Outcome(End.CANNOT, f"{type(error).__name__}: {error}")
    layers = [f"layers.{number}" for number in range(len(widths) - 1)]
    try:
        job = convinspect.convert(source, target, layer=layers, force=True, **_wish(move))
    except convinspect.ConvInspectError as error:
        return Outcome(End.REFUSED, " ".join(str(error).split()))
    if job.plan.refusals:
        return Outcome(End.REFUSED, str(job.plan.refusals[0].reason))
    said = " ".join(afterwards_lines(job.afterwards))
    try:
        found, now = resumed(after, build, target, how, widths)
    except Exception as error:
        end = End.SAID if said else End.RAISES
        return Outcome(end, said if end is End.SAID else f"{type(error).__name__}: {error}")
    assert torch.equal(found, start)
    assert not torch.equal(wanted, start), "the optimizer does nothing, so that this shows nothing"
    apart = float((now - wanted).norm() / (wanted - start).norm().clamp(min=1e-12))
    if apart <= SAME:
        return Outcome(End.SAME, said)
    return Outcome(End.SAID, said) if said else Outcome(End.SILENT, f"{apart:.2g} of the way apart")


def first_of(builds: Iterator[Build], move: tuple[str, str], folder: Path) -> Outcome | None:
    """The outcome of the first way of making an optimizer that works; None where none does."""
    return next((one for build in builds if (one := outcome(build, move, folder)) is not None), None)
