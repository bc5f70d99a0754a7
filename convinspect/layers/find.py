"""Group tensors into layers. `grouping` decides what layer each group is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

from convinspect.checkpoint import Checkpoint
from convinspect.keys import caffe2
from convinspect.layers.context import Group, context_of
from convinspect.layers.grouping import read_group
from convinspect.layers.norms import with_norm_dims
from convinspect.records import Layer, Tensor

_PARAMETRIZATIONS = "parametrizations."
_PACKED = "_packed_params."


def find_layers(
    checkpoint: Checkpoint, holding: Set[int] | None = None, groups: Sequence[Group] | None = None
) -> tuple[Layer, ...]:
    """Every layer of the root, in stored order; each tensor belongs to exactly one.

    Tensors that are not part of a known layer become layers of kind "Parameter", named by their whole key.

    Args:
        checkpoint: The checkpoint; its root in use is searched.
        holding: Return only modules with a tensor of which the `id` is among these; all others still count as evidence.
        groups: `grouped` of its tensors, where the caller has it already.

    Returns:
        The layers. Raises nothing: a tensor that fits no known layer is a "Parameter".
    """
    groups = grouped(checkpoint.tensors) if groups is None else groups
    context = context_of(groups, checkpoint.layout)
    layers: list[Layer] = []
    for group in groups:
        if holding is not None and holding.isdisjoint(map(id, group.tensors.values())):
            continue
        found = read_group(group, checkpoint.modules.get(group.name), context, checkpoint.sharing)
        if found[0].norm is not None:
            found[0] = with_norm_dims(found[0], checkpoint.modules)
        layers += found
    return tuple(layers)


def grouped(tensors: Mapping[str, Tensor]) -> list[Group]:
    """Tensors by module path. Tensors of a parametrization, and those below a weight, belong to the weight's module."""
    groups: dict[str, dict[str, Tensor]] = {}
    leaves: dict[str, str] = {}
    of_caffe2 = caffe2.is_so_named(tensors)
    for key, tensor in tensors.items():
        if of_caffe2:
            name, leaf = caffe2.split(key) or ("", key)
        elif _PARAMETRIZATIONS in key or "weight." in key or _PACKED in key:
            name, leaf = _split(key, tensors)
        else:
            name, _, leaf = key.rpartition(".")
        if not name and leaf != key:
            # A name that starts with a dot: "" stands for no module, so that ".weight" is not the root's "weight".
            leaf = key
        # One text for all, where each has its own of fifty bytes.
        leaf = leaves.setdefault(leaf, leaf)
        parts = groups.get(name)
        if parts is None:
            groups[name] = {leaf: tensor}
        else:
            parts[leaf] = tensor
    return [Group(name, parts) for name, parts in groups.items()]


def _split(key: str, tensors: Mapping[str, Tensor]) -> tuple[str, str]:
    at = key.find(_PARAMETRIZATIONS)
    if at == 0 or (at > 0 and key[at - 1] == "."):
        return key[: max(at - 1, 0)], key[at:]
    at = key.find("weight.")
    # optimum-quanto keeps `weight._data` without a `weight`.
    if (at == 0 or (at > 0 and key[at - 1] == ".")) and (key[: at + 6] in tensors or key[at + 7 : at + 8] == "_"):
        return key[: max(at - 1, 0)], key[at:]
    at = f".{key}".find(f".{_PACKED}")
    if at >= 0:
        return key[: max(at - 1, 0)], key[at:]
    name, _, leaf = key.rpartition(".")
    return name, leaf


def can_fuse(layer: Layer) -> bool:
    """Whether the layer's weight or bias is computed from several tensors, in a way that is known."""
    return layer.norm not in (None, "parametrized") or "bias_mask" in layer.tensors
