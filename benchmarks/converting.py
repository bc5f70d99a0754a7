"""How long converting takes, and how much memory, against a plain copy and the usual script, in one run.

    python benchmarks/converting.py [--folder DIR] [--repeats 3]

DIR is best on a memory file system (by default /dev/shm where it is), since a disk's noise swamps the ratios; it takes
4.4 GB there. Our own command syncs the new file to the disk before it takes its name; on a memory file system that is
free, so the figures are of the work without it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from measuring import convinspect, measure_in_turn, memory_folder, options, python, report, run

MAKE = """
import sys, torch
torch.manual_seed(0)
sd = {}
for i in range(64):
    sd[f"convs.{i}.weight"] = torch.randn(2048, 2048, 1)
    sd[f"convs.{i}.bias"] = torch.randn(2048)
    sd[f"others.{i}.weight"] = torch.randn(2048, 2048)
    sd[f"others.{i}.bias"] = torch.randn(2048)
torch.save(sd, sys.argv[1])
"""

_USUAL = """
import sys, torch
sd = torch.load(sys.argv[1], mmap=True, weights_only=True)
for key, value in sd.items():
    if value.dim() == 3 and value.shape[2] == 1:
        sd[key] = value.squeeze(2)
torch.save(sd, sys.argv[2])
"""


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            found.update(block)
    return found.hexdigest()


def main() -> None:
    """Measure and print."""
    given = options(__doc__, memory_folder())
    source, target = given.folder / "half.pt", given.folder / "out.pt"
    if not source.exists():
        run(python(MAKE, source))

    def clean() -> None:
        target.unlink(missing_ok=True)

    commands = {
        "ours": convinspect("convert", source, "-o", target, "--to", "linear"),
        "cp": ["cp", str(source), str(target)],
        "script": python(_USUAL, source, target),
    }
    costs = measure_in_turn(commands, given.repeats, clean)
    print(f"{'':<42} {'convinspect':>17}   {'compared with':>17}")
    report("convert, 2 GB, half of it pointwise: cp", costs["ours"], costs["cp"], "≤ 1.3, ≤ 80 MB")
    report("  the usual script", costs["ours"], costs["script"], "≤ 0.5")
    clean()
    run(convinspect("convert", source, "-o", target, "--to", "linear"))
    back = given.folder / "back.pt"
    run(convinspect("convert", target, "-o", back, "--to", "conv1d", "--layer", "convs.*"))
    same = digest(back) == digest(source)
    print(f"there and back gives the same bytes: {'yes' if same else 'NO'}")
    for path in (target, back):
        path.unlink()


if __name__ == "__main__":
    main()
