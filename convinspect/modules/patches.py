"""A Linear in the place of a convolution whose stride is its kernel size, so that a swapped model runs unchanged.

Such a convolution, without padding, dilation and groups, meets each number once: it cuts its input into patches that do
not overlap, and multiplies each patch, flattened, by one matrix. By the formula in the documentation of
`torch.nn.Conv2d`, that matrix is its weight `(O, C, kh, kw)`, flattened to `(O, C·kh·kw)`: the same numbers in the same
order. "An Image is Worth 16x16 Words" (Dosovitskiy et al., 2020, arXiv:2010.11929) describes it as a Linear.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from convinspect.modules.pointwise import Ints, StandInLinear, check_rank, each_of, laid_out


class Patches:
    """How a convolution whose stride is its kernel size cuts its input.

    Args:
        kernel: Size of a patch in each dimension of positions: `(k,)`, `(kh, kw)` or `(kd, kh, kw)`.
    """

    def __init__(self, kernel: tuple[int, ...]) -> None:
        self.kernel = kernel

    def around(self, linear: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        """(N, C, …) or (C, …) → (N, O, …) or (O, …), with `linear` taking patches, flattened.

        Raises:
            ValueError, RuntimeError: As `rows`.
        """
        dims = len(self.kernel)
        y = self.back(linear(self.rows(x)))
        # A convolution's output can be viewed in other shapes, so this one must be whole in memory too.
        return laid_out(y, x, dims) if y.dim() == dims + 2 else y.contiguous()

    def rows(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) → (N, H // kh, W // kw, C·kh·kw), or of other dimensions, or without N; what is left is cropped.

        Raises:
            ValueError: The input has another number of dimensions.
            RuntimeError: It is smaller than a patch, for which PyTorch's convolutions raise one too.
        """
        dims = len(self.kernel)
        # A symbolic trace has no tensor here, and no sizes to compare; another trace would keep what was compared.
        if isinstance(x, torch.Tensor) and not torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            self._check(x)
        if torch.compiler.is_compiling():
            return self._symbolic_rows(x)
        for place, step in enumerate(self.kernel):
            axis = place - dims
            x = torch.unflatten(x.narrow(axis, 0, x.shape[axis] // step * step), axis, (-1, step))
        # (N, C, H', kh, W', kw) → (N, H', W', C, kh, kw)
        first = -2 * dims
        order = [*range(first, 0, 2), first - 1, *range(first + 1, 0, 2)]
        return x.movedim(order, list(range(first - 1, 0))).flatten(-1 - dims)

    def _symbolic_rows(self, x: torch.Tensor) -> torch.Tensor:
        """The same by windows, which a compiler takes for all sizes at once: cropping and splitting would bind its
        program to which sizes are multiples of the patch. Not every device has the gradient of windows without one.
        """
        dims = len(self.kernel)
        x = x.movedim(-1 - dims, -1)
        for step in self.kernel:
            # The next dimension is always at this place, since each has its window's size put last.
            x = x.unfold(-1 - dims, step, step)
        # (N, H', W', C, kh, kw), copied before it is flattened, so that nothing asks how the numbers lie.
        return x.clone(memory_format=torch.contiguous_format).flatten(-1 - dims)

    def _check(self, x: torch.Tensor) -> None:
        check_rank(x, len(self.kernel))
        if any(size < step for size, step in zip(x.shape[-len(self.kernel) :], self.kernel, strict=True)):
            raise RuntimeError(f"an input of shape {tuple(x.shape)} is smaller than a patch of {self.described()}")

    def back(self, y: torch.Tensor) -> torch.Tensor:
        """(N, H', W', O) → (N, O, H', W')."""
        return y.movedim(-1, -1 - len(self.kernel))

    def described(self) -> str:
        """Its sizes: "16×16"."""
        return "×".join(map(str, self.kernel))


class PatchLinear(StandInLinear):
    """A Linear in the place of a convolution whose stride is its kernel size: a patch embedding, a downsampling.

    Holds `weight (out_channels, in_channels·kh·kw)` and `bias (out_channels,)` under the same keys, and takes and gives
    what the convolution did: `(N, C, L)` → `(N, O, L // k)`, or `(N, C, H, W)`, `(N, C, D, H, W)`, each also without N.
    Sizes that are no multiple of the patch are cropped at their end, as the convolution crops them.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        kernel_size: Size of a patch, and the step from one to the next, in each dimension.
        bias: Whether to have one.
        device: As for `nn.Linear`.
        dtype: As for `nn.Linear`.
        dims: Dimensions of positions, 1 to 3.

    Code that asks the convolution for `in_channels`, `out_channels`, `kernel_size`, `stride`, `padding`, `dilation`,
    `groups`, `padding_mode`, `transposed` or `output_padding` gets the same answers here.

    Raises:
        ValueError: In `forward`, the input has another number of dimensions.
        RuntimeError: In `forward`, the input is smaller than a patch.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        dims: int = 2,
    ) -> None:
        kernel = each_of(kernel_size, dims)
        numbers = in_channels
        for size in kernel:
            numbers *= size
        super().__init__(numbers, out_channels, bias, device, dtype)
        # Plain values, so that a saved model says how it cuts its input.
        self.in_channels, self.kernel_size, self.dims = in_channels, kernel, dims

    @property
    def patches(self) -> Patches:
        """How the input is cut before the weights."""
        return Patches(self.kernel_size)

    @property
    def stride(self) -> tuple[int, ...]:
        """`kernel_size`: patches do not overlap."""
        return self.kernel_size

    @property
    def padding(self) -> tuple[int, ...]:
        """0 in each dimension."""
        return (0,) * self.dims

    @property
    def dilation(self) -> tuple[int, ...]:
        """1 in each dimension."""
        return (1,) * self.dims

    @property
    def padding_mode(self) -> str:
        """Always "zeros"."""
        return "zeros"

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.patches.around(super().forward, input)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, in_channels={self.in_channels}, patch={self.patches.described()}"
