"""The long run, by hand: `python tests/fuzz/run.py --minutes 10 [--seed N] [--failures FOLDER]`."""

import sys
from pathlib import Path

# For `support`, which lies beside this folder.
sys.path.insert(1, str(Path(__file__).resolve().parent.parent))

from fuzzing import main

if __name__ == "__main__":
    sys.exit(main())
