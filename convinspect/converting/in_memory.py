"""A conversion without a file: the source's tensors under other shapes and keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from convinspect.checkpoint import Checkpoint
from convinspect.errors import CannotConvert
from convinspect.records import Contents, Edit, Root


def applied(
    checkpoint: Checkpoint, edits: Iterable[Edit], others: Mapping[str, Mapping[str, str]] | None = None
) -> Checkpoint:
    """The checkpoint with other shapes and keys, its tensors reading the same file.

    Args:
        checkpoint: The source.
        edits: Edits of tensors in its root in use or in others. Modules of a root that gets other shapes are left out,
            since they describe the old shapes.
        others: Old → new key of what is no tensor, by the path of its root.

    Raises:
        CannotConvert: Numbers would have to move.
    """
    by_tensor = {id(edit.tensor): edit for edit in edits}
    if any(edit.moved is not None and not edit.moved.by_strides for edit in by_tensor.values()):
        raise CannotConvert("numbers would move, which they do only in a file that is written", "write it first")
    used = checkpoint.root
    # Several roots as one (`root="."`) have tensors of their own, which none of the file's roots has.
    roots = checkpoint.roots if any(root is used for root in checkpoint.roots) else (used,)
    contents = Contents(
        checkpoint.path,
        checkpoint.container,
        tuple(_root_after(root, by_tensor, (others or {}).get(root.path, {})) for root in roots),
        checkpoint.nbytes_on_disk,
        shards=checkpoint.shards,
        metadata=checkpoint.metadata,
        layout=checkpoint.layout,
        folder=checkpoint.folder,
    )
    return Checkpoint(contents, used.path)


def _root_after(root: Root, edits: Mapping[int, Edit], others: Mapping[str, str]) -> Root:
    tensors = tuple(
        tensor
        if (edit := edits.get(id(tensor))) is None
        else tensor._replace(shape=edit.shape, stride=edit.stride, key=edit.key or tensor.key)
        for tensor in root.tensors
    )
    reshaped = any(new.shape != old.shape for new, old in zip(tensors, root.tensors, strict=True))
    renamed = tuple(other._replace(key=others.get(other.key, other.key)) for other in root.others)
    return root._replace(tensors=tensors, modules={} if reshaped else root.modules, others=renamed)
