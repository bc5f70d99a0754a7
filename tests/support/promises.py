"""What a command on a file from anywhere must end as: an exit code, one clear line, within time and memory."""

from __future__ import annotations

import resource
import time
import traceback
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

from support.in_process import call_main
from support.memory import peak, reset_peak

SECONDS = 20.0
"""A guard against what grows beyond all bounds, not a measurement: the machine that tests may be several times slower
than the one of the docs' figures, and share its cores."""

MEGABYTES = 200
"""Resident memory that opening a file may take, beyond what the process has."""

_CEILING = 3_000_000_000
"""More is refused by the system; well above what is allowed, since a handler of ours may hide the refusal."""


class Attempt(NamedTuple):
    """How a command ended.

    Attributes:
        code: Its exit code; "escaped" where it raised something else.
        errors: What it said on stderr, or the traceback.
        seconds: Of the processor, since the machine that tests may be busy.
        taken: Bytes of memory beyond what the process had.
    """

    code: object
    errors: str
    seconds: float
    taken: int


def confine() -> None:
    """Limit the memory of this process, for good."""
    resource.setrlimit(resource.RLIMIT_DATA, (_CEILING, _CEILING))


def attempted(*words: object, within: AbstractContextManager[object] | None = None) -> Attempt:
    """One command in this process, `within` something that ends with it."""
    before, started = reset_peak(), time.process_time()
    try:
        with within or nullcontext():
            code, _, errors = call_main(*words)
    except BaseException:
        code, errors = "escaped", traceback.format_exc()
    return Attempt(code, errors, time.process_time() - started, peak() - before)


def size_of(path: object) -> int:
    """Bytes of a file; 0 of all else."""
    place = Path(str(path))
    return place.stat().st_size if place.is_file() else 0


def broken(ended: Attempt, command: str, size: int) -> list[str]:
    """The promises that an attempt broke.

    Args:
        ended: The attempt.
        command: Its command's name.
        size: Bytes of the file. What lies in it by gigabytes, if only as a hole, may take a share of them.
    """
    code, errors, seconds, taken = ended
    allowed = MEGABYTES * 1_000_000 + size // 5
    kept = {
        f"exit code {code}": code in (None, 0, 2) or (command in ("check", "diff", "verify") and code == 1),
        "a traceback": "Traceback" not in errors,
        "no error line": code != 2 or errors.startswith("error: "),
        "control characters": all(char.isprintable() or char == "\n" for char in errors),
        f"{seconds:.1f} s": seconds < SECONDS,
        f"{taken:,} bytes of memory": taken < allowed,
    }
    return [f"{promise}: {errors[-900:]!r}" for promise, is_kept in kept.items() if not is_kept]
