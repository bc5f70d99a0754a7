"""Folders of torch.distributed.checkpoint."""

from __future__ import annotations

from pathlib import Path

from support.hostile.containers import distributed_folder
from support.hostile.opcodes import Value, call, dict_of, instance, integer, integers, named, pickled, text, tuple_of

DISTRIBUTED = "torch.distributed.checkpoint.metadata"


def described_tensor(size: bytes, *chunks: bytes) -> bytes:
    """What `.metadata` says of a tensor."""
    layout = call(named("torch.serialization", "_get_layout"), text("torch.strided"))
    memory = call(named(DISTRIBUTED, "_MEM_FORMAT_ENCODING"), integer(0))
    state = tuple_of(named("torch", "float32"), layout, b"\x89", memory, b"\x89")
    properties = named(DISTRIBUTED, "TensorProperties") + b")\x81" + state + b"b"
    listed = b"](" + b"".join(chunks) + b"e"
    return instance(
        DISTRIBUTED, "TensorStorageMetadata", ("properties", properties), ("size", size), ("chunks", listed)
    )


def metadata_with(value: bytes, key: bytes = text("\x1b[31m[bold]evil.weight")) -> bytes:
    """A `.metadata` that describes one sound tensor and `value` under `key`."""
    chunk = instance(DISTRIBUTED, "ChunkStorageMetadata", ("offsets", integers(0, 0)), ("sizes", integers(4, 6)))
    sound = described_tensor(call(named("torch", "Size"), integers(4, 6)), chunk)
    entries = dict_of((text("fc.weight"), sound), (key, value))
    state = (("state_dict_metadata", entries), ("planner_data", value), ("storage_data", b"}"))
    return pickled(instance(DISTRIBUTED, "Metadata", *state))


def distributed(tmp_path: Path, marker: Path, make: Value) -> Path:
    """A distributed checkpoint with a value that does not belong there."""
    return distributed_folder(tmp_path, metadata_with(make(marker)))


def distributed_key(tmp_path: Path, marker: Path, key: bytes) -> Path:
    """A distributed checkpoint with a tensor under such a key."""
    return distributed_folder(tmp_path, metadata_with(described_tensor(integers(4, 6)), key))
