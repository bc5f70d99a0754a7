"""What the benchmarks share: whole processes, their time and their largest resident set."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

# Compiled modules are kept, as they are where the package is installed; otherwise each run compiles them anew.
_ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}


class Cost(NamedTuple):
    """Of one process: wall-clock seconds, and the largest resident set in MB (10**6 bytes)."""

    seconds: float
    megabytes: float


def run(command: Sequence[str]) -> Cost:
    """One process, its output thrown away."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=_ENVIRONMENT)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"failed: {' '.join(command)[:200]}")
    # Linux counts the resident set in KiB, macOS in bytes.
    return Cost(seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6)


def measure(command: Sequence[str], repeats: int, before: Callable[[], None] = lambda: None) -> Cost:
    """Median time and largest memory of several runs; one run before them warms the page cache."""
    costs = []
    for _ in range(repeats + 1):
        before()
        costs.append(run(command))
    costs = costs[1:]
    return Cost(statistics.median(cost.seconds for cost in costs), max(cost.megabytes for cost in costs))


def measure_in_turn(commands: Mapping[str, Sequence[str]], repeats: int, before: Callable[[], None]) -> dict[str, Cost]:
    """Several commands, each once in every round, so that what else the machine does falls on all of them.

    Of each the fastest round counts: a copy of gigabytes shows mostly what the machine was doing besides.
    """
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    for _ in range(repeats + 1):
        for name, command in commands.items():
            before()
            costs[name].append(run(command))
    return {
        name: Cost(min(cost.seconds for cost in found[1:]), max(cost.megabytes for cost in found[1:]))
        for name, found in costs.items()
    }


def memory_folder() -> Path:
    """Where a disk's noise does not reach: a memory file system where there is one."""
    shm = Path("/dev/shm")
    return (shm if shm.is_dir() else Path(tempfile.gettempdir())) / "convinspect-benchmarks"


def options(about: str | None, folder: Path) -> argparse.Namespace:
    """`--folder` and `--repeats` from the command line; the folder is made."""
    parser = argparse.ArgumentParser(description=(about or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=folder)
    parser.add_argument("--repeats", type=int, default=3)
    found = parser.parse_args()
    found.folder.mkdir(exist_ok=True)
    return found


def python(script: str, *arguments: object) -> list[str]:
    """Command line of a script given as text."""
    return [sys.executable, "-c", script, *map(str, arguments)]


def convinspect(*arguments: object) -> list[str]:
    """Command line of one of our commands."""
    return [sys.executable, "-m", "convinspect", *map(str, arguments)]


def report(what: str, ours: Cost, theirs: Cost, bound: str) -> None:
    """One line of the result."""
    print(
        f"{what:<42} {ours.seconds:6.2f} s {ours.megabytes:5.0f} MB   "
        f"{theirs.seconds:6.2f} s {theirs.megabytes:5.0f} MB   ratio {ours.seconds / theirs.seconds:5.2f}   {bound}",
        flush=True,
    )
