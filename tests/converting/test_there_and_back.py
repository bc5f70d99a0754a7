"""Converting there and back gives the same bytes, or `convert` says that it will not.

`CASES=5000` draws as many, `python tests/oracle/draw.py --there-and-back` by hand tells what was seen.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.serialization import config

from convinspect.converting.job import convert
from convinspect.converting.options import Options
from support.drawing import there_and_back
from support.in_process import command
from support.program import assert_one_line
from support.sampling import times

CASES = int(os.environ.get("CASES", times(160, 400)))
CHUNKS = 4


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_any_file_comes_back_or_is_said_not_to(chunk: int, tmp_path: Path) -> None:
    seen: Counter[str] = Counter()
    for seed in range(chunk, CASES, CHUNKS):
        folder = tmp_path / str(seed)
        folder.mkdir()
        seen += there_and_back.run(seed, folder)
    # A check that everything is refused by would hold too.
    assert seen["same bytes"] > seen["cases"] // 3
    assert seen["layers"] > seen["cases"]


@pytest.mark.parametrize("alignment", [64, 4096])
def test_a_file_without_sums_stays_without(tmp_path: Path, alignment: int) -> None:
    source, there, back = (tmp_path / f"{name}.pt" for name in "abc")
    patch: Any = config.patch  # type: ignore[attr-defined]
    with patch({"save.compute_crc32": False, "save.storage_alignment": alignment}):
        torch.save(nn.Conv1d(3, 4, 1).state_dict(), source)
    convert(source, there, Options(to="linear"))
    assert torch.load(there)["weight"].shape == (4, 3)
    convert(there, back, Options(to="conv1d"))
    assert back.read_bytes() == source.read_bytes()


def test_sums_are_written_where_the_pickle_has_one(tmp_path: Path) -> None:
    """`skip_data` leaves out the storages' alone."""
    source, there, back = (tmp_path / f"{name}.pt" for name in "abc")
    with torch.serialization.skip_data():
        torch.save(nn.Conv1d(3, 4, 1).state_dict(), source)
    convert(source, there, Options(to="linear"))
    convert(there, back, Options(to="conv1d"))
    assert back.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("is_zip", [True, False])
def test_the_protocol_stays(tmp_path: Path, protocol: int, is_zip: bool) -> None:
    source, there, back = (tmp_path / f"{name}.pt" for name in "abc")
    weight = torch.randn(300, 70, 1)
    torch.save({"a.weight": weight}, source, pickle_protocol=protocol, _use_new_zipfile_serialization=is_zip)
    convert(source, there, Options(to="linear"))
    assert torch.equal(torch.load(there, weights_only=False)["a.weight"], weight.squeeze(-1))
    convert(there, back, Options(to="conv1d", layer=("a",)))
    assert back.read_bytes() == source.read_bytes()


def _turned() -> torch.Tensor:
    return torch.randn(3, 4).T.unsqueeze(-1)


def _middle() -> torch.Tensor:
    return torch.randn(4, 3, 3, 3)[:, :, 1:2, 1:2]


@pytest.mark.parametrize("made", [_turned, _middle])
def test_strides_that_go_are_said(tmp_path: Path, made: Callable[[], torch.Tensor]) -> None:
    weight = made()
    kind = f"conv{weight.dim() - 2}d"
    torch.save({"a.weight": weight, "b.weight": torch.randn(5, 4, *weight.shape[2:])}, tmp_path / "a.pt")
    done = command(tmp_path, "convert", "a.pt", "-o", "b.pt", "--to", "linear", "--from", kind)
    assert done.returncode == 0
    assert "note: 1 tensor (a.weight) has strides of its own in dimensions of size 1, which are not kept" in done.stderr
    assert "with --like this file, the same bytes" in done.stderr
    names = ("--layer", "a", "--layer", "b")
    assert command(tmp_path, "convert", "b.pt", "-o", "c.pt", "--to", kind, *names).returncode == 0
    assert torch.equal(torch.load(tmp_path / "c.pt")["a.weight"], weight)
    assert (tmp_path / "c.pt").read_bytes() != (tmp_path / "a.pt").read_bytes()
    assert command(tmp_path, "convert", "b.pt", "-o", "d.pt", "--like", "a.pt").returncode == 0
    assert (tmp_path / "d.pt").read_bytes() == (tmp_path / "a.pt").read_bytes()


@pytest.mark.parametrize("save", [torch.save, save_file])
def test_strides_that_come_back_are_not_said(tmp_path: Path, save: Callable[[Any, Path], None]) -> None:
    name = "a.pt" if save is torch.save else "a.safetensors"
    save({"a.weight": torch.randn(4, 3, 1), "b.weight": torch.randn(5, 4, 1)}, tmp_path / name)
    done = command(tmp_path, "convert", name, "--to", "linear", "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")


def test_state_whose_strides_go_is_said(tmp_path: Path) -> None:
    """Of a copy, `--like` knows no strides."""
    model = {"a.weight": torch.randn(4, 3, 1)}
    torch.save({"state_dict": model, "ema": {"a.weight": _turned()}}, tmp_path / "a.pt")
    done = command(tmp_path, "convert", "a.pt", "-o", "b.pt", "--to", "linear")
    assert "(a.weight) has strides of its own" in done.stderr
    assert "with --like this file, the weights' own" in done.stderr


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.int64, torch.uint16])
@pytest.mark.parametrize(("shape", "to"), [((4, 3, 1), "linear"), ((4, 3), "conv1d")])
def test_whole_numbers_are_left_both_ways(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...], to: str) -> None:
    """They are what a quantized layer keeps; so nothing is converted that would not come back."""
    torch.save({"a.weight": torch.zeros(shape, dtype=dtype), "a.bias": torch.zeros(4)}, tmp_path / "a.pt")
    refused = command(tmp_path, "convert", "a.pt", "-o", "b.pt", "--to", to, "--layer", "a")
    assert_one_line(refused, "(quantized)")
    assert not (tmp_path / "b.pt").exists()
