"""A live module → its counterpart of the other kind: what prevents a conversion, and how it is built."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.utils import parametrize

from convinspect.modules.patches import PatchLinear
from convinspect.modules.pointwise import (
    ChannelsFirstLinear,
    PointwiseConv1d,
    PointwiseConv2d,
    PointwiseConv3d,
    PointwiseLinear,
)
from convinspect.modules.state import carry, obstacle, stored_weight, transposing_obstacle
from convinspect.text import plural, with_article

CONVS: tuple[type[nn.modules.conv._ConvNd], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED: tuple[type[nn.modules.conv._ConvNd], ...] = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
POINTWISE = (PointwiseConv1d, PointwiseConv2d, PointwiseConv3d)
# The most special first.
_KNOWN: tuple[type[nn.Module], ...] = (*POINTWISE, *CONVS, *TRANSPOSED)
_READERS = (
    nn.MultiheadAttention,
    nn.Transformer,
    nn.TransformerDecoder,
    nn.TransformerDecoderLayer,
    nn.TransformerEncoder,
    nn.TransformerEncoderLayer,
)
"""PyTorch's layers that read their Linears' weights without calling them."""
_Kind = TypeVar("_Kind", bound=nn.Module)


def plain_class(module: nn.Module) -> type[nn.Module]:
    """The module's class without the subclass that a parametrization gives it."""
    return parametrize.type_before_parametrizations(module)


def is_transformers(module: nn.Module) -> bool:
    """Whether it is transformers' Conv1D. Decided by name: the class moved between versions, and importing it takes
    seconds.
    """
    cls = plain_class(module)
    return cls.__name__ == "Conv1D" and cls.__module__.startswith("transformers.")


def kind_of(module: nn.Module) -> str:
    """Its class's name; for a TorchScript module the name of the original class."""
    if isinstance(module, torch.jit.ScriptModule):
        return str(getattr(module, "original_name", type(module).__name__))
    return plain_class(module).__name__


def is_target(module: nn.Module, to: str) -> bool:
    """Whether a layer gets an answer where layers become "linear", "conv1d", "conv2d" or "conv3d": it is replaced, or
    there is a reason why not. Layers that are of that kind already get none.
    """
    if isinstance(module, torch.jit.ScriptModule):
        return kind_of(module) in {"Conv1d", "Conv2d", "Conv3d", "Linear"} - {to.capitalize()}
    if to == "linear":
        return isinstance(module, nn.modules.conv._ConvNd) or is_transformers(module)
    return isinstance(module, nn.Linear) or is_transformers(module) or _other_dims(module, to)


def _other_dims(module: nn.Module, to: str) -> bool:
    """Whether it is a convolution of another number of dimensions than `to`."""
    return isinstance(module, nn.modules.conv._ConvNd) and len(module.kernel_size) != int(to[4])


def reason_to_stay(module: nn.Module, parents: Iterable[nn.Module], to: str) -> str | None:
    """Why a chosen layer cannot be replaced where it is used, or None.

    Args:
        module: The layer.
        parents: The modules that hold it.
        to: As for `is_target`.
    """
    reason = scripted(module, parents)
    if reason is not None:
        return reason
    if to != "linear" and not isinstance(module, nn.Linear):
        return _no_linear(module, to)
    if isinstance(module, nn.modules.conv._ConvNd):
        reason = kernel_obstacle(module)
    elif isinstance(module, nn.Linear):
        reason = linear_obstacle(module, int(to[4])) or _reader(parents)
    else:
        reason = transformers_obstacle(module)
    reason = reason or obstacle(module, keep_hooks=True)
    return transposing_obstacle(module) if reason is None and is_turned(module) else reason


def is_turned(module: nn.Module) -> bool:
    """Whether its weight is turned over where it is replaced: (in, out, …) ↔ (out, in)."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return module.transposed
    return is_transformers(module) or (isinstance(module, PointwiseLinear) and module.transposed)


def scripted(module: nn.Module, parents: Iterable[nn.Module]) -> str | None:
    """That a layer, or what holds it, is TorchScript's, or None."""
    if isinstance(module, torch.jit.ScriptModule):
        return "it is a TorchScript module, which cannot be changed"
    if any(isinstance(parent, torch.jit.ScriptModule) for parent in parents):
        return "it belongs to a TorchScript module, which cannot be changed"
    return None


def _no_linear(module: nn.Module, to: str) -> str:
    """Why a layer does not become a convolution, which only a Linear does."""
    if isinstance(module, POINTWISE) or is_transformers(module):
        said = f"it is {with_article(kind_of(module))}, and only a Linear becomes a {to.capitalize()}"
        return f'{said}; to="linear" first'
    assert isinstance(module, nn.modules.conv._ConvNd)
    own, wanted = len(module.kernel_size), int(to[4])
    takes = f"its input has {plural(own, 'dimension')} of positions, and that of a {to.capitalize()} has {wanted}"
    return kernel_obstacle(module) or takes


def _reader(parents: Iterable[nn.Module]) -> str | None:
    for parent in parents:
        if isinstance(parent, _READERS):
            return f"its parent, {with_article(type(parent).__name__)}, reads its weight without calling it"
    return None


def kernel_obstacle(conv: nn.Module) -> str | None:
    """Why a convolution's kernel is not one matrix applied at each position, or None."""
    assert isinstance(conv, nn.modules.conv._ConvNd)
    if any(size != 1 for size in conv.kernel_size):
        return f"its kernel size is {'×'.join(map(str, conv.kernel_size))}, not 1"
    if conv.groups != 1:
        return f"it has groups={conv.groups}, so its kernel is not a full matrix"
    return (_transposed_obstacle(conv) if conv.transposed else None) or code_obstacle(conv)


def _transposed_obstacle(conv: nn.modules.conv._ConvNd) -> str | None:
    """What a transposed convolution of kernel size 1 does to positions, or None."""
    settings = {
        "stride": (1, "puts positions between those of its input"),
        "padding": (0, "cuts positions off"),
        "output_padding": (0, "adds positions"),
    }
    for name, (nothing, does) in settings.items():
        value = tuple(getattr(conv, name))
        if any(number != nothing for number in value):
            return f"it is a transposed convolution with {name}={once(value)}, which {does}"
    return None


def code_obstacle(conv: nn.Module) -> str | None:
    """What a convolution's class does beyond PyTorch's, or None."""
    return _own_code(plain_class(conv), next(known for known in _KNOWN if isinstance(conv, known)))


_HARMLESS = {
    "__init__", "__module__", "__qualname__", "__doc__", "__annotations__", "__firstlineno__", "__static_attributes__",
    "__dict__", "__weakref__", "__repr__", "__constants__", "__parameters__", "__orig_bases__", "__slots__",
    "__abstractmethods__", "__type_params__", "_abc_impl", "extra_repr", "reset_parameters",
}  # fmt: skip
"""What a subclass may define that changes no computation and that no other code needs."""


def _own_code(cls: type[nn.Module], base: type[nn.Module]) -> str | None:
    """What a subclass does beyond its base, or None if it only renames it."""
    for ancestor in cls.__mro__[: cls.__mro__.index(base)]:
        if issubclass(base, ancestor):
            continue
        own = sorted(set(vars(ancestor)) - _HARMLESS)
        if own and not ancestor.__module__.startswith("torch.nn.modules."):
            computes = {"forward", "_conv_forward", "__call__"}.intersection(own)
            does = "computes something of its own" if computes else f"has code of its own ({own[0]})"
            return f"its class {cls.__name__} {does}"
    return None


def transformers_obstacle(layer: nn.Module) -> str | None:
    """Why transformers' Conv1D cannot become a Linear, or None."""
    return obstacle(layer, keep_hooks=True) or transposing_obstacle(layer)


def position_obstacle(conv: nn.Module) -> str | None:
    """Stride or padding that a plain Linear cannot reproduce, or None."""
    assert isinstance(conv, nn.modules.conv._ConvNd)
    if any(step != 1 for step in conv.stride):
        return f"it has stride={once(conv.stride)}, which a Linear cannot do; a PointwiseLinear can"
    if any(padding_of(conv)):
        return f"it has padding={once(padding_of(conv))}, which a Linear cannot do; a PointwiseLinear can"
    return None


def once(value: tuple[int, ...]) -> str:
    """The numbers as text; a single number if all are equal."""
    return str(value[0]) if len(set(value)) == 1 else str(value)


def padding_of(conv: nn.modules.conv._ConvNd) -> tuple[int, ...]:
    """Positions that a convolution adds on both sides, in each dimension."""
    # "same" needs none for a kernel of size 1, and takes no stride but 1. "valid" means none.
    return (0,) * len(conv.kernel_size) if isinstance(conv.padding, str) else tuple(conv.padding)


def linear_obstacle(linear: nn.Module, dims: int) -> str | None:
    """Why a Linear cannot become a convolution of `dims` dimensions, or None."""
    cls = plain_class(linear)
    if cls not in (nn.Linear, PointwiseLinear):
        return f"its class {cls.__name__} may compute something of its own"
    if isinstance(linear, PointwiseLinear) and linear.dims != dims:
        kind = f"Conv{'Transpose' * linear.transposed}{linear.dims}d"
        return f"it stands for {with_article(kind)}, not a Conv{dims}d"
    return None


def build_counterpart(old: nn.Module, to: str, in_place_of: bool, memo: dict[int, nn.Parameter]) -> nn.Module:
    """A module of the other kind with the old one's state.

    Args:
        old: A module for which `reason_to_stay` is None.
        to: "linear", "conv1d", "conv2d" or "conv3d".
        in_place_of: It replaces `old`: takes and gives the same shapes, and takes over its hooks. Else both are kept.
        memo: As for `carry`.
    """
    dims = 0 if to == "linear" else int(to[4])
    new = _empty_linear(old, in_place_of) if dims == 0 else _empty_conv(old, dims, in_place_of)

    turned = is_turned(old) and (in_place_of or not isinstance(old, PointwiseLinear))

    def reshaped(tensor: torch.Tensor) -> torch.Tensor:
        if turned:
            # A contiguous copy, since safetensors and many kernels accept no transposed views.
            matrix = tensor.flatten(1).mT.contiguous()
            return matrix.reshape(*matrix.shape, *(1,) * dims)
        return tensor.flatten(1) if dims == 0 else tensor.reshape(*tensor.shape[:2], *(1,) * dims)

    carry(old, new, reshaped, memo, keep_both=not in_place_of)
    return new


def exposed(old: nn.Module) -> nn.Module:
    """A `PointwiseLinear` or `PatchLinear` as a module with a plain Linear inside, which has all its state."""
    assert isinstance(old, PointwiseLinear | PatchLinear)
    linear = empty_layer(nn.Linear, *_sizes(old))
    carry(old, linear, lambda tensor: tensor, {}, keep_both=False)
    positions = old.positions if isinstance(old, PointwiseLinear) else old.patches
    return ChannelsFirstLinear(linear, positions).train(old.training)


def _sizes(old: nn.Module) -> tuple[int, int]:
    """(in, out) of a layer whose kernel is one matrix."""
    shape = stored_weight(old).shape
    turned = is_turned(old) and not isinstance(old, PointwiseLinear)
    return (shape[0], shape[1]) if turned else (shape[1], shape[0])


def _empty_linear(old: nn.Module, in_place_of: bool) -> nn.Module:
    wide_in, wide_out = _sizes(old)
    if not in_place_of or not isinstance(old, nn.modules.conv._ConvNd) or isinstance(old, POINTWISE):
        return empty_layer(nn.Linear, wide_in, wide_out)
    return empty_layer(
        PointwiseLinear,
        wide_in,
        wide_out,
        dims=len(old.kernel_size),
        stride=old.stride,
        padding=padding_of(old),
        dilation=old.dilation,
        padding_mode=old.padding_mode,
        transposed=old.transposed,
    )


def _empty_conv(old: nn.Module, dims: int, in_place_of: bool) -> nn.Module:
    wide_in, wide_out = _sizes(old)
    if isinstance(old, PointwiseLinear) and old.transposed and in_place_of:
        return empty_layer(TRANSPOSED[dims - 1], wide_in, wide_out, 1, dilation=old.dilation)
    if isinstance(old, PointwiseLinear):
        kept = {name: getattr(old, name) for name in ("stride", "padding", "dilation", "padding_mode")}
        return empty_layer(CONVS[dims - 1], wide_in, wide_out, 1, **kept)
    return empty_layer((POINTWISE if in_place_of else CONVS)[dims - 1], wide_in, wide_out, 1)


def empty_layer(cls: type[_Kind], *sizes: Any, **options: Any) -> _Kind:
    """A layer with settings and no state; `carry` gives it its parameters, including the bias."""
    undrawn: Any = _undrawn
    module: _Kind = undrawn(cls)(*sizes, bias=False, device="meta", **options)
    module.__class__ = cls
    return module


@functools.cache
def _undrawn(cls: type[nn.Module]) -> type[nn.Module]:
    """A subclass that does not initialize parameters, which is the most expensive step even on the meta device."""
    return type(cls.__name__, (cls,), {"reset_parameters": lambda self: None})
