"""Convolutions that cut patches: converting 2 GB beside copying them, and PatchLinear beside the convolution."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from making import free_memory
from measuring import Cost, Route, convinspect, python, run
from tables import Table, seconds

ROUNDS, PAIRS = 9, 21
BYTES = 2 * 10**9
PATCHES = 1024
THREADS = (1, 2)

_WRITE = """
import sys, torch
from safetensors.torch import save_file
path, numbers = sys.argv[1], int(sys.argv[2]) // 4
tensors = {"visual.patch_embed.proj.weight": torch.randn(1280, 3, 2, 14, 14)}
tensors |= {f"blocks.{i}.mlp.fc1.weight": torch.randn(numbers // 40960, 640) for i in range(64)}
save_file(tensors, path) if path.endswith(".safetensors") else torch.save(tensors, path)
"""

_RUN = """
import json, sys, time, torch
from torch import nn
from convinspect.modules import PatchLinear
torch.set_num_threads(int(sys.argv[1]))
found = {}
for dtype in ("float32", "bfloat16"):
    kind, patch = getattr(torch, dtype), (2, 14, 14)
    conv = nn.Conv3d(3, 1280, patch, stride=patch, bias=False, dtype=kind)
    linear = PatchLinear(3, 1280, patch, bias=False, dtype=kind, dims=3)
    x = torch.randn(int(sys.argv[3]), 3, *patch).to(kind)
    with torch.no_grad():
        for module in (conv, linear):
            module(x)
        for module in (conv, linear) * int(sys.argv[2]):
            start = time.perf_counter()
            module(x)
            found.setdefault(f"{dtype} {type(module).__name__}", []).append(time.perf_counter() - start)
print(json.dumps(found))
"""


def patches_compared(folder: Path) -> list[Table]:
    """`convert --patches` against `cp`, and PatchLinear against Conv3d at Qwen2-VL's sizes, in pairs."""
    return [_converting(folder), _running()]


def _converting(folder: Path) -> Table:
    # Source and target lie in memory, and writing the source holds it twice.
    size = int(min(BYTES, 0.8 * shutil.disk_usage(folder).free / 2, 0.8 * free_memory() / 3))
    rows = []
    with tempfile.TemporaryDirectory(dir=folder) as made:
        for suffix in (".safetensors", ".pt"):
            source, target = Path(made) / f"source{suffix}", Path(made) / f"target{suffix}"
            run(Route("", python(_WRITE, source, size)))
            ours = convinspect("convert", source, "-o", target, "--to", "linear", "--patches")
            routes = [Route("ours", ours, writes=target), Route("cp", ["cp", str(source), str(target)], writes=target)]
            rounds = [[run(route) for route in routes] for _ in range(ROUNDS + 1)][1:]
            costs = [[cost for cost in each if isinstance(cost, Cost)] for each in rounds]
            pairs = [(each[0].seconds, each[1].seconds) for each in costs if len(each) == 2]
            memory = max((each[0].megabytes for each in costs if each), default=0.0)
            rows.append([f"`{suffix}`, {size / 1e9:.1f} GB", *_cells(pairs), f"{memory:.0f} MB"])
            source.unlink()
            target.unlink(missing_ok=True)
    head = ["", "÷ `cp`, median", "range", "`convert --patches`", "`cp`", "largest resident set"]
    return Table("Converting a patch embedding", head, rows, [f"{ROUNDS} pairs"])


def _running() -> Table:
    rows = []
    for threads in THREADS:
        numbers = [str(number) for number in (threads, PAIRS, PATCHES)]
        done = subprocess.run([sys.executable, "-c", _RUN, *numbers], capture_output=True, text=True)
        found: dict[str, list[float]] = json.loads(done.stdout) if done.returncode == 0 else {}
        for dtype in ("float32", "bfloat16"):
            sides = (found.get(f"{dtype} PatchLinear", []), found.get(f"{dtype} Conv3d", []))
            name = f"{dtype}, {threads} thread{'s' * (threads > 1)}"
            rows.append([name, *_cells(list(zip(*sides, strict=True)))])
    head = ["", "÷ Conv3d, median", "range", "PatchLinear", "Conv3d"]
    return Table(f"PatchLinear, {PATCHES:,} patches of 1,176 numbers → 1,280", head, rows, [f"{PAIRS} pairs, forward"])


def _cells(pairs: Sequence[tuple[float, float]]) -> list[str]:
    """The median of the pairs' ratios, the range of half of them, and the medians of both sides."""
    if len(pairs) < 2:
        return ["failed", "–", "–", "–"]
    low, middle, high = statistics.quantiles([ours / base for ours, base in pairs], n=4)
    sides = [seconds(statistics.median(side)) for side in zip(*pairs, strict=True)]
    return [f"{middle:.2f}", f"{low:.2f} to {high:.2f}", *sides]
