"""How long listing and showing take, and how much memory, against PyTorch on the same files in the same run.

    python benchmarks/reading.py [--folder DIR] [--repeats 3]

Each line is a whole process, started anew; the time is the median of the repeats, the memory the largest resident
set. Files are made in DIR (2.2 GB are needed) and kept there for the next run. Ratios are what counts: they hold on
other machines too.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from measuring import convinspect, measure, options, python, report, run

_LAYERS = 128


_MAKE_BIG = f"""
import sys, torch
torch.manual_seed(0)
sd = {{}}
for i in range({_LAYERS}):
    sd[f"layers.{{i}}.weight"] = torch.randn(2048, 2048, 1)
    sd[f"layers.{{i}}.bias"] = torch.randn(2048)
torch.save(sd, sys.argv[1])
"""

_MAKE_MANY = """
import sys, torch
torch.manual_seed(0)
layers = [torch.nn.Conv1d(6, 8, 1) for _ in range(1500)]
model = torch.nn.ModuleList(layers)
optimizer = torch.optim.Adam(model.parameters())
for parameter in model.parameters():
    parameter.grad = torch.randn_like(parameter)
optimizer.step()
torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, sys.argv[1])
"""

_TORCH_LIST = """
import sys, torch
found = torch.load(sys.argv[1], mmap=True, weights_only=True)
found = found.get("model", found)
for key, value in found.items():
    print(key, tuple(value.shape), value.dtype, value.numel())
"""

_TORCH_LAYER = """
import sys, torch
weight = torch.load(sys.argv[1], mmap=True, weights_only=True)["layers.64.weight"]
print(weight)
"""

_TORCH_STATS = """
import sys, torch
for key, value in torch.load(sys.argv[1], mmap=True, weights_only=True).items():
    if key.endswith("weight"):
        x = value.flatten()
        finite = x.isfinite()
        print(key, x.min(), x.max(), x.mean(), x.std(), x.norm(), (x == 0).sum(), (~finite).sum(), x.histc(16))
"""


def prepared(folder: Path, name: str, script: str) -> Path:
    """The benchmark file of that name, made when it is not there."""
    path = folder / name
    if not path.exists():
        run(python(script, path))
    return path


def main() -> None:
    """Measure and print."""
    given = options(__doc__, Path(tempfile.gettempdir()) / "convinspect-benchmarks")
    big = prepared(given.folder, "big.pt", _MAKE_BIG)
    many = prepared(given.folder, "many.pt", _MAKE_MANY)
    layer = "layers.64"
    rows = [
        ("shapes, 2 GB, 128 layers", convinspect("shapes", big), python(_TORCH_LIST, big), "≤ 0.15, ≤ 60 MB"),
        ("shapes, 12,000 tensors", convinspect("shapes", many), python(_TORCH_LIST, many), "≤ 0.40"),
        ("shapes --format json, 12,000 tensors", convinspect("shapes", many, "--format", "json"),
         python(_TORCH_LIST, many), "≤ 0.40"),
        ("weights FILE LAYER, 2 GB", convinspect("weights", big, layer), python(_TORCH_LAYER, big), "≤ 0.25, ≤ 150 MB"),
        ("weights --stats, 2 GB", convinspect("weights", big, "--stats"), python(_TORCH_STATS, big), "≤ 150 MB"),
        ("--help against import typer, rich.table", convinspect("--help"), python("import typer, rich.table"), "≤ 2"),
    ]  # fmt: skip
    print(f"{'':<42} {'convinspect':>17}   {'compared with':>17}")
    for what, ours, theirs, bound in rows:
        cost = measure(ours, given.repeats)
        report(what, cost, measure(theirs, given.repeats), bound)
        if "--stats" in what:
            print(f"{'':<42} {big.stat().st_size / 1e9 / cost.seconds:6.2f} GB/s, whole process   (≥ 1)")


if __name__ == "__main__":
    main()
