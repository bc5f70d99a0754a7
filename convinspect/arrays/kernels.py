"""A layer's numbers as named matrices: rows are output channels, columns input channels, one matrix per tap."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from convinspect.arrays.effective import effective_bias, effective_weight, spectral_reading
from convinspect.arrays.quantized import is_quantized, numbers_of, said_of
from convinspect.arrays.read import Array
from convinspect.errors import BrokenFile, CannotShow, Option, Wording
from convinspect.kinds import TRANSFORMERS_CONV1D
from convinspect.layouts import axis_names, in_torch_order, is_turned
from convinspect.records import Doubt, Layer, Tensor
from convinspect.text import plural, with_article

_DROP_KERNEL = Wording("drop ", Option("kernel", None))


@dataclass(frozen=True, slots=True)
class Matrix:
    """Numbers to show together.

    Attributes:
        title: What they are, without the layer's name.
        values: (rows × columns).
        row_names: One per row.
        column_names: One per column.
        bias: One number per row, or None.
        kernel_bias: Of one output's kernel, its bias: no row's but the whole kernel's.
    """

    title: str
    values: Array
    row_names: list[str]
    column_names: list[str]
    bias: Array | None = None
    kernel_bias: Any = None


@dataclass(frozen=True, slots=True)
class Choice:
    """Which part of each kernel was asked for; None is all of it.

    Attributes:
        kernel: One output channel, shown as input channels × taps.
        rows: Slice of output channels, such as "0:6", "3" or "-4:".
        columns: Slice of input channels.
    """

    kernel: int | None = None
    rows: str | None = None
    columns: str | None = None

    def __post_init__(self) -> None:
        if self.kernel is not None and self.rows is not None:
            problem = Wording(
                Option("kernel", None),
                " chooses one output already, so ",
                Option("rows", None),
                " has nothing to choose",
            )
            raise CannotShow(problem, "drop one of them")


@dataclass(frozen=True, slots=True)
class Kernel:
    """A layer's effective kernel in memory.

    Attributes:
        layer: Whose it is.
        weight: (out, in/groups, *kernel_size); (out/groups, in, *kernel_size) for a ConvTranspose; (out, in) for
            Linear. A ConvTranspose and transformers' Conv1D are stored the other way round.
        bias: (out,), or None.
        notes: What was done to get it.
    """

    layer: Layer
    weight: Array
    bias: Array | None
    notes: tuple[str, ...]


_HOW = {
    "weight_norm": "effective kernel of a weight-normed layer: g · v / ‖v‖, in float64, rounded once",
    "spectral_norm": "effective kernel of a spectral-normed layer: W / σ, in float64, rounded once",
    "pruned": "effective kernel of a pruned layer: weight_orig · weight_mask",
}


def is_kernel(layer: Layer) -> bool:
    """True for convolutions and Linear: kinds whose weight is a matrix of output and input channels."""
    named = bool(layer.kernel_size) or layer.in_width is not None
    return named or (is_quantized(layer.weight) and len(layer.weight.shape) > 1)


def load_kernel(layer: Layer) -> Kernel:
    """Read a layer's kernel and bias; only its own bytes are read.

    Raises:
        CannotShow: It is kept in a form that cannot be computed here.
        ConvInspectError: Its bytes are missing or damaged.
    """
    if layer.norm == "parametrized":
        raise CannotShow(
            f"layer {layer.name}: its weight is computed by a parametrization that is not recorded in the file",
            "weight norm, spectral norm and pruning can be shown",
        )
    stored = layer
    layer = in_torch_order(layer)
    weight = numbers_of(layer.weight) if layer.norm is None else effective_weight(layer)
    notes = [_HOW[layer.norm], *dim_notes(layer)] if layer.norm else []
    if is_quantized(layer.weight):
        notes.append(said_of(layer.weight))
    if layer.kind == TRANSFORMERS_CONV1D:
        weight = weight.T
        notes.append("stored transposed, as (in, out)")
    if layer.kind.startswith("ConvTranspose"):
        weight = weight.swapaxes(0, 1)
        notes.append("stored as (in, out, …); outputs are counted within their group")
    if layer.groups is not None and layer.groups > 1:
        notes.append(f"groups {layer.groups}: each output sees {weight.shape[1]} of {layer.in_width} input channels")
    bias = effective_bias(layer)
    if bias is None and "parametrizations.bias.original" in layer.tensors:
        notes.append("its bias is computed by a parametrization that is not recorded in the file")
    if bias is not None and len(bias) != weight.shape[0]:
        notes.append(
            f"its bias has {plural(len(bias), 'number')} for {plural(weight.shape[0], 'output')} shown, and is left out"
        )
        bias = None
    if layer.layout is not None and is_turned(layer):
        notes.append(f"stored in {layer.layout.maker.value}'s layout, as ({', '.join(axis_names(stored))})")
    return Kernel(stored, weight, bias, tuple(notes))


def dim_notes(layer: Layer) -> tuple[str, ...]:
    """What is known of the dimension of a spectral norm that the file does not record.

    Raises:
        ConvInspectError: Its bytes are missing or damaged.
    """
    reading = spectral_reading(layer) if len(layer.norm_dims) > 1 else None
    if reading is None:
        return ()
    if reading.known:
        return (f"spectral norm's dim={reading.dim}, which is not recorded: its u and v fit it best",)
    return (f"spectral norm's dim={reading.dim} is assumed: {Doubt.NORM_DIM.value}",)


def cut(kernel: Kernel, choice: Choice) -> tuple[Array, Array | None, range, range]:
    """The chosen part: weight, bias, and the indices of its rows and columns.

    Raises:
        CannotShow: A slice is malformed or chooses nothing, or there is no such output.
    """
    count = kernel.weight.shape[0]
    if choice.kernel is not None and count == 0:
        raise CannotShow(f"{kernel.layer.name} has no outputs, so no kernels", _DROP_KERNEL)
    if choice.kernel is not None and not -count <= choice.kernel < count:
        raise CannotShow(
            f"there is no kernel {choice.kernel}", f"{kernel.layer.name} has {count:,}, from 0 to {count - 1}"
        )
    rows = indices(choice.rows if choice.kernel is None else str(choice.kernel), count, "rows")
    columns = indices(choice.columns, kernel.weight.shape[1], "cols")
    weight = kernel.weight[rows.start : rows.stop, columns.start : columns.stop]
    bias = None if kernel.bias is None else kernel.bias[rows.start : rows.stop]
    return weight, bias, rows, columns


def matrices(kernel: Kernel, choice: Choice) -> Iterator[Matrix]:
    """One (out × in) matrix per tap of the kernel, a single one for a pointwise or Linear layer; for one output
    channel, its (in × taps).

    Raises:
        CannotShow: As `cut`.
    """
    weight, bias, rows, columns = cut(kernel, choice)
    column_names = [f"in {i}" for i in columns]
    taps = list(product(*map(range, kernel.weight.shape[2:])))
    if choice.kernel is not None:
        names = [f"tap {_tap_name(tap)}" for tap in taps] if len(taps) > 1 else ["weight"]
        title = f"kernel {rows.start} of {kernel.weight.shape[0]:,}"
        values = weight[0].reshape(len(columns), len(taps))
        yield Matrix(title, values, column_names, names, None, None if bias is None else bias[0].item())
        return
    row_names = [f"out {i}" for i in rows]
    for tap, values in _by_tap(weight):
        title = f"tap {_tap_name(tap)} of {'×'.join(map(str, kernel.weight.shape[2:]))}" if len(taps) > 1 else ""
        yield Matrix(title, values, row_names, column_names, bias)


def _tap_name(tap: tuple[int, ...]) -> str:
    return ",".join(map(str, tap))


def other_tensors(layer: Layer, choice: Choice) -> Iterator[Matrix]:
    """Tensors of a layer that is neither convolution nor Linear: vectors side by side, the rest one by one.

    Raises:
        BrokenFile: Half of a pair of tensors is missing.
        CannotShow: One kernel was asked for, and there are none.
    """
    if layer.kind == "Incomplete":
        raise BrokenFile(f"layer {layer.name}: {layer.notes[-1]}", "save the whole model again")
    if choice.kernel is not None:
        raise CannotShow(f"{layer.name} is {with_article(layer.kind)}, which has no kernels", _DROP_KERNEL)
    vectors = {leaf: tensor for leaf, tensor in layer.tensors.items() if len(tensor.shape) == 1}
    lengths = {tensor.shape[0] for tensor in vectors.values()}
    if len(lengths) == 1 and len(vectors) == sum(len(tensor.shape) > 0 for tensor in layer.tensors.values()):
        chosen = indices(choice.rows, lengths.pop(), "rows")
        columns_of = [numbers_of(tensor)[chosen.start : chosen.stop] for tensor in vectors.values()]
        names = [leaf or "value" for leaf in vectors]
        yield Matrix("", np.stack(columns_of, axis=1), [str(i) for i in chosen], names)
        return
    for leaf, tensor in layer.tensors.items():
        if layer.kind == "Conv (quantized)" and tensor is layer.weight:
            yield from _taps_of(leaf, tensor, choice)
        else:
            yield _plain_matrix(leaf, tensor, choice)


def _taps_of(leaf: str, tensor: Tensor, choice: Choice) -> Iterator[Matrix]:
    """A quantized convolution's integers as a kernel's numbers are shown: one (out × in) matrix per tap."""
    values = numbers_of(tensor)
    down, across = indices(choice.rows, values.shape[0], "rows"), indices(choice.columns, values.shape[1], "cols")
    size = "×".join(map(str, values.shape[2:]))
    block = values[down.start : down.stop, across.start : across.stop]
    for tap, matrix in _by_tap(block):
        title = f"{leaf} tap {_tap_name(tap)} of {size}"
        yield Matrix(title, matrix, [f"out {i}" for i in down], [f"in {i}" for i in across])


def _by_tap(kernel: Array) -> Iterator[tuple[tuple[int, ...], Array]]:
    """Each place in a kernel (out, in, *kernel_size), and the (out × in) matrix there."""
    taps = list(product(*map(range, kernel.shape[2:])))
    # (taps, out, in): a kernel's dimensions as one, in front.
    yield from zip(taps, kernel.reshape(*kernel.shape[:2], len(taps)).transpose(2, 0, 1), strict=True)


def _plain_matrix(leaf: str, tensor: Tensor, choice: Choice) -> Matrix:
    """Any tensor as a matrix: the first dimension down, all others across."""
    values = numbers_of(tensor)
    flat = values.reshape(len(values), math.prod(values.shape[1:])) if values.ndim else values.reshape(1, 1)
    down, across = indices(choice.rows, flat.shape[0], "rows"), indices(choice.columns, flat.shape[1], "cols")
    title = f"{leaf} {tensor.shape}" if leaf else ""
    block = flat[down.start : down.stop, across.start : across.stop]
    return Matrix(title, block, [str(i) for i in down], [str(i) for i in across])


_SLICE = re.compile(r"^(-?\d{1,18})?(:)?(-?\d{1,18})?$")


def indices(text: str | None, count: int, option: str) -> range:
    """The indices that a slice such as "0:6", "-4:" or "3" chooses of `count`.

    Args:
        text: The slice; None for all.
        count: How many there are.
        option: Which option gave it, for errors.

    Raises:
        CannotShow: It is no slice, or chooses nothing.
    """
    if text is None:
        return range(count)
    match = _SLICE.match(text.strip())
    if not match or not any(match.groups()) or (match[3] and not match[2]):
        raise CannotShow(Wording(Option(option, None), f" {text[:40]!r} is no slice"), "write it as 0:6, 3 or -4:")
    start = int(match[1]) if match[1] else None
    stop = int(match[3]) if match[3] else None
    if not match[2] and start is not None:
        start, stop = start, (start + 1) or None
    chosen = range(*slice(start, stop).indices(count))
    if not chosen:
        problem = Wording(Option(option, None), f" {text!r} chooses nothing")
        raise CannotShow(problem, f"there are {count:,}, from 0 to {count - 1}")
    return chosen
