"""Why a layer of a kind to convert cannot be converted, and what a user can do about it."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from types import MappingProxyType
from typing import NamedTuple

from convinspect.errors import Option, Wording
from convinspect.formats.torch.wrappers import is_dtensor, is_wrapped
from convinspect.kinds import CONV_TRANSPOSES, CONVOLUTIONS, RECURRENT, is_in_out
from convinspect.layouts import Layout, Maker, same_order, torch_shape
from convinspect.records import Doubt, Layer, Tensor, contiguous

_LOOK_ALIKES = frozenset(
    {
        Doubt.MAY_BE_TRANSPOSED,
        Doubt.SQUARE_MAY_BE_LINEAR,
        Doubt.MAY_BE_LINEAR,
        Doubt.LINEAR_OR_EMBEDDING,
        Doubt.WITHIN_EMBEDDING,
    }
)
"""Doubts about what a matrix is; each is reason enough to leave a layer that the user did not name."""


class Held(NamedTuple):
    """A tensor that should follow its weight and cannot: a Tensor subclass around others.

    Attributes:
        tensor: State of an optimizer, or a copy of the weight.
        role: Its root's.
    """

    tensor: Tensor
    role: str


class Writing(NamedTuple):
    """What the way of writing asks of the layers that change.

    Attributes:
        plain: The root is saved as a plain state_dict, so that of a tensor only its numbers count.
        held: What cannot follow its weight, by the weight's stored key.
    """

    plain: bool = False
    held: Mapping[str, Held] = MappingProxyType({})


REWRITTEN = Writing()
"""The source's file with another header."""


def wrapper_obstacle(layer: Layer, writing: Writing) -> str | None:
    """Why a layer must stay that has a Tensor subclass around other tensors, or whose state or copy is one; or None.

    A new outer shape alone would contradict what the subclass keeps: the shapes of its tensors, a DTensor's `_spec`.
    """
    for leaf, tensor in layer.tensors.items():
        if is_wrapped(tensor) and not (writing.plain and tensor.layout == "strided"):
            return _why_wrapped(f"its {leaf or 'tensor'}", tensor)
        if tensor.key in writing.held:
            return _why_held(writing.held[tensor.key])
    return None


def _why_wrapped(what: str, tensor: Tensor) -> Wording:
    if is_dtensor(tensor) and tensor.layout == "strided":
        reason = f"{what} is a DTensor, which keeps its shape in other places too; "
        return Wording(reason, Option("state_dict"), " writes plain tensors instead")
    if is_dtensor(tensor):
        held = f", of which this file holds {tensor.parts[0].shape}" if tensor.parts else ""
        return Wording(f"{what} is a DTensor{held}; save whole tensors (get_model_state_dict, full_state_dict=True)")
    reason = f"{what} is {tensor.subclass}, a subclass around other tensors, which would keep their shapes"
    return Wording(f"{reason}; convert the model before it is wrapped")


def _why_held(held: Held) -> Wording:
    what, kept = f"{held.tensor.subclass}, a subclass around other tensors", held.tensor.key
    if held.role == "optimizer":
        return Wording(f"its optimizer state {kept} is {what}; ", Option("drop_optimizer"), " leaves all state out")
    return Wording(f"its copy {kept} is {what}; ", Option("state_dict"), " writes the weights alone")


def obstacle(
    layer: Layer, exact: bool, to: str | None = None, globbed: bool = False, patches: bool = False
) -> str | None:
    """Why a layer of a kind to convert must stay unchanged, or None.

    Args:
        layer: Any.
        exact: The user named this very layer.
        to: The kind that it is to become; None when the shapes come from another checkpoint.
        globbed: The user gave a glob that names it, which settles whether it is a Linear or an Embedding, and no more.
        patches: A convolution is to become the Linear over its flattened patches.
    """
    if layer.norm == "parametrized":
        return "its weight is computed by a parametrization that is not known here"
    if _has_norm_over_kernel(layer):
        return f"its {(layer.norm or '').replace('_', ' ')} is taken along a dimension of the kernel, which would go"
    if layer.weight.layout.startswith("sparse"):
        return f"its weight is {layer.weight.layout}, whose indices would have to change too"
    if Doubt.SUPERSEDED in layer.doubts and not exact:
        return unless_named(Doubt.SUPERSEDED.value, layer.name)
    if layer.layout is not None:
        foreign = _layout_obstacle(layer, layer.layout, exact)
        if foreign is not None:
            return foreign
    if layer.norm not in (None, "pruned") and to is not None and is_in_out(layer.kind) != is_in_out(to):
        norm = (layer.norm or "").replace("_", " ")
        return f"its weight is under {norm}, whose dimension and vectors are not those of the transpose"
    if layer.kind in CONV_TRANSPOSES:
        return transposed_obstacle(layer)
    if layer.kind in CONVOLUTIONS:
        return patch_obstacle(layer, exact) if patches else _conv_obstacle(layer, exact, to)
    # An Embedding has no LoRA pair of these names.
    if layer.evidence == "ambiguous" and not exact and not layer.low_rank:
        doubt = next((doubt for doubt in layer.doubts if doubt in _LOOK_ALIKES), None)
        if globbed and doubt is Doubt.LINEAR_OR_EMBEDDING:
            return None
        reason = "it is ambiguous" if doubt is None else doubt.sentence(layer.weight, layer.bias)
        if layer.tied_to:
            return converted_together(layer, reason)
        return unless_named(reason, layer.name)
    return None


def _layout_obstacle(layer: Layer, layout: Layout, exact: bool) -> str | None:
    """Why a layer in another library's layout stays unchanged, or None."""
    maker = layout.maker
    if not same_order(maker):
        if maker is Maker.PADDLE:
            reason = "in Paddle's layout a Linear is (in, out), a convolution (out, in, …), so the numbers would move; "
            return Wording(reason, Option("like", None), " a PyTorch checkpoint gives PyTorch's shapes")
        return f"{maker.value}'s sparse convolutions have no Linear in their place"
    if layer.weight.stride != contiguous(layer.weight.shape):
        return f"its numbers do not lie in the order of {maker.value}'s layout"
    if not layout.known_from.sure and not exact:
        doubt = f"it would be taken for {maker.value}'s layout, {layout.known_from.value}"
        return unless_named(doubt, layer.name, "if that is so")
    return None


def _has_norm_over_kernel(layer: Layer) -> bool:
    """Whether its norm is taken along a dimension that a conversion adds or removes, so that its parts would not fit.

    Weight norm's g (1, 1, k) for a v (O, I, k) has one number for each place in the kernel.
    """
    if layer.norm == "spectral_norm":
        return bool(layer.norm_dims) and min(layer.norm_dims) > 1
    if layer.norm != "weight_norm":
        return False
    g = layer.tensors.get("weight_g") or layer.tensors.get("parametrizations.weight.original0")
    ones = g is not None and len(g.shape) == len(layer.weight.shape) and g.shape[:2] == (1, 1)
    return ones and 1 not in layer.weight.shape[:2]


def converted_together(layer: Layer, reason: str) -> Wording:
    """A reason that does not count where a user names the layer and all that it is tied to, and how to name them.

    Args:
        layer: Tied to others.
        reason: Why it is left.
    """
    tied = (layer.name, *(key.rpartition(".")[0] for key in layer.tied_to))
    options = [part for name in tied for part in (" ", Option("layer", name))]
    return Wording(f"tied to {layer.tied_to[0]}, and {reason};", *options, " converts them together")


def unless_named(reason: str, name: str, outcome: str = "to convert it anyway") -> Wording:
    """A reason that does not apply to a layer that the user names, and how to name it.

    Args:
        reason: Why the layer is left unchanged.
        name: The layer.
        outcome: When or why to name it, which ends the sentence.
    """
    return Wording(reason, "; name it with ", Option("layer", name or "."), " ", outcome)


def _conv_obstacle(layer: Layer, exact: bool, to: str | None) -> str | None:
    if Doubt.MAY_BE_CONV_TRANSPOSE in layer.doubts and not exact:
        doubt = Doubt.MAY_BE_CONV_TRANSPOSE.sentence(layer.weight, layer.bias)
        return unless_named(doubt, layer.name)
    if not layer.pointwise:
        reason = f"its kernel size is {_sizes(layer)}, not 1"
        return Wording(f"{reason}; ", Option("patches"), " takes it") if layer.patch and to == "Linear" else reason
    if layer.groups is not None and layer.groups > 1:
        reason = f"it has groups={layer.groups}, so its kernel is not a full matrix"
        if to is None or not expandable(layer):
            return reason
        linear = () if to == "Linear" else (Option("to", "linear"), " ")
        return Wording(reason, "; ", *linear, Option("groups", "expand"), " makes it one")
    moves = _strides_and_pads(layer)
    if moves is not None:
        return moves
    of_calls = [one for one in (Doubt.MAY_BE_PADDED, Doubt.CALLS_DIFFER) if one in layer.doubts]
    if of_calls and not exact:
        return unless_named(of_calls[0].value, layer.name)
    first, second = torch_shape(layer)[:2]
    # A low-rank pair's rank tells that its second half has no groups.
    if layer.groups is None and second == 1 and first > 1 and not (exact or layer.low_rank):
        reason = f"{layer.weight.shape} reads as depthwise (groups={first})"
        return unless_named(reason, layer.name, "if its groups are 1")
    return None


def transposed_obstacle(layer: Layer) -> str | None:
    """Why a transposed convolution is no Linear; None if it is one, whose weight is stored as (in, out)."""
    if layer.layout is not None:
        return f"a {layer.kind} in {layer.layout.maker.value}'s layout is not converted"
    if layer.groups is not None and layer.groups > 1:
        return f"it has groups={layer.groups}, so its kernel is not a full matrix"
    if layer.patch:
        numbers = prod(layer.kernel_size)
        how = f"a Linear of weight.flatten(1).T and bias.repeat_interleave({numbers}), each row then cut into its patch"
        return f"its stride is its kernel size {_sizes(layer)}: it is {how}; a bias of another size is not written"
    if any(size != 1 for size in layer.kernel_size):
        larger = (
            "" if layer.stride is not None else "; of larger kernels no transposed convolution is written as a Linear"
        )
        return f"its kernel size is {_sizes(layer)}, not 1{larger}"
    moves = _strides_and_pads(layer)
    if moves is None and not layer.pointwise:
        return "it has output_padding, so it gives positions that none of its input is behind"
    return moves


def patch_obstacle(layer: Layer, exact: bool) -> str | None:
    """Why a convolution of a larger kernel is not, or not surely, a Linear over patches; None if it is.

    Args:
        layer: Its `patch` tells that it is, where this is known.
        exact: The user named it, so that what the file does not record is as it must be.
    """
    if Doubt.MAY_BE_CONV_TRANSPOSE in layer.doubts and not exact:
        return unless_named(Doubt.MAY_BE_CONV_TRANSPOSE.sentence(layer.weight, layer.bias), layer.name)
    if layer.patch:
        return None
    kernel = layer.kernel_size
    if layer.stride is not None and layer.stride != kernel:
        step = f"its stride is {_numbers(layer.stride)}"
        return f"{step}, not its kernel size {_sizes(layer)}, so its windows are no patches"
    if Doubt.PADDED in layer.doubts:
        return Doubt.PADDED.value
    if layer.padding == "same" or (isinstance(layer.padding, tuple) and any(layer.padding)):
        return f"it has padding={_numbers(layer.padding)}, so its patches do not begin where its input does"
    if layer.dilation is not None and any(n != 1 and k != 1 for n, k in zip(layer.dilation, kernel, strict=True)):
        return f"it has dilation={_numbers(layer.dilation)}, so a kernel does not cover a patch"
    if layer.groups is not None and layer.groups > 1:
        return f"it has groups={layer.groups}, so its kernel is not a full matrix"
    if exact:
        return None
    of_calls = [one for one in (Doubt.MAY_BE_PADDED, Doubt.CALLS_DIFFER) if one in layer.doubts]
    if of_calls:
        return unless_named(of_calls[0].value, layer.name)
    unknown = "stride is" if layer.stride is None else "padding, dilation and groups are"
    reason = f"its {unknown} not recorded, so it may not be a Linear over patches of {_sizes(layer)}"
    return unless_named(reason, layer.name, "if it is")


def _sizes(layer: Layer) -> str:
    return "×".join(map(str, layer.kernel_size))


def expandable(layer: Layer) -> bool:
    """Whether it is a grouped pointwise convolution that can be expanded to Linear.

    Not with weight norm, whose g belongs to the small kernel.
    """
    grouped = layer.pointwise and layer.groups is not None and layer.groups > 1
    return grouped and layer.norm is None and _strides_and_pads(layer) is None


def _strides_and_pads(layer: Layer) -> str | None:
    """Why a convolution's stride or padding prevents the conversion, or None."""
    if Doubt.PADDED in layer.doubts:
        return Doubt.PADDED.value
    if layer.stride is not None and any(step != 1 for step in layer.stride):
        return f"it has stride={_numbers(layer.stride)}, which a change of shape alone does not carry over"
    if layer.padding is not None and (layer.padding != "same" and layer.padding != "valid") and any(layer.padding):
        return f"it has padding={_numbers(layer.padding)}, which a change of shape alone does not carry over"
    return None


def _numbers(value: tuple[int, ...] | str) -> str:
    return str(value[0]) if len(value) == 1 else str(value)


def reader(layer: Layer, attention: frozenset[str]) -> str | None:
    """Which module of PyTorch reads a Linear's weight without calling the layer, and so needs it unchanged.

    Args:
        layer: Any.
        attention: Names of the layers that are a MultiheadAttention.
    """
    parent, _, leaf = layer.name.rpartition(".")
    if layer.kind != "Linear":
        return None
    if leaf == "out_proj" and parent in attention:
        return f"{parent} looks like a MultiheadAttention, which reads this weight without calling the layer"
    encoder = f"{parent}.self_attn".lstrip(".")
    if leaf in ("linear1", "linear2") and encoder in attention:
        return (
            f"{parent or 'its model'} looks like a TransformerEncoderLayer, which reads this weight without calling it"
        )
    return None


def why_not(layer: Layer) -> str:
    """Why a layer is left that looks like a kind to convert, and is of another."""
    if layer.kind == "Embedding" and layer.evidence != "module":
        return unless_named("it looks like an Embedding by its name", layer.name, "if it is a Linear")
    if layer.kind in ("MultiheadAttention", *RECURRENT):
        return f"a {layer.kind} computes with its packed weights directly; no conversion fits it"
    if layer.kind in CONV_TRANSPOSES and (why := transposed_obstacle(layer)) is not None:
        return why
    if layer.notes:
        return f"{layer.kind}: {layer.notes[0]}"
    return f"a {layer.kind} is neither a pointwise convolution nor a Linear"
