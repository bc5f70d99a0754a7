"""Checkpoints that one or several processes write, as PyTorch's distributed writers do. Process groups are gloo's."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import warnings
from collections.abc import Callable, ItemsView
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed import barrier, destroy_process_group, init_process_group
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, get_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save, save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, StateDictType, fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from torch.multiprocessing.spawn import start_processes

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


def _numbers() -> ItemsView[str, torch.Tensor]:
    return model().state_dict().items()


def _stepped(sharded: nn.Module) -> torch.optim.Optimizer:
    """An optimizer with state; the weights stay what they are."""
    optimizer = torch.optim.AdamW(sharded.parameters(), lr=0.0)
    for parameter in sharded.parameters():
        parameter.grad = parameter.detach().clone()
    optimizer.step()
    return optimizer


def _write(rank: int, world: int, folder: str) -> None:
    sharded, mesh = model(), init_device_mesh("cpu", (world,))
    fully_shard(sharded, mesh=mesh)
    state = sharded.state_dict()
    for name, writer in {**NATIVE, **PIECES}.items():
        save(state, storage_writer=writer(f"{folder}/{name}"))
    async_save(state, checkpoint_id=f"{folder}/asynchronous").result()  # type: ignore[union-attr]
    save(state, storage_writer=HuggingFaceStorageWriter(f"{folder}/over each other"))
    columns = {name: distribute_tensor(one, mesh, [Shard(min(one.dim() - 1, 1))]) for name, one in _numbers()}
    save({"model": columns}, checkpoint_id=f"{folder}/columns")
    weights, of_optimizer = get_state_dict(sharded, _stepped(sharded))
    save({"model": weights, "optim": of_optimizer}, checkpoint_id=f"{folder}/with an optimizer")
    full = get_model_state_dict(sharded, options=StateDictOptions(full_state_dict=True))
    if rank == 0:
        for name, writer in WHOLE.items():
            save(full, storage_writer=writer(f"{folder}/{name}"), no_dist=True)
        torch.save(full, f"{folder}/full.pt")
        save({"model": full}, checkpoint_id=f"{folder}/of one process", no_dist=True)
    wrapped = FullyShardedDataParallel(model(), device_id=torch.device("cpu"))
    first = wrapped.state_dict()
    if rank == 0:
        torch.save(first, f"{folder}/fsdp1.pt")
    FullyShardedDataParallel.set_state_dict_type(wrapped, StateDictType.SHARDED_STATE_DICT)
    save(wrapped.state_dict(), checkpoint_id=f"{folder}/fsdp1 sharded")


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


_IMPORTED = ["torch.distributed.checkpoint.state_dict", "torch.distributed.fsdp", "torch.distributed.tensor"]


def in_processes(world: int, work: Callable[..., None], *arguments: str) -> None:
    """Call `work(rank, world, *arguments)`, a function of a module, in each of `world` processes of one group.

    Raises:
        torch.multiprocessing.ProcessRaisedException: It raised in one of them.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    # A new process takes seconds to import PyTorch. So they are forked, from one that has nothing but that.
    method = "forkserver" if sys.platform == "linux" else "spawn"
    if method == "forkserver":
        multiprocessing.set_forkserver_preload(_IMPORTED)
    start_processes(  # type: ignore[no-untyped-call]
        _process, (world, port, work, arguments), nprocs=world, start_method=method
    )


def _gather(rank: int, world: int, folder: str, file: str) -> None:
    mesh = init_device_mesh("cpu", (world,))
    found: dict[str, dict[str, torch.Tensor]] = {}
    for path in sorted(Path(folder).iterdir()):
        native = (path / ".metadata").exists()
        reader = FileSystemReader(str(path)) if native else HuggingFaceStorageReader(str(path))
        listed = reader.read_metadata().state_dict_metadata
        for axis in (0, 1):
            state: dict[str, Any] = {
                key: distribute_tensor(torch.zeros(one.size), mesh, [Shard(min(max(len(one.size) - 1, 0), axis))])
                for key, one in listed.items()
                if isinstance(one, TensorStorageMetadata) and len(one.size)
            }
            load(state, storage_reader=reader)
            found[f"{path.name}, axis {axis}"] = {key: one.full_tensor() for key, one in state.items()}
    if rank == 0:
        torch.save(found, file)


def gathered(folder: Path, world: int, file: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Every checkpoint in a folder as `world` processes load it, in parts along its first axis and along its second.

    Args:
        folder: With a folder for each checkpoint.
        world: Number of processes.
        file: Where they leave what they found.

    Returns:
        The whole tensors by "NAME, axis N"; scalars are left out.
    """
    in_processes(world, _gather, str(folder), str(file))
    return dict(torch.load(file, weights_only=True))


def write_all(folder: Path, world: int) -> None:
    """Every container of `model()`, by `world` processes."""
    in_processes(world, _write, str(folder))
