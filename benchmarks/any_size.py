"""Files of any size: copied by reference, converted in place, and in many files, each beside copying."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from making import free_memory
from measuring import Cost, Missing, Result, Route, convinspect, python, run
from tables import Table, seconds

ROUNDS = 8
"""Even, for there and back."""
BYTES, SPARSE, SMALL = 2 * 10**9, 64 * 10**9, 10**6
_AT_ONCE = 1 << 20
PROCESSOR = False
"""Processor time instead of wall-clock time."""

_PIECES = """
import sys, torch, torch.distributed.checkpoint as dcp
numbers = int(sys.argv[2]) // 4 // 64
state = {f"convs.{i}.weight": torch.randn(max(1, numbers // 1024), 1024, 1) for i in range(64)}
dcp.save(state, storage_writer=dcp.FileSystemWriter(sys.argv[1], thread_count=8), no_dist=True)
"""
_MAKERS = {"xfs": ("-q", "-m", "reflink=1"), "ext4": ("-q", "-F")}

Pairs: TypeAlias = list[tuple[Result, Result]]


def sizes_compared(folder: Path) -> list[Table]:
    """A row for each way of writing, in pairs that are run in turn."""
    # Source and target lie in memory.
    size = int(min(BYTES, 0.8 * shutil.disk_usage(folder).free / 3, 0.8 * free_memory() / 3))
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory(dir=folder) as made:
        place = Path(made)
        rows += _on_a_disk(place, "xfs", 3 * size + 10**9, lambda disk: _new_files(disk, size, "never"))
        rows += _new_files(place, size, None)
        rows.append(_in_place(place, size))
        rows += _on_a_disk(place, "ext4", 10**9, _sparse)
        rows += _pieces(place, size)
    head = ["", "÷ the other, median", "range", "ours", "the other", "largest resident set"]
    remarks = [f"{ROUNDS} pairs of {'processor' if PROCESSOR else 'wall-clock'} time, {size / 1e9:.1f} GB each"]
    return [Table("Files of any size", head, rows, [*remarks, f"load {os.getloadavg()[0]:.1f} at the end"])]


def _on_a_disk(folder: Path, kind: str, nbytes: int, rows: Callable[[Path], list[list[str]]]) -> list[list[str]]:
    """Rows on a file system of that kind, or one that says why there is none."""
    try:
        with _mounted(folder, kind, nbytes) as disk:
            return rows(disk)
    except PermissionError as error:
        return [[f"on {kind}", f"left out: {error}", "–", "–", "–", "–"]]


@contextmanager
def _mounted(folder: Path, kind: str, nbytes: int) -> Iterator[Path]:
    """A new file system in a sparse file.

    Raises:
        PermissionError: This system does not let us.
    """
    maker = shutil.which(f"mkfs.{kind}", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if sys.platform != "linux" or os.geteuid() != 0:
        raise PermissionError("only root on Linux can mount one")
    if maker is None:
        raise PermissionError(f"there is no mkfs.{kind}")
    image, place = folder / f"{kind}.img", folder / kind
    with open(image, "wb") as file:
        file.truncate(nbytes)
    place.mkdir()
    try:
        subprocess.run([maker, *_MAKERS[kind], str(image)], check=True, capture_output=True)
        if subprocess.run(["mount", "-o", "loop", str(image), str(place)], capture_output=True).returncode:
            raise PermissionError("none can be mounted here")
        try:
            yield place
        finally:
            subprocess.run(["umount", str(place)], check=True)
    finally:
        image.unlink()
        place.rmdir()


def _write(path: Path, nbytes: int, kernel: tuple[int, ...], holes: bool = False) -> None:
    """A safetensors file of 16 weights, whose names say Linear; numbers are random bytes, or holes."""
    width = max(1, int((nbytes / 64) ** 0.5))
    size = 4 * width * width
    header = {
        f"blocks.{i}.mlp.fc1.weight": {
            "dtype": "F32", "shape": [width, width, *kernel], "data_offsets": [i * size, (i + 1) * size],
        }
        for i in range(16)
    }  # fmt: skip
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        # Blocks, for no process is told as smaller than the one that starts it.
        for _ in range(0 if holes else 16 * size // _AT_ONCE):
            file.write(os.urandom(_AT_ONCE))
        file.truncate(8 + len(text) + 16 * size)


def _new_files(folder: Path, size: int, reflink: str | None) -> list[list[str]]:
    source, target = folder / "source.safetensors", folder / "target.safetensors"
    _write(source, size, (1,))
    ours = Route("ours", convinspect("convert", source, "-o", target, "--to", "linear"), writes=target)
    copy = ["cp", *([f"--reflink={reflink}"] if reflink else []), str(source), str(target)]
    pairs = _pairs([ours], [Route("cp", copy, writes=target)])
    source.unlink()
    target.unlink(missing_ok=True)
    where = "on xfs, its blocks shared, ÷ `cp --reflink=never`" if reflink else "÷ `cp`"
    return [_ratios(f"a new file {where}", pairs)]


def _in_place(folder: Path, size: int) -> list[str]:
    source, target = folder / "source.safetensors", folder / "target.safetensors"
    _write(source, size, (1,))
    pairs = _pairs(_there_and_back(source, "linear"), [Route("cp", ["cp", str(source), str(target)], writes=target)])
    source.unlink()
    target.unlink(missing_ok=True)
    return _ratios("`--in-place` ÷ `cp`", pairs)


def _there_and_back(path: Path, first: str) -> list[Route]:
    kinds = ("linear", "conv1d") if first == "linear" else ("conv1d", "linear")
    return [Route(kind, convinspect("convert", path, "--in-place", "--to", kind)) for kind in kinds]


def _sparse(disk: Path) -> list[list[str]]:
    """In place, 64 GB beside 1 MB, in seconds more; once from convolutions, once from a Linear, whose header grows."""
    rows = []
    for first, kernel in (("linear", (1,)), ("conv1d", ())):
        large, small = disk / "large.safetensors", disk / "small.safetensors"
        _write(large, SPARSE, kernel, holes=True)
        _write(small, SMALL, kernel)
        pairs = _pairs(_there_and_back(large, first), _there_and_back(small, first))
        rows.append(_differences(f"`--in-place`, {SPARSE / 1e9:.0f} GB sparse on ext4, `--to {first}` and back", pairs))
        large.unlink()
        small.unlink()
    return rows


def _pieces(folder: Path, size: int) -> list[list[str]]:
    source, target = folder / "pieces", folder / "converted"
    made = run(Route("", python(_PIECES, source, size)))
    if isinstance(made, Missing):
        return [["a distributed folder", made.why, "–", "–", "–", "–"]]
    arguments = ["convert", str(source), "-o", str(target), "--to", "linear", "--force"]
    several = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "convinspect"]
    rows = []
    for name, command in (("one process", convinspect(*arguments)), ("two", [*several, *arguments])):
        copy = ["cp", "-rT", str(source), str(target)]
        pairs = _pairs([Route("ours", command)], [Route("cp", copy)], before=lambda: _remove(target))
        rows.append(_ratios(f"a distributed folder in 8 files, {name}, ÷ `cp -r`", pairs))
    _remove(source)
    _remove(target)
    return rows


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _pairs(ours: Sequence[Route], others: Sequence[Route], before: Callable[[], object] = lambda: None) -> Pairs:
    """Rounds of one of ours and one of the others, each list in turn; one round more at first, which does not count."""
    found: Pairs = []
    for number in range(ROUNDS + 1):
        both = []
        for routes in (ours, others):
            before()
            both.append(run(routes[number % len(routes)], processor=PROCESSOR))
        found.append((both[0], both[1]))
    return found[1:]


def _ratios(name: str, pairs: Pairs) -> list[str]:
    return _row(name, pairs, lambda ours, other: ours / other, lambda figure: f"{figure:.2f}")


def _differences(name: str, pairs: Pairs) -> list[str]:
    def shown(figure: float) -> str:
        return f"{figure:+.2f} s"

    return _row(name, pairs, lambda ours, other: ours - other, shown)


def _row(name: str, pairs: Pairs, compare: Callable[[float, float], float], shown: Callable[[float], str]) -> list[str]:
    """The median, the range of half of them, the medians of both sides, and our largest memory."""
    wrong = next((result for pair in pairs for result in pair if isinstance(result, Missing)), None)
    if wrong is not None:
        return [name, wrong.why, "–", "–", "–", "–"]
    costs = [(ours, other) for ours, other in pairs if isinstance(ours, Cost) and isinstance(other, Cost)]
    low, middle, high = statistics.quantiles([compare(ours.seconds, other.seconds) for ours, other in costs], n=4)
    sides = [seconds(statistics.median(cost.seconds for cost in side)) for side in zip(*costs, strict=True)]
    memory = max(ours.megabytes for ours, _ in costs)
    return [name, shown(middle), f"{shown(low)} to {shown(high)}", *sides, f"{memory:.0f} MB"]
