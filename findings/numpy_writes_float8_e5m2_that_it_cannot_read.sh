#!/usr/bin/env bash
# numpy 2.4.6 with ml_dtypes 0.6.0: `numpy.save` writes an array of float8_e5m2 that `numpy.load` refuses, in the same
# process; most other dtypes of ml_dtypes come back as bytes without a name.
#
# A `.npy` records a dtype as `dtype.str`. ml_dtypes gives float8_e5m2 the kind "f", so that is "<f1", which NumPy has no
# dtype for: `numpy.save` and `numpy.savez` raise nothing, `numpy.load` raises "descr is not a valid dtype descriptor:
# '<f1'". complex32 ("<W4") is the same. bfloat16 has the kind "V": it is written as "<V2" and comes back as V2, and
# float8_e4m3fn, float8_e8m0fnu, int4 and the other small ones all come back as V1, so that a file does not tell which
# of them it held. One who tried bfloat16 would expect bytes to come back for each of them. Pickles keep all names.
#
# Prints what was seen; ends with 1 when any of it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 ml_dtypes==0.6.0
cat >"$folder/arrays.py" <<'PYTHON'
import io
import pickle
import sys

import ml_dtypes
import numpy as np

WANTED = {
    "bfloat16": "|V2",
    "float8_e4m3fn": "|V1",
    "float8_e8m0fnu": "|V1",
    "int4": "|V1",
    "float8_e5m2": "descr is not a valid dtype descriptor: '<f1'",
    "complex32": "descr is not a valid dtype descriptor: '<W4'",
}
wrong = 0
for name, wanted in WANTED.items():
    array = np.ones(2, getattr(ml_dtypes, name))
    file = io.BytesIO()
    np.save(file, array)
    file.seek(0)
    try:
        seen = np.load(file).dtype.str
    except ValueError as error:
        seen = str(error)
    kept = pickle.loads(pickle.dumps(array)).dtype.name
    print(f"{name}: written as {array.dtype.str}, read as {seen}; by pickle {kept}")
    wrong += seen != wanted or kept != name
sys.exit(wrong > 0)
PYTHON
"$folder/venv/bin/python" "$folder/arrays.py"
