"""The tree of modules that dotted names describe, with sums of what lies under each."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Sequence
from math import prod
from typing import NamedTuple

from convinspect.checkpoint import Checkpoint
from convinspect.layers.find import find_layers
from convinspect.layers.folding import NUMBER, ranges, signature
from convinspect.layers.order import Order, sort_layers
from convinspect.layers.packing import is_packed
from convinspect.layers.parameters import beyond_stored, counted_in
from convinspect.records import Layer, Tensor

DEEPEST = 32
"""Levels below the root. What a name has beyond is the name of one module, so that no tree is deep enough to make
recursion fail.
"""


class Node(NamedTuple):
    """A module, or what stands in the place of several alike.

    Attributes:
        name: The last part of its path; "" is the root, "{0–11}" stands for twelve modules.
        path: From the root, its parents folded as they are: "encoder.{0–11}".
        kind: What it is: its own layer's kind, else its class where the file records it, else "".
        layers: Its own layers, whose name is its path: none, one, rarely more. Where something above it or itself is
            folded, those of all that it stands for. Only those that are shown.
        parameters: Of all under it, as `shapes` counts them: without buffers, each tie once; of an optimizer's
            state, all numbers. It counts what is not shown too.
        nbytes: Bytes of all tensors under it, buffers too, each tie once.
        tensors: How many tensors lie under it.
        children: In the order of a listing.
        repeats: How many modules of its parent it stands for.
    """

    name: str
    path: str
    kind: str
    layers: tuple[Layer, ...]
    parameters: int
    nbytes: int
    tensors: int
    children: tuple[Node, ...] = ()
    repeats: int = 1


def module_tree(
    checkpoint: Checkpoint,
    layers: Sequence[Layer] | None = None,
    shown: Collection[Layer] | None = None,
    *,
    fold: bool = True,
    depth: int | None = None,
    sort: Order | None = None,
) -> Node:
    """The modules of a checkpoint as a tree. Its root's sums are the totals of `shapes`.

    A tensor that two modules share counts in each of them, as `module.parameters()` does, and once in what holds both:
    then children's sums may exceed their parent's.

    Args:
        checkpoint: The checkpoint.
        layers: All of its layers, where the caller has found them already.
        shown: Those that are to be seen; modules without any are left out, but counted. None: all.
        fold: Show neighbours that differ in nothing but a number for a name as one: `{0–11}`.
        depth: Leave out what lies deeper than so many levels below the root; it is counted.
        sort: The order of children, as of `sort_layers`; by "params" and "size" of all that lies under them.

    Returns:
        The root, whose name is "". Nodes nest at most `DEEPEST` + 1 deep.

    Raises:
        CannotShow: There is no such order.
    """
    every = find_layers(checkpoint) if layers is None else layers
    by_sums = sort in ("params", "size")
    drafts = _drafts(sort_layers(checkpoint, every, None if by_sums else sort), checkpoint)
    if fold:
        _fold(drafts)
    drafts = [draft for draft in drafts if not draft.absorbed]
    _add_up(drafts, checkpoint)
    _sort(drafts, sort)
    seen = None if shown is None else {id(layer) for layer in shown}
    return _frozen(drafts[0], "", seen, DEEPEST if depth is None else depth)[0]


def first_nodes(root: Node, most: int) -> Node:
    """The tree without what comes after its first `most` nodes, parents first; the root stays."""
    kept = {id(node) for (_, node), _ in zip(walk(root), range(most), strict=False)}
    return _only(root, kept)


def _only(node: Node, kept: set[int]) -> Node:
    return node._replace(children=tuple(_only(child, kept) for child in node.children if id(child) in kept))


def joined(node: Node) -> Node:
    """The tree with each module that has nothing but one other as a part of that one's name: `model.layers`.

    Nothing is lost: what is joined has no layer or class of its own, and the sums of what it holds. The root stays.
    """
    children = tuple([joined(child) if child.children else child for child in node.children])
    if len(children) == 1 and node.path and not (node.kind or node.layers):
        child = children[0]
        same = (node.parameters, node.nbytes, node.tensors) == (child.parameters, child.nbytes, child.tensors)
        if same and 1 in (node.repeats, child.repeats):
            return child._replace(name=f"{node.name}.{child.name}", repeats=node.repeats * child.repeats)
    return node._replace(children=children)


def walk(node: Node) -> Iterator[tuple[int, Node]]:
    """A node and all below it, parents first, each with its depth: 0 is the node given."""
    waiting = [(0, node)]
    while waiting:
        depth, each = waiting.pop()
        yield depth, each
        waiting += [(depth + 1, child) for child in reversed(each.children)]


class _Draft:
    """A node in the making."""

    __slots__ = (
        "absorbed",
        "children",
        "kind",
        "layers",
        "name",
        "nbytes",
        "parameters",
        "parent",
        "repeats",
        "tensors",
    )

    def __init__(self, name: str, parent: _Draft | None, kind: str) -> None:
        self.name, self.parent, self.kind = name, parent, kind
        self.layers: list[Layer] = []
        self.children: dict[str, _Draft] = {}
        self.parameters = self.nbytes = self.tensors = 0
        self.repeats = 1
        self.absorbed = False


def _drafts(layers: Sequence[Layer], checkpoint: Checkpoint) -> list[_Draft]:
    """A draft of each module, parents before children."""
    classes = checkpoint.modules
    root = _Draft("", None, classes[""].kind if "" in classes else "")
    drafts = [root]
    for layer in layers:
        draft = root
        parts = layer.name.split(".", DEEPEST - 1) if layer.name else ()
        for level, part in enumerate(parts):
            child = draft.children.get(part)
            if child is None:
                recorded = classes.get(".".join(parts[: level + 1])) if classes else None
                child = draft.children[part] = _Draft(part, draft, recorded.kind if recorded else "")
                drafts.append(child)
            draft = child
        draft.kind = draft.layers[0].kind if draft.layers else layer.kind
        draft.layers.append(layer)
    return drafts


def _fold(drafts: Sequence[_Draft]) -> None:
    """Let the first of several siblings of equal structure stand for all, from the leaves up."""
    numbers: dict[Hashable, int] = {}
    structures: dict[int, int] = {}
    for draft in reversed(drafts):
        groups: dict[tuple[object, ...], list[_Draft]] = {}
        for child in draft.children.values():
            foldable = NUMBER.fullmatch(child.name) is not None
            groups.setdefault((structures[id(child)], foldable or child.name), []).append(child)
        for group in groups.values():
            if len(group) > 1:
                _merge(group)
        draft.children = {key: child for key, child in draft.children.items() if not child.absorbed}
        below = tuple((child.name, structures[id(child)]) for child in draft.children.values())
        own = (draft.kind, tuple(map(signature, draft.layers)), below)
        structures[id(draft)] = numbers.setdefault(own, len(numbers))


def _merge(group: Sequence[_Draft]) -> None:
    first, *others = group
    first.name = "{" + ranges([int(draft.name) for draft in group]) + "}"
    first.repeats = len(group)
    for other in others:
        _absorb(first, other)


def _absorb(into: _Draft, other: _Draft) -> None:
    """Add the layers of a draft and of all below it to another of the same structure."""
    into.layers += other.layers
    other.absorbed = True
    for child, same in zip(into.children.values(), other.children.values(), strict=True):
        _absorb(child, same)


def _add_up(drafts: Sequence[_Draft], checkpoint: Checkpoint) -> None:
    """Set the sums of all drafts, of which parents come before children."""
    counted = counted_in(checkpoint)
    packs = checkpoint.root.role != "optimizer"
    ties = {id(checkpoint.tensors[name]): id(tie) for name, tie in checkpoint.sharing.ties.items()}
    tied: dict[int, list[tuple[_Draft, Tensor]]] = {}
    for draft in reversed(drafts):
        for layer in draft.layers:
            if packs and is_packed(layer):
                draft.parameters += beyond_stored(layer, counted) or 0
            draft.tensors += len(layer.tensors)
            for tensor in layer.tensors.values():
                if id(tensor) in ties:
                    tied.setdefault(ties[id(tensor)], []).append((draft, tensor))
                    continue
                draft.nbytes += tensor.nbytes
                draft.parameters += prod(tensor.shape) if id(tensor) in counted else 0
        if draft.parent is not None:
            draft.parent.parameters += draft.parameters
            draft.parent.nbytes += draft.nbytes
            draft.parent.tensors += draft.tensors
    for places in tied.values():
        nbytes = places[0][1].nbytes
        for draft in _holders(draft for draft, _ in places):
            draft.nbytes += nbytes
        parameters = [(draft, tensor) for draft, tensor in places if id(tensor) in counted]
        for draft in _holders(draft for draft, _ in parameters):
            draft.parameters += prod(parameters[0][1].shape)


def _sort(drafts: Sequence[_Draft], by: Order | None) -> None:
    """Put the largest children first, where that is asked for."""
    if by == "params":
        for draft in drafts:
            draft.children = dict(sorted(draft.children.items(), key=lambda item: -item[1].parameters))
    elif by == "size":
        for draft in drafts:
            draft.children = dict(sorted(draft.children.items(), key=lambda item: -item[1].nbytes))


def _holders(drafts: Iterator[_Draft]) -> list[_Draft]:
    """These drafts and all above them, each once."""
    holders: dict[int, _Draft] = {}
    for draft in drafts:
        holder: _Draft | None = draft
        while holder is not None and id(holder) not in holders:
            holders[id(holder)] = holder
            holder = holder.parent
    return list(holders.values())


def _frozen(draft: _Draft, path: str, shown: set[int] | None, depth: int) -> tuple[Node, bool]:
    """The node that a draft becomes, and whether anything in it is to be seen."""
    layers = tuple(draft.layers if shown is None else [layer for layer in draft.layers if id(layer) in shown])
    below = [
        _frozen(child, child.name if draft.parent is None else f"{path}.{child.name}", shown, depth - 1)
        for child in draft.children.values()
    ]
    seen = [node for node, is_seen in below if is_seen]
    node = Node(
        draft.name, path, draft.kind, layers, draft.parameters, draft.nbytes, draft.tensors,
        tuple(seen) if depth > 0 else (), draft.repeats,
    )  # fmt: skip
    return node, bool(seen or layers or shown is None)
