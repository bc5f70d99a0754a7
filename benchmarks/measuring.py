"""Whole processes: how long each takes, its largest resident set, and how both grow with the file."""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple, TypeAlias

# Compiled modules are kept, as they are where the package is installed; otherwise each run compiles them anew.
_ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}

# What stands out from start-up: of seconds, of megabytes, and of start-up itself.
_SECONDS, _MEGABYTES, _SHARE = 0.02, 2.0, 0.2


class Cost(NamedTuple):
    """Of one process: seconds, the largest resident set in MB (10**6 bytes), what its exit code says, and seconds of
    processor time.
    """

    seconds: float
    megabytes: float
    word: str = ""
    processor: float = 0.0


class Missing(NamedTuple):
    """Why there is no figure; `more` is True where a larger file would only take longer."""

    why: str
    more: bool = False


Result: TypeAlias = Cost | Missing


@dataclass(frozen=True, slots=True)
class Route:
    """One way to do a task.

    Attributes:
        name: As the table shows it.
        command: Command line.
        against: Our route that it is compared with; None for our own.
        package: What must be installed for it beyond the package's own dependencies.
        holds: What it holds in memory (or writes to a memory file system), in sizes of the file.
        words: Exit codes that it may end with, and what each says.
        writes: A file that it writes, removed before each run.
        tells: It measures its work alone and prints the seconds.
    """

    name: str
    command: Sequence[str]
    against: str | None = None
    package: str | None = None
    holds: float = 0
    words: Mapping[int, str] = field(default_factory=lambda: {0: ""})
    writes: Path | None = None
    tells: bool = False


def run(route: Route, limit: float = threading.TIMEOUT_MAX, processor: bool = False) -> Result:
    """One process; its output is thrown away, but for the seconds that it tells and why it failed.

    Args:
        route: What to run.
        limit: Wall-clock seconds after which it is ended.
        processor: Tell processor time, of all its threads, instead of wall-clock time.
    """
    if route.writes is not None:
        route.writes.unlink(missing_ok=True)
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complaints:
        started = time.perf_counter()
        output = said if route.tells else subprocess.DEVNULL
        process = subprocess.Popen(route.command, stdout=output, stderr=complaints, env=_ENVIRONMENT)
        watch = threading.Timer(limit, process.kill)
        watch.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        finally:
            watch.cancel()
        used = usage.ru_utime + usage.ru_stime
        seconds = used if processor else time.perf_counter() - started
        process.returncode = code = os.waitstatus_to_exitcode(status)
        if time.perf_counter() - started > limit:
            return Missing(f"> {limit:g} s", more=True)
        if code not in route.words:
            return Missing(f"failed ({code}): {_last_line(complaints)}")
        if route.tells:
            seconds = float(_last_line(said))
    # Linux counts the resident set in KiB, macOS in bytes.
    megabytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
    return Cost(seconds, megabytes, route.words[code], used)


def _last_line(file: IO[bytes]) -> str:
    file.seek(0)
    lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1][:120] if lines else "it said nothing"


def run_in_turn(routes: Sequence[Route], rounds: int, limit: float, processor: bool) -> dict[str, Result]:
    """Several routes, each once in every round, so that what else the machine does falls on all of them.

    Of each the fastest round counts, and the largest memory; one that failed or took too long is not run again.
    """
    found: dict[str, Result] = {}
    for _ in range(rounds):
        for route in routes:
            before = found.get(route.name)
            if isinstance(before, Missing):
                continue
            now = run(route, limit, processor)
            if isinstance(now, Cost) and before is not None:
                now = Cost(min(now.seconds, before.seconds), max(now.megabytes, before.megabytes), now.word)
            found[route.name] = now
    return found


class Growth(NamedTuple):
    """How a cost grows with what it is spent on, as cost ∝ size**exponent; None where too few points stand out."""

    exponent: float | None
    last: float | None
    flat: bool


def growth(start: float, points: Sequence[tuple[float, float]], least: float) -> Growth:
    """The slope of log(cost − start) against log(size): least squares over all points, and of the last two alone.

    Args:
        start: Cost of the same route on a file of one layer, taken off every point.
        points: (size, cost), in ascending sizes.
        least: What a cost must be above start-up for it to be told from noise; so must a fifth of start-up.
    """
    rest = [(size, cost - start) for size, cost in points if cost - start > max(least, _SHARE * start)]
    if len(rest) < 2:
        return Growth(None, None, flat=len(points) > 1 and not rest)
    logs = [(math.log(size), math.log(cost)) for size, cost in rest]
    slope = statistics.linear_regression(*zip(*logs, strict=True)).slope
    (x, y), (to_x, to_y) = logs[-2:]
    return Growth(slope, (to_y - y) / (to_x - x), flat=False)


def time_growth(start: Cost, points: Sequence[tuple[float, Cost]]) -> Growth:
    """How seconds grow."""
    return growth(start.seconds, [(size, cost.seconds) for size, cost in points], _SECONDS)


def memory_growth(start: Cost, points: Sequence[tuple[float, Cost]]) -> Growth:
    """How the largest resident set grows."""
    return growth(start.megabytes, [(size, cost.megabytes) for size, cost in points], _MEGABYTES)


def python(script: str, *arguments: object) -> list[str]:
    """Command line of a script given as text."""
    return [sys.executable, "-c", script, *map(str, arguments)]


def convinspect(*arguments: object) -> list[str]:
    """Command line of one of our commands."""
    return [sys.executable, "-m", "convinspect", *map(str, arguments)]
