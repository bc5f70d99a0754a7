"""What is said on standard error: `error: …`, `warning: …`, `note: …`."""

from __future__ import annotations

import os
import sys
from typing import Literal, TextIO

from convinspect.render.cells import safe

NO_MEMORY = "there is not enough memory for that; choose fewer layers or a slice (--rows, --cols)"


def refused(error: OSError) -> str:
    """What the system refused, as a line."""
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
    return f"{where}the system refused: {error.strerror or error}; free what is full, or write elsewhere"


def say(kind: Literal["error", "warning", "note"], text: str, out: TextIO | None = None) -> None:
    """Print a line, and its first word in colour if that is wanted.

    Args:
        kind: The first word.
        text: The rest; what a terminal would obey in it is escaped.
        out: Where to, standard error by default.
    """
    from convinspect.render.emit import wants_color
    from convinspect.render.style import BAD, NAME, WARN, paint

    out = sys.stderr if out is None else out
    styles = {"error": BAD, "warning": f"bold {WARN}", "note": f"bold {NAME}"}
    word = f"{kind}:"
    print(f"{paint(word, styles[kind]) if wants_color(out) else word} {safe(text)}", file=out)
