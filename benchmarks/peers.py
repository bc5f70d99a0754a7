"""What a user would write or install instead, as scripts and command lines."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
from pathlib import Path

from measuring import Missing, Route, python, run

LIST = """
import sys, torch
found = torch.load(sys.argv[1], mmap=sys.argv[2] == "True", weights_only=True)
for key, value in found.items():
    print(key, tuple(value.shape), value.dtype, value.numel())
"""

SAFE_OPEN = """
import sys
from safetensors import safe_open
with safe_open(sys.argv[1], "np") as file:
    for key in file.keys():
        found = file.get_slice(key)
        print(key, found.get_shape(), found.get_dtype())
"""

# On the meta device, so that neither making numbers nor loading them is counted.
TORCHINFO = """
import sys, torch, torchinfo
from torch import nn
tensors, width = map(int, sys.argv[1:])
with torch.device("meta"):
    model = nn.ModuleDict({
        "convs": nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range((tensors // 2 + 1) // 2)),
        "others": nn.ModuleList(nn.Linear(width, width) for _ in range(tensors // 4)),
    })
print(torchinfo.summary(model, verbose=0, col_names=("kernel_size", "num_params"), row_settings=("var_names",)))
"""

SHOW = """
import sys, torch
print(torch.load(sys.argv[1], mmap=True, weights_only=True)["convs.0.weight"])
"""

STATS = """
import sys, torch
for key, value in torch.load(sys.argv[1], mmap=True, weights_only=True).items():
    if value.dim() == 3:
        x = value.flatten()
        finite = x.isfinite()
        print(key, x.min(), x.max(), x.mean(), x.std(), x.norm(), (x == 0).sum(), (~finite).sum(), x.histc(16))
"""

CONVERT = """
import sys, torch
found = torch.load(sys.argv[1], mmap=sys.argv[3] == "True", weights_only=True)
for key, value in found.items():
    if value.dim() == 3 and value.shape[2] == 1:
        found[key] = value.squeeze(2)
torch.save(found, sys.argv[2])
"""

# As a careful user would write it: both files mapped, all numbers compared, both operators run once.
_VERIFY = """
with torch.no_grad():
    for key, before in a.items():
        after = b[key]
        assert torch.equal(before.reshape(after.shape), after)
        if before.dim() == 3:
            bias = a[key.replace("weight", "bias")]
            x = torch.randn(2, before.shape[1], 5)
            y, z = F.conv1d(x, before, bias), F.linear(x.mT, after, bias).mT
            assert torch.allclose(y, z, atol=1e-3)
"""
VERIFY = (
    """
import sys, torch
from torch.nn import functional as F
a, b = (torch.load(p, mmap=True, weights_only=True) for p in sys.argv[1:3])
"""
    + _VERIFY
)
VERIFY_SAFETENSORS = (
    """
import sys, torch
from safetensors.torch import load_file
from torch.nn import functional as F
a, b = (load_file(p) for p in sys.argv[1:3])
"""
    + _VERIFY
)

EQUAL = """
import sys, torch
a, b = (torch.load(p, mmap=True, weights_only=True) for p in sys.argv[1:3])
assert a.keys() == b.keys()
for key, before in a.items():
    assert torch.equal(before.reshape(b[key].shape), b[key])
"""

DIFF = """
import sys, torch
a, b = (torch.load(p, mmap=True, weights_only=True) for p in sys.argv[1:3])
for key in a.keys() | b.keys():
    if key not in a or key not in b:
        print(key, "in one only")
    elif a[key].shape != b[key].shape:
        print(key, a[key].shape, b[key].shape)
    if sys.argv[3] == "True":
        before, after = a[key].flatten(), b[key].flatten()
        print(key, (before - after).abs().max(), ((before - after) / before).abs().max())
"""

TESTZIP = """
import sys, zipfile
assert zipfile.ZipFile(sys.argv[1]).testzip() is None
"""

# Ten layers to a block, as models have them, on the meta device: neither tool reads a number.
_SWAP = """
import sys, time, torch
from torch import nn
left = int(sys.argv[1])
model = nn.Sequential()
with torch.device("meta"):
    while left > 0:
        model.append(nn.Sequential(*(nn.Conv2d(8, 8, 1) for _ in range(min(left, 10)))))
        left -= 10
started = time.perf_counter()
swap(model)
print(time.perf_counter() - started)
"""
SWAP_OURS = "from convinspect.modules import swap_pointwise as swap" + _SWAP
SWAP_TORCHAO = "from torchao.quantization.quant_api import swap_conv2d_1x1_to_linear as swap" + _SWAP

_PICKLESCAN = {0: "", 1: "found", 2: "cannot read"}
_FICKLING = {0: "", 1: "unsafe", 2: "cannot open"}
_MODELSCAN = {0: "", 1: "found", 2: "cannot read", 3: "nothing looked at"}

_MODULES = {"picklescan": "picklescan.cli", "fickling": "fickling.__main__", "modelscan": "modelscan.cli"}
"""Scanners by the modules of their commands: one that lacks a dependency must not pass for one that found something."""


def scanners(path: Path, ours: str | None) -> list[Route]:
    """Pickle scanners' own commands on a file."""
    call = "import sys; from {} import main; sys.exit(main())"
    picklescan = call.format(_MODULES["picklescan"])
    fickling = call.format(_MODULES["fickling"])
    modelscan = call.format(_MODULES["modelscan"])
    return [
        Route("picklescan", python(picklescan, "-p", path), ours, "picklescan", words=_PICKLESCAN),
        Route("picklescan `--strict`", python(picklescan, "--strict", "-p", path), ours, "picklescan",
              words=_PICKLESCAN),
        Route("fickling", python(fickling, "--check-safety", "--json-output", os.devnull, path), ours, "fickling",
              words=_FICKLING),
        Route("modelscan", python(modelscan, "-p", path), ours, "modelscan", words=_MODELSCAN),
    ]  # fmt: skip


@functools.cache
def absent(package: str) -> str | None:
    """Why a package cannot be compared with, or None when it can."""
    if importlib.util.find_spec(package) is None:
        return f"{package} is not installed; `pip install --target DIR --no-deps {package}` and PYTHONPATH=DIR bring it"
    if package in _MODULES:
        result = run(Route("", python(f"import {_MODULES[package]}")))
        if isinstance(result, Missing):
            return f"{package} does not start: {result.why}"
    return None


def version(package: str) -> str:
    """Name and version of an installed package."""
    return f"{package} {importlib.metadata.version(package)}"
