"""The long run, by hand: `python tests/fuzz/run.py --minutes 10 [--seed N] [--failures FOLDER]`."""

import sys

from fuzzing import main

if __name__ == "__main__":
    sys.exit(main())
