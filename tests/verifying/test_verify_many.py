"""`verify` of many and of large tensors: what is read and run together has the outcome of each by itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from convinspect.arrays import equality, stacked, storage
from convinspect.checkpoint import open_checkpoint
from convinspect.errors import BrokenFile
from convinspect.verifying import checkpoints, layer_outputs
from convinspect.verifying.findings import Report
from convinspect.verifying.options import VerifyOptions
from convinspect.verifying.verify import verify
from support.in_process import run_in_process

State = dict[str, torch.Tensor]


def layers(dtype: torch.dtype) -> State:
    """Small and larger layers of several forms, some of a shape; one of each kind of number that is not finite."""
    torch.manual_seed(0)
    modules: list[nn.Module] = [nn.Conv1d(6, 4, 1) for _ in range(7)]
    modules += [nn.Conv2d(6, 4, 1, bias=False) for _ in range(3)]
    modules += [
        nn.Conv1d(33, 40, 1),
        nn.Conv3d(33, 40, 1),
        nn.Conv1d(33, 40, 1, groups=1, bias=False),
        nn.Conv2d(1, 1, 1),
    ]
    state = {key: value.to(dtype) for key, value in nn.ModuleList(modules).state_dict().items()}
    state["3.weight"][1, 2] = torch.inf
    state["4.bias"][0] = torch.nan
    state["10.weight"][-1, 0] = -torch.inf
    return state


def converted(state: State) -> State:
    return {key: value.flatten(1) if value.dim() > 2 else value for key, value in state.items()}


def report(folder: Path, before: State, after: State | None) -> Report:
    torch.save(before, folder / "before.pt")
    if after is None:
        return verify(open_checkpoint(folder / "before.pt"), None, VerifyOptions())
    torch.save(after, folder / "after.pt")
    return verify(open_checkpoint(folder / "before.pt"), open_checkpoint(folder / "after.pt"), VerifyOptions())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [1, 100, 1 << 17])
def test_layers_that_run_as_one_end_as_each_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, rows: int
) -> None:
    monkeypatch.setattr(stacked, "_ROWS", rows)
    state = layers(dtype)
    together = report(tmp_path, state, converted(state))
    monkeypatch.setattr(layer_outputs, "_run_alike", lambda checked, options: {})
    alone = report(tmp_path, state, converted(state))
    assert together.equal
    assert len(together.layers) == len(alone.layers) == 14
    for one, other in zip(together.layers, alone.layers, strict=True):
        assert one.outputs is not None
        assert other.outputs is not None
        assert one.rounding is not None
        assert (one.name, one.note, one.cause) == (other.name, other.note, other.cause)
        assert (one.outputs.ok, one.outputs.undecided) == (other.outputs.ok, other.outputs.undecided)
        assert other.rounding is not None
        assert one.rounding.dtype == other.rounding.dtype
        # In which order a few numbers are summed depends on how many rows there are.
        assert one.rounding.before_rms == pytest.approx(other.rounding.before_rms, rel=1, abs=torch.finfo(dtype).eps)
    assert sum(layer.outputs.undecided > 0 for layer in together.layers if layer.outputs is not None) == 3


def test_a_stack_computes_what_pytorch_computes(tmp_path: Path) -> None:
    state = layers(torch.float32)
    found = {layer.name: layer for layer in report(tmp_path, state, converted(state)).layers}
    generator = torch.Generator().manual_seed(0)
    torch.randn(2, 6, 1, generator=generator)
    x = torch.randn(1, 6, 2, generator=generator)
    for name in ("0", "1", "6"):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        exact = nn.functional.conv1d(x.double(), weight.double(), bias.double())
        errors = nn.functional.linear(x.mT, weight.squeeze(-1), bias).mT.double() - exact
        rounding = found[name].rounding
        assert rounding is not None
        assert rounding.after_max == pytest.approx(errors.abs().max().item(), rel=0.9, abs=3e-7)
        assert 0 < rounding.after_rms < 1e-6


@pytest.mark.parametrize("width", [4, 600])
def test_a_damaged_weight_is_noticed_where_there_is_nothing_to_compare_it_with(tmp_path: Path, width: int) -> None:
    path = tmp_path / "before.pt"
    torch.manual_seed(0)
    state = dict(nn.Sequential(nn.Conv1d(width, width, 1), nn.Conv1d(width, width, 1)).state_dict())
    torch.save(state, path)
    content = bytearray(path.read_bytes())
    place = content.index(state["1.weight"].numpy().tobytes()[-16:])
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(BrokenFile, match="its CRC-32 does not match"):
        verify(open_checkpoint(path), None, VerifyOptions())


def cutting(path: Path, function: Callable[..., Any], call: int) -> Callable[..., Any]:
    """The function, before whose call of that number another process cuts the file short."""
    calls: list[int] = []

    def cut_first(*arguments: Any) -> Any:
        calls.append(0)
        if len(calls) == call:
            script = "import os, sys; os.truncate(sys.argv[1], 70_000)"
            subprocess.run([sys.executable, "-S", "-c", script, str(path)], check=True)
        return function(*arguments)

    return cut_first


@pytest.mark.parametrize("which", ["before.pt", "after.pt"])
@pytest.mark.parametrize("width", [8, 900])
@pytest.mark.parametrize("when", ["bits", "layers"])
def test_a_file_that_another_process_cuts_short_is_no_signal(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    which: str,
    width: int,
    when: str,
) -> None:
    state = dict(nn.Sequential(*(nn.Conv1d(width, width, 1) for _ in range(1600 // width + 2))).state_dict())
    torch.save(state, tmp_path / "before.pt")
    torch.save(converted(state), tmp_path / "after.pt")
    if when == "bits":
        monkeypatch.setattr(equality, "_same_stored", cutting(tmp_path / which, equality._same_stored, 2))
    else:
        monkeypatch.setattr(checkpoints, "run_layers", cutting(tmp_path / which, layer_outputs.run_layers, 1))
    ended = run_in_process(monkeypatch, capsys, "verify", tmp_path / "before.pt", tmp_path / "after.pt")
    assert ended.code == 2
    assert len(ended.err.splitlines()) == 1
    assert which in ended.err


@pytest.mark.parametrize("width", [9, 200])
def test_an_exchanged_kernel_is_found_whatever_its_size(tmp_path: Path, width: int) -> None:
    kernel = torch.arange(width * width, dtype=torch.float32).reshape(width, width, 1)
    found = report(tmp_path, {"up.weight": kernel}, {"up.weight": kernel.squeeze(-1).mT.contiguous()})
    assert [layer.unsure is not None for layer in found.layers] == [True]
    # A corner alone looks exchanged.
    other = kernel.squeeze(-1).mT.contiguous()
    other[-1, 0] += 1
    assert not report(tmp_path, {"up.weight": kernel}, {"up.weight": other}).equal
    assert report(tmp_path, {"up.weight": kernel}, {"up.weight": kernel.squeeze(-1)}).equal


def test_files_stay_open_and_are_closed_when_there_are_many(tmp_path: Path) -> None:
    states = [{"a": torch.full((3,), float(i)), "b": torch.full((30_000,), float(i))} for i in range(30)]
    for i, state in enumerate(states):
        torch.save(state, tmp_path / f"{i}.pt")
    with storage.Files() as files:
        for i in (*range(30), *range(30)):
            tensors = open_checkpoint(tmp_path / f"{i}.pt").tensors
            for name, tensor in tensors.items():
                assert tensor.storage is not None
                into = np.empty(tensor.numel, np.float32)
                files.fetch(tensor.storage, tensor.nbytes, i % 2)(0, into.view(np.uint8).data)
                assert (into == i).all(), name
                assert len(files._open) <= 16
        some = list(files._open.values())
    assert all(file.closed for file in some)


def test_two_views_of_one_file_are_read_in_turn(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(200_000), "b": torch.arange(200_000)}, tmp_path / "one.pt")
    tensors = open_checkpoint(tmp_path / "one.pt").tensors
    assert equality.same_bits(tensors["a"], tensors["b"])
    with storage.Files() as files:
        assert equality.same_bits(tensors["a"], tensors["b"], files)
        assert equality.same_bits(tensors["b"], tensors["a"], files)
