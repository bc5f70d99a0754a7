"""How a layer computes, as a function of its input, weight and bias."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from convinspect.kinds import is_in_out

if TYPE_CHECKING:
    import torch

# PyTorch is imported where something is run: forms are compared before it is loaded.

Operation: TypeAlias = "Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]"


@dataclass(frozen=True, slots=True)
class Form:
    """How a layer computes.

    Attributes:
        kind: "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", …, "Linear" or "Conv1D (transformers)".
        stride: Of a convolution, the same for all dimensions.
        padding: Likewise.
        groups: Of a convolution.
        patch: Kernel size of a convolution that cuts patches, or of the one in whose place a Linear is: channels are
            then the numbers of a flattened patch, and positions are patches. () for all others.
        last: Of a Linear over patches: its own inputs have the channels of a patch last.
    """

    kind: str
    stride: tuple[int, ...] = (1,)
    padding: tuple[int, ...] | str = (0,)
    groups: int = 1
    patch: tuple[int, ...] = ()
    last: bool = False

    @property
    def in_out(self) -> bool:
        """Whether its weight is stored as (in, out, …)."""
        return is_in_out(self.kind)

    @property
    def plain(self) -> bool:
        """Whether it is one matrix product at each position, with every position visited once."""
        every_position = set(self.stride) == {1} and (isinstance(self.padding, str) or not any(self.padding))
        return self.groups == 1 and every_position


def operation(form: Form) -> Operation:
    """The layer as a function of x (N, C, L), weight as stored and bias, giving (N, O, L')."""
    from torch.nn import functional

    if form.last:
        return lambda x, w, b: functional.linear(_rows_last(x, form.patch), w, b).mT
    if form.kind == "Linear":
        # (N, L, C) in order, as a Linear is given it; its kernels take twice as long over other strides.
        return lambda x, w, b: functional.linear(x.mT.contiguous(), w, b).mT
    if form.kind.startswith("Conv1D"):
        return _transposed_linear
    dims = int(form.kind[-2])
    turned = form.kind.startswith("ConvTranspose")
    conv: Any = getattr(functional, f"conv_transpose{dims}d" if turned else f"conv{dims}d")

    def of_patches(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None) -> torch.Tensor:
        # (N, I·kh·kw, L) → an image of L patches in a row, (N, I, kh, L·kw)
        image = x.reshape(x.shape[0], -1, *form.patch, x.shape[2]).movedim(-1, -2).flatten(-2)
        y: torch.Tensor = conv(image, w, b, form.patch)
        return y.flatten(2)

    if form.patch:
        return of_patches

    def run(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None) -> torch.Tensor:
        # (N, C, L) → (N, C, L, 1, …)
        wide = x.reshape(*x.shape, *(1,) * (dims - 1))
        if turned:
            y: torch.Tensor = conv(wide, w, b, form.stride, form.padding, 0, form.groups)
        else:
            y = conv(wide, w, b, form.stride, form.padding, 1, form.groups)
        return y.flatten(2)

    return run


def _rows_last(x: torch.Tensor, patch: tuple[int, ...]) -> torch.Tensor:
    """Patches (N, I·kh·kw, L) as rows (N, L, kh·kw·I)."""
    parted = x.mT.reshape(x.shape[0], x.shape[2], -1, *patch)
    return parted.movedim(2, -1).flatten(2)


def _transposed_linear(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None) -> torch.Tensor:
    import torch

    rows = x.mT.reshape(-1, w.shape[0])
    y = rows @ w if b is None else torch.addmm(b, rows, w)
    return y.reshape(x.shape[0], x.shape[2], w.shape[1]).mT
