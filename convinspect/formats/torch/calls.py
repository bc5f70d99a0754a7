"""What the calls of operators in a program's code say of the layers whose weights they are given.

One weight may be given to several calls, and what stands before a call may be part of the layer: PyTorch's convolutions
with `padding_mode` "circular", "reflect" or "replicate" pad their input and then call a convolution of padding 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

HYPERPARAMETERS = ("stride", "padding", "dilation", "groups")

PADS = frozenset(
    {
        "pad", "constant_pad_nd", "_pad_circular", "_pad_enum", "reflection_pad1d", "reflection_pad2d",
        "reflection_pad3d", "replication_pad1d", "replication_pad2d", "replication_pad3d",
    }
)  # fmt: skip
"""Operators of `native_functions.yaml` that pad and do nothing else; their second argument is how much."""

TRANSPOSED, OTHER = "(in, out)", "other"
"""How code uses a matrix: as a Linear's weight that was turned over, or in another way than a layer uses its weight."""

TRANSPOSED_BY = {"matmul": 1, "mm": 1, "addmm": 2}
"""Operators that multiply with a weight stored as (in, out), and the place of that weight among their arguments."""


class Call(NamedTuple):
    """An operator's call with a weight.

    Attributes:
        kind: The class of PyTorch's layer that the call is of, such as "Conv1d".
        settings: Stride, padding, dilation and groups of a convolution; else nothing.
        class_name: The qualified name of the layer's class.
    """

    kind: str
    settings: dict[str, Any]
    class_name: str


def merged(calls: Sequence[Call]) -> tuple[dict[str, Any], bool]:
    """The settings that all calls of one kind have, None for those that differ; and whether any differ."""
    names = dict.fromkeys(name for call in calls for name in call.settings)
    settings: dict[str, Any] = {}
    differ = False
    for name in names:
        values = [call.settings.get(name) for call in calls]
        alike = all(value == values[0] for value in values)
        settings[name] = values[0] if alike else None
        differ |= not alike
    return settings, differ


def with_pad(settings: dict[str, Any], amounts: object, mode: object, dims: int, own: bool) -> dict[str, Any]:
    """A convolution's settings with the padding of its input by an operator before it.

    Args:
        settings: As the convolution's call has them.
        amounts: How much is padded, the last dimension first, at the front and at the back of each; None if unknown.
        mode: `padding_mode`; None if unknown.
        dims: Dimensions of the kernel.
        own: The pad is known to be part of the layer; else another module may pad.
    """
    numbers = _integers(amounts)
    if numbers is not None and not any(numbers):
        return settings
    padding = _padding(numbers, dims)
    if padding is None or not own or settings.get("padding") not in (0, (0,) * dims):
        return {**settings, "padding": None, "padded": "layer" if own else "before"}
    return {**settings, "padding": padding, "padding_mode": mode if isinstance(mode, str) else None}


def _integers(amounts: object) -> tuple[int, ...] | None:
    if isinstance(amounts, (list, tuple)) and all(type(number) is int for number in amounts):
        return tuple(amounts)
    return None


def _padding(numbers: tuple[int, ...] | None, dims: int) -> tuple[int, ...] | None:
    """Padding for each dimension of the kernel; None if front and back differ, or other dimensions are padded."""
    if numbers is None or len(numbers) % 2:
        return None
    pairs = list(zip(numbers[::2], numbers[1::2], strict=True))[::-1]
    pairs = [(0, 0)] * (dims - len(pairs)) + pairs
    extra, own = pairs[: len(pairs) - dims], pairs[len(pairs) - dims :]
    if any(map(any, extra)) or any(front != back for front, back in own):
        return None
    return tuple(front for front, _ in own)


def same_kind(calls: Iterable[Call]) -> bool:
    """Whether all calls are of one kind of layer."""
    return len({call.kind for call in calls}) == 1
