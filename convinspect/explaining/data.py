"""The user's own rows of data, from a file of numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from convinspect.arrays.read import read_tensor
from convinspect.arrays.to_torch import as_torch
from convinspect.checkpoint import open_checkpoint
from convinspect.errors import CannotShow, ConvInspectError, NotThere
from convinspect.explaining.example import real


def read_rows(path: Path) -> torch.Tensor:
    """A matrix of numbers in float64, (n, in).

    Args:
        path: `.csv` with or without a row of names, `.npy`, or a checkpoint of one tensor.

    Raises:
        CannotShow: The file holds no such matrix.
        NotThere: There is no such file.
        ConvInspectError: It is a checkpoint that cannot be read.
    """
    if not path.exists():
        raise NotThere("there is no such file", path=path)
    try:
        if path.suffix == ".csv":
            return torch.from_numpy(_read_csv(path))
        if path.suffix == ".npy":
            return _real(np.load(path, allow_pickle=False), path)
    except (ValueError, OSError, TypeError, EOFError) as error:
        raise CannotShow(f"it holds no matrix of numbers ({error})", "give one row per line", path) from None
    tensors = list(open_checkpoint(path).tensors.values())
    if len(tensors) != 1:
        raise CannotShow(f"it holds {len(tensors)} tensors, and an input is one", "save each by itself", path)
    return _real(as_torch(read_tensor(tensors[0]), tensors[0].dtype), path)


def _real(numbers: npt.NDArray[np.generic] | torch.Tensor, path: Path) -> torch.Tensor:
    """The numbers in float64.

    Raises:
        ConvInspectError: They are complex.
    """
    try:
        if isinstance(numbers, torch.Tensor):
            return real(numbers, "it holds")
        return real(torch.from_numpy(numbers if np.iscomplexobj(numbers) else numbers.astype(np.float64)), "it holds")
    except ConvInspectError as error:
        raise error.at(path) from None


def _read_csv(path: Path) -> npt.NDArray[np.float64]:
    """Rows of numbers, below a row of names if there is one.

    Raises:
        ValueError: There are none.
    """
    lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not lines:
        raise ValueError("it is empty")
    try:
        return np.loadtxt(lines, delimiter=",", ndmin=2, dtype=np.float64)
    except ValueError:
        if len(lines) < 2:
            raise
        return np.loadtxt(lines[1:], delimiter=",", ndmin=2, dtype=np.float64)
