"""Draw cases by hand: `python tests/oracle/draw.py --cases 20000 --seed 1` prints what was seen, and every miss."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from support.drawing import cases, patches, there_and_back, training


def main() -> int:
    """The exit code: 1 if anything that was said or written is not so."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="seed of the first case; each next one is one more")
    parser.add_argument("--graphs", type=float, default=cases.SHARE_OF_GRAPHS, help="share of TorchScript and .pt2")
    parser.add_argument("--trainings", action="store_true", help="models beside their optimizers instead")
    parser.add_argument("--patches", action="store_true", help="patch and transposed convolutions instead")
    parser.add_argument("--there-and-back", action="store_true", help="files converted there and back instead")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    seen: Counter[str] = Counter()
    started = time.monotonic()
    for seed in range(options.seed, options.seed + options.cases):
        with tempfile.TemporaryDirectory() as folder:
            try:
                if options.there_and_back:
                    seen += there_and_back.run(seed, Path(folder))
                elif options.patches:
                    seen += patches.run(seed, Path(folder))
                elif options.trainings:
                    seen += training.run(seed, Path(folder))
                else:
                    seen += cases.run(seed, Path(folder), options.graphs)
            except AssertionError as miss:
                seen["misses"] += 1
                print(f"seed {seed}: {' '.join(str(miss).split())}", flush=True)
    for name, count in sorted(seen.items()):
        print(f"{count:8,}  {name}")
    print(f"{time.monotonic() - started:.0f} s")
    return 1 if seen["misses"] else 0


if __name__ == "__main__":
    sys.exit(main())
