"""Where not time but the answer is compared: scanners' verdicts on files, and what becomes of a model's layers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import peers
from measuring import Missing, Route, convinspect, python, run
from tables import Table, seconds

_FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
_ORDINARY = {
    "zip": "pointnet_stnkd.pt",
    "legacy": "pointnet_stnkd_legacy.pt",
    "nested, with optimizer": "lightning.ckpt",
    "TorchScript": "pointnet_stnkd_script.pt",
    "whole module": "pointnet_stnkd_module.pt",
}
_HOSTILE = """
import os, sys, torch
class Calls:
    def __reduce__(self):
        return os.system, ("true",)
torch.save({"weight": torch.zeros(4), "more": Calls()}, sys.argv[1])
"""


def checked(path: Path) -> Route:
    """Our own check of a file."""
    return Route("`convinspect check`", convinspect("check", path), words={0: "", 1: "found", 2: "cannot read"})


def verdicts_compared(folder: Path) -> list[Table]:
    """`check` and the scanners on ordinary files, on one that was damaged, and on one that calls a command."""
    with tempfile.TemporaryDirectory(dir=folder) as made:
        flipped, hostile = Path(made) / "flipped.pt", Path(made) / "hostile.pt"
        _flip(_FIXTURES / _ORDINARY["zip"], flipped)
        run(Route("", python(_HOSTILE, hostile)))
        files = {name: _FIXTURES / file for name, file in _ORDINARY.items()}
        files |= {"zip, a bit of a weight flipped": flipped, "zip, `os.system` in it": hostile}
        rows, head = [], [""]
        for name, file in files.items():
            routes = [checked(file), *peers.scanners(file, None)]
            routes = [route for route in routes if route.package is None or peers.absent(route.package) is None]
            head = ["", *(route.name for route in routes)]
            rows.append([name, *(_verdict(route) for route in routes)])
    return [Table("What checking says of small files", head, rows)]


def _verdict(route: Route) -> str:
    result = run(route, limit=60)
    if isinstance(result, Missing):
        return result.why
    return f"{result.word or 'nothing found'}, {seconds(result.seconds)}, {result.megabytes:.0f} MB"


def _flip(source: Path, target: Path) -> None:
    """A copy with one bit of its largest record changed."""
    shutil.copy(source, target)
    with zipfile.ZipFile(source) as archive:
        record = max(archive.infolist(), key=lambda info: info.file_size)
    content = bytearray(target.read_bytes())
    start = record.header_offset
    name, extra = (int.from_bytes(content[start + at : start + at + 2], "little") for at in (26, 28))
    content[start + 30 + name + extra + record.file_size // 2] ^= 1
    target.write_bytes(content)


_MODELS = """
import json, torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

def hooked():
    conv = nn.Conv2d(4, 6, 1)
    conv.register_forward_hook(lambda module, given, result: result + 1)
    return conv

def frozen():
    return nn.Conv2d(4, 6, 1).requires_grad_(False)

def pair(tie):
    first, second = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
    if tie:
        second.weight = first.weight
    return nn.Sequential(first, second if tie else first)

CASES = {
    "plain": lambda: nn.Sequential(nn.Conv2d(4, 6, 1)),
    "stride 2": lambda: nn.Sequential(nn.Conv2d(4, 6, 1, stride=2)),
    "padding 1": lambda: nn.Sequential(nn.Conv2d(4, 6, 1, padding=1)),
    "groups 2": lambda: nn.Sequential(nn.Conv2d(4, 6, 1, groups=2)),
    "itself the model": lambda: nn.Conv2d(4, 6, 1),
    "used twice": lambda: pair(tie=False),
    "weights tied": lambda: pair(tie=True),
    "weight norm": lambda: nn.Sequential(weight_norm(nn.Conv2d(4, 6, 1))),
    "hook": lambda: nn.Sequential(hooked()),
    "frozen": lambda: nn.Sequential(frozen()),
}

def became(model):
    torch.manual_seed(0)
    x = torch.randn(2, 4, 5, 5)
    before, expected = model(x), {name for name, _ in model.named_parameters(remove_duplicate=True)}
    frozen = [p.requires_grad for p in model.parameters()]
    after = swap(model)
    model = model if after is None else after
    if any(type(module) is nn.Conv2d for module in model.modules()):
        unchanged = torch.equal(model(x), before)
        return "left unchanged" if unchanged else "swapped in part"
    try:
        result = model(x)
    except Exception as error:
        return f"{type(error).__name__} when run"
    if result.shape != before.shape or not torch.allclose(result, before, atol=1e-5):
        return "other outputs"
    if len(list(model.parameters())) != len(expected):
        return "other parameters"
    return "swapped" if [p.requires_grad for p in model.parameters()] == frozen else "no longer frozen"

found = {}
for name, make in CASES.items():
    torch.manual_seed(0)
    try:
        found[name] = became(make())
    except Exception as error:
        found[name] = f"{type(error).__name__}"
print(json.dumps(found))
"""
_SWAPS = {
    "`swap_pointwise`": "from convinspect import modules\nswap = lambda model: modules.swap_pointwise(model).model",
    "torchao": "from torchao.quantization.quant_api import swap_conv2d_1x1_to_linear as swap",
}


def swaps_compared(_: Path) -> list[Table]:
    """What becomes of layers that are more than a plain convolution."""
    columns: dict[str, dict[str, str]] = {}
    for name, swap in _SWAPS.items():
        if name == "torchao" and peers.absent(name) is not None:
            continue
        done = subprocess.run([sys.executable, "-c", swap + _MODELS], capture_output=True, text=True)
        columns[name] = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}
    cases = next(iter(columns.values()))
    rows = [[case, *(found.get(case, "failed") for found in columns.values())] for case in cases]
    return [Table("What becomes of a Conv2d 1 × 1", ["", *columns], rows)]
