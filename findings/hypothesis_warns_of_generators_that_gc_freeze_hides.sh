#!/usr/bin/env bash
# hypothesis 6.170.17 on CPython: after `gc.freeze()`, `register_random` warns of any generator that was made before, that
# Hypothesis will not manage it, and then manages it.
#
# `register_random` keeps a weak reference, so it looks whether somebody else holds the generator: by
# `gc.get_referrers`. `gc.freeze` moves all that is there to a generation in which that function does not look, and the
# module that holds the generator is no longer found. Freezing is what a process does before it forks, or what a test
# suite does once its modules are imported; a suite that turns warnings into errors then ends in an error, as where trio
# is installed, whose plugin registers a generator when the first test of Hypothesis runs. The warning says that the
# generator is collected at once, and it is not: seeds are set and restored as ever.
#
# Prints what was seen; ends with 1 when any of it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check hypothesis==6.170.17
cat >"$folder/frozen.py" <<'PYTHON'
import gc
import random
import sys
import warnings

from hypothesis import given, register_random, settings
from hypothesis import strategies as st

before, frozen = random.Random(), random.Random()


def warned(generator):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        register_random(generator)
    return len(told)


told = [warned(before)]
gc.freeze()
told.append(warned(frozen))
found = [len(gc.get_referrers(frozen))]
gc.unfreeze()
found.append(len(gc.get_referrers(frozen)))

drawn = {"before": set(), "frozen": set()}


@settings(max_examples=5, database=None)
@given(st.integers())
def test(number):
    drawn["before"].add(before.random())
    drawn["frozen"].add(frozen.random())


test()
managed = [len(numbers) == 1 for numbers in drawn.values()]
print("warnings before and after gc.freeze():", told)
print("who holds the generator while it is frozen, and then:", found)
print("each example draws the same number, so that Hypothesis manages it:", managed)
sys.exit((told, found, managed) != ([0, 1], [0, 1], [True, True]))
PYTHON
"$folder/venv/bin/python" "$folder/frozen.py"
