"""What PyTorch says of a live module, against what is said of it from its file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from convinspect.records import Layer

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NAMED = (
    *CONVS, *TRANSPOSED, nn.Linear, nn.Embedding, nn.EmbeddingBag, nn.MultiheadAttention, nn.RNN, nn.LSTM, nn.GRU,
    nn.RNNCell, nn.LSTMCell, nn.GRUCell,
)  # fmt: skip
"""Classes whose kind a listing names."""


def kind_of(module: nn.Module) -> str:
    """PyTorch's own class that a module is of."""
    return next(cls.__name__ for cls in type(module).__mro__ if cls in NAMED)


def named_modules(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules that must be listed, each name of a shared one too."""
    for name, part in module.named_modules(remove_duplicate=False):
        if isinstance(part, NAMED):
            yield name, part


def is_plain_pointwise(module: nn.Module) -> bool:
    """Whether a convolution is a Linear in another shape: kernel size 1 and nothing else."""
    if not isinstance(module, CONVS):
        return False
    usual = (set(module.kernel_size), set(module.stride), module.groups) == ({1}, {1}, 1)
    return usual and (module.padding in ("same", "valid") or set(module.padding) == {0})


def is_pointwise_transposed(module: nn.Module | None) -> bool:
    """Whether a transposed convolution is a Linear whose weight lies as (in, out)."""
    if not isinstance(module, TRANSPOSED):
        return False
    usual = (set(module.kernel_size), set(module.stride), module.groups) == ({1}, {1}, 1)
    return usual and {*module.padding, *module.output_padding} == {0}


def is_sure(layer: Layer) -> bool:
    """Whether the kind is said without a doubt; a name that says Linear is no doubt of ours, and no proof either."""
    return layer.evidence == "module" or (layer.evidence == "shape" and not layer.doubts)


def wrong_claims(layer: Layer, module: nn.Module) -> list[str]:
    """What is said of a layer, as a fact, and is not so."""
    kind = kind_of(module)
    if not is_sure(layer) or "quantized" in layer.kind:
        return []
    if layer.kind != kind:
        return [] if _may_be(layer, kind, module) else [f"kind {layer.kind}, is {kind}"]
    return [
        f"{name} {said}, is {true}"
        for name, said, true in _settings(layer, module)
        if said is not None and said != true and not _may_be_said(layer, name, said, module)
    ]


def _may_be_said(layer: Layer, name: str, said: Any, module: Any) -> bool:
    """Whether a setting is the true one in other words, or was said to be taken for granted."""
    if name == "padding":
        return bool(said == _padding(module))
    return name == "in_width" and _assumes_groups(layer, module)


def _padding(module: Any) -> tuple[int, ...] | None:
    """ "same" in numbers, where it is as much on both sides."""
    totals = [step * (size - 1) for step, size in zip(module.dilation, module.kernel_size, strict=True)]
    if module.padding != "same" or any(total % 2 for total in totals):
        return None
    return tuple(total // 2 for total in totals)


def _may_be(layer: Layer, kind: str, module: Any) -> bool:
    """Whether no file of shapes could tell, and the listing says what it took for granted."""
    if "assumed" in layer.tags:
        alike = layer.kind.replace("Transpose", "") == kind.replace("Transpose", "")
        square = layer.weight.shape[0] == layer.weight.shape[1]
        return alike and (layer.bias is None or square or module.groups > 1)
    return {layer.kind, kind} == {"Embedding", "EmbeddingBag"} or layer.kind == f"Parametrized{kind}"


def _assumes_groups(layer: Layer, module: nn.Module) -> bool:
    return "assumed" in layer.tags and getattr(module, "groups", 1) > 1


def _settings(layer: Layer, module: nn.Module) -> Iterator[tuple[str, Any, Any]]:
    """Each setting as it is said and as it is."""
    if isinstance(module, nn.Linear):
        yield "in_width", layer.in_width, module.in_features
        yield "out_width", layer.out_width, module.out_features
        yield "bias", layer.bias is not None, module.bias is not None
    if isinstance(module, (*CONVS, *TRANSPOSED)):
        yield "in_width", layer.in_width, module.in_channels
        yield "out_width", layer.out_width, module.out_channels
        yield "bias", layer.bias is not None, module.bias is not None
        yield "kernel_size", layer.kernel_size, module.kernel_size
        yield "pointwise", layer.pointwise, _is_pointwise(layer, module)
        for name in ("stride", "padding", "dilation", "groups"):
            yield name, getattr(layer, name), getattr(module, name)


def _is_pointwise(layer: Layer, module: Any) -> bool:
    """Whether its kernel has one position; a transposed one must give a result for each of its input too, and no more,
    unless this is assumed.
    """
    if set(module.kernel_size) != {1}:
        return False
    if isinstance(module, CONVS):
        return True
    known = set(module.stride) == {1} and not any(module.output_padding)
    return known or ("assumed" in layer.tags and layer.pointwise)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Same shape, dtype and bits."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.is_quantized:
        return torch.equal(a.int_repr(), b.int_repr())
    return torch.equal(_bits(a), _bits(b))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8) if flat.numel() else flat
