"""Keys as loaders write them → keys of the checkpoint at hand."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from convinspect.checkpoint import Checkpoint
from convinspect.diffing.load_error import LoadErrorItem
from convinspect.keys.adapters import bare_key


def in_full(items: Iterable[LoadErrorItem], checkpoint: Checkpoint) -> list[LoadErrorItem]:
    """Items with whole keys, where a loader gives the last part alone.

    accelerate always does; PyTorch does where a library (transformers 4) loads module by module. Where one key of the
    checkpoint has that end and the shape, it is the one that is meant, and the others may be wrong as well.
    """
    stored = {tensor.key for tensor in checkpoint.tensors.values()}
    return [
        _whole(item, checkpoint) if item.partial or (item.checkpoint and _may_be_end(item.key, stored)) else item
        for item in items
    ]


def _may_be_end(key: str, stored: Collection[str]) -> bool:
    return "." not in key and key not in stored


def _whole(item: LoadErrorItem, checkpoint: Checkpoint) -> LoadErrorItem:
    end = f".{item.key}"
    keys = [tensor.key for tensor in checkpoint.tensors.values() if tensor.shape == item.checkpoint]
    keys = [key for key in keys if key == item.key or key.endswith(end)]
    if len(keys) == 1:
        return replace(item, key=keys[0], partial=False, folded=True)
    return replace(item, partial=True) if keys else item


def without_adapter(key: str, stored: Collection[str]) -> str:
    """A key without the name of peft's adapter, where the checkpoint has it so."""
    bare = bare_key(key)
    return bare if key not in stored and bare in stored else key
