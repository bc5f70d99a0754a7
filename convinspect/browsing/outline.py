"""The rows of the tree that are open, and how they change: no terminal, no drawing."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from convinspect.browsing.model import Model
from convinspect.layers.tree import Node, walk


class Row(NamedTuple):
    """A visible row.

    Attributes:
        node: What it shows.
        depth: How far it is indented.
        has_children: Whether something lies under it that is not left out.
        is_open: Whether that is visible.
    """

    node: Node
    depth: int
    has_children: bool
    is_open: bool


class Outline:
    """The visible rows of a model's tree.

    Args:
        model: What is shown.
        room: Rows that a first screen has: so far modules are open at the start.

    Attributes:
        rows: From top to bottom.
    """

    def __init__(self, model: Model, room: int = 20) -> None:
        self._model = model
        self._open = _opened_at_first(model.tree, room)
        self._kept: set[int] | None = None
        self._shut: set[int] = set()
        self._has_root = True
        self.rows: list[Row] = []
        self._list()

    def keep(self, places: Collection[int] | None) -> None:
        """Show only these of the model's `nodes`, by their places, and the modules above them, all open; None: all."""
        self._shut.clear()
        if places is None or len(places) == len(self._model.nodes):
            self._kept = None
        else:
            self._kept = _with_parents(self._model.tree, {id(self._model.nodes[place]) for place in places})
        self._has_root = places is None or any(self._model.nodes[place] is self._model.tree for place in places)
        self._list()

    def set_open(self, number: int, is_open: bool) -> None:
        """Open or close a row; one without children stays as it is."""
        row = self.rows[number]
        if not row.has_children or row.is_open == is_open:
            return
        if self._kept is None:
            (self._open.add if is_open else self._open.discard)(id(row.node))
        else:
            (self._shut.discard if is_open else self._shut.add)(id(row.node))
        self._list()

    def parent(self, number: int) -> int:
        """The row under which a row lies; itself at the top."""
        depth = self.rows[number].depth
        return next((above for above in range(number - 1, -1, -1) if self.rows[above].depth < depth), number)

    def place(self, node: Node | None) -> int:
        """The row of a node, or of the innermost visible module around it; 0 where there is none."""
        best, length = 0, -1
        for number, row in enumerate(self.rows):
            if row.node is node:
                return number
            path = row.node.path
            if node is not None and node.path.startswith(f"{path}.") and len(path) > length:
                best, length = number, len(path)
        return best

    def reveal(self, node: Node) -> int:
        """Open all that a node lies under, and return its row; one that is left out stays so."""
        while True:
            number = self.place(node)
            if not self.rows or self.rows[number].node is node or not self.rows[number].has_children:
                return number
            if self.rows[number].is_open:
                return number
            self.set_open(number, True)

    def _children(self, node: Node) -> list[Node]:
        # The root's own tensors have a row beside those of its modules.
        own = [node] if node is self._model.tree and node.layers and self._has_root else []
        kept = self._kept
        return [*own, *(child for child in node.children if kept is None or id(child) in kept)]

    def _list(self) -> None:
        rows: list[Row] = []
        waiting = [(child, 0) for child in reversed(self._children(self._model.tree))]
        while waiting:
            node, depth = waiting.pop()
            children = [] if node is self._model.tree else self._children(node)
            is_open = bool(children) and (id(node) in self._open if self._kept is None else id(node) not in self._shut)
            rows.append(Row(node, depth, bool(children), is_open))
            if is_open:
                waiting += [(child, depth + 1) for child in reversed(children)]
        self.rows = rows


def _opened_at_first(tree: Node, room: int) -> set[int]:
    """Modules that are open at the start, level by level while all fits: a small model is shown whole."""
    is_open: set[int] = set()
    level, shown = tree.children, len(tree.children)
    while True:
        below = [child for child in level if child.children]
        more = sum(len(child.children) for child in below)
        # A module that is alone is opened however much lies in it: by itself it tells nothing.
        if not below or (shown + more > room and len(level) > 1):
            return is_open
        is_open |= {id(child) for child in below}
        level, shown = tuple(each for child in below for each in child.children), shown + more


def _with_parents(tree: Node, kept: set[int]) -> set[int]:
    """These nodes and all above them."""
    # Parents come before children, so backwards each is decided before what is above it.
    for _, node in reversed(list(walk(tree))):
        if any(id(child) in kept for child in node.children):
            kept.add(id(node))
    return kept
