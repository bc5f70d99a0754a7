"""The loop: inputs, one after another, until the time is over; and the command line of `run.py`."""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random

from drivers import DRIVERS, JUDGES
from outcomes import confine, fault_of


@dataclass(slots=True)
class Tally:
    """What came of a run.

    Attributes:
        tried: Inputs by driver.
        ended: Inputs by driver and outcome.
        faults: Each fault's last line, with how often it occurred.
    """

    tried: Counter[str] = field(default_factory=Counter)
    ended: Counter[tuple[str, str]] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)


def made(driver: str, seed: int, number: int, folder: Path) -> tuple[Path, Random]:
    """Input `number` of a driver and seed, and the generator for what is done with it: always the same."""
    random = Random(f"{driver} {seed} {number}")
    folder.mkdir()
    return DRIVERS[driver](random, folder), random


def attempts(names: Sequence[str], first: int) -> Iterator[tuple[str, int]]:
    """The drivers by turns, each with its next number."""
    for number in count(first):
        for name in names:
            yield name, number


def fuzz(names: Sequence[str], seed: int, seconds: float, kept: Path | None, only: int | None = None) -> Tally:
    """Try inputs for `seconds`.

    Args:
        names: Drivers.
        seed: Of all inputs.
        seconds: How long.
        kept: Folder for each input that failed, with what it failed by; the first of each kind.
        only: This one input of each driver alone.
    """
    tally = Tally()
    until = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as temporary:
        for name, number in attempts(names, only or 0):
            if time.monotonic() > until or (only is not None and number > only):
                break
            folder = Path(temporary) / "input"
            path, random = made(name, seed, number, folder)
            ended, fault = JUDGES.get(name, fault_of)(path, random)
            tally.tried[name] += 1
            tally.ended[name, ended] += 1
            if fault:
                _report(tally, fault, f"{name} {seed} {number}", folder, kept)
            shutil.rmtree(folder)
    return tally


def _report(tally: Tally, fault: str, which: str, folder: Path, kept: Path | None) -> None:
    lines = fault.strip().splitlines()
    # Two faults are of one kind where they are raised at one place of ours.
    place = next((line.strip() for line in reversed(lines) if "convinspect" in line and "line " in line), "")
    kind = f"{lines[-1][:120]} {place}" if place else lines[-1][:60]
    tally.faults[kind] += 1
    if tally.faults[kind] > 1:
        return
    print(f"--- fault at {which}\n{fault}", flush=True)
    if kept is not None:
        shutil.copytree(folder, kept / which.replace(" ", "-"), dirs_exist_ok=True)
        (kept / f"{which.replace(' ', '-')}.txt").write_text(fault, encoding="utf-8", errors="backslashreplace")


def main() -> int:
    """Parse the command line and fuzz; 1 when anything failed."""
    parser = argparse.ArgumentParser(description="Open changed files for a while; see CONTRIBUTING.md.")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (10)")
    parser.add_argument("--seed", type=int, default=None, help="another gives other inputs; one of the clock's")
    parser.add_argument("--driver", action="append", choices=sorted(DRIVERS), help="only these")
    parser.add_argument("--number", type=int, default=None, help="only this input, as a fault names it")
    parser.add_argument("--failures", type=Path, default=None, help="folder for inputs that fail")
    parser.add_argument("--jobs", type=int, default=1, help="processes, each with the next seed (1)")
    options = parser.parse_args()
    seed = int(time.time()) if options.seed is None else options.seed
    if options.failures is not None:
        options.failures.mkdir(parents=True, exist_ok=True)
    names, seconds = options.driver or list(DRIVERS), options.minutes * 60
    print(f"seed {seed}" if options.jobs == 1 else f"seeds {seed} to {seed + options.jobs - 1}", flush=True)
    if options.jobs == 1:
        tallies = [_confined(names, seed, seconds, options.failures, options.number)]
    else:
        # A new process would import PyTorch anew.
        context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        with ProcessPoolExecutor(options.jobs, context) as pool:
            seeds = range(seed, seed + options.jobs)
            parts = [pool.submit(_confined, names, own, seconds, options.failures, options.number) for own in seeds]
            tallies = [part.result() for part in parts]
    return _told(_together(tallies))


def _confined(names: Sequence[str], seed: int, seconds: float, kept: Path | None, only: int | None) -> Tally:
    """As `fuzz`, in a process whose time and memory are limited."""
    confine()
    return fuzz(names, seed, seconds, kept, only)


def _together(tallies: Sequence[Tally]) -> Tally:
    """The sum of several runs."""
    whole = Tally()
    for tally in tallies:
        whole.tried += tally.tried
        whole.ended += tally.ended
        whole.faults += tally.faults
    return whole


def _told(tally: Tally) -> int:
    """Print what came of a run; 1 when anything failed."""
    for name, tried in tally.tried.items():
        ends = ", ".join(f"{end} {n:,}" for (who, end), n in tally.ended.most_common() if who == name)
        print(f"{name}: {tried:,} inputs: {ends}")
    print(f"{tally.tried.total():,} inputs, {len(tally.faults)} kinds of fault in {tally.faults.total():,} inputs")
    for kind, times in tally.faults.most_common():
        print(f"  {times:,} × {kind}")
    return 1 if tally.faults else 0


if __name__ == "__main__":
    sys.exit(main())
