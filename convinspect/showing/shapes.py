"""The table and the JSON of `shapes`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from convinspect.checkpoint import Checkpoint
from convinspect.kinds import LISTED, shown_kind
from convinspect.layers.folding import Fold, unfolded
from convinspect.layers.packing import is_packed, logical_parameters
from convinspect.layers.parameters import counted_in, packed_more, parameters_of
from convinspect.layouts import axis_names, torch_shape
from convinspect.records import Layer
from convinspect.render.cells import count, shape, size
from convinspect.render.lazy_rows import LazyRows
from convinspect.render.style import BAD, GOOD, NAME, QUIET, WARN
from convinspect.render.table import WHOLE, Cell, Column, Styled, Table
from convinspect.showing.footnotes import LEGEND, footnotes, note_on_more
from convinspect.showing.opened import opened_name
from convinspect.showing.tensorless import without_shapes
from convinspect.text import plural

_WARNING_TAGS = {"assumed", "ambiguous", "bias?", "view", "quantized", "packed", "recurrent"}
_BAD_TAGS = {"incomplete", "cut", "empty"}

_COLUMNS = (
    Column("name", style=NAME, priority=100, elide=True, key="name", min_width=WHOLE, never_hidden=True),
    Column("kind", priority=99, key="kind", never_hidden=True),
    Column("weight", priority=98, key="weight_shape", never_hidden=True),
    Column("in → out", justify="right", priority=20, key="in_out", repeats=True),
    Column("k", justify="right", style=QUIET, priority=60, foldable=True, key="kernel_size"),
    Column("bias", style=QUIET, priority=55, foldable=True, key="bias"),
    Column("dtype", style=QUIET, priority=30, foldable=True, key="dtype"),
    Column("params", justify="right", priority=50, key="parameters"),
    Column("size", justify="right", style=QUIET, priority=40, key="nbytes"),
    Column(
        "notes",
        priority=97,
        wrap=True,
        key="notes",
        min_width=10,
        never_hidden=True,
        legend=LEGEND,
    ),
)


def listing_table(
    checkpoint: Checkpoint,
    layers: Sequence[Layer],
    folds: Sequence[Fold],
    everything: bool,
    beyond: Sequence[Fold] = (),
) -> Table:
    """The table of `shapes`.

    Args:
        checkpoint: The checkpoint.
        layers: All of its layers, for the totals.
        folds: The rows.
        everything: Whether all kinds were asked for, so that no note on omitted ones is needed.
        beyond: Rows that are left out, since there are too many.
    """
    shown = [layer for fold in folds for layer in fold.layers]
    more = [layer for fold in beyond for layer in fold.layers]
    counted = counted_in(checkpoint)
    columns = _columns(checkpoint)
    return Table(
        columns if folds else (),
        _rows(folds, counted),
        title=title_of(checkpoint),
        summary=totals_lines(checkpoint, layers),
        notes=(
            *([note_on_more(len(beyond), len(folds))] if beyond else []),
            *footnotes(checkpoint, layers, shown, everything, more),
        ),
        raw=LazyRows(_raw, folds, counted),
        # A table without rows is not drawn, but CSV needs its header.
        more=(*(() if folds else [column.machine_name for column in columns]), "evidence", "pointwise"),
    )


def layer_table(layer: Layer) -> Table:
    """A single layer with its notes. All its numbers are counted, since buffers are known from the checkpoint only."""
    rows = _rows(unfolded([layer]), {id(tensor) for tensor in layer.tensors.values()})
    return Table(_counting_numbers(), rows, notes=layer.notes)


def _columns(checkpoint: Checkpoint) -> tuple[Column, ...]:
    """The columns; an optimizer's state has numbers instead of parameters."""
    if checkpoint.root.role != "optimizer":
        return _COLUMNS
    return _counting_numbers()


def _counting_numbers() -> tuple[Column, ...]:
    """The columns with "numbers" instead of "params"."""
    return tuple(
        column._replace(title="numbers", key="numel") if column.title == "params" else column for column in _COLUMNS
    )


def title_of(checkpoint: Checkpoint) -> str:
    """What was opened, in what it is kept, and which part of it is meant."""
    root = f" · root {checkpoint.root.path}" if checkpoint.root.path else ""
    return f"{opened_name(checkpoint)} · {checkpoint.format}{root}"


def _rows(folds: Sequence[Fold], counted: set[int]) -> list[tuple[Cell, ...]]:
    """All rows, with aligned arrows."""
    pairs = [_widths(fold.layers[0]) for fold in folds]
    different = set(pairs)
    left = max((len(wide_in) for wide_in, _ in different), default=0)
    right = max((len(wide_out) for _, wide_out in different), default=0)
    arrows = {(a, b): f"{a:>{left}} → {b:<{right}}" if a or b else "" for a, b in different}
    return [_row(fold, arrows[pair], counted) for fold, pair in zip(folds, pairs, strict=True)]


def _row(fold: Fold, arrow: str, counted: set[int]) -> tuple[Cell, ...]:
    layer = fold.layers[0]
    facts = _facts(
        shown_kind(layer.kind, layer.tags),
        layer.weight.shape,
        arrow,
        layer.kernel_size,
        layer.bias is not None,
        layer.weight.dtype,
        parameters_of(fold.layers, counted),
        sum([each.nbytes for each in fold.layers]),
    )
    return (fold.name or "(root)", *facts, tag_cell(tags_of(layer), len(fold.layers)))


# A large file has few different layers, so their cells are cached.
@lru_cache(maxsize=1024)
def _facts(
    kind: str,
    weight: tuple[int, ...],
    arrow: str,
    kernel: tuple[int, ...],
    bias: bool,
    dtype: str,
    parameters: int,
    nbytes: int,
) -> tuple[str, ...]:
    """The cells between the name and the notes."""
    return (
        kind,
        shape(weight),
        arrow,
        "×".join(map(str, kernel)),
        "yes" if bias else "–",
        dtype,
        count(parameters),
        size(nbytes),
    )


def _widths(layer: Layer) -> tuple[str, str]:
    """The widths in and out; if groups are not recorded, `in` is the number from the shape."""
    wide_in, wide_out = layer.in_width, layer.out_width
    if wide_in is None and layer.kernel_size:
        wide_in = torch_shape(layer)[1]
    return (str(wide_in), str(wide_out)) if wide_in is not None and wide_out is not None else ("", "")


def tags_of(layer: Layer) -> tuple[str, ...]:
    """Short tags for what matters to a conversion."""
    word = "pointwise" if layer.pointwise else "patch" if layer.patch else ""
    return (word, *layer.tags) if word else layer.tags


@lru_cache(maxsize=1024)
def tag_cell(tags: tuple[str, ...], repeats: int) -> Cell:
    """Tags in their colours, after how many times a row stands for."""
    words = ([f"×{repeats}"] if repeats > 1 else []) + list(tags)
    pieces: list[Styled] = []
    for word in words:
        pieces += [Styled(", ")] if pieces else []
        pieces.append(Styled(word, _tag_style(word)))
    return tuple(pieces)


def _tag_style(word: str) -> str:
    if word in ("pointwise", "patch"):
        return GOOD
    if word in _BAD_TAGS:
        return BAD
    return WARN if word in _WARNING_TAGS or word.startswith(("groups", "stride", "padding", "depthwise")) else ""


def _raw(fold: Fold, counted: set[int]) -> tuple[object, ...]:
    """Machine values of a row, for CSV and Markdown."""
    layer, repeats = fold.layers[0], len(fold.layers)
    return (
        fold.name or "(root)",
        layer.kind,
        "×".join(map(str, layer.weight.shape)),
        " → ".join(filter(None, _widths(layer))),
        "×".join(map(str, layer.kernel_size)),
        layer.bias is not None,
        layer.weight.dtype,
        parameters_of(fold.layers, counted),
        sum(each.nbytes for each in fold.layers),
        ", ".join(([f"×{repeats}"] if repeats > 1 else []) + list(tags_of(layer))),
        layer.evidence,
        layer.pointwise,
    )


def totals(checkpoint: Checkpoint, layers: Sequence[Layer]) -> dict[str, int]:
    """The totals of the JSON contract: counts, elements and bytes."""
    every = checkpoint.totals()
    more, unknown = packed_more(checkpoint, layers)
    return {
        "layers": sum(layer.kind in LISTED for layer in layers),
        "pointwise": sum(layer.pointwise for layer in layers),
        "patch": sum(layer.patch for layer in layers),
        "tensors": len(checkpoint.tensors),
        "parameters": sum(tensor.numel for tensor in checkpoint.parameters()) + more,
        **({"packed_layers_counted_as_stored": unknown} if unknown else {}),
        "tensor_nbytes": every.nbytes,
        "storage_nbytes": every.storage_nbytes,
        "disk_nbytes": checkpoint.nbytes_on_disk,
    }


def totals_lines(checkpoint: Checkpoint, layers: Sequence[Layer]) -> tuple[Cell, ...]:
    """The sums of the whole file, as the lines under its layers."""
    sums = totals(checkpoint, layers)
    pointwise = Styled(f"{count(sums['pointwise'])} pointwise", GOOD if sums["pointwise"] else "")
    stored = (
        f", in storages of {size(sums['storage_nbytes'])}" if sums["storage_nbytes"] > sums["tensor_nbytes"] else ""
    )
    numbers = plural(sums["parameters"], "parameter")
    if checkpoint.root.role == "optimizer":
        numbers = f"{plural(checkpoint.totals().numel, 'number')} of optimizer state"
    return (
        (
            Styled(f"{plural(sums['layers'], 'conv and linear layer')}, ", "bold"),
            pointwise,
            *([Styled(f", {count(sums['patch'])} patch", GOOD)] if sums["patch"] else []),
            Styled(
                f" · {numbers} · {size(sums['tensor_nbytes'])} in tensors{stored}, {size(sums['disk_nbytes'])} on disk"
            ),
        ),
    )


def listing_payload(
    checkpoint: Checkpoint, layers: Sequence[Layer], shown: Sequence[Layer], beyond: int | None = None
) -> dict[str, Any]:
    """The JSON of `shapes`; keys that do not apply to a kind are absent, None is "not recorded".

    Args:
        checkpoint: The checkpoint.
        layers: All of its layers, for the totals.
        shown: Those to list.
        beyond: How many more are left out since there are too many; None where no number is too many.
    """
    return {
        "path": str(checkpoint.path),
        "format": checkpoint.format,
        "root": checkpoint.root.path,
        "roots": [{"path": root.path, "role": root.role, "tensors": len(root.tensors)} for root in checkpoint.roots],
        "layers": [layer_payload(layer) for layer in shown],
        **({"not_shown": beyond} if beyond is not None else {}),
        "totals": totals(checkpoint, layers),
        **({"without_shapes": lost} if (lost := without_shapes(checkpoint)) else {}),
        "problems": list(checkpoint.problems),
        "notes": list(checkpoint.notes),
    }


def layer_payload(layer: Layer) -> dict[str, Any]:
    """One layer of the JSON contract."""
    payload: dict[str, Any] = {
        "name": layer.name,
        "kind": layer.kind,
        "evidence": layer.evidence,
        "pointwise": layer.pointwise,
        "weight": {"shape": list(layer.weight.shape), "dtype": layer.weight.dtype},
    }
    if layer.kind != "Parameter":
        payload["bias"] = layer.bias is not None
    if layer.kernel_size:
        payload |= {
            "in_channels": layer.in_width,
            "out_channels": layer.out_width,
            "kernel_size": list(layer.kernel_size),
            "patch": layer.patch,
            "stride": _listed(layer.stride),
            "padding": _listed(layer.padding),
            "dilation": _listed(layer.dilation),
            "groups": layer.groups,
        }
    elif layer.in_width is not None:
        payload |= {"in_features": layer.in_width, "out_features": layer.out_width}
    if layer.norm:
        payload["norm"] = layer.norm
    if layer.layout is not None:
        maker, known_from = layer.layout
        payload["layout"] = {
            "maker": maker.value,
            "axes": axis_names(layer),
            "known_from": known_from.name.lower(),
            "sure": known_from.sure,
        }
    logical = logical_parameters(layer) if is_packed(layer) else None
    return payload | {
        **({"logical_parameters": logical} if logical is not None else {}),
        "numel": layer.numel,
        "nbytes": layer.nbytes,
        "tied_to": list(layer.tied_to),
        **({"tied_to_more": layer.tied_to_more} if layer.tied_to_more else {}),
        "notes": list(layer.notes),
    }


def _listed(value: tuple[int, ...] | str | None) -> list[int] | str | None:
    return list(value) if isinstance(value, tuple) else value
