#!/usr/bin/env bash
# torch 2.13.0, CPU: `FileSystemWriter(path, serialization_format=SerializationFormat.SAFETENSORS)` writes a distributed
# checkpoint that none of torch's own readers loads.
#
# `dcp.save` ends without a warning, and the folder looks as ever: `.metadata` and `__0_0.distcp`. But the piece is one
# safetensors file, while `FileSystemReader`, which `dcp.load` takes by default, gives each item's bytes to `torch.load`
# and stops with an UnpicklingError of weights_only. `.metadata` does not say which format was used.
# `HuggingFaceStorageReader` looks for files named `*.safetensors`, of which there is none, and misses every key.
# `dcp_to_torch_save` stops as `dcp.load` does. The numbers are not lost: renamed, the piece is a safetensors file as
# good as any, here with all tensors whole, since one process saved them.
#
# Prints what was seen; ends with 1 when any of it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 safetensors==0.8.0
cat >"$folder/formats.py" <<'PYTHON'
import logging
import shutil
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from torch.distributed.checkpoint import HuggingFaceStorageReader
from torch.distributed.checkpoint.filesystem import FileSystemWriter, SerializationFormat
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
folder = Path(sys.argv[1])
state = {"proj.weight": torch.arange(12.0).reshape(3, 4), "proj.bias": torch.ones(3)}


def outcome(action):
    target = {key: torch.zeros_like(value) for key, value in state.items()}
    try:
        action(target)
    except BaseException as error:
        words = ("UnpicklingError", "Missing key")
        return next((word for word in words if word in str(error)), type(error).__name__)
    return all(torch.equal(target[key], state[key]) for key in state)


seen = {}
for form in (SerializationFormat.TORCH_SAVE, SerializationFormat.SAFETENSORS):
    place = folder / form.name
    dcp.save(dict(state), storage_writer=FileSystemWriter(place, serialization_format=form), no_dist=True)
    seen[form.name] = (
        sorted(path.name for path in place.iterdir()),
        outcome(lambda target: dcp.load(target, checkpoint_id=place, no_dist=True)),
        outcome(lambda target: dcp.load(target, storage_reader=HuggingFaceStorageReader(str(place)), no_dist=True)),
        outcome(lambda target: dcp_to_torch_save(place, folder / "one.pt")),
    )
piece = shutil.copy(folder / "SAFETENSORS" / "__0_0.distcp", folder / "piece.safetensors")
renamed = load_file(piece)
print("torch", torch.__version__)
for form, (names, default, hugging_face, consolidated) in seen.items():
    print(f"{form}: {names}, dcp.load: {default}, HuggingFaceStorageReader: {hugging_face}, ", end="")
    print("dcp_to_torch_save:", "stops" if consolidated == "UnpicklingError" else "runs")
right = all(torch.equal(renamed[key], state[key]) for key in state)
print("the piece, renamed to .safetensors:", "right" if right else "wrong")
names = [".metadata", "__0_0.distcp"]
expected = seen["SAFETENSORS"] == (names, "UnpicklingError", "Missing key", "UnpicklingError") and right
expected = expected and seen["TORCH_SAVE"][:2] == (names, True) and seen["TORCH_SAVE"][3] != "UnpicklingError"
sys.exit(0 if expected else "this has changed")
PYTHON
"$folder/venv/bin/python" "$folder/formats.py" "$folder"
