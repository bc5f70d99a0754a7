"""Models with layers over patches, trained by two processes: one step is that of the model with convolutions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from convinspect.errors import CannotConvert
from convinspect.modules import PatchLinear, expose_linears, swap_patches
from support.processes import in_processes


def net() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(3, 8, (2, 4, 4), (2, 4, 4)), nn.GELU(), nn.Conv3d(8, 7, (1, 2, 2), (1, 2, 2)),
        nn.Flatten(), nn.Linear(7, 5),
    ).double()  # fmt: skip


def step(model: nn.Module, share: slice) -> dict[str, torch.Tensor]:
    """The state after one step on a share of the examples, whole."""
    x = torch.randn(4, 3, 3, 9, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    model(x[share]).square().mean().backward()
    optimizer.step()
    state = model.state_dict()
    return {key: value.full_tensor() if isinstance(value, DTensor) else value for key, value in state.items()}


def same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], prefix: str = "") -> None:
    """With PatchLinear's keys and shapes, which are the convolution's, flattened."""
    assert list(found) == [prefix + key for key in wanted]
    for (key, after), before in zip(found.items(), wanted.values(), strict=True):
        assert after.shape == (before.flatten(1).shape if key.endswith("weight") else before.shape), key
        torch.testing.assert_close(after.reshape(before.shape), before, rtol=1e-9, atol=1e-12)


def fully_sharded(rank: int, world: int) -> None:
    mesh = init_device_mesh("cpu", (world,))
    share, wanted = slice(rank, None, world), step(net(), slice(None))
    for each in (False, True):
        model = swap_patches(net()).model
        for layer in model.children() if each else ():
            if isinstance(layer, PatchLinear):
                fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        same(step(model, share), wanted)
    model = expose_linears(swap_patches(net()).model).model
    fully_shard(model, mesh=mesh)
    found = step(model, share)
    same({key.replace(".linear.", "."): value for key, value in found.items()}, wanted)
    assert "0.linear.weight" in found

    sharded = net()
    fully_shard(sharded, mesh=mesh)
    swaps = swap_patches(sharded)
    assert swaps.swapped == ()
    assert {left.reason for left in swaps.left} == {
        "its weight is sharded (a DTensor): swap first, then shard the model"
    }


def replicated(rank: int, world: int) -> None:
    share, wanted = slice(rank, None, world), step(net(), slice(None))
    model = nn.parallel.DistributedDataParallel(swap_patches(net()).model)
    same(step(model, share), wanted, "module.")
    with pytest.raises(CannotConvert, match="swap first, then wrap"):
        swap_patches(nn.parallel.DistributedDataParallel(net()))


def both(rank: int, world: int) -> None:
    """In the same processes, which take seconds to start."""
    replicated(rank, world)
    fully_sharded(rank, world)


def test_a_step_of_two_processes_is_the_convolution_s() -> None:
    in_processes(2, both)
