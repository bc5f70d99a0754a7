"""PyTorch's own options of where storages lie in a `torch.save` file, set for a while. PyTorch is the oracle."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils.serialization import config


@contextmanager
def aligned_by(alignment: int) -> Iterator[None]:
    """Storages are written at multiples of `alignment` bytes."""
    with config.patch("save.storage_alignment", alignment):  # type: ignore[attr-defined]
        yield


def load_by_calculation(path: Path) -> Any:
    """What PyTorch reads where it calculates the storages' offsets instead of reading their headers."""
    with config.patch("load.calculate_storage_offsets", True):  # type: ignore[attr-defined]
        return torch.load(path, mmap=True, weights_only=True)


def save_aligned(obj: Any, path: Path, alignment: int) -> Path:
    with aligned_by(alignment):
        torch.save(obj, path)
    return path


def same(first: Any, second: Any) -> bool:
    """Whether two states hold the same keys and the same tensors, to the bit."""
    if isinstance(first, torch.Tensor):
        return first.shape == second.shape and first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)
