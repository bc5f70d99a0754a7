"""A checkpoint as `convert` would write it: renamed, or with its layers as Linear."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from convinspect.checkpoint import Checkpoint
from convinspect.converting.plan import Plan, Request, plan
from convinspect.converting.rename import renaming
from convinspect.errors import CannotConvert
from convinspect.kinds import CONVOLUTIONS, TRANSFORMERS_CONV1D
from convinspect.layers.find import find_layers
from convinspect.records import Contents, Edit


def as_linear(checkpoint: Checkpoint, names: tuple[str, ...]) -> tuple[Checkpoint, tuple[str, ...]]:
    """The checkpoint as `convert --to linear --from any` would write it, and notes of what that would leave.

    Args:
        checkpoint: What to convert.
        names: Layers or globs; () for all.

    Raises:
        CannotConvert: There is nothing to convert.
    """
    layers = find_layers(checkpoint)
    planned = plan(layers, Request("Linear", kinds=(*CONVOLUTIONS, TRANSFORMERS_CONV1D), names=names))
    # Convolutions of larger kernels are not news; what looks convertible and is not, is.
    larger = {layer.name for layer in layers if layer.kernel_size and not layer.pointwise and not names}
    left = [refusal for refusal in planned.refusals if not refusal.done and refusal.name not in larger]
    if not planned.conversions:
        why = f" ({left[0].name}: {left[0].reason})" if left else ""
        raise CannotConvert(f"no layer can be converted to Linear{why}", "give the checkpoint to compare with")
    notes = tuple(f"left as it is: {refusal.name}: {refusal.reason}" for refusal in left)
    return converted_in_memory(checkpoint, planned), notes


def converted_in_memory(checkpoint: Checkpoint, plan: Plan) -> Checkpoint:
    """The checkpoint as it would be after a plan, its tensors reading the same file under other shapes."""
    edits = {id(edit.tensor): edit for edit in plan.edits}
    tensors = tuple(
        tensor
        if id(tensor) not in edits
        else replace(tensor, shape=edits[id(tensor)].shape, stride=edits[id(tensor)].stride)
        for tensor in checkpoint.root.tensors
    )
    root = replace(checkpoint.root, tensors=tensors, modules={})
    return Checkpoint(
        Contents(checkpoint.path, checkpoint.container, (root,), checkpoint.nbytes_on_disk, shards=checkpoint.shards)
    )


def renamed(checkpoint: Checkpoint, rules: Iterable[str]) -> Checkpoint:
    """The checkpoint with other keys, as `convert --rename` would write it.

    Args:
        checkpoint: What to rename.
        rules: OLD=NEW each.

    Raises:
        ConvInspectError: A rule is none, matches nothing, or gives two tensors one name.
    """
    changes = renaming(checkpoint, list(rules))
    return _with_keys(checkpoint, (*changes.edits, *changes.copies))


def _with_keys(checkpoint: Checkpoint, edits: Iterable[Edit]) -> Checkpoint:
    keys = {id(edit.tensor): edit.key for edit in edits if edit.key is not None}
    roots = tuple(
        replace(root, tensors=tuple(replace(tensor, key=keys.get(id(tensor), tensor.key)) for tensor in root.tensors))
        for root in checkpoint.roots
    )
    contents = Contents(
        checkpoint.path,
        checkpoint.container,
        roots,
        checkpoint.nbytes_on_disk,
        metadata=checkpoint.metadata,
        shards=checkpoint.shards,
    )
    return Checkpoint(contents, checkpoint.root.path)
