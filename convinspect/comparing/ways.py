"""The ways in which one matrix (O, I) is multiplied with an input: as a convolution, and as a Linear in its place."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional

from convinspect.arrays.error_bound import Agreement, agreement
from convinspect.arrays.forms import Operation
from convinspect.modules.patches import Patches


def _as_it_is(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _transposed(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.mT


@dataclass(frozen=True, slots=True)
class Way:
    """One way to compute the layer.

    Attributes:
        op: What is timed, a function of `given(x)`, `kernel(w)` and the bias.
        given: The convolution's input → the input that `op` takes.
        kernel: (O, I) → the weight that `op` takes.
        back: What `op` gives → the convolution's output.
    """

    op: Operation
    given: Callable[[torch.Tensor], torch.Tensor] = _as_it_is
    kernel: Callable[[torch.Tensor], torch.Tensor] = _as_it_is
    back: Callable[[torch.Tensor], torch.Tensor] = _as_it_is

    def run(self, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None) -> torch.Tensor:
        """The convolution's output, from its input, the matrix (O, I) and the bias (O,) or None."""
        return self.back(self.op(self.given(x), self.kernel(w), b))


POINTWISE: Mapping[str, Way] = {
    "conv1d": Way(lambda x, w, b: functional.conv1d(x, w, b), kernel=lambda w: w.unsqueeze(-1)),
    "linear": Way(functional.linear, given=lambda x: x.mT.contiguous(), back=_transposed),
    "transposed": Way(lambda x, w, b: functional.linear(x.mT, w, b).mT.contiguous()),
}
"""A Conv1d of kernel size 1, (N, C, L) → (N, O, L); a Linear, (N, L, C) → (N, L, O); a Linear between the two
transposes that (N, C, L) needs, with a result that is contiguous in memory as a convolution's is."""


def ways_of(patch: tuple[int, ...]) -> Mapping[str, Way]:
    """The convolution, the Linear in its place, and another Linear.

    Args:
        patch: Kernel size of a convolution that cuts patches; () for `POINTWISE`.

    Returns:
        For patches "conv", "patch_linear" (what `PatchLinear` runs: it cuts the patches and gives the convolution's
        layout), and "linear" on patches that are flattened already, as the processors of Qwen's models give them.
    """
    if not patch:
        return POINTWISE
    conv: Operation = (functional.conv1d, functional.conv2d, functional.conv3d)[len(patch) - 1]
    patches = Patches(patch)
    return {
        "conv": Way(
            lambda x, w, b: conv(x, w, b, patch),  # type: ignore[call-arg]
            kernel=lambda w: w.reshape(w.shape[0], -1, *patch),
        ),
        "patch_linear": Way(lambda x, w, b: patches.around(lambda rows: functional.linear(rows, w, b), x)),
        "linear": Way(functional.linear, given=lambda x: patches.rows(x).contiguous(), back=patches.back),
    }


Results = dict[str, torch.Tensor]
"""By "output", "input", "weight" and "bias": y, ∂x, ∂W and ∂b of Σ g·y."""


def results(way: Way, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, positive: bool = False) -> Results:
    """Outputs and gradients, g being random.

    Args:
        way: How to compute them.
        x: The convolution's input.
        w: (O, I).
        b: (O,) or None.
        positive: Of absolute values.
    """
    leaves = {"input": x, "weight": w} | ({} if b is None else {"bias": b})
    leaves = {name: (leaf.abs() if positive else leaf.clone()).requires_grad_() for name, leaf in leaves.items()}
    y = way.run(leaves["input"], leaves["weight"], leaves.get("bias"))
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    gradients = torch.autograd.grad(y, list(leaves.values()), g.abs() if positive else g)
    return {"output": y.detach(), **dict(zip(leaves, gradients, strict=True))}


def in_float64(pair: tuple[Way, Way], x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None) -> dict[str, Agreement]:
    """How much outputs and gradients of two ways differ in float64, relative to the bound of `arrays.error_bound`.

    Each is a sum of products: y of I and the bias, ∂x of O, ∂W and ∂b of as many as there are positions.

    Args:
        pair: The two.
        x: The convolution's input in float64.
        w: (O, I) in float64.
        b: (O,) in float64, or None.
    """
    before, after = (results(way, x, w, b) for way in pair)
    after = {name: shaped_like(result, before[name]) for name, result in after.items()}
    sizes = results(pair[0], x, w, b, positive=True)
    positions = before["output"].numel() // max(1, w.shape[0])
    terms = max(*w.shape, positions) + 1
    return {name: agreement(before[name], after[name], sizes[name], terms) for name in before}


def shaped_like(tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The tensor; where its shape is another one's, NaN in the other's shape, which agrees with nothing."""
    return tensor if tensor.shape == other.shape else torch.full_like(other, math.nan)


def apart(before: torch.Tensor, after: torch.Tensor) -> tuple[float, float]:
    """The largest difference of two results, and the largest number of the first."""
    difference = (before - shaped_like(after, before)).abs()
    return float(difference.max()), float(before.abs().max())
