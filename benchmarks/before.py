"""`diff` of many tensors and `--error` of a long text, against an older build in the same run.

    python benchmarks/before.py OLDER [--tensors 100000] [--pairs 7] [--folder DIR]

OLDER is a checkout of the older build. Told is processor time: the median of the pairs' ratios, since what else the
machine does falls on both runs of a pair, and their spread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from textwrap import wrap

from measuring import Missing, Route, run
from tables import Table, plain, seconds

OURS = Path(__file__).resolve().parent.parent
_WIDTH = 8
_LINES = 5000
_WORDS = {0: "", 1: ""}
"""`diff` ends with 1 where something is not the same."""


def listing(path: Path, tensors: int, front: str = "", kernel: tuple[int, ...] = ()) -> Path:
    """A safetensors file of so many matrices without numbers: the header is real, the rest a hole."""
    header, end = {}, 0
    for i in range(tensors):
        begin, end = end, end + 8 * _WIDTH * _WIDTH
        shape = (_WIDTH, 2 * _WIDTH, *kernel)
        header[f"{front}layers.{i // 2}.{'ab'[i % 2]}.weight"] = {
            "dtype": "F32", "shape": shape, "data_offsets": [begin, end]
        }  # fmt: skip
    text = json.dumps(header, separators=(",", ":")).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path


def pickled(source: Path, tensors: int) -> Path:
    """As many matrices, written by torch.save."""
    import torch

    path = source.with_suffix(".pt")
    torch.save({f"layers.{i // 2}.{'ab'[i % 2]}.weight": torch.zeros(_WIDTH, 2 * _WIDTH) for i in range(tensors)}, path)
    return path


def error(lines: int) -> str:
    """What PyTorch says of so many tensors of another shape."""
    mismatch = (
        "\tsize mismatch for layers.{}.a.weight: copying a param with shape torch.Size([8, 16, 1]) from checkpoint, "
        "the shape in current model is torch.Size([8, 16])."
    )
    return "\n".join(["RuntimeError: Error(s) in loading state_dict for Net:", *map(mismatch.format, range(lines))])


def broken(text: str) -> str:
    """As a console of 80 columns shows it."""
    return "\n".join(part for line in text.split("\n") for part in wrap(line, 80, drop_whitespace=False))


def boxed(text: str) -> str:
    """In a frame."""
    return "\n".join([f"╭{'─' * 82}╮", *(f"│ {line:80} │" for line in broken(text).split("\n")), f"╰{'─' * 82}╯"])


def prefixed(text: str) -> str:
    """With a logger's time before each line."""
    return "\n".join(f"2026-03-01 12:00:00,123 ERROR {line}" for line in text.split("\n"))


def pairs(older: Path, arguments: Sequence[object], number: int) -> list[tuple[float, float]]:
    """Processor seconds of a command by this build and by the older one, in turn, each first in every other pair."""
    routes = [Route(str(tree), _command(tree, arguments), words=_WORDS) for tree in (OURS, older)]
    found = []
    for i in range(-1, number):
        order = (0, 1) if i % 2 else (1, 0)
        costs = {side: _seconds(routes[side]) for side in order}
        # Once before, so that modules are compiled.
        if i >= 0:
            found.append((costs[0], costs[1]))
    return found


def _command(tree: Path, arguments: Sequence[object]) -> list[str]:
    start = "import sys; sys.path.insert(0, sys.argv.pop(1)); from convinspect.cli.main import main; main()"
    return [sys.executable, "-c", start, str(tree), *map(str, arguments)]


def _seconds(route: Route) -> float:
    cost = run(route, processor=True)
    if isinstance(cost, Missing):
        raise SystemExit(f"{route.name}: {cost.why}")
    return cost.seconds


def differences(folder: Path, older: Path, tensors: int, number: int) -> Table:
    """`diff` of two files."""
    plain_one = listing(folder / "a.safetensors", tensors)
    torch_one = pickled(plain_one, tensors)
    others = {
        "safetensors, the same": (plain_one, plain_one),
        "safetensors, a prefix": (plain_one, listing(folder / "p.safetensors", tensors, "model.")),
        "safetensors, all of another rank": (plain_one, listing(folder / "r.safetensors", tensors, kernel=(1,))),
        ".pt, the same": (torch_one, torch_one),
    }
    rows = []
    for name, files in others.items():
        costs = pairs(older, ["diff", *files], number)
        ratios = [ours / theirs for ours, theirs in costs]
        ours, theirs = (statistics.median(side) for side in zip(*costs, strict=True))
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        rows.append([name, f"{statistics.median(ratios):.2f}", spread, seconds(ours), seconds(theirs)])
    return Table(f"diff of {tensors:,} tensors", ["", "÷ before", "spread", "now", "before"], rows)


def errors(folder: Path, lines: int, number: int) -> Table:
    """`diff --error` of a long text beyond that of a text of one line."""
    model, one = listing(folder / "few.safetensors", 40), folder / "one.txt"
    one.write_text(error(1) + "\n")
    rows = []
    changes: dict[str, Callable[[str], str]] = {
        "as printed": str, "80 columns": broken, "in a frame": boxed, "logged": prefixed
    }  # fmt: skip
    for name, change in changes.items():
        long = folder / "long.txt"
        long.write_text(change(error(lines)) + "\n")
        commands = [["diff", model, "--error", text] for text in (long, one)]
        beyond = [
            _seconds(Route(name, _command(OURS, commands[0]), words=_WORDS))
            - _seconds(Route(name, _command(OURS, commands[1]), words=_WORDS))
            for _ in range(number)
        ]
        rows.append([name, seconds(statistics.median(beyond)), f"{min(beyond):.2f} to {max(beyond):.2f} s"])
    return Table(f"diff --error, {lines:,} lines beyond 1 line", ["", "median", "spread"], rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("older", type=Path)
    parser.add_argument("--tensors", type=int, default=100_000)
    parser.add_argument("--lines", type=int, default=_LINES)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=given.folder) as made:
        for table in _tables(Path(made), given):
            print(plain(table), flush=True)
    return 0


def _tables(folder: Path, given: argparse.Namespace) -> Iterator[Table]:
    yield differences(folder, given.older.resolve(), given.tensors, given.pairs)
    yield errors(folder, given.lines, given.pairs)


if __name__ == "__main__":
    sys.exit(main())
