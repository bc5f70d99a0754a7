"""Breaks the texts beside it at random: `python tests/error_texts/break_texts.py [--number N] [--seed N]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parent.parent))

from support.error_texts import run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    counts, wrong = run(options.number, options.seed)
    print("\n".join([*wrong, ", ".join(f"{count:,} {what}" for what, count in sorted(counts.items()))]))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
