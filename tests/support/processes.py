"""Checkpoints that one or several processes write, as PyTorch's distributed writers do. Process groups are gloo's."""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.distributed import barrier, destroy_process_group, init_process_group
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, get_state_dict
from torch.distributed.checkpoint.state_dict_saver import async_save, save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, StateDictType, fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from torch.multiprocessing.spawn import spawn

Writer = Callable[[str], FileSystemWriter]


def model() -> nn.Sequential:
    """Pointwise and other convolutions, a Linear and a norm; no width is a multiple of the other."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(6, 4, 1), nn.ReLU(), nn.Conv1d(4, 7, 1), nn.Conv1d(7, 3, 3), nn.Flatten(), nn.Linear(9, 5),
        nn.LayerNorm(5),
    )  # fmt: skip


def _in_two_files() -> dict[str, int]:
    return {name: 1 + at % 2 for at, name in enumerate(model().state_dict())}


NATIVE: dict[str, Writer] = {
    "a file for each process": FileSystemWriter,
    "a file for each tensor": lambda path: FileSystemWriter(path, single_file_per_rank=False, thread_count=2),
}
"""Writers of `.distcp` files."""

PIECES: dict[str, Writer] = {
    "shards": lambda path: HuggingFaceStorageWriter(path, save_distributed=True),
    "shards in two files each": lambda path: HuggingFaceStorageWriter(
        path, fqn_to_index_mapping=_in_two_files(), save_distributed=True
    ),
    "consolidated": lambda path: HuggingFaceStorageWriter(path, save_distributed=True, enable_consolidation=True),
    "consolidated in two files": lambda path: HuggingFaceStorageWriter(
        path, fqn_to_index_mapping=_in_two_files(), save_distributed=True, enable_consolidation=True
    ),
}
"""Writers of safetensors that take what each process has."""

WHOLE: dict[str, Writer] = {
    "whole": HuggingFaceStorageWriter,
    "whole in two files": lambda path: HuggingFaceStorageWriter(path, fqn_to_index_mapping=_in_two_files()),
}
"""Writers of safetensors that take a full state_dict of the first process."""


def _write(rank: int, world: int, folder: str) -> None:
    sharded = model()
    fully_shard(sharded, mesh=init_device_mesh("cpu", (world,)))
    state = sharded.state_dict()
    for name, writer in {**NATIVE, **PIECES}.items():
        save(state, storage_writer=writer(f"{folder}/{name}"))
    async_save(state, checkpoint_id=f"{folder}/asynchronous").result()  # type: ignore[union-attr]
    save(state, storage_writer=HuggingFaceStorageWriter(f"{folder}/over each other"))
    save(_in_columns(world), checkpoint_id=f"{folder}/columns")
    _train(sharded, folder, rank)
    full = get_model_state_dict(sharded, options=StateDictOptions(full_state_dict=True))
    if rank == 0:
        for name, writer in WHOLE.items():
            save(full, storage_writer=writer(f"{folder}/{name}"), no_dist=True)
        torch.save(full, f"{folder}/full.pt")
    wrapped = FullyShardedDataParallel(model(), device_id=torch.device("cpu"))
    first = wrapped.state_dict()
    if rank == 0:
        torch.save(first, f"{folder}/fsdp1.pt")
    FullyShardedDataParallel.set_state_dict_type(wrapped, StateDictType.SHARDED_STATE_DICT)
    save(wrapped.state_dict(), checkpoint_id=f"{folder}/fsdp1 sharded")


def _in_columns(world: int) -> dict[str, torch.Tensor]:
    """The model's tensors, those of several dimensions cut along another than the first."""
    mesh = init_device_mesh("cpu", (world,))
    return {
        name: distribute_tensor(one, mesh, [Shard(one.dim() - 2 if one.shape[-1] == 1 else one.dim() - 1)])
        for name, one in model().state_dict().items()
    }


def _train(sharded: nn.Module, folder: str, rank: int) -> None:
    """Save weights and optimizer state after a step that changes no weight, and what they are as a whole."""
    optimizer = torch.optim.Adam(sharded.parameters(), lr=0.0)
    sum(parameter.full_tensor().sum() for parameter in sharded.parameters()).backward()  # type: ignore[attr-defined,union-attr]
    optimizer.step()
    weights, states = get_state_dict(sharded, optimizer)
    save({"model": weights, "optim": states}, checkpoint_id=f"{folder}/training")
    whole = StateDictOptions(full_state_dict=True)
    weights, states = get_state_dict(sharded, optimizer, options=whole)
    flat = {f"model.{name}": one for name, one in weights.items()}
    for name, state in states["state"].items():
        flat |= {f"optim.state.{name}.{key}": one for key, one in state.items()}
    if rank == 0:
        torch.save(flat, f"{folder}/training.pt")


def _process(rank: int, world: int, port: int, work: Callable[..., None], arguments: tuple[str, ...]) -> None:
    warnings.simplefilter("ignore")
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(world))
    init_process_group("gloo", rank=rank, world_size=world)
    work(rank, world, *arguments)
    barrier()
    destroy_process_group()
    # All is done. A thread of an asynchronous save or of gloo may outlive that, and C++ aborts a process that ends
    # beside one; PyTorch 2.13 has no call that waits for them.
    os._exit(0)


def in_processes(world: int, work: Callable[..., None], *arguments: str) -> None:
    """Call `work(rank, world, *arguments)`, a function of a module, in each of `world` processes of one group.

    Raises:
        torch.multiprocessing.ProcessRaisedException: It raised in one of them.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    spawn(_process, (world, port, work, arguments), nprocs=world)  # type: ignore[no-untyped-call]


def write_all(folder: Path, world: int) -> None:
    """Every container of `model()`, by `world` processes."""
    in_processes(world, _write, str(folder))
