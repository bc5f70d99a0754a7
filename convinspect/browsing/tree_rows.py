"""A row of the tree as styled text: indentation, name, and as many columns as there is room for."""

from __future__ import annotations

from convinspect.browsing.model import Model
from convinspect.browsing.outline import Row
from convinspect.kinds import shown_kind
from convinspect.records import Layer
from convinspect.render.cells import cell_width, count, elide, safe, shape
from convinspect.render.style import BAD, GOOD, HEAD, NAME, QUIET, WARN
from convinspect.render.table import Styled
from convinspect.showing.opened import opened_name
from convinspect.text import plural

_KIND, _SHAPE, _PARAMS = 20, 18, 15
"""Cells of the columns."""
_LEAST = 24
"""Cells that a name has before it gets a further column."""
_BAD_TAGS = {"incomplete", "cut", "empty"}


def columns_of(width: int) -> tuple[bool, bool, bool]:
    """Whether a row of this width has the kind, the shape and the number of parameters."""
    has_shape = width >= 16 + _SHAPE
    has_kind = width >= _LEAST + _SHAPE + _KIND
    return has_kind, has_shape, width >= _LEAST + _SHAPE + _KIND + _PARAMS


def tree_line(row: Row, width: int) -> tuple[Styled, ...]:
    """A row of the tree, as wide as its widget or narrower."""
    node = row.node
    layer = node.layers[0] if node.layers else None
    has_kind, has_shape, has_params = columns_of(width)
    right: list[Styled] = []
    # The name of a module without a class has the room of the kind, too.
    if has_kind and (kind := _kind(row, layer)):
        right.append(Styled(_fitted(kind, _KIND), QUIET))
    if has_shape:
        right.append(_shape_cell(row, layer))
    if has_params:
        right.append(Styled(count(node.parameters).rjust(_PARAMS), "" if layer else QUIET))
    mark = ("▾ " if row.is_open else "▸ ") if row.has_children else "  "
    indent = min(2 * row.depth, width // 3)
    room = width - indent - len(mark) - sum(cell_width(part.text) for part in right) - 1
    name = elide(safe(node.name or "(root)"), max(room, 1))
    gap = " " * max(room - cell_width(name) + 1, 1)
    return (Styled(" " * indent + mark, QUIET), Styled(name, NAME if layer else HEAD), Styled(gap), *right)


def _kind(row: Row, layer: Layer | None) -> str:
    return row.node.kind if layer is None else shown_kind(layer.kind, layer.tags)


def _shape_cell(row: Row, layer: Layer | None) -> Styled:
    if layer is None:
        return Styled(_fitted(plural(row.node.tensors, "tensor"), _SHAPE), QUIET)
    style = GOOD if layer.pointwise or layer.patch else WARN if layer.evidence == "ambiguous" else ""
    style = BAD if _BAD_TAGS.intersection(layer.tags) else style
    return Styled(_fitted(shape(layer.weight.shape), _SHAPE), style)


def _fitted(text: str, width: int) -> str:
    text = elide(safe(text), width - 1)
    return text + " " * (width - cell_width(text))


def head_texts(model: Model) -> tuple[str, ...]:
    """What the file is, its root, and its sums: in full, then shorter and shorter."""
    checkpoint = model.checkpoint
    layers = model.layers
    pointwise = sum(layer.pointwise for layer in layers)
    what = "number" if checkpoint.root.role == "optimizer" else "parameter"
    name = opened_name(checkpoint)
    root = f" · root {checkpoint.root.path}" if checkpoint.root.path else ""
    sums = f"{plural(len(layers), 'layer')}, {count(pointwise)} pointwise"
    numbers = plural(model.tree.parameters, what)
    return (
        f"{name}{root} · {sums} · {numbers} · {checkpoint.format}",
        f"{name}{root} · {sums} · {numbers}",
        f"{name}{root} · {sums}",
        f"{name}{root}",
    )
