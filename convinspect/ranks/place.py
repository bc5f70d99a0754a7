"""Whether this process is one of several that torchrun started to run one command, and which."""

from __future__ import annotations

import os
from typing import NamedTuple

_OF_TORCHRUN = {"TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT"}
"""The first only torchrun sets: `RANK` alone may be left over in a shell, or be meant for something else."""


class Place(NamedTuple):
    """A process among those that share the work.

    Attributes:
        rank: Its number; rank 0 prints, and decides.
        size: How many there are.
        local: Its number on its machine.
        machine: The number of its machine.
    """

    rank: int
    size: int
    local: int = 0
    machine: int = 0


def place_of_process() -> Place | None:
    """The place that torchrun's variables give; None where it did not start this process, or started only this one.

    A program that a rank starts inherits its variables, though no other rank starts it too. torchrun makes each rank
    the leader of a session of its own, which such a program is not.
    """
    named = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GROUP_RANK")
    if not os.environ.keys() >= _OF_TORCHRUN:
        return None
    if hasattr(os, "getsid") and os.getsid(0) != os.getpid():
        return None
    try:
        rank, size, local, machine = (int(os.environ[name]) for name in named)
    except (KeyError, ValueError):
        return None
    return Place(rank, size, local, machine) if 0 <= rank < size and size > 1 else None
