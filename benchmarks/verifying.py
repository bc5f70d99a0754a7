"""How long verifying takes, and how much memory, against a bare loop in PyTorch, in one run.

    python benchmarks/verifying.py [--folder DIR] [--repeats 3]

DIR is best on a memory file system (by default /dev/shm where it is); it takes 4.4 GB there. The bare loop maps both
files, compares with torch.equal and runs both operators once, as a careful user would write it.
"""

from __future__ import annotations

from converting import MAKE
from measuring import convinspect, measure_in_turn, memory_folder, options, python, report, run

_BARE = """
import sys, torch
from torch.nn import functional as F
a, b = (torch.load(p, mmap=True, weights_only=True) for p in sys.argv[1:3])
with torch.no_grad():
    for key, before in a.items():
        after = b[key]
        assert torch.equal(before.reshape(after.shape), after)
        if before.dim() == 3:
            bias = a[key.replace("weight", "bias")]
            x = torch.randn(2, before.shape[1], 5)
            y, z = F.conv1d(x, before, bias), F.linear(x.mT, after, bias).mT
            assert torch.allclose(y, z, atol=1e-4)
"""


def main() -> None:
    """Measure and print."""
    given = options(__doc__, memory_folder())
    before, after = given.folder / "half.pt", given.folder / "verified.pt"
    if not before.exists():
        run(python(MAKE, before))
    if not after.exists():
        run(convinspect("convert", before, "-o", after, "--to", "linear"))
    commands = {
        "ours": convinspect("verify", before, after),
        "bits": convinspect("verify", before, after, "--bits"),
        "bare": python(_BARE, before, after),
    }
    costs = measure_in_turn(commands, given.repeats, lambda: None)
    print(f"{'':<42} {'convinspect':>17}   {'compared with':>17}")
    report("verify, 2 GB, 128 layers: a bare loop", costs["ours"], costs["bare"], "≤ 1.5, ≤ 600 MB")
    report("  --bits", costs["bits"], costs["bare"], "")
    after.unlink()


if __name__ == "__main__":
    main()
