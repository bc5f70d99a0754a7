"""Tensors → layers: which tensors belong together. What each group is, `groups` decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from convinspect.checkpoint import Checkpoint
from convinspect.errors import NotThere
from convinspect.layers.grouping import Group, context_of, read_group
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
    "Parametrized",
    "Incomplete",
)
"""Kinds that a listing shows by default: all that hold, or may hold, a convolution's or a Linear's matrix."""


def find_layers(checkpoint: Checkpoint, holding: Callable[[Tensor], bool] | None = None) -> tuple[Layer, ...]:
    """Every layer of the root, in stored order; each tensor belongs to exactly one.

    Tensors that are no part of a known layer come as layers of kind "Parameter", named by their whole key.

    Args:
        checkpoint: Its root in use is looked through.
        holding: Only modules that hold a tensor of which this is true; they are read as among all others.
    """
    groups = _groups(checkpoint.tensors)
    context = context_of(groups)
    layers: list[Layer] = []
    for group in groups:
        if holding is not None and not any(map(holding, group.tensors.values())):
            continue
        layers += read_group(group, checkpoint.modules.get(group.name), context, checkpoint)
    return tuple(layers)


def _key(name: str, leaf: str) -> str:
    return f"{name}.{leaf}" if name else leaf


def _groups(tensors: Mapping[str, Tensor]) -> list[Group]:
    """Tensors by module path. A parametrization's tensors, and those below a weight, belong to the weight's module."""
    groups: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, leaf = _split(key, tensors)
        if _key(name, leaf) != key:
            # A name that starts with a dot: "" stands for no module, so that ".weight" is not the root's "weight".
            name, leaf = "", key
        groups.setdefault(name, {})[leaf] = tensor
    return [Group(name, parts) for name, parts in groups.items()]


def _split(key: str, tensors: Mapping[str, Tensor]) -> tuple[str, str]:
    at = key.find(_PARAMETRIZATIONS)
    if at == 0 or (at > 0 and key[at - 1] == "."):
        return key[: max(at - 1, 0)], key[at:]
    at = key.find("weight.")
    if (at == 0 or (at > 0 and key[at - 1] == ".")) and key[: at + 6] in tensors:
        return key[: max(at - 1, 0)], key[at:]
    at = f".{key}".find("._packed_params.")
    if at >= 0:
        return key[: max(at - 1, 0)], key[at:]
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
    called: dict[str, list[int]] = {}
    for index, layer in enumerate(layers):
        for name in _names(layer):
            called.setdefault(name, []).append(index)
    chosen: set[int] = set()
    for pattern in patterns:
        # A name may hold a glob's characters, and then means itself alone.
        found = called.get(pattern) or [index for index, layer in enumerate(layers) if _matches(layer, pattern)]
        if not found:
            names = [layer.name or "(root)" for layer in layers]
            raise NotThere(f"no layer matches {pattern!r}", closest(pattern, names))
        chosen.update(found)
    return [layers[index] for index in sorted(chosen)]


def exactly_named(layers: Iterable[Layer], names: Iterable[str]) -> frozenset[str]:
    """Names of the layers that a user called by a name of theirs, and not by a glob that fits it."""
    given = frozenset(names)
    return frozenset(layer.name for layer in layers if given and not given.isdisjoint(_names(layer)))


def _names(layer: Layer) -> set[str]:
    """All that a layer may be called: its name and its tensors' keys, each as shown and as stored."""
    names = {layer.name, _stored_name(layer)}
    for leaf, tensor in layer.tensors.items():
        names |= {tensor.key, _key(layer.name, leaf) if leaf else layer.name}
    return names if layer.name else names | {"(root)", "."}


def _matches(layer: Layer, pattern: str) -> bool:
    return fnmatchcase(layer.name, pattern) or fnmatchcase(_stored_name(layer), pattern)


def _stored_name(layer: Layer) -> str:
    """The name with the wrappers' prefixes that the file has, so that a pattern may be copied from there."""
    leaf, tensor = next(iter(layer.tensors.items()))
    return tensor.key.removesuffix(f".{leaf}" if leaf else "")


def closest(name: str, names: Sequence[str]) -> str:
    """A remedy line that offers the names most like `name`."""
    import difflib

    bare = name.strip("*")
    near = [other for other in names if bare and bare.lower() in other.lower()][:3]
    near += [other for other in difflib.get_close_matches(name, names, n=3, cutoff=0.5) if other not in near]
    if not near:
        near = list(names[:3])
    return "the closest are: " + ", ".join(near[:3]) if near else "the checkpoint has no layers"


def can_fuse(layer: Layer) -> bool:
    """Whether the layer's weight or bias is computed from several tensors, in a way that is known."""
    return layer.norm not in (None, "parametrized") or "bias_mask" in layer.tensors
