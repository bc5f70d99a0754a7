"""The peak memory of a stretch of work in this process, on Linux; 0 elsewhere."""

from __future__ import annotations

import re
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def reset_peak() -> int:
    """Resident bytes now, which the peak is set back to."""
    if sys.platform != "linux":
        return 0
    try:
        _CLEAR.write_text("5")
    except OSError:
        return _status("VmHWM")
    return _status("VmRSS")


def peak() -> int:
    """The most resident bytes since then."""
    return _status("VmHWM") if sys.platform == "linux" else 0


def _status(key: str) -> int:
    line = re.search(rf"{key}:\s+(\d+) kB", _STATUS.read_text())
    return int(line[1]) * 1024 if line else 0
