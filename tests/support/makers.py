"""What is said of a file that another library wrote, in the form in which that library can be asked the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from convinspect.checkpoint import open_checkpoint
from convinspect.layers.find import find_layers
from convinspect.records import Layer
from support.drawing.truth import CONVS, TRANSPOSED, kind_of, named_modules

Facts = tuple[str, int | None, int | None, tuple[int, ...]]
"""Kind, width in, width out, kernel size."""


def layers_at(path: Path) -> dict[str, Layer]:
    """The layers of a file or folder by name."""
    return {layer.name: layer for layer in find_layers(open_checkpoint(path))}


def facts(layer: Layer) -> Facts:
    """What is said of a layer."""
    return layer.kind, layer.in_width, layer.out_width, layer.kernel_size


def said(path: Path) -> dict[str, Facts]:
    """What is said of the convolutions and Linear layers of a file; where groups are not recorded, with groups as 1."""
    wanted = {cls.__name__ for cls in (*CONVS, *TRANSPOSED, nn.Linear)}
    found = {name: layer for name, layer in layers_at(path).items() if layer.kind in wanted}
    return {name: (layer.kind, _width_in(layer), layer.out_width, layer.kernel_size) for name, layer in found.items()}


def _width_in(layer: Layer) -> int | None:
    if layer.in_width is not None or "assumed" not in layer.tags:
        return layer.in_width
    return layer.weight.shape[0 if "Transpose" in layer.kind else 1]


def true(model: nn.Module) -> dict[str, Facts]:
    """The same, as the live modules say it."""
    found: dict[str, Facts] = {}
    for name, module in named_modules(model):
        part: Any = module
        if isinstance(module, nn.Linear):
            found[name] = ("Linear", part.in_features, part.out_features, ())
        elif isinstance(module, (*CONVS, *TRANSPOSED)):
            found[name] = (kind_of(module), part.in_channels, part.out_channels, tuple(part.kernel_size))
    return found


def numbers(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a file or folder, as it is read."""
    checkpoint = open_checkpoint(path)
    return {name: torch.from_numpy(checkpoint.read(name).copy()) for name in checkpoint}


def assert_same_numbers(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    """Same names, shapes and numbers."""
    assert set(found) == set(wanted)
    for name, one in wanted.items():
        assert torch.equal(found[name], one.detach()), name


def linear_in_place(model: nn.Sequential) -> nn.Sequential:
    """The same Sequential with new Linear layers where pointwise convolutions stand; its forward takes rows."""
    return nn.Sequential(
        *(
            nn.Linear(part.in_channels, part.out_channels, part.bias is not None)
            if isinstance(part, CONVS) and set(part.kernel_size) == {1}
            else part
            for part in model
        )
    )
