"""A model's inputs: random numbers of a shape, or numbers from a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from convinspect.arrays.to_torch import single_tensor
from convinspect.checkpoint import open_checkpoint
from convinspect.errors import CannotShow, NotThere, Option, Wording
from convinspect.text import dimension

_FILES = (".npy", ".pt", ".pth", ".safetensors")


def model_inputs(texts: Sequence[str], seed: int) -> tuple[torch.Tensor, ...]:
    """The forward call's arguments, each from a file or as random numbers of a shape; floating ones in float64.

    Args:
        texts: Paths, or shapes as `parse_input` takes them.
        seed: Of the first; each next one takes the next number.

    Raises:
        CannotShow: One is neither.
        ConvInspectError: A file cannot be read.
    """
    return tuple(_input(text, seed + number) for number, text in enumerate(texts))


def _input(text: str, seed: int) -> torch.Tensor:
    path = Path(text)
    if not path.suffix or not path.exists():
        if path.suffix in _FILES:
            raise NotThere("there is no such file", path=path)
        return parse_input(text, seed)
    tensor = _from_npy(path) if path.suffix == ".npy" else single_tensor(open_checkpoint(path).tensors, path)
    return tensor.double() if tensor.is_floating_point() else tensor


def _from_npy(path: Path) -> torch.Tensor:
    import numpy as np

    try:
        return torch.from_numpy(np.load(path, allow_pickle=False))
    except (ValueError, OSError, TypeError, EOFError) as error:
        raise CannotShow(f"it cannot be read as an array ({error})", "save it with numpy.save", path) from None


def _is_plain(dtype: torch.dtype) -> bool:
    """Whether numbers can be drawn in it: not quantized, not bits."""
    whole = str(dtype).removeprefix("torch.").startswith(("int", "uint", "bool"))
    return dtype.is_floating_point or dtype.is_complex or whole


def parse_input(text: str, seed: int) -> torch.Tensor:
    """Random numbers of a shape and dtype such as "2x64x1024", "2x16:int64" or "2x16:int64:50257".

    Args:
        text: Sizes joined by x; then, after colons, the dtype (float32 by default) and, for integers, one more than
            the largest (2 by default).
        seed: Of the numbers.

    Raises:
        CannotShow: It is none of these.
    """
    sizes, _, rest = text.partition(":")
    name, _, most = rest.partition(":")
    dtype = getattr(torch, name or "float32", None)
    dims, limit = [dimension(part) for part in sizes.lower().split("x")], dimension(most or "2")
    shape = [size for size in dims if size is not None]
    option = Option("input", None)
    if not isinstance(dtype, torch.dtype) or not _is_plain(dtype) or len(shape) != len(dims) or not limit:
        raise CannotShow(
            Wording(option, f" {text[:80]!r} is neither a file nor a shape"),
            "write it as 2x64x1024, 2x16:int64 or 2x16:int64:1000",
        )
    generator = torch.Generator().manual_seed(seed)
    try:
        if dtype.is_floating_point or dtype.is_complex:
            drawn = torch.randn(shape, generator=generator)
            return drawn.to(dtype).to(torch.complex128 if dtype.is_complex else torch.float64)
        return torch.randint(0, limit, shape, generator=generator).to(dtype)
    except RuntimeError:
        raise CannotShow(Wording(option, f" {text!r} is more than there is memory for"), "give a smaller one") from None
