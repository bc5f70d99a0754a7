"""What is browsed: one root of a checkpoint, its layers, and the modules above them. No number is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from convinspect.checkpoint import Checkpoint, open_checkpoint
from convinspect.layers.find import find_layers
from convinspect.layers.tree import Node, joined, module_tree, walk
from convinspect.records import Layer


@dataclass(frozen=True, slots=True)
class Model:
    """One root of a file.

    Attributes:
        checkpoint: The file at this root.
        tree: Its modules, one that has nothing but one other together with that one; the tree's root stands for all
            of it.
        nodes: Those that have layers, in the order of the tree.
        names: Their paths, as they are searched; "(root)" for the root's own tensors.
    """

    checkpoint: Checkpoint
    tree: Node
    nodes: tuple[Node, ...]
    names: tuple[str, ...]

    @property
    def layers(self) -> list[Layer]:
        """All layers, in the order of the tree."""
        return [layer for node in self.nodes for layer in node.layers]


def open_model(path: Path, root: str | None = None) -> Model:
    """Open a saved model.

    Args:
        path: As for `open_checkpoint`.
        root: As for `open_checkpoint`.

    Raises:
        ConvInspectError: It cannot be opened.
    """
    checkpoint = open_checkpoint(path, root)
    tree = joined(module_tree(checkpoint, find_layers(checkpoint), fold=False))
    nodes = tuple(node for _, node in walk(tree) if node.layers)
    return Model(checkpoint, tree, nodes, tuple(node.path or "(root)" for node in nodes))
