"""A conversion reads each pickle once: the source's when it is opened, the new file's when it is checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from convinspect.converting.job import convert
from convinspect.converting.options import Options
from convinspect.formats.pickle.machine import Machine

LARGE = 400
"""Bytes that no pickle has but those of checkpoints: the format before 1.6 has small ones before and after."""


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How many pickles the machine read, by the number of bytes that it went through; the tiny ones are left out."""
    counted: Counter[int] = Counter()
    carry_out: Callable[..., int] = Machine.carry_out

    def counting(self: Machine, read: Any, start: int, end: int) -> int:
        stop = carry_out(self, read, start, end)
        counted[stop - start] += stop - start >= LARGE
        return stop

    monkeypatch.setattr(Machine, "carry_out", counting)
    return counted


@pytest.fixture(params=["zip", "legacy"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model with an optimizer that has state for it."""
    net = nn.Sequential(nn.Conv1d(4, 6, 1), nn.Conv1d(6, 2, 1))
    optimizer = torch.optim.AdamW(net.named_parameters())
    net(torch.randn(2, 4, 3)).sum().backward()
    optimizer.step()
    saved = {"model": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
    torch.save(saved, tmp_path / "a.pt", _use_new_zipfile_serialization=request.param == "zip")
    return tmp_path / "a.pt"


@pytest.mark.parametrize(
    "options",
    [
        {"to": "linear"},
        {"rename": ("0=first",)},
        {"to": "linear", "rename": ("0=first",)},
        {"drop_optimizer": True},
        {"to": "linear", "rename": ("0=first",), "drop_optimizer": True},
        {"to": "linear", "state_dict": True},
    ],
    ids=["shapes", "rename", "both", "drop", "all", "state_dict"],
)
def test_the_source_and_the_new_file_are_read_once_each(
    source: Path, walks: Counter[int], options: dict[str, Any]
) -> None:
    convert(source, source.parent / "b.pt", Options(**options))
    assert walks.total() == 2


def test_another_format_has_no_pickle_to_check(source: Path, walks: Counter[int]) -> None:
    convert(source, source.parent / "b.safetensors", Options(to="linear", rename=("0=first",)))
    assert walks.total() == 1


def test_shards_are_read_once_each(tmp_path: Path, walks: Counter[int]) -> None:
    for number in (1, 2):
        state = {f"{number}.{name}.weight": torch.randn(4, 6, 1) for name in "abcdef"}
        torch.save(state, tmp_path / f"pytorch_model-0000{number}-of-00002.bin")
    convert(tmp_path, tmp_path.parent / "new", Options(to="linear", rename=("1=first",)))
    assert walks.total() == 4
