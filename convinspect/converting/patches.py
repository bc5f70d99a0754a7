"""Convolutions that cut patches, and the Linear over the flattened patches: which become the other, by which edits.

Where a convolution's stride is its kernel size, without padding, dilation and groups, each number of its input is met
once. Its weight (O, I, kh, kw) is then the weight (O, I·kh·kw) of a Linear over the patches, flattened in the order
(channel, row, column) as `torch.nn.functional.unfold` gives them: the same numbers in the same order, by the formulas
in the documentation of `torch.nn.Conv2d` and `torch.nn.Linear`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from convinspect.converting.adapters import halves_on
from convinspect.converting.decisions import Conversion, Refusal
from convinspect.converting.eligibility import Writing, obstacle, unless_named, why_not, wrapper_obstacle
from convinspect.converting.moving import LAST_ORDERS, channels_last_edit, moving_obstacle
from convinspect.converting.relations import viewed
from convinspect.errors import Option, Wording
from convinspect.kinds import CONV_TRANSPOSES, CONVOLUTIONS, option_of
from convinspect.layers.patches import is_patch_by_name, says_patches
from convinspect.layers.select import as_linear
from convinspect.records import Edit, Layer, Tensor
from convinspect.text import with_article

ORDERS = {1: "(c, l)", 2: "(c, h, w)", 3: "(c, t, h, w)"}
"""In which order a flattened patch has its numbers, by the number of its dimensions."""


class Wish(NamedTuple):
    """What is asked of one layer.

    Attributes:
        to: The kind that it is to become.
        kinds: Kinds to convert.
        patch: Kernel size of the new convolution; () for a Linear.
        in_channels: What the new convolution's channels must be; None for whatever they are.
        exact: The user named the layer.
        named: The user named layers, this one among them.
        half: It is half of a LoRA pair beside such a layer.
        writing: What the way of writing asks of it.
        last: The numbers of a patch have their channels last.
    """

    to: str
    kinds: Sequence[str]
    patch: tuple[int, ...]
    in_channels: int | None
    exact: bool
    named: bool
    half: bool
    writing: Writing
    last: bool = False


def patch_halves(layers: Sequence[Layer], exactly: frozenset[str]) -> frozenset[str]:
    """Names of the halves of LoRA pairs beside layers that multiply patches.

    Args:
        layers: All of the root.
        exactly: Names of the layers that the user named.
    """

    def fits(layer: Layer) -> bool:
        by_name = is_patch_by_name(layer) if layer.kernel_size else says_patches(layer.name)
        return layer.patch or layer.name in exactly or by_name

    return halves_on(layers, fits)


def is_second_half(layer: Layer, wish: Wish) -> bool:
    """Whether it is the half of a LoRA pair that sees no patches: a pointwise convolution, or what that becomes."""
    return wish.half and any(part in ("lora_B", "lora_up") for part in layer.name.split("."))


def decide_patches(layer: Layer, wish: Wish) -> Conversion | Refusal | None:
    """A conversion, a refusal to report, or None for a layer that is not asked for."""
    if layer.kind == wish.to:
        return Refusal(layer.name, f"already {wish.to}", done=True) if wish.named else None
    return _to_convolution(layer, wish) if wish.patch else _to_linear(layer, wish)


def _to_linear(layer: Layer, wish: Wish) -> Conversion | Refusal | None:
    asked = wish.named or wish.exact
    if layer.kind not in wish.kinds:
        return _other_kind(layer, wish) if asked else None
    if layer.pointwise:
        reason = Wording("its kernel size is 1; without ", Option("patches"), " it is converted")
        return Refusal(layer.name, reason) if asked else None
    if wish.half:
        layer = layer._replace(patch=True)
    why = obstacle(layer, wish.exact, wish.to, patches=True) or wrapper_obstacle(layer, wish.writing)
    why = why or _norm_obstacle(layer, wish.last) or _layout_obstacle(layer)
    if why is not None:
        return Refusal(layer.name, why)
    shape = layer.weight.shape
    return _converted(layer, wish, (shape[0], math.prod(shape[1:])), layer.kernel_size, _assumed(layer))


def _to_convolution(layer: Layer, wish: Wish) -> Conversion | Refusal | None:
    asked = wish.named or wish.exact
    told = wish.exact or wish.half or says_patches(layer.name)
    layer = as_linear(layer) if told else layer
    if layer.kind != "Linear":
        return _other_kind(layer, wish) if asked else None
    if not told:
        reason = unless_named("its name does not say that it multiplies patches", layer.name, "if it does")
        return Refusal(layer.name, reason) if asked else None
    settled = layer._replace(evidence="shape", doubts=())
    why = wrapper_obstacle(layer, wish.writing) or obstacle(settled, wish.exact, wish.to)
    why = why or _norm_obstacle(layer, wish.last) or _layout_obstacle(layer) or _misfit(layer, wish)
    if why is not None:
        return Refusal(layer.name, why)
    rows, columns = layer.weight.shape
    shape = (rows, columns // math.prod(wish.patch), *wish.patch)
    return _converted(layer, wish, shape, wish.patch, (_flattened(wish.patch, wish.last),))


def _converted(
    layer: Layer, wish: Wish, shape: tuple[int, ...], patch: tuple[int, ...], assumed: tuple[str, ...]
) -> Conversion | Refusal:
    """The conversion of a layer's weight to a shape, and of what the weight is computed from."""
    edits = []
    flat, orders = len(shape) == 2, LAST_ORDERS if wish.last else ORDERS
    for tensor in shaped(layer):
        # A norm's lengths have one number for each row.
        wanted = shape if tensor.shape == layer.weight.shape else (shape[0], *(1,) * (len(shape) - 1))
        if wish.last and wanted == shape:
            edit = channels_last_edit(tensor, patch, flat, strided=flat)
        else:
            seen = viewed(tensor, wanted)
            edit = None if seen is None else Edit(tensor, seen.shape, seen.stride)
        if edit is None:
            lies = f"its numbers lie with strides {tensor.stride}, not in the order {orders[len(patch)]} of a patch"
            return Refusal(layer.name, f"{lies}; save it again with contiguous tensors")
        why = moving_obstacle(tensor) if edit.moves_bytes and not wish.writing.plain else None
        if why is not None:
            return Refusal(layer.name, why)
        edits.append(edit)
    return Conversion(layer, wish.to, tuple(edits), assumed, patch=patch, last=wish.last)


def shaped(layer: Layer) -> list[Tensor]:
    """The layer's tensors that have the kernel's dimensions: its weight, and what the weight is computed from."""
    names = ("weight", "weight_v", "weight_g", "weight_orig", "weight_mask", "parametrizations.weight.original",
             "parametrizations.weight.original0", "parametrizations.weight.original1", "kernel")  # fmt: skip
    dims = len(layer.weight.shape)
    return [tensor for leaf, tensor in layer.tensors.items() if leaf in names and len(tensor.shape) == dims]


def _flattened(kernel: tuple[int, ...], last: bool) -> str:
    """What is assumed of the order that a Linear's inputs have: nothing in a file tells it."""
    return f"patches flattened as {(LAST_ORDERS if last else ORDERS)[len(kernel)]}"


def notes_on_order(conversions: Iterable[Conversion], plain: bool, given: bool) -> tuple[str, ...]:
    """Lines on numbers that change places, and on an order of them that is assumed.

    Args:
        conversions: All that are planned.
        plain: The root is saved as a plain state_dict, so that no format's strides count.
        given: The order was named, so that none is assumed.
    """
    every = [conversion for conversion in conversions if conversion.patch or conversion.last]
    lines = dict[str, None]()
    for conversion in every:
        flat = len(conversion.new_shape) == 2
        dims = len(conversion.old_shape if flat else conversion.new_shape) - 2
        orders = (ORDERS[dims], LAST_ORDERS[dims])
        moved = [edit for edit in conversion.edits if edit.moved is not None]
        if any(plain or edit.moves_bytes for edit in moved):
            there, here = orders if flat else orders[::-1]
            lines[f"the numbers of each kernel move: {there} to {here}"] = None
        elif moved:
            lines["no number moves: the kernels are channels-last, and the strides say so"] = None
        if not flat and not conversion.last and not given:
            other = Option("patch_order", "hwc")
            what = f"assumed order {orders[0]}, which nothing in a file tells; for {orders[1]}, as Siglip2 has, add "
            lines[Wording(what, other)] = None
    return tuple(lines)


def _assumed(layer: Layer) -> tuple[str, ...]:
    """Settings of a convolution that are assumed because the file does not record them."""
    settings = (
        ("stride as the kernel's size", layer.stride),
        ("padding 0", layer.padding),
        ("dilation 1", layer.dilation),
        ("groups 1", layer.groups),
    )
    dims = layer.norm_dims if layer.norm == "spectral_norm" and len(layer.norm_dims) > 1 else ()
    unknown = [what for what, value in settings if value is None]
    return (*unknown, *(f"spectral norm's dim {dim}" for dim in dims[:1]))


def patch_assumptions(before: Layer, after: Layer, last: bool = False) -> tuple[str, ...] | None:
    """What is assumed of a convolution over patches that became a Linear, or the reverse; None for all others.

    Args:
        before: The layer.
        after: What became of it.
        last: The numbers of a patch have their channels last.
    """
    flat = [layer for layer in (before, after) if len(layer.weight.shape) == 2]
    kernels = [layer for layer in (before, after) if layer.kind in CONVOLUTIONS and not layer.pointwise]
    if len(flat) != 1 or len(kernels) != 1:
        return None
    if kernels[0] is before:
        return (*_assumed(before), *((_flattened(before.kernel_size, last),) if last else ()))
    return (_flattened(kernels[0].kernel_size, last),)


def _norm_obstacle(layer: Layer, last: bool) -> str | None:
    """Why the parts of a norm would mean another one over a flattened kernel; None for one length for each row."""
    where = f"its {(layer.norm or '').replace('_', ' ')} is taken along its inputs, which another shape has otherwise"
    if layer.norm == "spectral_norm":
        return where if last or layer.norm_dims[:1] not in ((), (0,)) else None
    alike = (layer.weight.shape, (layer.weight.shape[0], *(1,) * (len(layer.weight.shape) - 1)))
    return None if all(tensor.shape in alike for tensor in shaped(layer)) else where


def _layout_obstacle(layer: Layer) -> str | None:
    if layer.layout is None:
        return None
    maker = layer.layout.maker.value
    return f"in {maker}'s layout the numbers of a kernel lie in another order than those of a patch in PyTorch"


def _misfit(layer: Layer, wish: Wish) -> str | None:
    """Why a patch does not multiply out, or gives other channels than the user says; None if it fits."""
    columns, numbers = layer.weight.shape[1], math.prod(wish.patch)
    sizes = "×".join(map(str, wish.patch))
    if columns % numbers or not columns:
        return f"its {columns:,} inputs are no multiple of {sizes}, the {numbers:,} positions of a patch"
    channels = columns // numbers
    if wish.in_channels not in (None, channels):
        return Wording(
            f"its {columns:,} inputs are {channels:,} channels of {sizes}, not ",
            Option("in_channels", wish.in_channels),
        )
    return None


def _other_kind(layer: Layer, wish: Wish) -> Refusal:
    if layer.kind in CONVOLUTIONS and not wish.patch:
        taken = Option("from_", option_of(layer.kind))
        return Refusal(layer.name, Wording(f"it is {with_article(layer.kind)}; ", taken, " takes it"))
    if layer.kind in CONV_TRANSPOSES and layer.pointwise:
        taken = Option("from_", option_of(layer.kind))
        return Refusal(
            layer.name, Wording("its kernel size is 1; without ", Option("patches"), " ", taken, " takes it")
        )
    if wish.patch and (layer.kind in CONVOLUTIONS or layer.kind.startswith("Conv1D")):
        return Refusal(layer.name, f"it is {with_article(layer.kind)}, and no Linear over patches")
    return Refusal(layer.name, why_not(layer))
