"""A listing of a checkpoint in an archive beside one of the checkpoint alone, in pairs of runs: 2 GB.

python benchmarks/archives.py [--pairs 15] [--folder DIR]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tarfile
import tempfile
import zipfile
from pathlib import Path

from making import Files, Point, lacking
from measuring import Cost, Route, convinspect, run
from tables import Table, plain, seconds

PAIRS = 15
_POINT = Point("size", "2 GB", 256, 1976)


def archives_in_pairs(folder: Path, pairs: int = PAIRS, point: Point = _POINT) -> list[Table]:
    """`shapes` of an archive and of what is in it, each first in every other pair."""
    why = lacking(point, folder)
    head = ["", "in the archive", "alone", "difference", "memory in the archive", "alone"]
    title = "A checkpoint in an archive, listed"
    if why is not None:
        return [Table(title, head, [], [f"{point.label} left out: {why}"])]
    with tempfile.TemporaryDirectory(dir=folder) as made:
        alone = Files(Path(made), point).torch
        rows = [_row(alone, make(alone), pairs) for make in (_nemo, _zip)]
    remark = f"medians of {pairs} pairs of wall-clock time; load {os.getloadavg()[0]:.1f} at the end"
    return [Table(title, head, rows, [remark])]


def _nemo(checkpoint: Path) -> Path:
    path = checkpoint.with_name("model.nemo")
    with tarfile.open(path, "w") as archive:
        archive.add(checkpoint, "./model_weights.ckpt")
    return path


def _zip(checkpoint: Path) -> Path:
    checkpoint.with_name("model.nemo").unlink()
    path = checkpoint.with_name("model.zip")
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(checkpoint, "exp/model.pth")
    return path


def _row(alone: Path, archive: Path, pairs: int) -> list[str]:
    routes = Route("archive", convinspect("shapes", archive)), Route("alone", convinspect("shapes", alone))
    measured: list[tuple[Cost, Cost]] = []
    for number in range(pairs + 1):
        first, second = (run(route) for route in (routes if number % 2 else routes[::-1]))
        if not isinstance(first, Cost) or not isinstance(second, Cost):
            return [archive.suffix, *["failed"] * 5]
        if number:
            # The first one fills the page cache.
            measured.append((first, second) if number % 2 else (second, first))
    inside, outside = ([pair[side].seconds for pair in measured] for side in (0, 1))
    difference = statistics.median(a - b for a, b in zip(inside, outside, strict=True))
    memory = [f"{max(pair[side].megabytes for pair in measured):.0f} MB" for side in (0, 1)]
    times = [seconds(statistics.median(column)) for column in (inside, outside)]
    return [archive.suffix, *times, f"{1000 * difference:+.0f} ms", *memory]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as made:
        for table in archives_in_pairs(Path(made), given.pairs):
            print(plain(table), flush=True)


if __name__ == "__main__":
    main()
