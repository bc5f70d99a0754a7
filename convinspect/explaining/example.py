"""What a convolution or Linear computes, cell by cell: f[i, j] is row i of the data times kernel j, plus bias j.

Rows, kernels and channels count from 0, as PyTorch's indices do. The results are PyTorch's, in float64, to which
every weight is converted exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from convinspect.errors import CannotShow, Option, Wording
from convinspect.explaining.words import Language, Parts, Said
from convinspect.kinds import CONVOLUTIONS, TRANSFORMERS_CONV1D
from convinspect.text import one_line, plural, quoted, with_article

if TYPE_CHECKING:
    from convinspect.records import Layer

Matrix = list[list[float]]


@dataclass(frozen=True, slots=True)
class Image:
    """What a convolution over patches takes: a sequence, an image or a video, always with three axes of positions here.

    Attributes:
        values: (C × T × H × W); T = 1 for an image, and H = 1 too for a sequence.
        sizes: (T, H, W).
        patch: Size of a patch along each of the three axes.
        dims: How many of the three the layer has: 1, 2 or 3, counted from the last.
    """

    values: list[list[Matrix]]
    sizes: tuple[int, int, int]
    patch: tuple[int, int, int]
    dims: int

    @property
    def grid(self) -> tuple[int, int, int]:
        """Patches along each axis; positions that fill no patch are in none."""
        times, rows, columns = (size // step for size, step in zip(self.sizes, self.patch, strict=True))
        return times, rows, columns

    def place(self, row: int) -> tuple[int, int, int]:
        """Where the patch of a row lies in the grid, from 0 along each axis."""
        _, down, across = self.grid
        return row // (down * across), row // across % down, row % across


@dataclass(frozen=True, slots=True)
class Example:
    """One layer on n rows of data.

    Attributes:
        name: Of the layer.
        kind: "Conv1d", "Linear", ….
        stored: Shape of its weight as stored.
        x: (n × in).
        w: (out × in × taps); one tap for a pointwise convolution and for Linear.
        b: (out), or None.
        f: (n − taps + 1 × out), computed by PyTorch's conv1d; over patches by the layer's own convolution.
        y: (n × out), computed by PyTorch's linear; None where a kernel has several taps.
        note: What the drawing leaves out, or "".
        image: Of a convolution over patches, what was cut into the rows of `x`; None for all others.
        lang: The language that it is drawn in.
    """

    name: str
    kind: str
    stored: tuple[int, ...]
    x: Matrix
    w: list[Matrix]
    b: list[float] | None
    f: Matrix
    y: Matrix | None = None
    note: str = ""
    image: Image | None = None
    lang: Language = "en"

    def __repr__(self) -> str:
        layer = f"{quoted(self.name)}: {one_line(self.kind)} {one_line(str(self.stored))}"
        count = len(self.x)
        data = f"{plural(count, 'row')} of data" if self.image is None else f"{count:,} patch{'es' * (count != 1)}"
        return f"<example of layer {layer}, {data}>"

    @property
    def taps(self) -> int:
        """Rows of data that one result sees."""
        return len(self.w[0][0])


@dataclass(frozen=True, slots=True)
class Sum:
    """One result, term by term.

    Attributes:
        row: i, from 0.
        kernel: j, from 0.
        terms: (row of x, channel, value of x, value of w), all from 0, in the order of the sum.
        bias: b[j], or None.
        result: f[i, j].
    """

    row: int
    kernel: int
    terms: list[tuple[int, int, float, float]]
    bias: float | None
    result: float


def sum_of(example: Example, row: int, kernel: int) -> Sum:
    """The terms of f[row, kernel].

    Raises:
        CannotShow: There is no such row or kernel.
    """
    for what, number, count in (("row", row, len(example.f)), ("kernel", kernel, len(example.w))):
        if not 0 <= number < count:
            raise CannotShow(f"there is no {what} {number}", f"they count from 0 to {count - 1:,}")
    weights = example.w[kernel]
    terms = [
        (row + tap, channel, example.x[row + tap][channel], weights[channel][tap])
        for tap in range(example.taps)
        for channel in range(len(weights))
    ]
    bias = None if example.b is None else example.b[kernel]
    return Sum(row, kernel, terms, bias, example.f[row][kernel])


def built_in(rows: int) -> Example:
    """A small version of PointNet's first layer: 3 columns become 6. One decimal each, so they are easy to add."""
    weight = [
        [0.5, -0.2, 0.1], [0.3, 0.4, -0.6], [-0.1, 0.7, 0.2], [0.8, 0.0, -0.3], [-0.4, 0.5, 0.9], [0.2, -0.9, 0.6],
    ]  # fmt: skip
    bias = [0.1, -0.2, 0.0, 0.3, -0.1, 0.2]
    first = [[1.0, 2.0, -1.0], [0.5, -1.5, 2.0], [-2.0, 1.0, 0.5], [3.0, 0.0, 1.0]]
    data = [[value + turn for value in first[n % 4]] for n in range(rows) for turn in [n // 4]]
    w = torch.tensor(weight, dtype=torch.float64).unsqueeze(-1)
    return example(
        "conv1", "Conv1d", (6, 3, 1), w, torch.tensor(bias, dtype=torch.float64), torch.tensor(data).double()
    )


def example(
    name: str,
    kind: str,
    stored: Sequence[int],
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    x: torch.Tensor,
    note: str = "",
) -> Example:
    """Run a layer on data.

    Args:
        name: Of the layer.
        kind: Of the layer.
        stored: Shape of its weight in the file.
        weight: (O, I, taps) in float64.
        bias: (O,) or None.
        x: (n, I) in float64.
        note: Said beside the drawing.

    Raises:
        CannotShow: The weight holds no numbers, the data have another number of columns, or fewer rows than the kernel
            has taps; or conv1d and linear differ by more than rounding.
    """
    if weight.numel() == 0:
        raise CannotShow(f"{name} has a weight of {sizes_text(stored)}, with no numbers to draw")
    if x.dim() != 2 or x.shape[1] != weight.shape[1]:
        raise CannotShow(
            f"the data are {sizes_text(x.shape)}, and {name} takes {weight.shape[1]} columns",
            "give n rows of that many",
        )
    if x.shape[0] < weight.shape[2]:
        raise CannotShow(
            f"the data have {x.shape[0]} rows, and a kernel of {name} sees {weight.shape[2]} at once",
            Wording("give more ", Option("samples", None)),
        )
    f: Any = functional.conv1d(x.T.unsqueeze(0), weight, bias)[0].T
    y = functional.linear(x, weight[:, :, 0], bias) if weight.shape[2] == 1 else None
    if y is not None:
        check_same(f, y, (x, weight[:, :, 0], bias), name)
    return Example(
        name,
        kind,
        tuple(stored),
        x.tolist(),
        weight.tolist(),
        None if bias is None else bias.tolist(),
        f.tolist(),
        None if y is None else y.tolist(),
        note,
    )


def sizes_text(shape: Sequence[int]) -> str:
    """A shape in a sentence: "16 × 8 × 1"."""
    return " × ".join(map(str, shape))


def check_same(
    f: torch.Tensor, y: torch.Tensor, linear: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None], name: str
) -> None:
    """Compare a convolution's results with a Linear's.

    Args:
        f: (n × out), the convolution's.
        y: (n × out), the Linear's.
        linear: What the Linear took: rows (n × in), weight (out × in), and bias (out) or None.
        name: Of the layer.

    Raises:
        CannotShow: They differ by more than rounding can.
    """
    from convinspect.arrays.error_bound import agreement

    rows, weight, bias = linear
    sizes = functional.linear(rows.abs(), weight.abs(), None if bias is None else bias.abs())
    found = agreement(f, y, sizes, rows.shape[1] + 1)
    if not found.ok:
        problem = f"convolution and Linear give other numbers for {name}: {found.difference:.1e} apart, where rounding"
        raise CannotShow(f"{problem} explains {found.bound:.1e}", "please report it, with the layer's shape")


def real(numbers: torch.Tensor, whose: str) -> torch.Tensor:
    """The numbers in float64.

    Raises:
        CannotShow: They are complex, and half of each would be lost.
    """
    if numbers.is_complex():
        raise CannotShow(f"{whose} complex numbers, and only real ones are drawn")
    return numbers.double()


def is_explained(layer: Layer) -> bool:
    """Whether `of_layer` draws it, by its kind, groups and kernel."""
    kind = layer.kind in ("Conv1d", "Linear", TRANSFORMERS_CONV1D) or (layer.kind in CONVOLUTIONS and layer.pointwise)
    return kind and (layer.groups is None or layer.groups == 1)


def of_layer(layer: Layer, x: torch.Tensor | None, rows: int, seed: int) -> Example:
    """A file's layer on the given data, or on random data rounded to one decimal.

    Raises:
        CannotShow: The layer cannot be drawn this way.
        ConvInspectError: Its numbers cannot be read.
    """
    from convinspect.arrays.to_torch import weight_and_bias

    name = layer.name or "(root)"
    if layer.kind not in (*CONVOLUTIONS, "Linear", TRANSFORMERS_CONV1D):
        raise CannotShow(f"{name} is {with_article(layer.kind)}, and only convolutions and Linear can be explained")
    if layer.groups is not None and layer.groups > 1:
        raise CannotShow(f"{name} has groups={layer.groups}, which this drawing cannot show", "choose another layer")
    stored, bias = weight_and_bias(layer)
    weight = real(stored, f"{name} has")
    if layer.kind == TRANSFORMERS_CONV1D:
        weight = weight.T
    if layer.kind == "Conv1d":
        kernel = weight
    elif all(size == 1 for size in weight.shape[2:]):
        kernel = weight.reshape(*weight.shape[:2], 1)
    else:
        raise CannotShow(f"{name} is a {layer.kind} of kernel size {'×'.join(map(str, weight.shape[2:]))}",
                         "Conv1d of any size, and others of size 1, can be explained")  # fmt: skip
    kept = None if bias is None else real(bias, f"{name} has")
    if x is None:
        drawn = torch.randn(max(rows, kernel.shape[2]), kernel.shape[1], generator=torch.Generator().manual_seed(seed))
        # Parsed from text in float64, so that the numbers are exactly the printed decimals.
        x = torch.tensor([[round(value, 1) for value in row] for row in drawn.tolist()], dtype=torch.float64)
    return example(name, layer.kind, layer.weight.shape, kernel, kept, x, _unseen(layer))


def _unseen(layer: Layer) -> str:
    """What the layer does to positions that the drawing leaves out or the file does not record; "" if nothing."""
    if layer.kind not in CONVOLUTIONS:
        return ""
    if layer.stride is None and layer.groups is None:
        return Said("stride 1, padding 0 and groups 1 are assumed, which a state_dict does not record")
    said = []
    for what, value, usual in (("stride", layer.stride, 1), ("padding", layer.padding, 0),
                               ("dilation", layer.dilation, 1)):  # fmt: skip
        acts = value is not None and value not in ("valid", (usual,) * len(value))
        if acts and not (layer.pointwise and (what == "dilation" or value == "same")):
            said.append(f"{what} {value[0] if isinstance(value, tuple) and len(set(value)) == 1 else value}")
    if not said:
        return ""
    listed = ", ".join(said[:-1]) + (" and " if said[:-1] else "") + said[-1]
    return Said(
        "left out of the drawing: its {settings}; the layer itself gives other rows", settings=Parts(listed, said)
    )


def decimals(example: Example) -> int:
    """Decimals for results: three significant digits of the largest, and at least as many as the data have."""
    largest = max((abs(value) for row in example.f for value in row if math.isfinite(value)), default=1.0) or 1.0
    return max(2, min(9, 2 - math.floor(math.log10(largest))))


def decimals_of_terms(sums: Sequence[Sum], digits: int) -> int:
    """The fewest decimals with which the printed terms add up to the printed result, at least those of the result."""
    return next(
        (more for more in range(digits, digits + 9) if all(adds_up(cell, digits, more) for cell in sums)), digits + 9
    )


def adds_up(cell: Sum, digits: int, more: int) -> bool:
    """Whether the terms, printed with `more` decimals, add up to the result printed with `digits`."""
    if not math.isfinite(cell.result):
        return True
    texts = [f"{x * w:.{more}f}" for _, _, x, w in cell.terms] + [f"{cell.bias or 0.0:.{more}f}"]
    difference = sum(map(Decimal, texts), Decimal(0)) - Decimal(f"{cell.result:.{digits}f}")
    # Strictly less than half of the last decimal, so that every rounding mode gives the same.
    return abs(difference) * 2 < Decimal(1).scaleb(-digits)
