"""`verify` beside a bare loop in pairs of runs, at 2 GB and at 100,000 tensors of both formats: all ratios of one run.

python benchmarks/verified.py [--pairs 5] [--folder DIR]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import peers
from making import Files, Point, lacking
from measuring import Cost, Route, convinspect, python, run
from tables import Table, plain, seconds

PAIRS = 5
_POINTS = (Point("size", "2 GB", 256, 1976), Point("tensors", "100,000 tensors", 100_000, 8))
_ONE_THREAD = "import torch; torch.set_num_threads(1)\n"
"""On a busy machine the loop's operators wait for their second thread, which counts as processor time."""


def verified_in_pairs(folder: Path, pairs: int = PAIRS, points: Sequence[Point] = _POINTS) -> list[Table]:
    """`verify` against the loop that compares all numbers and runs both operators once.

    Told are medians of the pairs' ratios, since what else the machine does falls on all runs of a pair.
    """
    rows, remarks = [], []
    for point in points:
        why = lacking(point, folder)
        if why is not None:
            remarks.append(f"{point.label} left out: {why}")
            continue
        with tempfile.TemporaryDirectory(dir=folder) as made:
            rows += _rows(Files(Path(made), point), pairs)
    head = [
        "",
        "÷ loop, wall-clock",
        "÷ loop, processor",
        "`verify`",
        "loop",
        "processor",
        "loop",
        "largest resident set",
    ]
    remark = f"medians of {pairs} pairs; load {os.getloadavg()[0]:.1f} at the end"
    return [Table("Verifying, in pairs", head, rows, [*remarks, remark])]


def _rows(files: Files, pairs: int) -> list[list[str]]:
    rows = _rows_of((files.torch, files.converted), peers.VERIFY, files.point.label, pairs)
    if files.point.axis == "tensors":
        both = (files.safetensors, files.converted_safetensors)
        rows += _rows_of(both, peers.VERIFY_SAFETENSORS, f"{files.point.label}, safetensors", pairs)
    return rows


def _rows_of(both: tuple[Path, Path], loop: str, label: str, pairs: int) -> list[list[str]]:
    ours = Route("ours", convinspect("verify", *both))
    loops = {
        label: Route("loop", python(loop, *both)),
        f"{label}, loop on one thread": Route("loop", python(_ONE_THREAD + loop, *both)),
    }
    # Once before, so that modules are compiled and libraries in the page cache.
    rounds = [[run(route) for route in (ours, *loops.values())] for _ in range(pairs + 1)][1:]
    costs = [[cost for cost in each if isinstance(cost, Cost)] for each in rounds]
    whole = [each for each in costs if len(each) == 1 + len(loops)]
    return [_row(name, [(each[0], each[i]) for each in whole]) for i, name in enumerate(loops, 1)]


def _row(name: str, pairs: Sequence[tuple[Cost, Cost]]) -> list[str]:
    if not pairs:
        return [name, *["failed"] * 7]
    walls = [(ours.seconds, loop.seconds) for ours, loop in pairs]
    used = [(ours.processor, loop.processor) for ours, loop in pairs]
    ratios = [f"{statistics.median(ours / loop for ours, loop in side):.2f}" for side in (walls, used)]
    medians = [seconds(statistics.median(column)) for side in (walls, used) for column in zip(*side, strict=True)]
    return [name, *ratios, *medians, f"{max(ours.megabytes for ours, _ in pairs):.0f} MB"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as made:
        for table in verified_in_pairs(Path(made), given.pairs):
            print(plain(table), flush=True)


if __name__ == "__main__":
    main()
