"""What is said of failures that the system caused."""

from __future__ import annotations

import os

NO_MEMORY = "there is not enough memory for that; choose fewer layers or a slice (--rows, --cols)"


def refused(error: OSError) -> str:
    """What the system refused, as a line."""
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
    return f"{where}the system refused: {error.strerror or error}; free what is full, or write elsewhere"
