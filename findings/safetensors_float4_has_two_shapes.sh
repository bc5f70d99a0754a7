#!/usr/bin/env bash
# safetensors 0.8.0 with torch 2.13.0: one float4 tensor has two shapes, and can be loaded but not sliced.
#
# `torch.float4_e2m1fn_x2` packs two numbers into a byte and counts bytes: 8 × 4 here. The header that
# `safetensors.torch.save_file` writes calls it F4 and counts numbers: [8, 8], which `get_slice(...).get_shape()` hands out.
# `load_file` gives (8, 4) again. So a tool that reads headers and one that loads tensors disagree about the same file
# by a factor of two, and neither says that it counts something else. And `get_slice("weight")[:, :2]`, which works for
# every other dtype, raises "shape '[8, 8]' is invalid for input of size 32".
#
# Prints what was seen; ends with 1 when any of it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 safetensors==0.8.0
cat >"$folder/float4.py" <<'PYTHON'
import json
import struct
import sys

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

path = sys.argv[1]
weight = torch.arange(32, dtype=torch.uint8).reshape(8, 4).view(torch.float4_e2m1fn_x2)
save_file({"weight": weight}, path)
with open(path, "rb") as file:
    (length,) = struct.unpack("<Q", file.read(8))
    entry = json.loads(file.read(length))["weight"]
loaded = load_file(path)["weight"]
with safe_open(path, "pt") as file:
    sliced = file.get_slice("weight")
    told = sliced.get_shape()
    try:
        message = str(tuple(sliced[:, :2].shape))
    except Exception as error:
        message = str(error)
print("saved", tuple(weight.shape), "header", entry["dtype"], entry["shape"])
print("get_shape", told, "load_file", tuple(loaded.shape), "slice:", message)
same = torch.equal(loaded.view(torch.uint8), weight.view(torch.uint8))
seen = entry["dtype"] == "F4" and entry["shape"] == told == [8, 8] and tuple(loaded.shape) == (8, 4)
sys.exit(0 if same and seen and "invalid for input of size 32" in message else 1)
PYTHON
"$folder/venv/bin/python" "$folder/float4.py" "$folder/model.safetensors"
