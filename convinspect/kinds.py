"""What layers are called: PyTorch's class names, and the few of other libraries that are read too."""

from __future__ import annotations

from collections.abc import Collection

TRANSFORMERS_CONV1D = "Conv1D (transformers)"
"""transformers' `Conv1D`: a Linear whose weight is stored as (in, out)."""

MULTIPLIED = "in × out"
"""The tag of a matrix that is (in, out) as a graph's code shows, which may come from any class: it is no `Conv1D`."""

CONVOLUTIONS = ("Conv1d", "Conv2d", "Conv3d")
CONV_TRANSPOSES = ("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")
"""Their weights are stored as (in, out, kernel…)."""
RECURRENT = tuple(f"{kind}{cell}" for kind in ("LSTM", "GRU", "RNN") for cell in ("", "Cell"))
"""Kinds that step through a sequence, with and without layers of their own."""

_QUANTIZED = ("Linear (quantized)", "Conv (quantized)")
QUANTIZED_EMBEDDING = "Embedding (quantized)"
QUANTIZED = (*_QUANTIZED, QUANTIZED_EMBEDDING)
"""Kinds whose numbers need scales that are stored beside them."""

DENSE_GENERAL = "DenseGeneral"
"""Flax's Linear over several axes, Keras's EinsumDense."""
DEPTHWISE = "DepthwiseConv{}d"
"""Keras's depthwise convolution of so many dimensions, whose kernel is (kernel…, in, kernels a channel)."""

LISTED = (
    *CONVOLUTIONS,
    *CONV_TRANSPOSES,
    "Linear",
    TRANSFORMERS_CONV1D,
    *_QUANTIZED,
    DENSE_GENERAL,
    *(DEPTHWISE.format(dims) for dims in (1, 2, 3)),
    *(f"SeparableConv{dims}d" for dims in (1, 2)),
    "MultiheadAttention",
    "Parametrized",
    "Incomplete",
    "Empty",
)
"""Kinds that a listing shows by default: all that hold, or may hold, a convolution's or a Linear's matrix."""

EXTRA_DIMS = {"Linear": 0, **{kind: int(kind[-2]) for kind in (*CONVOLUTIONS, *CONV_TRANSPOSES)}}
"""Dimensions of size 1 that a pointwise weight of each kind has after (out, in), or (in, out)."""

KIND_OF_RANK = {2: "Linear", 3: "Conv1d", 4: "Conv2d", 5: "Conv3d"}
"""A pointwise weight's number of dimensions → its kind."""

KINDS = ("Linear", *CONVOLUTIONS, TRANSFORMERS_CONV1D)
"""Kinds that may become each other; a transposed convolution only where it is pointwise (`may_change`)."""

TARGETS = {kind.lower(): kind for kind in ("Linear", *CONVOLUTIONS, *CONV_TRANSPOSES)}
"""What a user may ask layers to become → kinds."""

GPT2_NAMES = {"c_attn", "c_proj", "c_fc", "q_attn"}
"""Names by which GPT-2 calls its `Conv1D` layers."""


def may_change(kind: str, pointwise: bool) -> bool:
    """Whether a layer of this kind may become one of another; `pointwise`: its kernel has one position."""
    return kind in KINDS or (pointwise and kind in CONV_TRANSPOSES)


def is_in_out(kind: str) -> bool:
    """Whether weights of this kind are stored as (in, out, …)."""
    return kind == TRANSFORMERS_CONV1D or kind in CONV_TRANSPOSES


def option_of(kind: str) -> str:
    """What a user calls a kind: "conv1d", "linear", "transformers"."""
    return "transformers" if kind == TRANSFORMERS_CONV1D else kind.lower()


def shown_kind(kind: str, tags: Collection[str]) -> str:
    """A layer's kind for people: a matrix that only lies as transformers' `Conv1D` does is not called so."""
    return "Linear (in, out)" if kind == TRANSFORMERS_CONV1D and MULTIPLIED in tags else kind


def last_word(name: str) -> str:
    """The last part of a dotted name that is not a number."""
    last = name.rpartition(".")[2]
    if last and not last.isdigit():
        return last
    return next((part for part in reversed(name.split(".")) if part and not part.isdigit()), "")


_STAND_INS = ("convinspect.modules.pointwise", "convinspect.pointwise")
"""The module of `convinspect.modules`' classes, and where it was when older models were pickled."""


def is_stand_in(class_name: str, name: str) -> bool:
    """Whether a class in a file is one of ours that stands in for a layer, as "PointwiseLinear".

    Args:
        class_name: With its module, as the file has it.
        name: Of our class.
    """
    return class_name in [f"{module}.{name}" for module in _STAND_INS]
