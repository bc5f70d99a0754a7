"""Tensors → layers: which tensors belong together. What each group is, `readings` decides."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from convinspect.checkpoint import Checkpoint
from convinspect.errors import NotThere
from convinspect.readings import Context, Group, context_of, read_group
from convinspect.records import Layer, Tensor

_PARAMETRIZATIONS = "parametrizations."

CONVOLUTIONS = ("Conv1d", "Conv2d", "Conv3d")
LISTED = (
    *CONVOLUTIONS,
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Linear",
    "Conv1D (transformers)",
    "Linear (quantized)",
    "Conv (quantized)",
    "MultiheadAttention",
)
"""Kinds that a listing shows by default: all that hold a convolution's or a Linear's matrix."""


def find_layers(checkpoint: Checkpoint) -> tuple[Layer, ...]:
    """Every layer of the root, in stored order; each tensor belongs to exactly one.

    Tensors that are no part of a known layer come as layers of kind "Parameter", named by their whole key.
    """
    groups = _groups(checkpoint.tensors)
    context: Context = context_of(groups)
    layers: list[Layer] = []
    for group in groups:
        tied = {leaf: checkpoint.tied_to(_key(group.name, leaf)) for leaf in group.tensors}
        layers += read_group(group, checkpoint.modules.get(group.name), context, tied)
    return tuple(layers)


def _key(name: str, leaf: str) -> str:
    return f"{name}.{leaf}" if name else leaf


def _groups(tensors: Mapping[str, Tensor]) -> list[Group]:
    """Tensors by module path. A parametrization's tensors, and those below a weight, belong to the weight's module."""
    groups: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, leaf = _split(key, tensors)
        groups.setdefault(name, {})[leaf] = tensor
    return [Group(name, parts) for name, parts in groups.items()]


def _split(key: str, tensors: Mapping[str, Tensor]) -> tuple[str, str]:
    at = key.find(_PARAMETRIZATIONS)
    if at == 0 or (at > 0 and key[at - 1] == "."):
        return key[: max(at - 1, 0)], key[at:]
    at = key.find("weight.")
    if at >= 0 and key[: at + 6] in tensors:
        return key[: max(at - 1, 0)], key[at:]
    at = key.find("._packed_params.")
    if at >= 0:
        return key[:at], key[at + 1 :]
    name, _, leaf = key.rpartition(".")
    return name, leaf


def select(
    layers: Sequence[Layer],
    names: Iterable[str] = (),
    kinds: Iterable[str] = (),
    pointwise: bool = False,
    everything: bool = False,
) -> list[Layer]:
    """The layers that a user asked for, in stored order.

    Args:
        layers: All layers of a checkpoint.
        names: Names or globs; with or without a wrapper's prefix; a tensor's key means its layer. None: all.
        kinds: Kinds, case-insensitive, globs allowed ("conv*").
        pointwise: Only convolutions of kernel size 1.
        everything: Also layers that are neither convolution nor Linear.

    Raises:
        NotThere: A name or kind matches nothing; the message gives the closest ones.
    """
    chosen = _named(layers, list(names))
    wanted = [kind.lower() for kind in kinds]
    for kind in wanted:
        if not any(fnmatchcase(layer.kind.lower(), kind) for layer in layers):
            held = ", ".join(dict.fromkeys(layer.kind for layer in layers))
            raise NotThere(f"no layer is of kind {kind!r}", f"the kinds are: {held}")
    if wanted:
        chosen = [layer for layer in chosen if any(fnmatchcase(layer.kind.lower(), kind) for kind in wanted)]
    elif not everything and not names:
        chosen = [layer for layer in chosen if layer.kind in LISTED]
    return [layer for layer in chosen if layer.pointwise] if pointwise else chosen


def _named(layers: Sequence[Layer], patterns: list[str]) -> list[Layer]:
    if not patterns:
        return list(layers)
    chosen: dict[str, Layer] = {}
    for pattern in patterns:
        found = [layer for layer in layers if _matches(layer, pattern)]
        if not found:
            raise NotThere(f"no layer matches {pattern!r}", closest(pattern, [layer.name for layer in layers]))
        chosen.update((layer.name, layer) for layer in found)
    return [layer for layer in layers if layer.name in chosen]


def _matches(layer: Layer, pattern: str) -> bool:
    if pattern in (layer.name, *(tensor.key for tensor in layer.tensors.values())):
        return True
    if pattern in (_key(layer.name, leaf) for leaf in layer.tensors):
        return True
    if layer.name == "" and pattern in ("(root)", "."):
        return True
    # The stored key's own front, so that a pattern may be copied from the file.
    stored = next(iter(layer.tensors.values())).key
    return fnmatchcase(layer.name, pattern) or fnmatchcase(stored.rpartition(".")[0], pattern)


def closest(name: str, names: Sequence[str]) -> str:
    """A remedy line that offers the names most like `name`."""
    bare = name.strip("*")
    near = [other for other in names if bare and bare.lower() in other.lower()][:3]
    near += [other for other in difflib.get_close_matches(name, names, n=3, cutoff=0.5) if other not in near]
    if not near:
        near = list(names[:3])
    return "the closest are: " + ", ".join(near[:3]) if near else "the checkpoint has no layers"
