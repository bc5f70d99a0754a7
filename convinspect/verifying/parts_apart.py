"""A root that combines several (`root="."`): its models one by one, with their copies and optimizers."""

from __future__ import annotations

from typing import NamedTuple

from convinspect.checkpoint import Checkpoint
from convinspect.converting.training_state import parts_of
from convinspect.layers.find import find_layers
from convinspect.records import Contents
from convinspect.verifying.findings import Findings, merged
from convinspect.verifying.other_roots import changed_alone, expected_edits, not_followed, plan_of
from convinspect.verifying.state_fits import compare_states
from convinspect.verifying.tensors import Pairs, Transposed


class Apart(NamedTuple):
    """What was found of one of the models.

    Attributes:
        followed: Names, in the root that combines them, of copies and state that changed together with their weights.
        findings: What did not.
    """

    followed: frozenset[str]
    findings: Findings


def parts_apart(before: Checkpoint, after: Checkpoint) -> list[Apart]:
    """Compare each model among the roots that the root in use combines with what must follow it; [] for other roots."""
    there = {root.path for root in after.roots}
    return [
        _compare(_with_root(before, root.path), _with_root(after, root.path))
        for root in parts_of(before)
        if root.role == "model" and root.path in there
    ]


def _with_root(checkpoint: Checkpoint, path: str) -> Checkpoint:
    return Checkpoint(Contents(checkpoint.path, checkpoint.container, checkpoint.roots, 0), path)


def _compare(before: Checkpoint, after: Checkpoint) -> Apart:
    reshaped = {
        name: None
        for name, tensor in before.tensors.items()
        if name in after.tensors and len(after.tensors[name].shape) != len(tensor.shape)
    }
    layers, pairs = find_layers(before), Pairs(converted=reshaped)
    edits = expected_edits(before, after, layers, pairs, Transposed())
    shapes = {f"{root.path}.{tensor.key}": tensor.shape for root in after.roots for tensor in root.tensors}
    expected = {
        f"{root.path}.{tensor.key}": edits[id(tensor)].shape
        for root in before.roots
        for tensor in root.tensors
        if id(tensor) in edits
    }
    findings = merged((
        not_followed(before, after, edits),
        changed_alone(before, after, edits, pairs),
        compare_states(before, after, plan_of(layers, after, pairs, Transposed())),
    ))  # fmt: skip
    return Apart(frozenset(name for name, shape in expected.items() if shapes.get(name) == shape), findings)
