"""Distributed checkpoints whose numbers are safetensors, which PyTorch writes and does not load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, load_file
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter, SerializationFormat
from torch.distributed.checkpoint.state_dict_loader import load as load_distributed
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from convinspect.checking.scan import check
from convinspect.checkpoint import open_checkpoint
from support.in_process import run
from support.program import assert_one_line, listed

pytestmark = pytest.mark.filterwarnings("ignore")


def saved(folder: Path, state: dict[str, Any], single: bool, kind: SerializationFormat) -> Path:
    save_distributed(
        state, storage_writer=FileSystemWriter(folder, single_file_per_rank=single, serialization_format=kind)
    )
    return folder


def model() -> dict[str, torch.Tensor]:
    return nn.ModuleDict({"conv": nn.Conv1d(4, 6, 1), "fc": nn.Linear(4, 3)}).state_dict()


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize("epoch", [None, 3])
def test_it_is_said_what_they_are_and_where_the_numbers_begin(tmp_path: Path, single: bool, epoch: int | None) -> None:
    weights = model()
    state = weights if epoch is None else {**weights, "epoch": epoch}
    folder = saved(tmp_path / "a", state, single, SerializationFormat.SAFETENSORS)
    with pytest.raises(CheckpointException):
        load_distributed({key: torch.zeros_like(one) for key, one in weights.items()}, checkpoint_id=folder)
    findings = check(folder).findings
    assert {found.code for found in findings} == {"pieces-as-safetensors"}
    numbers: dict[str, torch.Tensor] = {}
    for found in findings:
        numbers |= load(found.path.read_bytes()[found.place.in_file :])
    assert numbers.keys() == weights.keys()
    assert all(torch.equal(numbers[key], one) for key, one in weights.items())
    assert listed(folder)["conv"]["kind"] == "Conv1d"
    assert "nor dcp_to_torch_save reads" in run("shapes", folder, "--width", 300).stdout
    checkpoint = open_checkpoint(folder)
    assert all(torch.equal(torch.from_numpy(checkpoint.read(key)), one) for key, one in weights.items())
    refused = run("convert", folder, "-o", tmp_path / "b", "--to", "linear")
    assert_one_line(refused, "safetensors within its files", "end the target in .safetensors")
    done = run("convert", folder, "-o", tmp_path / "b.safetensors", "--to", "linear")
    assert done.returncode == 0, done.stderr
    assert torch.equal(load_file(tmp_path / "b.safetensors")["fc.weight"], weights["fc.weight"])


@pytest.mark.parametrize("single", [True, False])
def test_others_are_not_taken_for_them(tmp_path: Path, single: bool) -> None:
    folder = saved(tmp_path / "a", {**model(), "epoch": 3}, single, SerializationFormat.TORCH_SAVE)
    assert not check(folder).findings
    assert "safetensors" not in run("shapes", folder).stdout


def test_one_that_is_cut_short_is_so(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a", model(), True, SerializationFormat.SAFETENSORS)
    (piece,) = folder.glob("*.distcp")
    piece.write_bytes(piece.read_bytes()[:-5])
    assert "storage-short" in {found.code for found in check(folder).findings}
