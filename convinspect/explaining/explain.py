"""`explain` as a function: what a layer computes on rows of data, cell by cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from convinspect.checkpoint import Checkpoint
from convinspect.errors import ConvInspectError, NotThere
from convinspect.explaining.data import read_rows
from convinspect.explaining.example import Example, built_in, example, is_explained, of_layer, real
from convinspect.explaining.patches import built_in_patches, patches_of_layer
from convinspect.explaining.words import Language
from convinspect.layers.find import find_layers
from convinspect.layers.select import select_one
from convinspect.records import Layer
from convinspect.text import first_few


@dataclass(frozen=True, slots=True)
class Options:
    """The options of `explain` that decide what is computed.

    Attributes:
        layer: Name of the layer, or a glob that matches one; None for the built-in layer, where there is no checkpoint.
        rows: Number of rows of data, if none are given.
        seed: Seed of the random data for a checkpoint's layer.
        input: The data, (n, in), or of patches an image, (C, …): a tensor, or a file in a format of `read_rows`.
        patches: The layer is a convolution over patches, and the data are an image; `rows` is how many patches it has.
        lang: The language of the drawing.
    """

    layer: str | None = None
    rows: int = 4
    seed: int = 0
    input: Path | torch.Tensor | None = None
    patches: bool = False
    lang: Language = "en"


def explain(checkpoint: Checkpoint | None, options: Options) -> Example:
    """Run one layer on rows of data, in float64.

    Args:
        checkpoint: Where the layer is; None for a small built-in layer of 3 → 6, or of patches of 2 × 2.
        options: Which layer, on which data.

    Raises:
        NotThere: No layer is named or has that name, or there is no such file of data.
        CannotShow: The layer cannot be explained, or the data do not fit it.
        ConvInspectError: Numbers cannot be read.
    """
    return replace(_computed(checkpoint, options), lang=options.lang)


def _computed(checkpoint: Checkpoint | None, options: Options) -> Example:
    data = read_rows(options.input) if isinstance(options.input, Path) else options.input
    data = None if data is None else real(data, "the data are")
    if checkpoint is None:
        return _explain_built_in(data, options)
    layers = find_layers(checkpoint)
    if options.layer is None:
        raise NotThere("no layer is named", _which(layers, options.patches), checkpoint.path)
    try:
        chosen = select_one(layers, options.layer)
        of = patches_of_layer if options.patches else of_layer
        return of(chosen, data, options.rows, options.seed)
    except ConvInspectError as error:
        raise error.at(checkpoint.path) from None


def _which(layers: Sequence[Layer], patches: bool) -> str:
    """The remedy: the first layers that can be explained, those of kernel size 1 before others; or what can be."""
    if patches:
        names = [layer.name for layer in layers if layer.patch]
        return f"name one: {first_few(names, 3)}" if names else "name a convolution that cuts patches"
    able = [layer for layer in layers if is_explained(layer)]
    names = [layer.name or "." for layer in sorted(able, key=lambda layer: not layer.pointwise)]
    return f"name one: {first_few(names, 3)}" if names else "only convolutions and Linear can be explained"


def _explain_built_in(data: torch.Tensor | None, options: Options) -> Example:
    layer = built_in(options.rows)
    weight, bias = (torch.tensor(values, dtype=torch.float64) for values in (layer.w, layer.b))
    try:
        if options.patches:
            return built_in_patches(data, options.rows)
        if data is None:
            return layer
        return example(layer.name, layer.kind, layer.stored, weight, bias, data)
    except ConvInspectError as error:
        raise error.at(options.input) if isinstance(options.input, Path) else error from None
