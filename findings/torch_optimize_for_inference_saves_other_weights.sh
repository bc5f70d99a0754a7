#!/usr/bin/env bash
# torch 2.13.0, CPU: what `torch.jit.save` writes of a model that went through `torch.jit.optimize_for_inference`.
#
# 1. A Linear(4, 7) is saved as a constant of shape (4, 7): in, out, transposed, and the code calls matmul. A reader that
#    takes a matrix in a TorchScript archive for (out, in), as in every other file of PyTorch, has it the wrong way round.
# 2. A Conv2d runs in memory with the right numbers, and saving it succeeds. The file holds no number of its weight: the
#    code says `prim.ConstantMKLDNNTensor()` without a value, and `torch.jit.load` raises
#    "required keyword attribute 'value' is undefined". Nothing warns at saving.
#
# Prints what was seen; ends with 1 when any of it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0
cat >"$folder/optimized.py" <<'PYTHON'
import io
import sys
import warnings
import zipfile

import torch
from torch import nn

warnings.simplefilter("ignore")


class Matrix(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 7)

    def forward(self, x):
        return self.layer(x)


class Picture(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 5, 1)

    def forward(self, x):
        return self.layer(x)


def optimized(model, example):
    fast = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.script(model.eval())))
    assert torch.allclose(fast(example), model(example), atol=1e-6)
    file = io.BytesIO()
    torch.jit.save(fast, file)
    file.seek(0)
    return file


torch.manual_seed(0)
linear = Matrix()
loaded = torch.jit.load(optimized(linear, torch.ones(1, 4)))
code, constants = loaded.code_with_constants
shapes = [tuple(value.shape) for value in constants.const_mapping.values()]
print("Linear(4, 7), weight", tuple(linear.layer.weight.shape), "-> constants", shapes, "matmul" in code)

file = optimized(Picture(), torch.ones(1, 3, 2, 2))
archive = zipfile.ZipFile(file)
code = next(archive.read(name).decode() for name in archive.namelist() if name.endswith(".py"))
numbers = [name for name in archive.namelist() if "/constants/" in name or "/data/" in name]
print("Conv2d(3, 5, 1) -> records of numbers", numbers, "ConstantMKLDNNTensor()" in code)
file.seek(0)
try:
    torch.jit.load(file)
    message = "loaded"
except RuntimeError as error:
    message = str(error).strip()
print("torch.jit.load:", message)

seen = shapes == [(4, 7), (7,)] and numbers == [] and "'value' is undefined" in message
sys.exit(0 if seen else 1)
PYTHON
"$folder/venv/bin/python" "$folder/optimized.py"
