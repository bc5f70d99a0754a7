"""A PyTorch object seen through a file: saved by torch, opened by us."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from convinspect.checkpoint import Checkpoint, open_checkpoint
from convinspect.layers.find import find_layers
from convinspect.records import Layer

State = dict[str, Tensor]


def opened(folder: Path, thing: object) -> Checkpoint:
    """The checkpoint that `torch.save` makes of `thing`."""
    path = folder / "model.pt"
    torch.save(thing, path)
    return open_checkpoint(path)


def layers_in(folder: Path, thing: object) -> dict[str, Layer]:
    """The layers of that checkpoint by name, which must be unique."""
    layers = find_layers(opened(folder, thing))
    by_name = {layer.name: layer for layer in layers}
    assert len(by_name) == len(layers)
    return by_name


def layer_of(folder: Path, module: nn.Module, whole: bool = False) -> Layer:
    """The layer that `module` becomes, saved as `layer` of a model; as a state_dict unless `whole`."""
    model = nn.ModuleDict({"layer": module})
    return layers_in(folder, model if whole else model.state_dict())["layer"]


def zeros(**shapes: tuple[int, ...]) -> State:
    """A state_dict of zeros; in its keys "__" stands for the dot."""
    return {name.replace("__", "."): torch.zeros(shape) for name, shape in shapes.items()}
