"""Dictionaries of dictionaries of arrays, a level for each module, as Flax and Haiku keep a model's parameters."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from convinspect.layouts import KERNEL_PARTS
from convinspect.records import Root

_LEAVES = KERNEL_PARTS | {"w", "b", "offset", "weight"}
_COLLECTIONS = frozenset({"params", "batch_stats", "state", "ema_params", "opt_state"})
"""What Flax and its users call the parts of a training's state; those below them are modules."""


def joined(roots: Sequence[Root]) -> tuple[Root, ...]:
    """The roots, of which those that are a module each are one: `params.Conv_0` with `kernel` is `params`.

    Args:
        roots: Of a file whose tensors are arrays.
    """
    modules = [root for root in roots if any(tensor.key in _LEAVES for tensor in root.tensors)]
    apart = any(root.modules or root.role == "optimizer" for root in roots)
    if len(roots) < 2 or apart or 2 * len(modules) <= len(roots):
        return tuple(roots)
    paths = [root.path.split(".") if root.path else [] for root in roots]
    base = _common(paths)
    inner = [path[len(base) :] for path in paths]
    by_collection = any(path[:1] == ["params"] for path in inner)
    groups: dict[tuple[str, ...], list[Root]] = {}
    for root, path in zip(roots, inner, strict=True):
        head = (*base, path[0]) if by_collection and path and path[0] in _COLLECTIONS else tuple(base)
        groups.setdefault(head, []).append(root)
    return tuple(_one(".".join(head), members) for head, members in groups.items())


def _common(paths: Sequence[Sequence[str]]) -> list[str]:
    """What all paths begin with."""
    same = takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))
    return [parts[0] for parts in same]


def _one(path: str, members: Sequence[Root]) -> Root:
    below = f"{path}." if path else ""
    tensors = tuple(
        tensor._replace(key=f"{root.path[len(below) :]}.{tensor.key}" if root.path != path else tensor.key)
        for root in members
        for tensor in root.tensors
    )
    others = tuple(other for root in members if root.path == path for other in root.others)
    last = path.rpartition(".")[2]
    model = any(root.role == "model" for root in members) and not last.startswith("opt")
    ema = last.startswith("ema") or any(root.role == "ema" for root in members)
    return Root(path, "ema" if ema else "model" if model else "other", tensors, others=others)
