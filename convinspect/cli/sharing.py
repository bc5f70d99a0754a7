"""Several processes that run one command together; where torchrun started none, nothing is loaded for it."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convinspect.ranks.group import Group


def under_torchrun() -> bool:
    """Whether torchrun may have started this process: it alone sets this variable."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def sharing_ranks() -> AbstractContextManager[Group | None]:
    """The ranks that run this command together, until the block ends; None where it runs alone."""
    if not under_torchrun():
        return nullcontext()
    from convinspect.cli.ranks import joined

    return joined()
