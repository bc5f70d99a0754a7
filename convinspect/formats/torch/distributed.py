"""A distributed checkpoint (`torch.distributed.checkpoint`): a folder whose `.metadata` pickle lists the tensors.

Only shapes and dtypes are read; the numbers are distributed over the `*.distcp` files. The classes are those of
PyTorch's `torch/distributed/checkpoint/metadata.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from convinspect.errors import ConvInspectError, NotACheckpoint
from convinspect.formats.files import File
from convinspect.formats.pickle.machine import Walk, walk
from convinspect.formats.pickle.record import Pickle
from convinspect.formats.safetensors import is_safetensors
from convinspect.formats.torch.archive import SMALL_STORAGE, foreign_globals
from convinspect.formats.torch.distributed_pieces import PACKAGE, PickledObject, is_metadata, pieces_in
from convinspect.formats.torch.distributed_roots import optimizer_of, split
from convinspect.formats.torch.tensors import function_name, pairs_of
from convinspect.formats.torch.tree import state_of
from convinspect.keys.others import EXTRA_STATE, UNREAD, Other, Value
from convinspect.records import Container, Contents, Tensor, contiguous

METADATA = ".metadata"
TO_ONE_FILE = "write it as one file first: python -m torch.distributed.checkpoint.format_utils dcp_to_torch"
"""What to do to get at the numbers; the folder and a new file's name follow."""
_NOT_READ = "shapes only: the numbers of a distributed checkpoint are not read"
_AS_SAFETENSORS = (
    "shapes only: the numbers lie as safetensors within each *.distcp (SerializationFormat.SAFETENSORS), which neither"
    " torch.distributed.checkpoint.load nor dcp_to_torch_save reads"
)


def is_distributed(path: Path) -> bool:
    """True for a distributed checkpoint's folder, or its `.metadata` file."""
    return (path / METADATA).is_file() if path.is_dir() else path.name == METADATA


def read_distributed(path: Path, pickle: Pickle | None = None, keep_pickle: bool = False) -> Contents:
    """List the tensors of a distributed checkpoint.

    Args:
        path: Its folder, or its `.metadata`.
        pickle: The pickle in `.metadata`, if it was read before.
        keep_pickle: Keep the tree of that pickle too.

    Raises:
        BrokenFile: Its `.metadata` is truncated or malformed.
        NotACheckpoint: Its `.metadata` is something else.
    """
    # Imported here, since this large table is not needed to list most other files.
    from convinspect.formats.pickle.safe_globals import DISTRIBUTED, classify_global

    folder = path if path.is_dir() else path.parent
    nbytes = sum(entry.stat().st_size for entry in folder.iterdir() if entry.is_file())
    tree = pickle.tree if pickle is not None else _walked(folder, nbytes)
    if not is_metadata(tree.value):
        raise NotACheckpoint("its .metadata is not that of a distributed checkpoint", "give the folder that has one")
    pieces = pieces_in(tree, folder)
    tensors = [Tensor(one.key, one.dtype, one.shape, contiguous(one.shape)) for one in pieces.tensors]
    return Contents(
        path,
        Container.DISTRIBUTED,
        tuple(split(tensors, tuple(_others(pieces.objects, tensors)), (one.key for one in pieces.objects))),
        nbytes,
        (),
        (_AS_SAFETENSORS,) if _as_safetensors(folder, tree) else (_NOT_READ,),
        {},
        tuple(name for name in foreign_globals(tree) if classify_global(name, DISTRIBUTED).kind != "admitted"),
        pickles={folder / METADATA: Pickle(tree)} if keep_pickle else {},
    )


def _walked(folder: Path, nbytes: int) -> Walk:
    with File(folder / METADATA) as file:
        # The pickle lists the pieces of each tensor by rank, so the limit grows with all files of the folder.
        return walk(file.read, 0, file.size, nbytes // SMALL_STORAGE)


def holds_safetensors(path: Path) -> bool:
    """Whether the numbers of a distributed checkpoint, which was read before, are safetensors within its files."""
    folder = path if path.is_dir() else path.parent
    return _as_safetensors(folder, _walked(folder, sum(entry.stat().st_size for entry in folder.iterdir())))


def begins_safetensors(file: File, start: int) -> bool:
    """Whether a whole safetensors file can begin at this place of a `*.distcp`."""
    head = file.read(start, min(64, max(file.size - start, 0)))
    return is_safetensors(head) and 8 + int.from_bytes(head[:8], "little") <= file.size - start


def _as_safetensors(folder: Path, tree: Walk) -> bool:
    """Whether the first tensor's piece is a safetensors file, as `SerializationFormat.SAFETENSORS` has it written."""
    pairs = pairs_of(state_of(tree.value).get("state_dict_metadata")) or ()
    listed = {key: node for key, node in pairs if isinstance(key, str)}
    for index, info in pairs_of(state_of(tree.value).get("storage_data")) or ():
        fields, key = state_of(info), state_of(index).get("fqn")
        name, start = fields.get("relative_path"), fields.get("offset")
        if not isinstance(key, str) or function_name(listed.get(key)) != f"{PACKAGE}TensorStorageMetadata":
            continue
        if not isinstance(name, str) or Path(name).name != name or type(start) is not int or start < 0:
            return False
        try:
            with File(folder / name) as file:
                return begins_safetensors(file, start)
        except ConvInspectError:
            return False
    return False


def _others(objects: Sequence[PickledObject], tensors: Sequence[Tensor]) -> Iterator[Other]:
    """Keys of the model whose values are no tensors; they lie pickled in the `*.distcp` files.

    The checkpoint flattens dictionaries within a state_dict too: a module's extra state `{"a": 1}` is listed as
    `fc._extra_state.a`. What lies in a dictionary without tensors, such as a scheduler's state, is no key of a model.
    """
    beginnings = {tensor.key.partition(".")[0] for tensor in tensors}
    seen: set[str] = set()
    for one in objects:
        parts = one.key.split(".")
        if optimizer_of(one.key):
            continue
        if EXTRA_STATE in parts:
            parts = parts[: parts.index(EXTRA_STATE) + 1]
        elif len(parts) > 1 and parts[0] not in beginnings:
            continue
        name = ".".join(parts)
        if name not in seen:
            seen.add(name)
            yield Other(name, Value.OBJECT, UNREAD)
