"""Modules that hold one kind's weights and take the other kind's input, so that a swapped model runs unchanged.

These are the classes alone. What counts as pointwise is decided in `convinspect.layers` for a file, in `counterpart`
for a live model.

`PointwiseLinear` is a Linear, weight `(O, I)`, that takes `(N, C, …)` as a convolution does. `PointwiseConv1d`, `2d`
and `3d` are convolutions, weight `(O, I, 1, …)`, that take `(N, …, C)` as a Linear does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional

Ints = int | tuple[int, ...]
_SHAPES = {1: "(N, C, L)", 2: "(N, C, H, W)", 3: "(N, C, D, H, W)"}


def each_of(value: Ints, dims: int) -> tuple[int, ...]:
    """A setting of a convolution for each dimension of positions."""
    return (value,) * dims if isinstance(value, int) else tuple(value)


def laid_out(y: torch.Tensor, x: torch.Tensor, dims: int) -> torch.Tensor:
    """A batched `y` with its axes in memory in the order that a convolution's output would have for the input `x`."""
    if torch.compiler.is_compiling():
        # How numbers lie is the compiler's to choose, and asking would bind the program to these sizes.
        return y.contiguous()
    try:
        return y.contiguous(memory_format=_channels_last(x, dims))
    except RuntimeError:
        # Inside torch.func.vmap neither can be asked of a tensor; there is no public way to tell that it is inside.
        return y.contiguous()


def _channels_last(x: torch.Tensor, dims: int) -> torch.memory_format:
    for size, order in ((2, torch.channels_last), (3, torch.channels_last_3d)):
        if dims == size and x.dim() == size + 2 and x.is_contiguous(memory_format=order) and not x.is_contiguous():
            return order
    return torch.contiguous_format


def check_rank(x: torch.Tensor, dims: int) -> None:
    """Refuse an input that has another number of dimensions than a convolution of `dims` dimensions takes.

    Raises:
        ValueError: It has.
    """
    if x.dim() not in (dims + 1, dims + 2):
        raise ValueError(f"expected an input of shape {_SHAPES[dims]}, batched or not, but got {tuple(x.shape)}")


class Cut(Protocol):
    """What is done to positions around a plain Linear."""

    def rows(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, …) → what the weights meet, last."""
        ...

    def back(self, y: torch.Tensor) -> torch.Tensor:
        """(N, …, O) → (N, O, …)."""
        ...

    def described(self) -> str:
        """Its settings, for a model's printed form."""
        ...


class _Positions:
    """What a convolution does to positions before its kernel of size 1 meets them: padding, then stride.

    Args:
        dims: Dimensions of positions: 1 for `(N, C, L)`, 2 for `(N, C, H, W)`, 3 for `(N, C, D, H, W)`.
        stride: Every so many positions are taken.
        padding: Positions added on both sides.
        padding_mode: What stands there: "zeros", "reflect", "replicate" or "circular".
    """

    def __init__(self, dims: int, stride: Ints, padding: Ints, padding_mode: str) -> None:
        self.dims = dims
        self.stride, self.padding = each_of(stride, dims), each_of(padding, dims)
        self.padding_mode = padding_mode

    def around(self, linear: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        """(N, C, …) or (C, …) → (N, O, …) or (O, …), with `linear` taking the channels last."""
        check_rank(x, self.dims)
        y = self.back(linear(self.rows(x)))
        # A convolution's output can be viewed in other shapes, so this one must be whole in memory too.
        return laid_out(y, x, self.dims) if y.dim() == self.dims + 2 else y.contiguous()

    def rows(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, L) → (N, L', C), or of more dimensions, or without N: what the weights meet."""
        if any(self.padding):
            # torch.nn.functional.pad counts from the last dimension backwards, two numbers for each.
            both = [width for width in reversed(self.padding) for _ in range(2)]
            x = functional.pad(x, both, mode="constant" if self.padding_mode == "zeros" else self.padding_mode)
        if any(step != 1 for step in self.stride):
            every: tuple[Any, ...] = (Ellipsis, *(slice(None, None, step) for step in self.stride))
            # Copied here rather than by the product, and first put in order where a compiler looks on: else an exported
            # program would be bound to the strides that are compared.
            x = (x.contiguous() if torch.compiler.is_compiling() else x)[every].clone(
                memory_format=torch.contiguous_format
            )
        return x.movedim(-1 - self.dims, -1)

    def back(self, y: torch.Tensor) -> torch.Tensor:
        """(N, L', O) → (N, O, L')."""
        return y.movedim(-1, -1 - self.dims)

    def described(self) -> str:
        parts = [f"dims={self.dims}"]
        if any(step != 1 for step in self.stride):
            parts.append(f"stride={self.stride}")
        if any(self.padding):
            parts.append(f"padding={self.padding}, padding_mode={self.padding_mode!r}")
        return ", ".join(parts)


class StandInLinear(nn.Linear):
    """A Linear that answers as the convolution in whose place it is; code asks layers for these.

    Attributes:
        dims: Dimensions of positions, 1 to 3.
        transposed: It stands for a transposed convolution. Of the class, for models that were pickled without it.
    """

    # Not annotated, since TorchScript would read that.
    dims = 1
    transposed = False

    @property
    def out_channels(self) -> int:
        """`out_features`, by a convolution's name for it."""
        return self.out_features

    @property
    def groups(self) -> int:
        """Always 1."""
        return 1

    @property
    def output_padding(self) -> tuple[int, ...]:
        """0 in each dimension."""
        return (0,) * self.dims


class PointwiseLinear(StandInLinear):
    """A Linear in the place of a convolution of kernel size 1, or of a transposed one of stride 1.

    Holds `weight (out_features, in_features)` and `bias (out_features,)` as `nn.Linear` does, under the same keys, and
    takes and gives what the convolution did: `(N, C, L)` → `(N, O, L')`, or `(N, C, H, W)`, `(N, C, D, H, W)`, each
    also without N. Padding and stride act on positions, before the weights, and so are exact:
    `L' = ceil((L + 2·padding) / stride)`, which is the length that `torch.nn.Conv1d`'s documentation gives, for kernel
    size 1.

    Args:
        in_features: Channels in.
        out_features: Channels out.
        bias: Whether to have one.
        device: As for `nn.Linear`.
        dtype: As for `nn.Linear`.
        dims: Dimensions of positions, 1 to 3.
        stride: As for the convolution, in positions.
        padding: As for the convolution, in positions on both sides.
        dilation: As for the convolution; kept for the way back, since a kernel of size 1 has no gaps.
        padding_mode: As for the convolution.
        transposed: It stands for a transposed convolution, whose weight `(I, O, 1)` is this one's, transposed.

    Code that asks the convolution for `in_channels`, `out_channels`, `kernel_size`, `stride`, `padding`, `dilation`,
    `groups`, `padding_mode`, `transposed` or `output_padding` gets the same answers here.

    Raises:
        ValueError: In `forward`, the input has another number of dimensions.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        dims: int = 1,
        stride: Ints = 1,
        padding: Ints = 0,
        dilation: Ints = 1,
        padding_mode: str = "zeros",
        transposed: bool = False,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        # Plain values, so that a saved model says what it does to positions.
        self.dims = dims
        self.stride, self.padding, self.dilation = (
            each_of(stride, dims),
            each_of(padding, dims),
            each_of(dilation, dims),
        )
        self.padding_mode, self.transposed = padding_mode, transposed

    @property
    def positions(self) -> _Positions:
        """What happens to positions before the weights."""
        return _Positions(self.dims, self.stride, self.padding, self.padding_mode)

    @property
    def in_channels(self) -> int:
        """`in_features`, by a convolution's name for it."""
        return self.in_features

    @property
    def kernel_size(self) -> tuple[int, ...]:
        """1 in each dimension of positions."""
        return (1,) * self.dims

    def forward(self, input: torch.Tensor, output_size: Sequence[int] | None = None) -> torch.Tensor:
        """(N, C, L) → (N, O, L').

        Args:
            input: Batched or not.
            output_size: As for a transposed convolution, which of stride 1 can give the input's size alone.

        Raises:
            ValueError: The input has another number of dimensions, or `output_size` is another size.
        """
        if output_size is not None and tuple(output_size)[-self.dims :] != tuple(input.shape[-self.dims :]):
            sizes = f"{tuple(output_size)}, and the input's are {tuple(input.shape[-self.dims :])}"
            raise ValueError(f"requested an output size of {sizes}, which no stride of 1 changes")
        return self.positions.around(super().forward, input)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.positions.described()}" + ", transposed=True" * self.transposed


class _TakesChannelsLast(nn.modules.conv._ConvNd):
    """A convolution of kernel size 1 that takes `(…, C)`, as a Linear does."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        rows = input if input.dim() >= 3 else input[(None,) * (3 - input.dim())]
        if 0 in input.shape:
            # A convolution takes no example without positions, but it takes no examples.
            rows = input.reshape(0, 1, input.shape[-1])
        # (n, L, C) → (n, C, L), and for two or three dimensions of positions (n, C, 1, L) or (n, C, 1, 1, L).
        x = rows.flatten(0, -3).movedim(-1, 1)
        # Not by the weight, whose norm would take a step for each time that it is asked for.
        ones = len(self.kernel_size) - 1
        for _ in range(ones):
            x = x.unsqueeze(2)
        # The next class in line is the convolution itself.
        y = super().forward(x)
        assert isinstance(y, torch.Tensor)
        for _ in range(ones):
            y = y.squeeze(2)
        # A Linear's output can be viewed in other shapes, so this one must be whole in memory too.
        return y.movedim(1, -1).reshape(*input.shape[:-1], self.out_channels).contiguous()


class PointwiseConv1d(_TakesChannelsLast, nn.Conv1d):
    """A Conv1d of kernel size 1, `weight (O, I, 1)`, in the place of a Linear: `(…, C)` → `(…, O)`."""


class PointwiseConv2d(_TakesChannelsLast, nn.Conv2d):
    """A Conv2d of kernel size 1, `weight (O, I, 1, 1)`, in the place of a Linear: `(…, C)` → `(…, O)`."""


class PointwiseConv3d(_TakesChannelsLast, nn.Conv3d):
    """A Conv3d of kernel size 1, `weight (O, I, 1, 1, 1)`, in the place of a Linear: `(…, C)` → `(…, O)`."""


class ChannelsFirstLinear(nn.Module):
    """A plain `nn.Linear`, as its child `linear`, that takes what a convolution took.

    For tools that look for `nn.Linear` itself and replace it: quantizers, adapters. It takes and gives the shapes of
    the `PointwiseLinear` or `PatchLinear` that it was; keys have one part more, `conv.linear.weight`.

    Args:
        linear: Takes `(…, in_features)`.
        positions: What happens to positions before it.
    """

    def __init__(self, linear: nn.Linear, positions: Cut) -> None:
        super().__init__()
        self.linear = linear
        self.positions = positions

    @property
    def weight(self) -> Any:
        """That of `linear`, since models ask a layer for its weight's dtype and device."""
        return self.linear.weight

    @property
    def bias(self) -> Any:
        """That of `linear`."""
        return self.linear.bias

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(N, C, L) → (N, O, L'). Nothing here asks for the shape of a symbolic input, so that it can be traced."""
        return self.positions.back(self.linear(self.positions.rows(input))).contiguous()

    def extra_repr(self) -> str:
        return self.positions.described()
