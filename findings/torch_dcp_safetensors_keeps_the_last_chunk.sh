#!/usr/bin/env bash
# torch 2.13.0, CPU: `FileSystemWriter(path, serialization_format=SerializationFormat.SAFETENSORS)` keeps one chunk of a
# tensor in each file, the last, and drops the others without a word.
#
# A rank that holds several chunks of a tensor (a planner's shards, here two halves of a weight) gives each to the writer.
# The writer collects them in a dictionary under the tensor's name, and saves that: of two chunks the second takes the
# first one's place, and with it goes `saved_offsets`. `.metadata` lists both chunks, with a place in the file and a
# length for each, as if both were there, so nothing that reads `.metadata` alone sees the loss. With
# `single_file_per_rank=False`, a file for each chunk, all are kept; with the usual TORCH_SAVE too.
#
# Prints what was seen; ends with 1 when any of it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 safetensors==0.8.0
cat >"$folder/chunks.py" <<'PYTHON'
import logging
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter, SerializationFormat
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
folder = Path(sys.argv[1])
ROWS = 2


class InHalves(torch.Tensor):
    """A tensor of which this rank holds two chunks; the planner asks it for them, as it asks a DTensor for its own."""

    def __create_write_items__(self, name, _):
        whole = self.as_subclass(torch.Tensor)
        for first in range(0, len(whole), ROWS):
            begin = torch.Size([first, 0])
            chunk = ChunkStorageMetadata(begin, torch.Size([ROWS, whole.shape[1]]))
            data = TensorWriteData(chunk, TensorProperties.create_from_tensor(whole), whole.size())
            yield WriteItem(MetadataIndex(name, begin), WriteItemType.SHARD, tensor_data=data)

    def __get_tensor_shard__(self, index):
        first = index.offset[0]
        return self.as_subclass(torch.Tensor)[first : first + ROWS]


weight = torch.arange(12.0).reshape(4, 3)
found = {}
for each in (True, False):
    place = folder / str(each)
    writer = FileSystemWriter(place, single_file_per_rank=each, serialization_format=SerializationFormat.SAFETENSORS)
    dcp.save({"weight": weight.as_subclass(InHalves)}, storage_writer=writer, no_dist=True)
    listed = FileSystemReader(place).read_metadata().state_dict_metadata["weight"].chunks
    kept = []
    for path in sorted(place.glob("*.distcp")):
        with safe_open(path.rename(path.with_suffix(".safetensors")), "pt") as file:
            kept += [file.get_tensor(name).tolist() for name in file.keys()]
    found[each] = ([list(chunk.offsets) for chunk in listed], kept)
halves = [half.tolist() for half in weight.split(ROWS)]
print("torch", torch.__version__)
for each, (listed, kept) in found.items():
    print(f"single_file_per_rank={each}: .metadata lists chunks at {listed}; in the files: {kept}")
place = folder / "torch_save"
dcp.save({"weight": weight.as_subclass(InHalves)}, storage_writer=FileSystemWriter(place), no_dist=True)
loaded = {"weight": torch.zeros(4, 3)}
dcp.load(loaded, checkpoint_id=place, no_dist=True)
usual = torch.equal(loaded["weight"], weight)
print("TORCH_SAVE:", "all of it is loaded" if usual else "not all of it is loaded")
begins = [[0, 0], [2, 0]]
expected = found[True] == (begins, halves[1:]) and found[False][0] == begins and sorted(found[False][1]) == halves
sys.exit(0 if expected and usual else "this has changed")
PYTHON
"$folder/venv/bin/python" "$folder/chunks.py" "$folder"
