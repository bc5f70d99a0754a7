#!/usr/bin/env bash
# torch 2.13.0 and safetensors 0.8.0: what `HuggingFaceStorageWriter(path, save_distributed=True)` writes of a sharded
# tensor are safetensors files that load without a complaint, each with a piece that looks like the whole.
#
# Two processes hold halves of an (8, 3) weight. Each writes `shard-0000N-model-00001-of-00001.safetensors` with the key
# `conv.weight` and the header's shape [4, 3]. There is no index file, and the names say "00001 of 00001". Only a string
# in `__metadata__`, DCP_SHARDING_INFO, tells the offset of the piece, and none tells the whole shape.
# `safetensors.torch.load_file` gives (4, 3) of each, and the union of both, as loaders of shards make it, keeps the last.
# `consolidate_safetensors_files` puts them together.
#
# Prints what was seen; ends with 1 when any of it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 safetensors==0.8.0
cat >"$folder/pieces.py" <<'PYTHON'
import json
import os
import socket
import sys
import warnings

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from safetensors import safe_open
from safetensors.torch import load_file
from torch.distributed.checkpoint import HuggingFaceStorageWriter
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

warnings.simplefilter("ignore")


def save(rank, folder, port):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    weight = distribute_tensor(torch.arange(24.0).reshape(8, 3), init_device_mesh("cpu", (2,)), [Shard(0)])
    dcp.save({"conv.weight": weight}, storage_writer=HuggingFaceStorageWriter(folder, save_distributed=True))
    dist.destroy_process_group()


if __name__ == "__main__":
    folder = sys.argv[1]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(save, (folder, port), nprocs=2)
    names = sorted(os.listdir(folder))
    seen = names == [f"shard-0000{n}-model-00001-of-00001.safetensors" for n in (1, 2)]
    union = {}
    for number, name in enumerate(names):
        path = os.path.join(folder, name)
        with safe_open(path, "pt") as file:
            told = json.loads(file.metadata()["DCP_SHARDING_INFO"])
        loaded = load_file(path)
        union |= loaded
        print(name, {key: tuple(value.shape) for key, value in loaded.items()}, told)
        seen &= tuple(loaded["conv.weight"].shape) == (4, 3)
        seen &= told == {"conv.weight": {"saved_offsets": [4 * number, 0]}}
    print("union of the files:", {key: tuple(value.shape) for key, value in union.items()})
    sys.exit(0 if seen else 1)
PYTHON
mkdir "$folder/saved"
"$folder/venv/bin/python" "$folder/pieces.py" "$folder/saved"
