"""Save a root's tensors as a plain state_dict in a new file of either format, reshaped as planned.

For conversions that a rewritten header cannot do: another format, the state_dict of a whole model, numbers that change
(fused weight norm, expanded groups). Copied numbers are memory-mapped from the old file; only computed ones take
memory. This is the only part of a conversion that needs torch.
"""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convinspect.arrays.to_torch import as_stored, as_torch
from convinspect.checkpoint import Checkpoint
from convinspect.errors import CannotConvert, CannotWrite, Option, Wording
from convinspect.formats.files import File
from convinspect.formats.pieces import LAYOUT
from convinspect.formats.safetensors import RESERVED
from convinspect.formats.torch.wrappers import is_dtensor, is_wrapped
from convinspect.layouts import Maker
from convinspect.records import Edit, Layer, Storage, Tensor
from convinspect.writing.atomic import check_room, new_file, reporting_changes
from convinspect.writing.child_process import run_in_child
from convinspect.writing.left_behind import kept_versions, plain_attributes, ties_of_metadata
from convinspect.writing.same_format import Facts, approve
from convinspect.writing.target import writer_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch


def resave(
    checkpoint: Checkpoint,
    shapes: Iterable[Edit],
    groups: Mapping[str, int],
    fused: Iterable[Layer],
    target: Path,
    names: Iterable[Edit] = (),
) -> None:
    """Write the root in use to `target` as a plain state_dict.

    Args:
        checkpoint: The source.
        shapes: Edits that change shapes.
        groups: Groups of the kernels that become block-diagonal, by stored key.
        fused: Weight-normed, spectral-normed or pruned layers to write as their plain effective weight.
        target: The new file; its suffix decides the format.
        names: Edits that change keys.

    Raises:
        ConvInspectError: Something cannot be read or written; the target is then unchanged.
    """
    names, edits, versions = list(names), list(shapes), checkpoint.versions
    expected: list[Facts] = []
    with (
        reporting_changes(versions),
        new_file(target, lambda new: approve(new, expected, versions, _facts)) as temporary,
    ):
        state = run_in_child(
            lambda: _written(checkpoint, edits, groups, list(fused), names, target, temporary), checkpoint.path
        )
        expected += [(key, dtype, tuple(shape)) for key, dtype, shape in state]


def _facts(tensor: Tensor) -> Facts:
    return tensor.key, tensor.dtype, tensor.shape


def _written(
    checkpoint: Checkpoint,
    edits: list[Edit],
    grouped: Mapping[str, int],
    fused: list[Layer],
    names: list[Edit],
    target: Path,
    temporary: Path,
) -> list[list[Any]]:
    """Write the file, and return what must be found in it: key, dtype and shape of each tensor."""
    writer = writer_of(target)
    new_keys = {edit.tensor.key: edit.key or "" for edit in names}
    state = _state_dict(checkpoint, {edit.tensor.key: edit for edit in edits}, grouped, fused, new_keys)
    if not state:
        left = f": {', '.join(checkpoint.others)[:200]}" if checkpoint.others else ""
        raise CannotConvert(f"it has no tensor of plain numbers to save{left}", "save it again once it has some")
    if writer == "torch":
        state = _with_ties(checkpoint, new_keys, state)
    check_room(target, _nbytes(state, writer))
    if writer == "torch":
        _flag(checkpoint, new_keys, state)
        _save_torch(state, temporary, kept_versions(checkpoint, names))
    else:
        _save_safetensors(state, temporary, _metadata(checkpoint, edits))
    return [[key, _name(tensor), list(tensor.shape)] for key, tensor in state.items()]


def _metadata(checkpoint: Checkpoint, edits: Iterable[Edit]) -> Mapping[str, str]:
    """What a safetensors file records of the source: its own metadata, or that its weights lie as Paddle's do."""
    layout = checkpoint.layout
    if checkpoint.metadata or layout is None or layout.maker is not Maker.PADDLE:
        return checkpoint.metadata
    return {} if any(edit.transposed or edit.moved for edit in edits) else {"format": "pd"}


def _nbytes(state: Mapping[str, torch.Tensor], writer: str) -> int:
    """Bytes of tensor data that will be written; PyTorch writes a shared storage once, as a whole."""
    if writer == "safetensors":
        return sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    storages = [tensor.untyped_storage() for tensor in state.values()]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _state_dict(
    checkpoint: Checkpoint,
    edits: Mapping[str, Edit],
    grouped: Mapping[str, int],
    fused: list[Layer],
    names: Mapping[str, str],
) -> dict[str, torch.Tensor]:
    """New keys → tensors, in stored order.

    Args:
        checkpoint: The source.
        edits: Edits of tensors that get another shape, by stored key.
        grouped: Groups of the kernels that become block-diagonal, by stored key.
        fused: Layers to write as their plain effective weight.
        names: New keys by stored key.
    """
    import torch

    replaced = {tensor.key: layer for layer in fused for leaf, tensor in layer.tensors.items() if _is_part(leaf)}
    load = _Loader().load
    state: dict[str, torch.Tensor] = {}
    if twice := [key for key, count in Counter(tensor.key for tensor in checkpoint.root.tensors).items() if count > 1]:
        raise CannotConvert(
            f"two of its tensors would be called {twice[0]!r}", "save it again, with keys that are text"
        )
    attributes = plain_attributes(checkpoint.root)
    for tensor in (tensor for tensor in checkpoint.root.tensors if tensor.key not in attributes):
        layer = replaced.get(tensor.key)
        key = names.get(tensor.key, tensor.key)
        if tensor.key in grouped:
            state[key] = block_diagonal(load(tensor), grouped[tensor.key])
        elif layer is None:
            state[key] = _edited(load(tensor), edits.get(tensor.key))
        elif tensor is layer.weight:
            state[_plain_key(layer, tensor, key)] = _edited(_effective(layer), edits.get(tensor.key))
        elif tensor is layer.tensors.get("bias_orig"):
            mask = load(layer.tensors["bias_mask"])
            state[_plain_key(layer, tensor, key)] = load(tensor) * mask.to(getattr(torch, tensor.dtype))
    return state


def _with_ties(
    checkpoint: Checkpoint, names: Mapping[str, str], state: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The state with its tied names, which safetensors only lists in its metadata and a .pt can hold.

    Args:
        checkpoint: The source.
        names: New keys by stored key.
        state: Tensors by new key.
    """
    tied = dict(state)
    for name, stored_key in ties_of_metadata(checkpoint).items():
        key = names.get(stored_key, stored_key)
        if key in tied:
            tied.setdefault(name, tied[key])
    return tied


def _is_part(leaf: str) -> bool:
    return leaf.startswith(("weight_", "parametrizations.weight.", "bias_"))


def _plain_key(layer: Layer, tensor: Tensor, key: str) -> str:
    """`conv.weight` for `conv.weight_v` or `conv.parametrizations.weight.original1`, wrappers' prefixes kept."""
    leaf = next(leaf for leaf, part in layer.tensors.items() if part is tensor)
    return key.removesuffix(leaf) + ("bias" if leaf.startswith("bias") else "weight")


def _edited(tensor: torch.Tensor, edit: Edit | None) -> torch.Tensor:
    if edit is None:
        return tensor
    if edit.moved is not None:
        return tensor.reshape(edit.moved.seen).permute(edit.moved.order).reshape(edit.shape)
    matrix = tensor.reshape(tensor.shape[:2]).T if edit.transposed else tensor
    return matrix.reshape(edit.shape)


def block_diagonal(weight: torch.Tensor, groups: int) -> torch.Tensor:
    """The full matrix of a grouped pointwise kernel.

    Args:
        weight: (O, I/groups, 1, …); output o belongs to group o // (O/groups) and sees that group's inputs alone.
        groups: Divides O.

    Returns:
        (O, I), zero outside the blocks.
    """
    import torch

    full: torch.Tensor = torch.block_diag(*weight.reshape(weight.shape[0], -1).chunk(groups))  # type: ignore[no-untyped-call]
    return full


def _effective(layer: Layer) -> torch.Tensor:
    """The effective weight in its stored orientation; `kernels` transposes some kinds to show them."""
    from convinspect.arrays.effective import effective_weight

    return as_torch(effective_weight(layer), layer.weight.dtype)


class _Loader:
    """Loads tensors as views of their storages, each of which is loaded once, so that ties stay ties."""

    def __init__(self) -> None:
        self._files: dict[Path, npt.NDArray[np.uint8] | None] = {}
        self._storages: dict[tuple[object, ...], torch.Tensor] = {}
        """By file and key: mapped bytes. By file, key and dtype: numbers that had to be read and converted."""

    def load(self, tensor: Tensor) -> torch.Tensor:
        """The tensor, with its own strides.

        Raises:
            CannotConvert: It has no plain numbers, or a dtype that this PyTorch does not know.
        """
        import torch

        from convinspect.arrays.gathered import in_one_run
        from convinspect.arrays.read import read_tensor

        storage = tensor.storage
        if storage is not None and storage.pieces is not None and tensor.numel:
            storage = in_one_run(storage)
        if tensor.layout == "meta":
            return torch.empty_strided(tensor.shape, tensor.stride, dtype=getattr(torch, tensor.dtype), device="meta")
        if tensor.layout == LAYOUT:
            return as_stored(read_tensor(tensor), tensor.dtype)
        if is_wrapped(tensor) and tensor.layout != "strided":
            raise _wrapped(tensor)
        if tensor.layout != "strided" or storage is None or storage.start is None:
            raise _no_numbers(tensor)
        dtype = getattr(torch, tensor.dtype, None)
        if dtype is None:
            raise CannotConvert(f"tensor {tensor.key!r}: this PyTorch has no dtype {tensor.dtype}", "update PyTorch")
        if not tensor.whole or not tensor.numel:
            return as_stored(read_tensor(tensor), tensor.dtype)
        mappable = storage.packed_nbytes is None and storage.byteorder == "little" and storage.pieces is None
        raw = self._mapped(storage) if mappable else None
        if raw is not None and raw.data_ptr() % dtype.itemsize == 0:
            numbers = raw[: len(raw) // dtype.itemsize * dtype.itemsize].view(dtype)
        else:
            numbers = self._read(tensor, storage, dtype)
        return numbers.as_strided(tensor.shape, tensor.stride, tensor.offset)

    def _mapped(self, storage: Storage) -> torch.Tensor | None:
        """The storage's bytes, mapped and never written to; None if they are in no file of this machine."""
        import torch

        from convinspect.arrays.storage import data_start

        place = (storage.file, storage.key)
        if place not in self._storages:
            # One mapping per file for all of its storages: each mapping holds a file open, and open files are limited.
            if storage.file not in self._files:
                self._files[storage.file] = _mapped_file(storage.file)
            whole = self._files[storage.file]
            if whole is None:
                return None
            start = data_start(storage)
            raw = whole[start : start + storage.nbytes]
            if storage.nbytes == 1:
                # A pickle has equal bytes of different arrays once, and torch.save would take them for one storage.
                raw = raw.copy()
            with warnings.catch_warnings():
                # PyTorch cannot mark a tensor as read-only and warns; nothing here writes to it.
                warnings.simplefilter("ignore")
                self._storages[place] = torch.from_numpy(raw)
        return self._storages[place]

    def _read(self, tensor: Tensor, storage: Storage, dtype: torch.dtype) -> torch.Tensor:
        """All numbers of the tensor's storage."""
        from convinspect.arrays.read import read_tensor

        place = (storage.file, storage.key, dtype)
        if place not in self._storages:
            number = min(storage.nbytes, storage.available) // dtype.itemsize
            every = tensor._replace(shape=(number,), stride=(1,), offset=0)
            self._storages[place] = as_stored(read_tensor(every), tensor.dtype)
        return self._storages[place]


def _no_numbers(tensor: Tensor) -> CannotConvert:
    if tensor.layout == "out-of-band":
        problem = (
            f"the numbers of tensor {tensor.key!r} were pickled out of band, into a buffer that is not in the file"
        )
        return CannotConvert(problem, "pickle it again without buffer_callback")
    if tensor.layout == "compressed":
        problem = f"the numbers of tensor {tensor.key!r} lie in a compressed pickle as escaped text, and are not read"
        return CannotConvert(problem, "save it again with pickle_protocol=4")
    remedy = Wording("a .pt keeps it where the source is one and ", Option("state_dict"), " is not asked for")
    return CannotConvert(f"tensor {tensor.key!r} ({tensor.layout}) has no plain numbers to save", remedy)


def _wrapped(tensor: Tensor) -> CannotConvert:
    """The error for a Tensor subclass around others that cannot be read as one plain tensor."""
    name = (tensor.subclass or "").rpartition(".")[2]
    if is_dtensor(tensor):
        remedy = "save whole tensors in PyTorch: get_model_state_dict with StateDictOptions(full_state_dict=True)"
        return CannotConvert(f"tensor {tensor.key!r} is a {name} of which this file holds a part", remedy)
    remedy = "make it a plain tensor in PyTorch, with its own dequantize() or the like"
    return CannotConvert(f"tensor {tensor.key!r} is a {name}, whose numbers only its own library reads", remedy)


def _flag(checkpoint: Checkpoint, names: Mapping[str, str], state: Mapping[str, torch.Tensor]) -> None:
    """Set requires_grad as in the source if that is a dictionary; the state_dict of a model has none."""
    if not checkpoint.holds_modules:
        for tensor in checkpoint.root.tensors:
            made = state.get(names.get(tensor.key, tensor.key))
            if made is not None and made.is_floating_point():
                made.requires_grad_(bool(tensor.requires_grad))


def _save_torch(
    state: Mapping[str, torch.Tensor], target: Path, metadata: Mapping[str, Mapping[str, object]] | None
) -> None:
    """Save as `state_dict()` returns it, an OrderedDict with `_metadata`; without metadata as a dict."""
    import torch

    ordered: Any = dict(state)
    if metadata is not None:
        ordered = OrderedDict(state)
        ordered._metadata = OrderedDict(metadata)
    try:
        torch.save(ordered, target)
    except RuntimeError:
        # PyTorch's zip writer turns a failing write into this, without the system's reason.
        raise CannotWrite("PyTorch could not write all of it", "see whether the disk is full", target) from None


def _mapped_file(path: Path) -> npt.NDArray[np.uint8] | None:
    """All bytes of a file, mapped; None if they are in no file of this machine."""
    import mmap

    import numpy as np

    with File(path) as file:
        place = file.range_of()
        if place is None or not file.size:
            return None
        handle, start = place
        # The mapping has a handle of its own.
        whole = np.frombuffer(mmap.mmap(handle, 0, access=mmap.ACCESS_READ), np.uint8)
        return whole[start : start + file.size]


def _save_safetensors(state: Mapping[str, torch.Tensor], target: Path, metadata: Mapping[str, str]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    empty = next((key for key, tensor in state.items() if tensor.is_meta), None)
    if empty is not None:
        raise CannotConvert(f"tensor {empty!r} (meta) has no numbers to save", "write a .pt, which can hold it")
    if RESERVED in state:
        remedy = Wording("give it another with ", Option("rename", None))
        raise CannotConvert(f"safetensors keeps the name {RESERVED!r} for itself", remedy)
    seen: set[int] = set()
    alone: dict[str, torch.Tensor] = {}
    for key, tensor in state.items():
        pointer = tensor.untyped_storage().data_ptr()
        # The format has neither strides nor ties.
        alone[key] = tensor.contiguous() if pointer not in seen else tensor.clone().contiguous()
        seen.add(pointer)
    try:
        save_file(alone, target, dict(metadata) or {"format": "pt"})
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        failed = re.search(r"I/O error: (.*?)(?: \(os error \d+\))?\)?$", str(error))
        if failed is not None:
            raise CannotWrite(f"it cannot be written ({failed[1]})", "make room, or write elsewhere", target) from None
        raise CannotConvert(f"safetensors cannot hold it ({error})", "write a .pt instead") from None
    os.chmod(target, 0o666 & ~_umask())


def _umask() -> int:
    """The process's umask, which can only be read by setting it; safetensors itself writes files of mode 0600."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
