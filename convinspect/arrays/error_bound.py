"""One layer, before and after: both are run on the same numbers, and their results compared within a derived bound.

Every weight is raised to float64, which is exact for all dtypes up to it. There both results may differ from the
exact one by no more than rounding allows (Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed. 2002,
section 3.1): a sum of n products, in any order, with or without fused operations, has an error of at most γₙ Σ|xᵢwᵢ|,
with γₙ = n·u / (1 − n·u) and u = 2⁻⁵³. Two right results are therefore at most 2·γₙ·(|x||W|ᵀ + |b|) apart, n being
the number of products and the bias. Products below the normal range lose up to 2⁻¹⁰²² each, also where a backend
flushes them to zero, and that is allowed for.

In the file's own dtype both are run too, but as information: some backends sum in less than float32, so that no
bound that can be derived holds for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from convinspect.arrays.forms import Form, operation

UNIT = 2.0**-53
"""Unit roundoff of float64."""
TINY = 2.0**-1022
_CHUNK = 1 << 18
"""Weights that are raised to float64 at once: 2 MB, so that all passes over them stay in the cache."""
_RESULTS = 1 << 18
"""Results that are kept until they are compared with their bound, many at once."""


class OtherShape(Exception):
    """Two results that should have the same shape do not.

    Args:
        before: Shape of the first result.
        after: Shape of the second.
    """

    def __init__(self, before: tuple[int, ...], after: tuple[int, ...]) -> None:
        super().__init__(f"results of shapes {before} and {after}")
        self.before, self.after = before, after


@dataclass(frozen=True, slots=True)
class Inputs:
    """Random inputs of one layer.

    By default two inputs, (1, C, 2) and (2, C, 1). Together they cost half of one input with several examples of
    several positions, since a convolution packs its kernel again for every such example. For an example of one position
    it packs nothing, which takes a quarter of the time: that input is the last one, on which more is run.

    Attributes:
        sizes: (batch, length) of each.
        seed: Of the numbers.
        device: Where they are.
    """

    sizes: tuple[tuple[int, int], ...] = ((1, 2), (2, 1))
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class Agreement:
    """How much two results differ.

    Attributes:
        difference: Largest |before − after|.
        bound: The bound at the element where difference ÷ bound is largest.
        share: Largest difference ÷ bound; at most 1 when the results agree.
        undecided: Results that hold Inf or NaN, or whose bound overflows: whether they differ is not known.
    """

    difference: float = 0.0
    bound: float = 0.0
    share: float = 0.0
    undecided: int = 0

    @property
    def ok(self) -> bool:
        """Within the bound everywhere."""
        return self.share <= 1.0


@dataclass(frozen=True, slots=True)
class Rounding:
    """Both results in one dtype against float64: what users see when they compare outputs. Information, no verdict."""

    dtype: str
    difference: float
    before_max: float
    before_rms: float
    after_max: float
    after_rms: float


def inputs_for(channels: int, dtype: torch.dtype, inputs: Inputs) -> list[torch.Tensor]:
    """Random (N, C, L) in float64, each number one that `dtype` holds exactly."""
    generator = torch.Generator().manual_seed(inputs.seed)
    xs = (torch.randn(batch, channels, length, generator=generator) for batch, length in inputs.sizes)
    # float8 is too coarse for inputs; float32 holds what is drawn.
    exact = dtype if dtype.is_floating_point and dtype.itemsize > 1 else torch.float32
    return [x.to(exact).to(inputs.device, torch.float64) for x in xs]


def compare_outputs(
    forms: tuple[Form, Form],
    weights: tuple[torch.Tensor, torch.Tensor],
    biases: tuple[torch.Tensor | None, torch.Tensor | None],
    xs: list[torch.Tensor],
) -> tuple[Agreement, torch.Tensor]:
    """Run both in float64.

    Args:
        forms: Before and after.
        weights: As stored, in any dtype.
        biases: (O,) or None.
        xs: Inputs (N, C, L) in float64.

    Returns:
        How far apart the results are, and the result before on the last input, (N, O, L').

    Raises:
        OtherShape: The two give results of different shapes.
    """
    worst, last = Agreement(), []
    terms = _matrix(forms[0], weights[0]).shape[1] + 1
    bounding = Bounding(forms[0], xs)
    pending: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    for (w, b), (v, c) in _row_chunks(forms, weights, biases):
        results = [(operation(forms[0])(x, w, b), operation(forms[1])(x, v, c)) for x in xs]
        last.append(results[-1][0])
        for (before, after), size in zip(results, bounding.sizes(w, b), strict=True):
            if before.shape != after.shape:
                raise OtherShape(tuple(before.shape), tuple(after.shape))
            pending.append((before, after, size))
        if sum(before.numel() for before, _, _ in pending) > _RESULTS:
            worst, pending = _worse(worst, _agreement_of(pending, terms)), []
    return _worse(worst, _agreement_of(pending, terms)), torch.cat(last, dim=1)


class Bounding:
    """|x||W|ᵀ + |b| of a layer on several inputs.

    Args:
        form: How it computes.
        xs: Inputs (N, C, L) in float64.
    """

    def __init__(self, form: Form, xs: Sequence[torch.Tensor]) -> None:
        self.form, self.xs = form, [x.abs() for x in xs]
        # Where it is one matrix at each position, a product with rows is the cheapest way. One for each input: for
        # two rows the matrix is read as it lies, for four it is packed first, which takes longer than all else.
        plain = form.plain and not form.last
        self.rows = [x.mT.contiguous() for x in self.xs] if plain else None

    def sizes(
        self, weight: torch.Tensor, bias: torch.Tensor | None, into: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """One (N, O, L') for each input, by weight as stored and bias (O,). `into` is memory for the weight's
        absolute values; it may be the weight.
        """
        bias = None if bias is None else bias.abs()
        weight = weight.abs() if into is None else torch.abs(weight, out=into)
        if self.rows is None:
            return [operation(self.form)(x, weight, bias) for x in self.xs]
        matrix = _matrix(self.form, weight)
        return [functional.linear(rows, matrix, bias).mT for rows in self.rows]


def _agreement_of(results: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]], terms: int) -> Agreement:
    """The agreement of several (before, after, size) at once, in any shapes: for small tensors the operator calls
    themselves cost most.
    """
    if not results:
        return Agreement()
    before, after, size = (torch.cat([part.flatten() for part in parts]) for parts in zip(*results, strict=True))
    return agreement(before, after, size, terms)


def _row_chunks(
    forms: tuple[Form, Form],
    weights: tuple[torch.Tensor, torch.Tensor],
    biases: tuple[torch.Tensor | None, torch.Tensor | None],
) -> Iterator[list[tuple[torch.Tensor, torch.Tensor | None]]]:
    """(weight, bias) of before and after in float64, some output channels at a time."""
    outputs = weights[0].shape[1] if forms[0].in_out else weights[0].shape[0]
    step = max(1, _CHUNK * outputs // max(1, weights[0].numel()))
    if forms[0].groups != 1 or forms[1].groups != 1:
        step = max(1, outputs)
    # Where both lie at one place (bits were found equal), one copy does for both.
    shared = weights[0].data_ptr() == weights[1].data_ptr() and weights[0].numel() == weights[1].numel()
    shared = shared and all(weight.is_contiguous() for weight in weights)
    # The same memory for every chunk: allocating costs more than filling.
    buffers: list[torch.Tensor | None] = [None, None]
    for start in range(0, outputs, step):
        rows = slice(start, start + step)
        chunk: list[tuple[torch.Tensor, torch.Tensor | None]] = []
        for side, (form, weight, bias) in enumerate(zip(forms, weights, biases, strict=True)):
            part = weight[:, rows] if form.in_out else weight[rows]
            if side and shared:
                chunk.append((chunk[0][0].reshape(part.shape), None if bias is None else _wide(bias[rows])))
                continue
            wide = buffers[side]
            if wide is None or wide.shape != part.shape:
                wide = buffers[side] = _wide(part)
            else:
                wide.copy_(part)
            chunk.append((wide, None if bias is None else _wide(bias[rows])))
        yield chunk


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in float64 (complex128), to which every smaller dtype converts exactly."""
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64, copy=True)


def gamma(terms: int) -> float:
    """γₙ = n·u / (1 − n·u), Higham's (3.1), in float64."""
    return terms * UNIT / (1 - terms * UNIT)


def agreement(before: torch.Tensor, after: torch.Tensor, size: torch.Tensor, terms: int) -> Agreement:
    """Compare two results of any one shape.

    Args:
        before: One result in float64.
        after: The other.
        size: The same sums over absolute values, |x||W|ᵀ + |b|.
        terms: Most products and biases in one sum.
    """
    if not before.numel():
        return Agreement()
    return agreements(before.reshape(1, -1), after.reshape(1, -1), size.reshape(1, -1), terms)[0]


def agreements(before: torch.Tensor, after: torch.Tensor, size: torch.Tensor, terms: int) -> list[Agreement]:
    """As `agreement`, of several layers' results at once: (layers, results of each), none empty."""
    # The sums over absolute values are rounded too.
    bound = 2 * gamma(terms) * size / (1 - gamma(terms)) + 2 * terms * TINY
    difference = (before - after).abs()
    known = torch.isfinite(bound) & torch.isfinite(difference)
    share = torch.where(known, difference / bound, 0)
    # Inf or NaN in one result alone is a difference, unless sums of that size overflow by themselves.
    lopsided = (torch.isfinite(bound) & ~torch.isfinite(difference)).any(1)
    place = share.argmax(1, keepdim=True)
    columns = (
        torch.where(known, difference, 0).amax(1),
        bound.gather(1, place).squeeze(1),
        torch.where(lopsided, math.inf, share.gather(1, place).squeeze(1)),
        (~known).sum(1),
    )
    return [Agreement(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def _worse(a: Agreement, b: Agreement) -> Agreement:
    most = a if a.share >= b.share and a.bound else b
    return Agreement(max(a.difference, b.difference), most.bound, most.share, a.undecided + b.undecided)


def compare_gradients(
    forms: tuple[Form, Form],
    weights: tuple[torch.Tensor, torch.Tensor],
    biases: tuple[torch.Tensor | None, torch.Tensor | None],
    xs: list[torch.Tensor],
) -> dict[str, Agreement]:
    """∂x, ∂W and ∂b of Σ g·y in float64, g random, against the same bound: each is a sum of products too.

    The number of terms is O/groups for ∂x, and N·L' for ∂W and ∂b.
    """
    agreements: dict[str, Agreement] = {}
    for x in xs:
        terms = max(_matrix(forms[0], weights[0]).shape[0], x.shape[0] * _positions(forms[0], x)) + 1
        before = _gradients(forms[0], weights[0], biases[0], x, positive=False)
        after = _gradients(forms[1], weights[1], biases[1], x, positive=False)
        sizes = _gradients(forms[0], weights[0], biases[0], x, positive=True)
        for name in before:
            a, b, size = before[name], after[name], sizes[name]
            if name == "weight":
                a, size = (_matrix(forms[0], tensor) for tensor in (a, size))
                b = own_blocks(_matrix(forms[1], b), a.shape[1], forms[0].groups)
            worst = agreement(a, b, size, terms)
            agreements[name] = _worse(agreements[name], worst) if name in agreements else worst
    return agreements


def _positions(form: Form, x: torch.Tensor) -> int:
    """Most positions of an output: those of the input, and what padding adds in each dimension."""
    widths = [0] if isinstance(form.padding, str) else form.padding
    return math.prod((x.shape[2] if n == 0 else 1) + 2 * width for n, width in enumerate(widths))


def _matrix(form: Form, weight: torch.Tensor) -> torch.Tensor:
    """A weight as (out, in), a patch's numbers in PyTorch's order."""
    if form.last:
        return weight.reshape(weight.shape[0], *form.patch, -1).movedim(-1, 1).flatten(1)
    matrix = weight.flatten(1)
    return matrix.mT if form.in_out else matrix


def own_blocks(matrix: torch.Tensor, columns: int, groups: int) -> torch.Tensor:
    """The diagonal blocks (O, I/groups) of a grouped kernel that was expanded to (O, I)."""
    if matrix.shape[1] == columns:
        return matrix
    blocks = matrix.reshape(groups, -1, groups, columns)
    return torch.cat([blocks[group, :, group] for group in range(groups)])


def _gradients(
    form: Form, weight: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor, positive: bool
) -> dict[str, torch.Tensor]:
    """Gradients by name: "input" (N, C, L), "weight" as stored, "bias" (O,); of absolute values when `positive`."""
    leaves = {"input": x, "weight": _wide(weight)} | ({} if bias is None else {"bias": _wide(bias)})
    leaves = {name: (leaf.abs() if positive else leaf).detach().requires_grad_() for name, leaf in leaves.items()}
    y = operation(form)(leaves["input"], leaves["weight"], leaves.get("bias"))
    generator = torch.Generator().manual_seed(1)
    g = torch.randn(y.shape, generator=generator).to(y)
    return dict(zip(leaves, torch.autograd.grad(y, list(leaves.values()), g.abs() if positive else g), strict=True))


def rounding(
    forms: tuple[Form, Form],
    weights: tuple[torch.Tensor, torch.Tensor],
    biases: tuple[torch.Tensor | None, torch.Tensor | None],
    x: torch.Tensor,
    exact: torch.Tensor,
    dtype: torch.dtype,
) -> Rounding | None:
    """Rounding errors of both layers in `dtype` against `exact` (N, O, L') from float64, on one input (N, C, L).

    None for integer dtypes, and where PyTorch cannot compute it.
    """
    if not dtype.is_floating_point:
        return None
    try:
        results = [
            operation(form)(x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)).double()
            for form, weight, bias in zip(forms, weights, biases, strict=True)
        ]
    except (RuntimeError, NotImplementedError):
        return None
    before, after = (y.reshape(1, -1) for y in results)
    return roundings(before, after, exact.reshape(1, -1), dtype)[0]


def roundings(before: torch.Tensor, after: torch.Tensor, exact: torch.Tensor, dtype: torch.dtype) -> list[Rounding]:
    """Of several layers' results in `dtype`, as float64, and from float64: each (layers, results of one layer)."""
    errors = [before - exact, after - exact]
    columns = [_largest(before - after)] + [column for error in errors for column in (_largest(error), _rms(error))]
    name = str(dtype).removeprefix("torch.")
    return [Rounding(name, *row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def _largest(errors: torch.Tensor) -> torch.Tensor:
    return torch.where(torch.isfinite(errors), errors.abs(), 0).amax(1)


def _rms(errors: torch.Tensor) -> torch.Tensor:
    finite = torch.isfinite(errors)
    return (torch.where(finite, errors, 0).square().sum(1) / finite.sum(1).clamp(min=1)).sqrt()
