#!/usr/bin/env bash
# torch 2.13.0: `consolidate_safetensors_files`, and `HuggingFaceStorageWriter(save_distributed=True,
# enable_consolidation=True)` which calls it, write 0 for every 0-dim tensor, without a warning.
#
# The shard holds {"scale": 2.0, "weight": (3,)}, and `dcp.load` reads 2.0 from it. The consolidated file has the key,
# dtype and shape of "scale", and its bytes are zeros. A shape () is taken for "no shape" when the bytes are copied.
# A model with a learned temperature or logit scale is so saved with 0 in its place.
#
# An integer tensor does not get that far: its shard is written and `dcp.load` reads it, and consolidating raises
# TypeError from `torch.finfo` (BatchNorm's num_batches_tracked is one, and 0-dim besides).
#
# Prints what was seen; ends with 1 when any of it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 safetensors==0.8.0
cat >"$folder/scalars.py" <<'PYTHON'
import os
import sys
import warnings

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException

warnings.simplefilter("ignore")
folder = sys.argv[1]


def consolidated(state, name):
    """What `dcp.load` reads of the shard, and what the consolidated file holds (None: it raised)."""
    path = os.path.join(folder, name)
    writer = HuggingFaceStorageWriter(path, save_distributed=True, enable_consolidation=True)
    try:
        dcp.save(state, storage_writer=writer, no_dist=True)
        whole = load_file(os.path.join(path, "model-00001-of-00001.safetensors"))
    except CheckpointException as error:
        print(f"{name}: consolidating raised: {str(error).strip().splitlines()[-1]}")
        whole = None
    read = {key: torch.zeros_like(value) for key, value in state.items()}
    dcp.load(read, storage_reader=HuggingFaceStorageReader(os.path.join(path, "sharded")), no_dist=True)
    print(f"{name}: dcp.load of the shard {read}, consolidated {whole}")
    return read, whole


read, whole = consolidated({"scale": torch.tensor(2.0), "weight": torch.ones(3)}, "float")
seen = read["scale"] == 2 and whole["scale"].shape == () and whole["scale"] == 0 and whole["weight"].sum() == 3
read, whole = consolidated({"steps": torch.tensor([7, 8])}, "integer")
seen &= read["steps"].tolist() == [7, 8] and whole is None
sys.exit(0 if seen else 1)
PYTHON
"$folder/venv/bin/python" "$folder/scalars.py" "$folder"
