"""Whether a file that would load has numbers to load: some hold shapes alone, and PyTorch loads zeros, or nothing."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from convinspect.checkpoint import Checkpoint
from convinspect.kinds import last_word
from convinspect.records import Tensor

EMPTIED = "it has no numbers, as DeepSpeed's ZeRO-3 saves what was not gathered: gather it and save again"
"""Of a tensor of `EMPTIED_SHAPE` where another shape is wanted."""
EMPTIED_SHAPE = (0,)


class Lack(Enum):
    """How numbers can be missing though the file loads."""

    UNWRITTEN = "unwritten"
    """Storages that nobody wrote, it seems (`torch.serialization.skip_data`)."""
    META = "meta"
    EMPTIED = "empty"
    """Of shape (0,), as ZeRO-3 leaves what was not gathered."""


class Missing(NamedTuple):
    """Numbers that a checkpoint does not have.

    Attributes:
        lack: How they are missing.
        tensors: Of how many tensors.
        why: The file's own line on it, or "".
    """

    lack: Lack
    tensors: int
    why: str = ""


def missing_numbers(a: Checkpoint, tensors: Iterable[Tensor]) -> Missing | None:
    """What numbers of these tensors of A are missing, the most that is known; None where nothing shows any.

    Args:
        a: The checkpoint.
        tensors: Its tensors that would be loaded.
    """
    every = list(tensors)
    if a.unwritten:
        return Missing(Lack.UNWRITTEN, len(every), a.unwritten)
    bare = sum(tensor.layout == "meta" for tensor in every)
    if bare:
        return Missing(Lack.META, bare)
    # Buffers may be empty on purpose.
    emptied = sum(tensor.shape == EMPTIED_SHAPE and last_word(tensor.key) in ("weight", "bias") for tensor in every)
    return Missing(Lack.EMPTIED, emptied) if emptied else None
