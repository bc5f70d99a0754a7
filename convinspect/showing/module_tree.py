"""The tree of modules as a table, and its JSON: `shapes --tree`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from convinspect.checkpoint import Checkpoint
from convinspect.kinds import shown_kind
from convinspect.layers.tree import Node
from convinspect.records import Layer
from convinspect.render.cells import count, shape, size
from convinspect.render.style import NAME, QUIET
from convinspect.render.table import WHOLE, Cell, Column, Styled, Table
from convinspect.showing.footnotes import ASSUMED, ASSUMED_GROUPS, LEGEND, NO_LAYER, footnotes, note_on_more
from convinspect.showing.shapes import tag_cell, tags_of, title_of, totals_lines

_COUNTED = "params, share, size: of all that lies under a module, what is not shown too"
_SHARED = "params, share, size: tied tensors count in each module that has them, and once in what holds both"

_COLUMNS: tuple[Column, ...] = (
    Column("module", style=NAME, priority=100, elide=True, key="name", min_width=WHOLE, never_hidden=True),
    Column("kind", priority=99, key="kind", never_hidden=True),
    Column("weight", priority=98, key="weight_shape", never_hidden=True),
    Column("params", justify="right", priority=50, key="parameters", legend=(_COUNTED, _SHARED)),
    Column("share", justify="right", style=QUIET, priority=48, key="share"),
    Column("size", justify="right", style=QUIET, priority=40, key="nbytes"),
    Column("notes", priority=97, wrap=True, key="notes", min_width=10, never_hidden=True, legend=LEGEND),
)
_MORE = ("path", "depth", "repeats", "pointwise")


def tree_table(
    checkpoint: Checkpoint,
    layers: Sequence[Layer],
    tree: Node,
    shown: Sequence[Layer],
    everything: bool,
    beyond: int = 0,
) -> Table:
    """The table of `shapes --tree`.

    Args:
        checkpoint: The checkpoint.
        layers: All of its layers, for the totals.
        tree: What is shown of its modules.
        shown: The layers that were asked for, whether the tree is deep enough to show them or not.
        everything: Whether all kinds were asked for, so that no note on omitted ones is needed.
        beyond: How many rows are left out, since there are too many.
    """
    lines = list(_lines(tree))
    seen = [layer for *_, node in lines for layer in node.layers]
    notes = [
        *([note_on_more(beyond, len(lines))] if beyond else []),
        *([_COUNTED] if len(shown) < len(layers) else []),
        *([] if checkpoint.sharing.distinct or not checkpoint.sharing.ties else [_SHARED]),
        # There is no column in → out.
        *(
            ASSUMED if note == ASSUMED_GROUPS else note
            for note in footnotes(checkpoint, layers, seen, everything, shown)
            # Layers may lie deeper than the tree.
            if note != NO_LAYER or not shown
        ),
    ]
    columns = _COLUMNS
    if checkpoint.root.role == "optimizer":
        columns = tuple(c._replace(title="numbers", key="numel") if c.title == "params" else c for c in columns)
    return Table(
        columns,
        [_row(lead, node, tree.parameters) for lead, _, _, node in lines],
        title=title_of(checkpoint),
        summary=totals_lines(checkpoint, layers),
        notes=tuple(notes),
        raw=[_raw(depth, node, tree.parameters) for _, _, depth, node in lines],
        more=_MORE,
        under=[under for _, under, _, _ in lines],
    )


def tree_payload(node: Node, all_parameters: int) -> dict[str, Any]:
    """A node and all below it, in JSON."""
    layer = node.layers[0] if node.layers else None
    return {
        "name": node.name,
        "path": node.path,
        "kind": node.kind,
        "repeats": node.repeats,
        "layers": [each.name for each in node.layers],
        **({"weight": {"shape": list(layer.weight.shape), "dtype": layer.weight.dtype}} if layer else {}),
        **({"pointwise": layer.pointwise} if layer else {}),
        "parameters": node.parameters,
        "share": _share(node, all_parameters),
        "nbytes": node.nbytes,
        "tensors": node.tensors,
        "children": [tree_payload(child, all_parameters) for child in node.children],
    }


def _lines(tree: Node) -> Iterator[tuple[str, str, int, Node]]:
    """Each node with the lines of the tree before its name, those that go on below it, and its depth; parents first."""
    waiting = [("", "", 0, tree)]
    while waiting:
        lead, under, depth, node = waiting.pop()
        yield lead, f"{under}{'│ ' if node.children else '  '}", depth, node
        last = len(node.children) - 1
        below = [
            (
                f"{under}{'└─ ' if place == last else '├─ '}",
                f"{under}{'   ' if place == last else '│  '}",
                depth + 1,
                child,
            )
            for place, child in enumerate(node.children)
        ]
        waiting += reversed(below)


def _row(lead: str, node: Node, all_parameters: int) -> tuple[Cell, ...]:
    layer = node.layers[0] if node.layers else None
    return (
        (Styled(lead, QUIET), Styled(_name(node), NAME)),
        shown_kind(node.kind, layer.tags) if layer else node.kind,
        shape(layer.weight.shape) if layer else "",
        count(node.parameters),
        _percent(_share(node, all_parameters)),
        size(node.nbytes),
        tag_cell(tags_of(layer) if layer else (), node.repeats),
    )


def _name(node: Node) -> str:
    return node.name or ("(root)" if not node.path else "")


def _share(node: Node, all_parameters: int) -> float | None:
    """The part of all parameters that lies under a node, from 0 to 1."""
    return node.parameters / all_parameters if all_parameters else None


def _percent(share: float | None) -> str:
    if share is None:
        return "–"
    return "<0.1 %" if 0 < share < 0.0005 else "0 %" if share == 0 else f"{share:.1%}".replace("%", " %")


def _raw(depth: int, node: Node, all_parameters: int) -> tuple[object, ...]:
    """Machine values of a row, for CSV and Markdown."""
    layer = node.layers[0] if node.layers else None
    words = ([f"×{node.repeats}"] if node.repeats > 1 else []) + list(tags_of(layer) if layer else ())
    return (
        _name(node),
        node.kind,
        "×".join(map(str, layer.weight.shape)) if layer else "",
        node.parameters,
        _share(node, all_parameters),
        node.nbytes,
        ", ".join(words),
        node.path,
        depth,
        node.repeats,
        bool(layer and layer.pointwise),
    )
