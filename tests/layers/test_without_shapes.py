"""What a listing says of keys without a shape, of pieces of a flattened root, and of what it assumes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed import checkpoint as dcp

from convinspect.checkpoint import open_checkpoint
from support.in_process import run

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
DIRECTION = "a ConvTranspose without a bias, or of as many inputs as outputs, has the same shapes"


def test_lazy_layers_and_nested_tensors_are_named(tmp_path: Path) -> None:
    ragged = [torch.zeros(3, 4), torch.zeros(2, 4)]
    state = {
        **nn.ModuleDict({"lazy": nn.LazyConv1d(4, 1), "linear": nn.Linear(3, 4)}).state_dict(),
        "n.weight": torch.nested.nested_tensor(ragged),
        "j.weight": torch.nested.nested_tensor(ragged, layout=torch.jagged),
    }
    torch.save(state, tmp_path / "m.pt")
    text = run("shapes", tmp_path / "m.pt").stdout
    assert (
        "not listed: lazy.weight and lazy.bias: a lazy layer's" in text or "not listed: lazy.weight, lazy.bias" in text
    )
    assert "nested or jagged tensors" in text
    listed = json.loads(run("shapes", tmp_path / "m.pt", "--format", "json").stdout)
    assert listed["without_shapes"] == {
        "uninitialized": ["lazy.weight", "lazy.bias"], "nested": ["n.weight", "j.weight"],
    }  # fmt: skip
    assert [layer["name"] for layer in listed["layers"]] == ["linear"]


def test_a_root_may_be_the_beginning_of_a_distributed_checkpoints_keys(tmp_path: Path) -> None:
    dcp.save(  # type: ignore[attr-defined]
        {"model": nn.Sequential(nn.Conv1d(6, 4, 1)).state_dict()}, checkpoint_id=tmp_path / "d", no_dist=True
    )
    assert list(open_checkpoint(tmp_path / "d", "model")) == ["0.weight", "0.bias"]
    assert run("shapes", tmp_path / "d", "--root", "modal").returncode == 2


def test_the_legend_says_that_a_convolution_is_assumed_not_to_be_transposed(tmp_path: Path) -> None:
    for module, said in ((nn.ConvTranspose1d(4, 4, 1, bias=False), True), (nn.Conv1d(6, 4, 1), False)):
        torch.save(nn.Sequential(module).state_dict(), tmp_path / "m.pt")
        assert (DIRECTION in run("shapes", tmp_path / "m.pt").stdout) is said
