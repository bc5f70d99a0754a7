"""How long a server asks to be left alone, and who is told of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable


def _told_nobody(where: str, seconds: float) -> None:
    pass


told: Callable[[str, float], None] = _told_nobody
"""Called with a server's address and seconds, before they are waited. A command line says it here."""


def seconds_in(said: str) -> float | None:
    """The seconds that a `Retry-After` header asks for, which has their number or a date; None where it has neither.

    A number too large for any wait is infinity.
    """
    # Imported here, as a command line sets `told` whatever it opens.
    from email.utils import parsedate_to_datetime

    said = said.strip()
    if said.isascii() and said.isdigit():
        return float(said) if len(said) < 10 else math.inf
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
