"""The table and the JSON of `shapes`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from convinspect.checkpoint import Checkpoint
from convinspect.kinds import LISTED
from convinspect.layers.folding import Fold, unfolded
from convinspect.layers.packing import is_packed, logical_parameters
from convinspect.layers.reading import may_be_transposed
from convinspect.layouts import axis_names, is_turned, same_order, torch_shape
from convinspect.records import Doubt, Layer
from convinspect.render.cells import count, shape, size
from convinspect.render.lazy_rows import LazyRows
from convinspect.render.style import BAD, GOOD, NAME, QUIET, WARN
from convinspect.render.table import Cell, Column, Styled, Table
from convinspect.report.parameters import counted_in, notes_on_packed, packed_more, parameters_of
from convinspect.report.tensorless import notes_on_tensorless, without_shapes
from convinspect.text import plural

_WARNING_TAGS = {"assumed", "ambiguous", "bias?", "view", "quantized", "packed", "recurrent"}
_BAD_TAGS = {"incomplete", "cut", "empty"}

_ASSUMED = "assumed: a state_dict does not record stride, padding and groups; taken as 1, 0 and 1"
_ASSUMED_GROUPS = "assumed: a state_dict does not record stride, padding and groups; in → out takes groups as 1"
_ASSUMED_DIRECTION = (
    "pointwise, assumed: a ConvTranspose without a bias, or of as many inputs as outputs, has the same shapes"
)
_EXPLAINED = {
    "depthwise?": "depthwise?: (C, 1, …) is the shape of a depthwise convolution as well as of 1 → C",
    "stride 2?": "stride 2?: layers of this name usually have stride 2",
    "ambiguous": "ambiguous: more than one kind of layer fits these shapes (--format json says which)",
    "by name": "by name: without a bias, a Linear and an Embedding look alike; the name says that it is a Linear",
    "view": "view: the tensor shares its storage with others, or is part of a larger one that the file holds whole",
    "empty": "empty: the weight has shape (0,) and no numbers, as ZeRO-3 saves parts that were not gathered",
    "padded": "padded: the layer pads its input before the convolution, by how much the graph does not tell",
    "padded?": "padded?: the input is padded just before the convolution, by the layer itself or by another",
    "calls differ": "calls differ: the weight is given to several calls with different settings",
    "incomplete": "incomplete: half of a pair of tensors is missing, so the kernel cannot be computed",
    "cut": "cut: the file ends before the layer's last byte",
}

_COLUMNS = (
    Column("name", style=NAME, priority=100, elide=True, key="name", min_width=36),
    Column("kind", priority=90, foldable=True, key="kind"),
    Column("weight", priority=95, key="weight_shape"),
    Column("in → out", justify="right", priority=85, key="in_out"),
    Column("k", justify="right", style=QUIET, priority=30, foldable=True, key="kernel_size"),
    Column("bias", style=QUIET, priority=40, foldable=True, key="bias"),
    Column("dtype", style=QUIET, priority=50, foldable=True, key="dtype"),
    Column("params", justify="right", priority=55, key="parameters"),
    Column("size", justify="right", style=QUIET, priority=45, key="nbytes"),
    Column(
        "notes",
        priority=80,
        wrap=True,
        key="notes",
        min_width=10,
        legend=(_ASSUMED, _ASSUMED_GROUPS, _ASSUMED_DIRECTION, *_EXPLAINED.values()),
    ),
)


def layer_name(layer: Layer) -> str:
    """The name to show; the root module has no name of its own."""
    return layer.name or "(root)"


def listing_table(checkpoint: Checkpoint, layers: Sequence[Layer], folds: Sequence[Fold], everything: bool) -> Table:
    """The table of `shapes`.

    Args:
        checkpoint: The checkpoint.
        layers: All of its layers, for the totals.
        folds: The rows.
        everything: Whether all kinds were asked for, so that no note on omitted ones is needed.
    """
    shown = [layer for fold in folds for layer in fold.layers]
    counted = counted_in(checkpoint)
    return Table(
        _columns(checkpoint),
        _rows(folds, counted),
        title=f"{checkpoint.path.name} · {checkpoint.format}{_root_of(checkpoint)}",
        summary=_totals_lines(checkpoint, layers),
        notes=tuple(_footnotes(checkpoint, layers, shown, everything)),
        raw=LazyRows(_raw, folds, counted),
        more=("evidence", "pointwise"),
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


def _root_of(checkpoint: Checkpoint) -> str:
    return f" · root {checkpoint.root.path}" if checkpoint.root.path else ""


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
        layer.kind,
        layer.weight.shape,
        arrow,
        layer.kernel_size,
        layer.bias is not None,
        layer.weight.dtype,
        parameters_of(fold.layers, counted),
        sum([each.nbytes for each in fold.layers]),
    )
    return (fold.name or "(root)", *facts, _tag_cell(tags_of(layer), len(fold.layers)))


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
    return ("pointwise", *layer.tags) if layer.pointwise else layer.tags


@lru_cache(maxsize=1024)
def _tag_cell(tags: tuple[str, ...], repeats: int) -> Cell:
    words = ([f"×{repeats}"] if repeats > 1 else []) + list(tags)
    pieces: list[Styled] = []
    for word in words:
        pieces += [Styled(", ")] if pieces else []
        pieces.append(Styled(word, _tag_style(word)))
    return tuple(pieces)


def _tag_style(word: str) -> str:
    if word == "pointwise":
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
        "tensors": len(checkpoint.tensors),
        "parameters": sum(tensor.numel for tensor in checkpoint.parameters()) + more,
        **({"packed_layers_counted_as_stored": unknown} if unknown else {}),
        "tensor_nbytes": every.nbytes,
        "storage_nbytes": every.storage_nbytes,
        "disk_nbytes": checkpoint.nbytes_on_disk,
    }


def _totals_lines(checkpoint: Checkpoint, layers: Sequence[Layer]) -> tuple[Cell, ...]:
    sums = totals(checkpoint, layers)
    pointwise = Styled(f"{count(sums['pointwise'])} pointwise", GOOD if sums["pointwise"] else "")
    stored = (
        f", in storages of {size(sums['storage_nbytes'])}" if sums["storage_nbytes"] > sums["tensor_nbytes"] else ""
    )
    words = "layer" if sums["layers"] == 1 else "layers"
    numbers = f"{count(sums['parameters'])} parameters"
    if checkpoint.root.role == "optimizer":
        numbers = f"{count(checkpoint.totals().numel)} numbers of optimizer state"
    return (
        (
            Styled(f"{count(sums['layers'])} conv and linear {words}, ", "bold"),
            pointwise,
            Styled(
                f" · {numbers} · {size(sums['tensor_nbytes'])} in tensors{stored}, {size(sums['disk_nbytes'])} on disk"
            ),
        ),
    )


def _footnotes(checkpoint: Checkpoint, layers: Sequence[Layer], shown: Sequence[Layer], everything: bool) -> list[str]:
    return [
        *([] if shown else ["no layer to show"]),
        *_notes_on_layers(shown),
        *notes_on_packed(checkpoint, layers),
        *notes_on_tensorless(checkpoint),
        *_notes_on_names(checkpoint),
        *([] if everything else _notes_on_left_out(layers, shown)),
        *(_notes_on_foreign_names(checkpoint) if everything else []),
        *checkpoint.notes,
    ]


def _notes_on_layers(shown: Sequence[Layer]) -> Iterator[str]:
    """The meaning of the tags that appear, and biases that do not fit."""
    used = {tag for tags in {layer.tags for layer in shown} for tag in tags}
    yield from _notes_on_layouts(shown)
    if "assumed" in used:
        pointwise_alone = all(layer.pointwise for layer in shown if "assumed" in layer.tags)
        yield _ASSUMED if pointwise_alone else _ASSUMED_GROUPS
        if any(map(may_be_transposed, shown)):
            yield _ASSUMED_DIRECTION
    yield from (text for tag, text in _EXPLAINED.items() if tag in used)
    misfit = Doubt.BIAS_DOES_NOT_FIT
    for layer in (layer for layer in shown if misfit in layer.doubts):
        yield f"{layer_name(layer)}: {misfit.sentence(layer.weight, layer.bias)}"


def _notes_on_layouts(shown: Sequence[Layer]) -> Iterator[str]:
    """Whose layout the weights have, and where that is known from."""
    for maker, known_from in dict.fromkeys(
        layer.layout for layer in shown if layer.layout is not None and is_turned(layer)
    ):
        then = "converted only where you name the layer" if same_order(maker) else "not converted"
        doubt = "" if known_from.sure else f"; taken so, and {then}"
        yield f"{maker.value} layout: {maker.axes}, {known_from.value}{doubt}"


def _notes_on_names(checkpoint: Checkpoint) -> Iterator[str]:
    """Prefixes that are not shown, and roots that were not opened."""
    for prefix, keys in checkpoint.prefixes.items():
        yield f"{count(keys)} of {count(len(checkpoint.tensors))} keys have {prefix!r}, which is not shown"
    others = [f"{root.path or '.'} ({plural(len(root.tensors), 'tensor')})" for root in _others(checkpoint)]
    if others:
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        yield f"other roots: {', '.join(others[:5])}{more}; --root chooses"


def _notes_on_left_out(layers: Sequence[Layer], shown: Sequence[Layer]) -> Iterator[str]:
    left_out = {layer.name for layer in layers} - {layer.name for layer in shown}
    if left_out:
        yield f"not shown: {_kinds([layer for layer in layers if layer.name in left_out])}; --all shows all"


def _notes_on_foreign_names(checkpoint: Checkpoint) -> Iterator[str]:
    """Other names in the pickle, and which of them are known to be harmful."""
    from convinspect.formats.pickle.safe_globals import classify_global

    classes = {module.class_name for module in checkpoint.modules.values()}
    foreign = [name for name in checkpoint.foreign if name not in classes]
    if foreign:
        more = f" and {len(foreign) - 8} more" if len(foreign) > 8 else ""
        yield f"the pickle also names {', '.join(foreign[:8])}{more}; nothing of it was imported or run"
    for name in foreign:
        reason = classify_global(name).reason
        if reason:
            yield f"{name} {reason} where the file is loaded; see convinspect check"


def _others(checkpoint: Checkpoint) -> list[Any]:
    chosen = checkpoint.root
    others = [root for root in checkpoint.roots if root.path != chosen.path and root.role != "other"]
    if not any(root is chosen for root in checkpoint.roots):
        # All roots below a path were opened as one.
        others = [root for root in others if chosen.path and not root.path.startswith(f"{chosen.path}.")]
    return others


def _kinds(layers: Sequence[Layer]) -> str:
    kinds: dict[str, int] = {}
    for layer in layers:
        kinds[layer.kind] = kinds.get(layer.kind, 0) + 1
    return ", ".join(f"{kind} ×{number}" if number > 1 else kind for kind, number in kinds.items())


def listing_payload(checkpoint: Checkpoint, layers: Sequence[Layer], shown: Sequence[Layer]) -> dict[str, Any]:
    """The JSON of `shapes`; keys that do not apply to a kind are absent, None is "not recorded"."""
    return {
        "path": str(checkpoint.path),
        "format": checkpoint.format,
        "root": checkpoint.root.path,
        "roots": [{"path": root.path, "role": root.role, "tensors": len(root.tensors)} for root in checkpoint.roots],
        "layers": [layer_payload(layer) for layer in shown],
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
