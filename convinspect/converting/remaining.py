"""What remains to be done, after converting, for a checkpoint to load where another does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from convinspect.checkpoint import Checkpoint
from convinspect.converting.decisions import Plan
from convinspect.records import Tensor


class Remaining(NamedTuple):
    """Lines of PyTorch that give the rest of the tensors their wanted shapes.

    Attributes:
        calls: Keys of the other checkpoint's state_dict, each with a call on the tensor.
        rename: Keys differ by wrappers' prefixes, and must be renamed before.
        sure: It loads then: nothing else of the two differs that PyTorch may refuse.
    """

    calls: tuple[tuple[str, str], ...]
    rename: bool
    sure: bool


def remaining(
    checkpoint: Checkpoint, other: Checkpoint, names: Mapping[str, str], planned: Plan, rename: bool
) -> Remaining | None:
    """What remains where both have the same tensors and PyTorch can give each that is left its shape; else None.

    Args:
        checkpoint: The one to convert.
        other: The one whose shapes are wanted.
        names: The first one's tensors' clean names by stored key.
        planned: What is converted, and what is left.
        rename: See `Remaining`.
    """
    left = [refusal for refusal in planned.refusals if not (refusal.done or refusal.fits)]
    if not left or not all(refusal.calls for refusal in left) or set(names.values()) != set(other.tensors):
        return None
    calls = tuple((other.tensors[name].key, call) for refusal in left for name, call in refusal.calls)
    pairs = ((tensor, other.tensors[names[tensor.key]]) for tensor in checkpoint.tensors.values())
    plain = not (checkpoint.others or other.others or checkpoint.unloadable)
    return Remaining(calls, rename, plain and _copied(pairs))


def _copied(pairs: Iterable[tuple[Tensor, Tensor]]) -> bool:
    """Whether PyTorch copies each tensor to its partner, once their shapes agree."""
    return all(a.layout == b.layout == "strided" and a.dtype == b.dtype for a, b in pairs)
