"""What the whole file says about layers that are ambiguous by themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from convinspect.checkpoint import Checkpoint
from convinspect.kinds import GPT2_NAMES, last_word
from convinspect.layers import kernels
from convinspect.layers.by_shape import Context, orientation
from convinspect.layers.layouts import layout_by_kernels
from convinspect.layers.scales import may_need_scales
from convinspect.layouts import KnownFrom, Layout, Maker
from convinspect.records import Tensor

_BIASES = ("bias", "bias_orig", "parametrizations.bias.original")


class Group(NamedTuple):
    """Tensors of one module, by what follows its name in their keys."""

    name: str
    tensors: Mapping[str, Tensor]

    def key(self, leaf: str) -> str:
        """The whole key of one of its tensors, without wrappers' prefixes."""
        return f"{self.name}.{leaf}" if self.name and leaf else self.name or leaf


def context_of(groups: Sequence[Group], said: Layout | None = None) -> Context:
    """Collect evidence from the whole file for layers that are ambiguous by themselves.

    Args:
        groups: All modules' tensors.
        said: Whose layout the weights have, where the file itself says so.
    """
    transposed = gpt2_is_linear = coded = linear = False
    named = paddle = torch = False
    modules = {group.name: group.tensors for group in groups}
    shapes: list[tuple[int, ...]] = []
    fewest = 5 if said is None else 3
    for group in groups:
        weight = group.tensors.get("weight")
        if weight is None:
            named = named or kernels.is_kernel_module(group.tensors)
            continue
        coded = coded or may_need_scales(weight)
        if len(weight.shape) == 2:
            lies = orientation(group.name, weight, bias_of(group.tensors))
            transposed |= lies == "transposed"
            linear |= lies == "linear"
            gpt2_is_linear |= lies == "linear" and last_word(group.name) in GPT2_NAMES
            torch |= "bias" in group.tensors
            continue
        torch = True
        if len(weight.shape) >= fewest:
            shapes.append(weight.shape)
        elif len(weight.shape) == 1:
            paddle = paddle or ("_mean" in group.tensors and "_variance" in group.tensors)
    layout = layout_by_kernels(shapes, said) if shapes else said
    if paddle and layout is None and not linear:
        layout = Layout(Maker.PADDLE, KnownFrom.NAMES)
    elif named and layout is None and not torch:
        # TensorFlow keeps an embedding's `weight` beside kernels.
        layout = kernels.LAYOUT
    if layout is not None and layout.maker is Maker.PADDLE:
        # All its matrices are (in, out), whatever they are called.
        transposed, gpt2_is_linear = False, True
    return Context(transposed, gpt2_is_linear, modules, coded, {}, layout, _frozen(modules.get("", {})))


_SAY_IN_OUT = (*GPT2_NAMES, "kernel", "_mean")
"""Parts of the names without which no square matrix of a file is read as (in, out), unless its kernels say so."""


def may_lie_in_out(checkpoint: Checkpoint) -> bool:
    """Whether some square matrix may be read as (in, out): False where no class, layout, name or kernel says so."""
    if checkpoint.modules or checkpoint.layout is not None:
        return True
    names = "\n".join(checkpoint.tensors)
    if any(part in names for part in _SAY_IN_OUT):
        return True
    return any(len(tensor.shape) > 4 for tensor in checkpoint.tensors.values())


def _frozen(root: Mapping[str, Tensor]) -> frozenset[tuple[int, ...]]:
    """Shapes of the integer weights that `convert_pt2e` keeps beside the float ones that it made them of."""
    if "_frozen_param0" not in root:
        return frozenset()
    return frozenset(
        tensor.shape for leaf, tensor in root.items() if leaf.startswith("_frozen_param") and may_need_scales(tensor)
    )


def bias_of(tensors: Mapping[str, Tensor]) -> Tensor | None:
    """A module's bias, or the tensor that it is computed from."""
    for leaf in _BIASES:
        if leaf in tensors:
            return tensors[leaf]
    return None
