"""Convinspect beside what a user would pick instead: time, memory, and how both grow with the file.

    python benchmarks/run.py [--only listing,converting] [--quick] [--markdown] [--folder DIR] …

Each figure is a whole process, started anew, its file in the page cache; routes are run in turn and the fastest of the
rounds counts. Ratios are what counts: they hold on other machines too. DIR is best on a memory file system, whose noise
is small (by default /dev/shm where it is). Packages to compare with are taken from where Python finds them
(PYTHONPATH); those that are not there are named and left out.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import peers
from making import Files, Point, free_memory, lacking
from measuring import Missing, Result, Route, run_in_turn
from subjects import SUBJECTS, Subject
from tables import LEGEND, START, Table, cell, markdown, plain, series

_UNITS = {"k": 10**3, "M": 10**6, "G": 10**9}
_START = Point("start", START, 2, 8)
_LAYERS = 128


@dataclass(slots=True)
class Measured:
    """Of one subject: its routes, as of the first file, and what they cost on each."""

    routes: dict[str, Route] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    results: dict[tuple[str, str], Result] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def given_up(self, route: str, point: Point) -> Missing | None:
        """Why a route is not worth trying on a larger file of the series."""
        before = [self.results.get((route, other.label)) for other in self.points if other.axis == point.axis]
        return next((result for result in before if isinstance(result, Missing) and result.more), None)


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; `--quick` stands for small series and one round."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    names = ",".join(subject.name for subject in SUBJECTS)
    parser.add_argument("--only", metavar="NAMES", default=names, help=f"of {names}")
    parser.add_argument("--quick", action="store_true", help="one file and one round, to see that all of it works")
    parser.add_argument("--sizes", metavar="SIZES", help="bytes of 256 tensors; by default 1M,10M,100M,1G")
    parser.add_argument("--tensors", metavar="COUNTS", help="of 8 x 8 layers; by default 10,100,1k,10k,100k")
    parser.add_argument("--sparse", metavar="SIZES", default="", help="more sizes, for listing and checking alone, "
                        "of files that take no room, as in 8G")  # fmt: skip
    parser.add_argument("--folder", type=Path, default=memory_folder(), help="where files are made and removed")
    parser.add_argument("--repeats", type=int, help="rounds, of which the fastest counts; by default 3")
    parser.add_argument("--limit", type=float, default=120, metavar="SECONDS", help="ends a process that takes longer")
    parser.add_argument("--processor", action="store_true", help="processor time of all threads instead of wall-clock "
                        "time, for a busy machine")  # fmt: skip
    parser.add_argument("--markdown", action="store_true", help="tables as docs/performance.md has them")
    given = parser.parse_args(arguments)
    given.sizes = given.sizes if given.sizes is not None else "" if given.quick else "1M,10M,100M,1G"
    given.tensors = given.tensors if given.tensors is not None else "1k" if given.quick else "10,100,1k,10k,100k"
    given.repeats = given.repeats or (1 if given.quick else 3)
    unknown = set(given.only.split(",")) - {subject.name for subject in SUBJECTS}
    if unknown:
        parser.error(f"--only: {', '.join(sorted(unknown))}; it takes {names}")
    return given


def memory_folder() -> Path:
    """Where a disk's noise does not reach: a memory file system where there is one."""
    shm = Path("/dev/shm")
    return (shm if shm.is_dir() else Path(tempfile.gettempdir())) / "convinspect-benchmarks"


def number(text: str) -> int:
    """`10k` is 10,000."""
    return int(float(text.rstrip("kMG")) * _UNITS.get(text[-1], 1))


def points(given: argparse.Namespace) -> list[Point]:
    """Every file that is measured, the smallest first."""
    found = [_START]
    for texts, holes in ((given.sizes, False), (given.sparse, True)):
        for text in filter(None, texts.split(",")):
            width = round((number(text) / (4 * _LAYERS)) ** 0.5)
            label = f"{text[:-1]} {text[-1]}B{', sparse' if holes else ''}"
            found.append(Point("size", label, 2 * _LAYERS, width, holes))
    found += [Point("tensors", f"{number(text):,}", number(text), 8) for text in given.tensors.split(",") if text]
    return found


def measure(subject: Subject, files: Files, absent: dict[str, str], given: argparse.Namespace, into: Measured) -> None:
    """Run a subject's routes on one point's files."""
    point = files.point
    routes = [route for route in subject.routes(files) if route.package not in absent]
    ready = []
    for route in routes:
        into.routes.setdefault(route.name, route)
        up = into.given_up(route.name, point)
        if up is not None:
            into.results[route.name, point.label] = up
        elif route.holds * point.numbers > 0.8 * free_memory():
            into.results[route.name, point.label] = Missing("no memory", more=True)
        else:
            ready.append(route)
    # Once more at the start, so that modules are compiled and libraries in the page cache.
    rounds = given.repeats + (point.axis == "start" and not given.quick)
    found = run_in_turn(ready, rounds, given.limit, given.processor)
    into.results.update({(name, point.label): result for name, result in found.items()})
    into.points.append(point)
    into.sizes[point.label] = files.torch.stat().st_size if point.axis != "tensors" else point.tensors
    files.remove("out.pt")
    for name, result in found.items():
        say(f"  {subject.name}, {point.label}: {name.strip()}: {cell(result, None)}")


def measure_all(
    subjects: Sequence[Subject], given: argparse.Namespace, absent: dict[str, str], into: Mapping[str, Measured]
) -> None:
    """Point by point, so that no more than one point's files take room."""
    for point in points(given):
        # A quick run tells nothing of growth, so it needs start-up only where that is what is measured.
        quick = given.quick and point is _START
        wanted = [subject for subject in subjects if subject.takes(point) and (not quick or "start" in subject.axes)]
        why = lacking(point, given.folder)
        if why is not None:
            for subject in wanted:
                into[subject.name].remarks.append(f"{point.label} left out: {why}")
            continue
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            for subject in wanted:
                files = Files(Path(folder), point)
                measure(subject, files, absent, given, into[subject.name])
                files.remove("source.safetensors")


def tables(subject: Subject, measured: Measured) -> list[Table]:
    """One for each of the subject's series."""
    titles = {"size": f"{subject.title}: {2 * _LAYERS} tensors, by size", "tensors": f"{subject.title}: by tensors"}
    found = []
    for axis in subject.axes:
        if not any(point.axis == axis for point in measured.points):
            continue
        chosen = [point for point in measured.points if point.axis in ("start", axis)]
        columns = {point.label: float(measured.sizes[point.label]) for point in chosen}
        table = series(titles.get(axis, subject.title), list(measured.routes.values()), columns, measured.results)
        found.append(replace(table, remarks=[*table.remarks, *measured.remarks]))
    return found


def circumstances(given: argparse.Namespace, packages: Sequence[str], absent: dict[str, str]) -> list[str]:
    """Machine, versions, date, and what is left out."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = [line.partition(": ")[2] for line in info.read_text().splitlines() if line.startswith("model name")]
        processor = named[0] if named else processor
    present = [package for package in packages if package not in absent]
    versions = [peers.version(name) for name in ("torch", "safetensors", "numpy", "typer", *present)]
    return [
        f"{datetime.date.today()}, {os.cpu_count()} cores, {processor}, {platform.system()}, Python "
        f"{platform.python_version()}; {', '.join(versions)}.",
        f"{'Processor' if given.processor else 'Wall-clock'} time, the fastest of {given.repeats}, in {given.folder}; "
        f"load {os.getloadavg()[0]:.1f} at the start.",
        *(f"Left out: {why}." for why in absent.values()),
    ]


def say(text: str) -> None:
    """Progress, apart from the result."""
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 where a command of ours failed."""
    given = options(arguments)
    ours = not given.folder.exists() or given.folder == memory_folder()
    given.folder.mkdir(parents=True, exist_ok=True)
    try:
        return report(given)
    finally:
        if ours:
            # Another run may have its files there.
            with suppress(OSError):
                given.folder.rmdir()


def report(given: argparse.Namespace) -> int:
    """Measure in a folder that is there, and print; 1 where a command of ours failed."""
    chosen = given.only.split(",")
    subjects = [subject for subject in SUBJECTS if subject.name in chosen]
    packages = sorted({package for subject in subjects for package in subject.packages})
    absent = {name: why for name in packages if (why := peers.absent(name)) is not None}
    remarks = circumstances(given, packages, absent)
    shown = markdown if given.markdown else plain
    print("\n".join([*remarks, LEGEND, ""]), flush=True)
    started = time.monotonic()
    measured = {subject.name: Measured() for subject in subjects}
    single: dict[str, list[Table]] = {}
    try:
        measure_all(subjects, given, absent, measured)
        single = {subject.name: subject.more(given.folder) for subject in subjects if subject.more is not None}
    except KeyboardInterrupt:
        say("interrupted; what is measured follows")
    say(f"measured in {(time.monotonic() - started) / 60:.0f} min")
    failed = False
    for subject in subjects:
        found = measured[subject.name]
        for table in [*tables(subject, found), *single.get(subject.name, [])]:
            print(shown(table), flush=True)
        ours = {route.name for route in found.routes.values() if route.against is None}
        failed = failed or any(
            isinstance(result, Missing) and result.why.startswith("failed")
            for (name, _), result in found.results.items() if name in ours
        )  # fmt: skip
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
