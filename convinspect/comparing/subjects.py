"""The layers that are measured: well-known ones, one of given sizes, and those of a file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from convinspect.arrays.to_torch import weight_and_bias
from convinspect.checkpoint import Checkpoint
from convinspect.converting.eligibility import obstacle
from convinspect.dtypes import COMPLEX
from convinspect.errors import CannotConvert, Option, Wording
from convinspect.kinds import CONVOLUTIONS, TRANSFORMERS_CONV1D
from convinspect.layers.find import find_layers
from convinspect.layers.patches import grid_of, says_patches
from convinspect.layers.select import as_linear, exactly_named, select
from convinspect.layouts import torch_shape
from convinspect.records import Layer


@dataclass(frozen=True, slots=True)
class Subject:
    """One layer's weights.

    Attributes:
        name: The layer's name.
        weight: (O, I); I is C·kh·kw of a convolution that cuts patches.
        bias: (O,) or None.
        alike: Number of other layers in the file with the same sizes.
        patch: Kernel size of a convolution that cuts patches; () for a pointwise one.
        assumed: That its stride is its kernel size is not recorded.
    """

    name: str
    weight: torch.Tensor
    bias: torch.Tensor | None
    alike: int = 0
    patch: tuple[int, ...] = ()
    assumed: bool = False

    @property
    def channels(self) -> int:
        """C of the input."""
        return self.weight.shape[1] // math.prod(self.patch)

    @property
    def usual(self) -> tuple[int, int]:
        """Batch, and positions or patches of each example.

        Of a convolution in two dimensions an image of 224 × 224 in patches of 16 × 16, as ViT takes it. Models with one
        in three dimensions (Qwen2-VL and its kin) give each patch as an example of its own; of 1,024 here.
        """
        if not self.patch:
            return 8, 1024
        return (1024, 1) if len(self.patch) == 3 else (1, 196)

    def shape(self, batch: int, length: int) -> tuple[int, ...]:
        """The input's: (N, C, L), or of `length` patches as nearly square as there are so many."""
        if not self.patch:
            return batch, self.channels, length
        grid = grid_of(length, len(self.patch))
        return batch, self.channels, *(n * step for n, step in zip(grid, self.patch, strict=True))


def pointnet(seed: int = 0) -> list[Subject]:
    """The pointwise layers of PointNet's feature transform, with PyTorch's own initial weights."""
    generator = torch.Generator().manual_seed(seed)
    sizes = ((64, 64), (64, 128), (128, 1024))
    return [_drawn(f"conv{number}", (), *size, True, generator) for number, size in enumerate(sizes, 1)]


def patch_embeddings(seed: int = 0) -> list[Subject]:
    """Those of ViT-B/16 (Conv2d) and Qwen2-VL (Conv3d without a bias), with PyTorch's own initial weights."""
    generator = torch.Generator().manual_seed(seed)
    return [
        _drawn("ViT-B/16", (16, 16), 3, 768, True, generator),
        _drawn("Qwen2-VL", (2, 14, 14), 3, 1280, False, generator),
    ]


def of_sizes(patch: tuple[int, ...], channels: int, wide_out: int, seed: int = 0) -> Subject:
    """A convolution that cuts patches, with PyTorch's own initial weights."""
    kernel = "×".join(map(str, patch))
    name = f"Conv{len(patch)}d({channels}, {wide_out}, {kernel})"
    return _drawn(name, patch, channels, wide_out, True, torch.Generator().manual_seed(seed))


def _drawn(
    name: str, patch: tuple[int, ...], channels: int, wide_out: int, biased: bool, generator: torch.Generator
) -> Subject:
    # As convolutions are initialized: uniform within ±1/√I.
    wide_in = channels * math.prod(patch)
    bound = wide_in**-0.5
    weight = (torch.rand(wide_out, wide_in, generator=generator) * 2 - 1) * bound
    bias = (torch.rand(wide_out, generator=generator) * 2 - 1) * bound if biased else None
    return Subject(name, weight, bias, patch=patch)


def pointwise_of(checkpoint: Checkpoint, names: Sequence[str]) -> list[Subject]:
    """A file's pointwise Conv1d and Linear; of those with the same sizes the first.

    Args:
        checkpoint: The file.
        names: Names or globs; () for all pointwise Conv1d.

    Raises:
        CannotConvert: None of them is one.
        ConvInspectError: A name matches no layer, or numbers cannot be read.
    """
    chosen = select(find_layers(checkpoint), names, pointwise=not names)
    fit = [layer for layer in chosen if _is_pointwise(layer)]
    if not fit:
        problem = "none of these layers is a pointwise Conv1d or a Linear of real numbers"
        raise CannotConvert(problem, Wording("choose others with ", Option("layer", None)))
    return _distinct(fit, lambda layer: ())


def _is_pointwise(layer: Layer) -> bool:
    known = layer.kind in ("Conv1d", "Linear", TRANSFORMERS_CONV1D) and (layer.groups or 1) == 1
    return known and layer.weight.dtype not in COMPLEX and all(size == 1 for size in torch_shape(layer)[2:])


def patches_of(checkpoint: Checkpoint, names: Sequence[str], patch: tuple[int, ...]) -> list[Subject]:
    """A file's convolutions that cut patches, or the Linears in their place; of those with the same sizes the first.

    Args:
        checkpoint: The file.
        names: Names or globs; () for all that are known to cut patches or named so.
        patch: Kernel size of the convolution in whose place a Linear is; () for convolutions alone.

    Raises:
        CannotConvert: None of them is one.
        ConvInspectError: A name matches no layer, or numbers cannot be read.
    """
    layers = find_layers(checkpoint)
    exact = exactly_named(layers, names)
    fit, reasons = [], []
    for layer in select(layers, names, everything=bool(names)):
        is_named = layer.name in exact
        why = _why_not(as_linear(layer) if patch and is_named else layer, is_named, patch)
        if why is None:
            fit.append(as_linear(layer) if is_named else layer)
        else:
            reasons.append(Wording(f"{layer.name or '(root)'}: ", why))
    if not fit and names:
        raise CannotConvert(reasons[0])
    if not fit:
        what = "no Linear is named as a patch embedding" if patch else "no convolution is known to cut patches"
        raise CannotConvert(f"{what}, by its settings or its name", Wording("name one with ", Option("layer", None)))
    return _distinct(fit, lambda layer: layer.kernel_size or patch)


def _why_not(layer: Layer, is_named: bool, patch: tuple[int, ...]) -> str | Wording | None:
    """Why a layer cannot be run both as a convolution that cuts patches and as a Linear over them; None if it can."""
    if layer.weight.dtype in COMPLEX:
        return "its numbers are complex"
    if layer.kind in CONVOLUTIONS:
        if patch:
            return Wording("it is a convolution, whose kernel the file has; leave out ", Option("patch", None))
        return "its kernel size is 1" if layer.pointwise else obstacle(layer, is_named, patches=True)
    if layer.kind != "Linear" or not patch:
        remedy = Wording("; a Linear over patches needs their size, ", Option("patch", "16x16"))
        said = f"it is of kind {layer.kind}, and no convolution that cuts patches"
        return Wording(said, remedy) if layer.kind == "Linear" else said
    if not is_named and not says_patches(layer.name):
        return "its name does not say that it multiplies patches"
    if layer.weight.shape[1] % math.prod(patch):
        sizes = "×".join(map(str, patch))
        return f"its {layer.weight.shape[1]:,} columns are no multiple of the {math.prod(patch):,} of a patch {sizes}"
    return None


def _distinct(layers: Iterable[Layer], patch_of: Callable[[Layer], tuple[int, ...]]) -> list[Subject]:
    same_sizes: dict[tuple[object, ...], list[Layer]] = {}
    for layer in layers:
        same_sizes.setdefault((layer.weight.shape, layer.bias is None), []).append(layer)
    return [_subject(first, len(others), patch_of(first)) for first, *others in same_sizes.values()]


def _subject(layer: Layer, alike: int, patch: tuple[int, ...]) -> Subject:
    weight, bias = weight_and_bias(layer)
    weight = weight.float()
    matrix = weight.T.contiguous() if layer.kind == TRANSFORMERS_CONV1D else weight.flatten(1)
    assumed = bool(patch) and layer.kind in CONVOLUTIONS and layer.stride is None
    return Subject(layer.name or "(root)", matrix, None if bias is None else bias.float(), alike, patch, assumed)
