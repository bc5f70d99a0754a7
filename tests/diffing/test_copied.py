"""Which tensors PyTorch copies into which: what `diff` says against `load_state_dict`."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.masked import masked_tensor

import convinspect
from support.paths import FIXTURES

NUMBERS = torch.ones(4, 4)
MAKERS: dict[str, Callable[[], Any]] = {
    "float32": lambda: NUMBERS.clone(),
    "float64": lambda: NUMBERS.double(),
    "float8": lambda: NUMBERS.to(torch.float8_e4m3fn),
    "int8": lambda: NUMBERS.to(torch.int8),
    "qint8": lambda: torch.quantize_per_tensor(NUMBERS, 0.1, 0, torch.qint8),
    "quint8": lambda: torch.quantize_per_tensor(NUMBERS, 0.1, 0, torch.quint8),
    "per channel": lambda: torch.quantize_per_channel(NUMBERS, torch.ones(4), torch.zeros(4), 0, torch.qint8),
    "coo": lambda: NUMBERS.to_sparse(),
    "csr": lambda: NUMBERS.to_sparse_csr(),
    "masked": lambda: masked_tensor(NUMBERS.clone(), NUMBERS.bool()),
}


def loads(a: Any, b: Any) -> bool:
    module = nn.Module()
    module.register_buffer("w", b)
    try:
        module.load_state_dict({"w": a})
    except (RuntimeError, NotImplementedError, TypeError):
        return False
    return True


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("pair", list(itertools.product(MAKERS, repeat=2)), ids=" to ".join)
def test_diff_says_what_load_state_dict_does(tmp_path: Path, pair: tuple[str, str]) -> None:
    for name, maker in zip("ab", pair, strict=True):
        torch.save({"w": MAKERS[maker]()}, tmp_path / f"{name}.pt")
    report = convinspect.diff(tmp_path / "a.pt", tmp_path / "b.pt")
    assert (not report.obstacles) == loads(MAKERS[pair[0]](), MAKERS[pair[1]]()), report.obstacles


def test_a_whole_dtensor_and_plain_tensors_do_not_mix(tmp_path: Path) -> None:
    """`aten.copy_: got mixed torch.Tensor and DTensor`, says PyTorch in both directions."""
    path = FIXTURES / "parallel" / "fsdp2_1of1.pt"
    shapes = {name: tensor.shape for name, tensor in convinspect.open(path).tensors.items()}
    torch.save({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path / "plain.pt")
    for a, b in ((path, tmp_path / "plain.pt"), (tmp_path / "plain.pt", path)):
        report = convinspect.diff(a, b)
        assert (report.verdict, len(report.obstacles)) == ("does not load", len(shapes))
        assert "DTensor" in report.obstacles[0]
    assert convinspect.diff(path, path).verdict == "loads"
