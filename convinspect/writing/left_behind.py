"""What is lost when a root is saved as a plain state_dict in a new file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from convinspect.checkpoint import Checkpoint
from convinspect.records import Edit, Layer, Root
from convinspect.text import first_few, one_line, plural

if TYPE_CHECKING:
    from convinspect.formats.torch.objects import Objects

# What reads pickles is imported where it is needed, since other files are converted faster without it.


def losses(checkpoint: Checkpoint, writer: str, names: Iterable[Edit]) -> list[str]:
    """What a plain state_dict in a new file does not keep, one line each.

    Args:
        checkpoint: The source.
        writer: "torch" or "safetensors".
        names: Edits that change keys.

    Raises:
        ConvInspectError: The source cannot be read.
    """
    objects = _objects(checkpoint)
    kept = writer == "torch" and _versions(checkpoint, objects, names) is not None
    left = _left_objects(checkpoint, objects, kept) + _left_by_format(checkpoint, writer)
    # Of a dictionary, its objects are named by their keys already.
    shapeless = [other.key for other in checkpoint.root.others] if checkpoint.modules else []
    return left + ([f"{first_few(shapeless)} without a shape yet: not in the new file"] if shapeless else [])


def kept_versions(checkpoint: Checkpoint, names: Iterable[Edit]) -> dict[str, dict[str, Any]] | None:
    """`_metadata` for the root in use when it is saved as a new dictionary: versions by module, under new names.

    None if there is none, or if two modules would get the same name.

    Raises:
        ConvInspectError: The source cannot be read.
    """
    return _versions(checkpoint, _objects(checkpoint), names)


def _objects(checkpoint: Checkpoint) -> Objects | None:
    from convinspect.formats.torch.objects import read_objects

    return read_objects(checkpoint.path, checkpoint.pickles.get(checkpoint.path))


def _versions(
    checkpoint: Checkpoint, objects: Objects | None, names: Iterable[Edit]
) -> dict[str, dict[str, Any]] | None:
    from convinspect.formats.torch.objects import versions
    from convinspect.writing.pickle_keys import moved_paths

    kept = None if objects is None else versions(objects, checkpoint.root.path)
    if kept is None:
        return None
    keys = {tensor.key: tensor.key for tensor in checkpoint.root.tensors}
    paths = moved_paths(kept, keys | {edit.tensor.key: edit.key or "" for edit in names})
    return {paths[path]: facts for path, facts in kept.items()} if len({*paths.values()}) == len(paths) else None


def old_names(checkpoint: Checkpoint, names: Iterable[Edit]) -> list[str]:
    """Names that an optimizer stores for renamed parameters, which it keeps unchanged.

    Args:
        checkpoint: The source.
        names: Edits that change keys.

    Raises:
        ConvInspectError: The source cannot be read.
    """
    gone = {edit.tensor.key for edit in names}
    if not gone or not any(root.role == "optimizer" for root in checkpoint.roots):
        return []
    from convinspect.formats.torch.objects import parameter_names

    objects = _objects(checkpoint)
    # An optimizer's state may be keyed by them too.
    keyed = {name for root in checkpoint.roots for name in root.keyed_by or ()}
    return [] if objects is None else sorted((parameter_names(objects) | keyed) & gone)


def unfused(root: Root, fused: Iterable[Layer]) -> list[str]:
    """Keys of tensors from which weights are still computed (as in a weight-normed LSTM), since they are not fused.

    Args:
        root: The root in use.
        fused: Layers that get their plain effective weight.
    """
    keys = {tensor.key for tensor in root.tensors}
    done = {tensor.key for layer in fused for tensor in layer.tensors.values()}
    pairs = {"_g": "_v", "_orig": "_mask", "_u": "_orig"}
    left = []
    for key in (tensor.key for tensor in root.tensors if tensor.key not in done):
        halves = [key.removesuffix(end) + partner for end, partner in pairs.items() if key.endswith(end)]
        if any(half in keys for half in halves) or (".parametrizations." in key and key.endswith((".original", "0"))):
            left.append(key)
    return left


def ties_of_metadata(checkpoint: Checkpoint) -> dict[str, str]:
    """Keys that a safetensors file leaves out → the key with their numbers.

    `safetensors.torch.save_model` writes such ties into the metadata.
    """
    keys = {tensor.key for tensor in checkpoint.root.tensors}
    return {name: kept for name, kept in checkpoint.metadata.items() if kept in keys and name not in keys}


def plain_attributes(root: Root) -> frozenset[str]:
    """Keys of a TorchScript root's tensors that are neither parameters nor buffers, according to its code.

    `state_dict()` does not contain them either. If the code does not say, a tensor is not counted as one.
    """
    attributes = set()
    for tensor in root.tensors:
        owner, _, leaf = tensor.key.rpartition(".")
        said = root.modules[owner].attributes if owner in root.modules else {}
        registered = [said.get(name) for name in ("__parameters__", "__buffers__")]
        if all(isinstance(names, tuple) and leaf not in names for names in registered):
            attributes.add(tensor.key)
    return frozenset(attributes)


def _left_objects(checkpoint: Checkpoint, objects: Objects | None, versions_kept: bool) -> list[str]:
    """Other roots and other objects than tensors that are not in the new file."""
    from convinspect.formats.torch.objects import versions

    path = checkpoint.root.path
    lines = [f"only {path} is in the new file, as a plain state_dict"] if path else []
    lines += [
        f"root {root.path or '.'} ({plural(len(root.tensors), 'tensor')}) is not in the new file"
        for root in checkpoint.roots
        if root.path != path
    ]
    attributes = sorted(plain_attributes(checkpoint.root))
    if attributes:
        lines.append(f"plain attributes of the model are no part of a state_dict: {first_few(attributes)}")
    left = _keys_beside(checkpoint, objects)
    others = [] if checkpoint.container.rewritten else [other.key for other in checkpoint.root.others]
    below = f"{path}." if path else ""
    unnamed = [one_line(key) for key in others if f"{below}{key}" not in left]
    if unnamed:
        lines.append(f"no plain numbers, and so not in the new file: {first_few(unnamed)}")
    if checkpoint.foreign:
        lines.append(f"objects of {', '.join(checkpoint.foreign[:3])} are not in the new file")
    if left:
        lines.append(f"{first_few([*left])} beside the tensors: not in the new file")
    if objects is not None and not versions_kept and versions(objects, path) is not None:
        lines.append("_metadata, PyTorch's record of each module's version, is not in the new file")
    return lines


def _keys_beside(checkpoint: Checkpoint, objects: Objects | None) -> dict[str, None]:
    """Keys of other objects than tensors in the dictionaries of the root, in stored order."""
    from convinspect.formats.torch.objects import beside

    if objects is None:
        return {}
    path = checkpoint.root.path
    # Arrays in what torch.save wrote are objects, or tensors where there are no others.
    listed = {f"{path}.{tensor.key}" if path else tensor.key for tensor in checkpoint.root.tensors}
    return dict.fromkeys(beside(objects, path, [root.path for root in checkpoint.roots], listed))


def _left_by_format(checkpoint: Checkpoint, writer: str) -> list[str]:
    """What the new file's format cannot store, or stores in another way."""
    lines = []
    tied_again = ties_of_metadata(checkpoint) if writer == "torch" else {}
    if tied_again:
        ties = ", ".join(f"{name} to {kept}" for name, kept in list(tied_again.items())[:4])
        lines.append(f"tied again as the file's metadata says: {ties}")
    if writer == "torch" and (gone := [name for name in checkpoint.metadata if name not in tied_again]):
        lines.append(f"the metadata {', '.join(gone)} is not in the new file")
    tensors = checkpoint.root.tensors
    devices = sorted({tensor.device for tensor in tensors if tensor.device not in (None, "cpu", "meta")})
    if devices:
        lines.append(f"what was saved on {', '.join(devices)} is on the CPU in the new file")
    trained = sum(tensor.requires_grad is True for tensor in tensors)
    if writer == "safetensors" and trained and not checkpoint.holds_modules:
        lines.append(f"requires_grad, set for {plural(trained, 'tensor')}, is not in the new file")
    tied = [name for name in checkpoint.tensors if checkpoint.tie(name)]
    if writer == "safetensors" and tied:
        lines.append(f"tied tensors are separate copies in the new file: {', '.join(tied[:4])}")
    return lines
