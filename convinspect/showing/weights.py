"""The tables, heatmaps and JSON of `weights`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from convinspect.arrays.effective import assumed_dim
from convinspect.arrays.kernels import Choice, Kernel, Matrix, cut
from convinspect.arrays.quantized import is_quantized, quantizer_of
from convinspect.checkpoint import Checkpoint
from convinspect.errors import CannotShow
from convinspect.kinds import TRANSFORMERS_CONV1D, shown_kind
from convinspect.layouts import axis_names
from convinspect.records import Doubt, Layer, Tensor
from convinspect.render.cells import count, shape
from convinspect.render.emit import TerminalSize, color_depth
from convinspect.render.heatmap import Names, heatmap
from convinspect.render.matrix import MatrixView, matrix_table, number, scale, sparkline
from convinspect.render.style import BAD, NAME, QUIET, Depth
from convinspect.render.table import Block, Cell, Column, Styled, Table
from convinspect.showing.footnotes import layer_name
from convinspect.showing.opened import opened_name
from convinspect.text import first_few, plural

if TYPE_CHECKING:
    from convinspect.arrays.stats import Stats

_MOST_NUMBERS = 10_000
"""A table in a pipe is not cut to a width, but beyond this it is elided anyway; CSV and JSON hold all."""

_PIPED = TerminalSize(240, 60)

_MOST_TAPS = 64
"""Kernels of more taps are elided: 7 × 7 and 4 × 4 × 4 are shown whole."""
_TAPS_AT_ENDS = 4


def matrix_view(layer: Layer, matrix: Matrix, notes: Sequence[str], precision: int | None) -> MatrixView:
    """A matrix with its title and notes."""
    values, bias = matrix.values, matrix.bias
    head = (
        f"{layer_name(layer)} · {shown_kind(layer.kind, layer.tags)} {shape(layer.weight.shape)} · {layer.weight.dtype}"
    )
    return MatrixView(
        lambda i, j: values[i, j].item(),
        matrix.row_names,
        matrix.column_names,
        None if bias is None else bias.tolist(),
        precision,
        f"{head} · {matrix.title}" if matrix.title else head,
        (*_kernel_bias(matrix, precision), *notes),
    )


def _kernel_bias(matrix: Matrix, precision: int | None) -> tuple[str, ...]:
    bias = matrix.kernel_bias
    return () if bias is None else (f"bias {number(bias, scale([bias], precision)).rstrip()}",)


def elided(matrices: Sequence[Matrix]) -> list[Matrix | Block]:
    """A kernel's matrices, one per tap; of very many only the first and last, with a line that counts the rest."""
    hidden = len(matrices) - 2 * _TAPS_AT_ENDS
    if len(matrices) <= _MOST_TAPS:
        return list(matrices)
    line = f"⋮ {count(hidden)} of {count(len(matrices))} taps left out; --kernel, --format json and csv show all"
    return [*matrices[:_TAPS_AT_ENDS], Block((Styled(line, QUIET),)), *matrices[-_TAPS_AT_ENDS:]]


def shown_matrix(view: MatrixView, space: TerminalSize, color: bool, sliced: bool) -> Table:
    """The matrix fitted to the screen; whole if a slice was asked for and no screen limits it."""
    if space.width is None and len(view.row_names) * len(view.column_names) > _MOST_NUMBERS and not sliced:
        space = _PIPED
    return matrix_table(view, space.width, space.height, color)


def labelled(view: MatrixView, layer: Layer, matrix: Matrix) -> MatrixView:
    """The matrix with the layer's name in each row, for several matrices in one CSV."""
    front = " ".join(filter(None, (layer_name(layer), matrix.title)))
    return replace(view, row_names=[f"{front} {name}" for name in view.row_names])


def shown_heatmap(matrix: Matrix, view: MatrixView, space: TerminalSize, color: bool, pictured: bool = False) -> Block:
    """The matrix in coloured cells.

    Args:
        matrix: The numbers.
        view: Its title and notes.
        space: Of the terminal.
        color: Whether it has colours.
        pictured: It is for a picture, in true cells.

    Raises:
        CannotShow: The numbers are complex.
    """
    if matrix.values.dtype.kind == "c":
        raise CannotShow("a heatmap shows real numbers, and these are complex", "drop --heatmap")
    values = matrix.values.astype("float64")
    names = Names(view.row_names, view.column_names)
    notes = (f"rows {_reach(view.row_names)}, columns {_reach(view.column_names)}", *view.notes)
    depth = Depth.TRUE if pictured else color_depth()
    return heatmap(values, space.width or 100, space.height or 60, color, view.title, notes, depth, names, pictured)


def _reach(names: Sequence[str]) -> str:
    if len(names) < 2:
        return "".join(names)
    word, blank, _ = names[0].rpartition(" ")
    return f"{names[0]} to {names[-1].removeprefix(word + blank)}"


_HISTOGRAM = "histogram: from min to max, heights go with the square root of the count"

_STATS_COLUMNS = (
    Column("name", style=NAME, priority=100, elide=True, never_hidden=True, key="name"),
    Column("weight", priority=60, key="weight_shape"),
    Column("min", justify="right", priority=80, key="min"),
    Column("max", justify="right", priority=80, key="max"),
    Column("mean", justify="right", priority=70, key="mean"),
    Column("std", justify="right", priority=75, key="std"),
    Column("L2", justify="right", priority=65, key="l2"),
    Column("zeros", justify="right", priority=50, style=QUIET, foldable=True, key="zeros"),
    Column("NaN", justify="right", priority=90, foldable=True, key="nan"),
    Column("Inf", justify="right", priority=89, foldable=True, key="inf"),
    Column("histogram", priority=85, key="histogram", legend=(_HISTOGRAM,)),
)


def stats_table(checkpoint: Checkpoint, rows: Iterable[tuple[Layer, Stats]], notes: Sequence[str] = ()) -> Table:
    """One row per layer; the histogram covers the layer's min to max."""
    layers = list(rows)
    normed = any(layer.norm for layer, _ in layers)
    lines = [_HISTOGRAM]
    if normed:
        lines.append("weight-normed, spectral-normed and pruned layers: of the effective kernel")
    if any(is_quantized(layer.weight) for layer, _ in layers):
        lines.append("quantized layers: of the numbers that their integers stand for, (integer − zero point) · scale")
    return Table(
        _STATS_COLUMNS,
        [_stats_row(layer, stats) for layer, stats in layers],
        title=f"{opened_name(checkpoint)} · weights of {plural(len(layers), 'layer')}",
        notes=(*lines, *notes),
        raw=[
            (layer_name(layer), "×".join(map(str, layer.weight.shape)), *_stats_values(stats)[:-1],
             " ".join(map(str, stats.histogram)))
            for layer, stats in layers
        ],
    )  # fmt: skip


def assumed_dims(layers: Iterable[Layer]) -> list[str]:
    """A line for the layers whose spectral norm's dim is assumed.

    Raises:
        ConvInspectError: The numbers that would tell it cannot be read.
    """
    names = [layer_name(layer) for layer in layers if assumed_dim(layer) is not None]
    return [f"{first_few(names)}: PyTorch's default is taken: {Doubt.NORM_DIM.value}"] if names else []


def _stats_values(stats: Stats) -> tuple[Any, ...]:
    return (
        stats.minimum, stats.maximum, stats.mean, stats.std, stats.l2, stats.zeros, stats.nan, stats.inf,
        list(stats.histogram),
    )  # fmt: skip


def _stats_row(layer: Layer, stats: Stats) -> tuple[Cell, ...]:
    return (
        layer_name(layer),
        shape(layer.weight.shape),
        *(_figure(value) for value in (stats.minimum, stats.maximum, stats.mean, stats.std, stats.l2)),
        count(stats.zeros),
        *(Styled(count(n), BAD if n else QUIET) for n in (stats.nan, stats.inf)),
        sparkline(stats.histogram),
    )


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def stats_payload(checkpoint: Checkpoint, rows: Iterable[tuple[Layer, Stats]]) -> dict[str, Any]:
    """The JSON of `weights --stats`; figures are None if a layer has no finite value."""
    names = ("min", "max", "mean", "std", "l2", "zeros", "nan", "inf", "histogram")
    return {
        "path": str(checkpoint.path),
        "root": checkpoint.root.path,
        "layers": [
            {
                **_head(layer),
                "numel": stats.numel,
                **dict(zip(names, _stats_values(stats), strict=True)),
            }
            for layer, stats in rows
        ],
    }


def kernel_payload(kernel: Kernel, choice: Choice) -> dict[str, Any]:
    """One layer of the JSON of `weights`: the chosen part of its kernel, numbers in full precision.

    `axes` names the dimensions of `weight`; `stored_axes` names those of `shape`, the shape as stored.
    """
    weight, bias, rows, columns = cut(kernel, choice)
    turned = kernel.layer.kind == TRANSFORMERS_CONV1D
    taps = [f"kernel_size[{i}]" for i in range(weight.ndim - 2)]
    return {
        **_head(kernel.layer),
        "stored_axes": ["in", "out"] if turned else axis_names(kernel.layer),
        "axes": ["out", "in", *taps],
        "notes": list(kernel.notes),
        "rows": list(rows),
        "columns": list(columns),
        "weight": weight,
        "bias": bias,
        **_quantizer_payload(kernel.layer.weight),
    }


def _quantizer_payload(weight: Tensor) -> dict[str, Any]:
    """Of a quantized weight, whose numbers are shown dequantized, how its integers are read."""
    if not is_quantized(weight):
        return {}
    scheme, scale, zero_point, axis = quantizer_of(weight)
    found = {"scheme": scheme, "axis": axis, "scale": scale.tolist(), "zero_point": zero_point.tolist()}
    return {"quantizer": found}


def tensors_payload(layer: Layer, matrices: Sequence[Matrix]) -> dict[str, Any]:
    """The same for a layer that is neither convolution nor Linear."""
    return {
        **_head(layer),
        "matrices": [
            {"title": matrix.title, "columns": " ".join(matrix.column_names[:8]), "values": matrix.values}
            for matrix in matrices
        ],
    }


def _head(layer: Layer) -> dict[str, Any]:
    return {
        "name": layer.name,
        "kind": layer.kind,
        "shape": list(layer.weight.shape),
        "dtype": layer.weight.dtype,
    }
