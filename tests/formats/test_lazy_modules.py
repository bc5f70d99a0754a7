"""Whole models with lazy layers that have not run, and tensors that FSDP1 shards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from convinspect.checkpoint import open_checkpoint
from support.in_process import run
from support.saving import layers_in

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("other", [nn.LazyConv1d(4, 1), nn.LazyBatchNorm1d(), nn.Conv1d(2, 4, 1)])
@pytest.mark.parametrize("within", [False, True])
def test_parameters_without_a_shape_are_named(tmp_path: Path, other: nn.Module, within: bool) -> None:
    model = nn.Sequential(nn.LazyLinear(3), other)
    path = tmp_path / "a.pt"
    torch.save({"epoch": 3, "model": model} if within else model, path)
    lazy = [key for key, one in model.state_dict().items() if nn.parameter.is_lazy(one)]
    found = open_checkpoint(path)
    assert set(found.others) == set(lazy)
    shown = run("shapes", path, "--width", 300)
    assert shown.returncode == 0
    assert f"not listed: {', '.join(found.others)}: a lazy layer's, which has no shape" in shown.stdout
    assert json.loads(run("shapes", path, "--format", "json").stdout)["path"]
    done = run("convert", path, "-o", tmp_path / "b.pt", "--state-dict")
    if not found.tensors:
        assert done.returncode == 2
        assert f"it has no tensor of plain numbers to save: {', '.join(found.others)}; save it again" in done.stderr
        return
    assert f"{', '.join(found.others)} without a shape yet: not in the new file" in done.stderr


def test_a_sharded_tensor_is_listed_as_a_whole_and_left(tmp_path: Path) -> None:
    from torch.distributed._shard import sharded_tensor
    from torch.distributed._shard.sharding_spec import ChunkShardingSpec

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        spec = ChunkShardingSpec(dim=0, placements=["rank:0/cpu"])
        state = {"a.weight": sharded_tensor.rand(spec, 6, 4, 1), "b.weight": torch.randn(5, 6, 1)}
        layers = layers_in(tmp_path, state)
    finally:
        dist.destroy_process_group()
    assert (layers["a"].kind, layers["a"].weight.shape) == ("Conv1d", (6, 4, 1))
    assert (layers["a"].weight.subclass or "").endswith("ShardedTensor")
    done = run("convert", tmp_path / "model.pt", "-o", tmp_path / "b.pt", "--to", "linear", "--format", "json")
    assert (done.returncode, [one["name"] for one in json.loads(done.stdout)["refused"]]) == (0, ["a"])
