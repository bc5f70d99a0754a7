"""What a pickled object's BUILD would set: its attributes, and what a module's hooks say of its weight."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from convinspect.formats.pickle.values import Call, Tuple
from convinspect.formats.torch.nodes import arguments, class_name, function_name, pairs_of, plain

_NORMS = {
    "torch.nn.utils.spectral_norm.SpectralNorm": "spectral_norm",
    "torch.nn.utils.weight_norm.WeightNorm": "weight_norm",
}
_MOST_HOOKS = 16


def state_dicts(node: Call) -> Iterator[list[tuple[Any, Any]]]:
    """The attributes that BUILD would set. A state is a dictionary, or a tuple of dictionaries (`__slots__`)."""
    for state in node.states:
        for part in state.items if isinstance(state, Tuple) else (state,):
            pairs = pairs_of(part)
            if pairs:
                yield pairs


def state_of(node: Any) -> dict[str, Any]:
    """The attributes that BUILD would set on an object, by name; empty if the node is not an object."""
    return {str(key): value for pairs in state_dicts(node) for key, value in pairs} if isinstance(node, Call) else {}


def built_class(node: Call) -> str:
    """Qualified name of the class of an object that was pickled with its attributes; "" if the pickle names none."""
    name = function_name(node) or ""
    if name.startswith(("copyreg.", "copy_reg.")):
        first = arguments(node)[:1]
        return (class_name(first[0]) if first else None) or name
    return name


def plain_or_none(node: Any) -> Any:
    """As `plain`, but None for anything that is not a plain value."""
    try:
        return plain(node)
    except TypeError:
        return None


def plain_attributes(state: dict[str, Any]) -> dict[str, Any]:
    """The module's attributes that are numbers, strings or tuples of these, and the `dim` of its weight's norms."""
    attributes = {}
    for key, value in state.items():
        try:
            attributes[key] = plain(value)
        except TypeError:
            continue
    hooks = pairs_of(state.get("_forward_pre_hooks"))
    return attributes | _norms(hooks[:_MOST_HOOKS]) if hooks else attributes


def _norms(hooks: list[tuple[Any, Any]]) -> dict[str, Any]:
    """`dim` of the norms that PyTorch's own hooks apply to a weight, as `spectral_norm.dim` and `weight_norm.dim`."""
    dims = {}
    for _, hook in hooks:
        norm = _NORMS.get(built_class(hook)) if isinstance(hook, Call) else None
        state = state_of(hook)
        if norm and state.get("name") == "weight" and type(state.get("dim")) is int:
            dims[f"{norm}.dim"] = state["dim"]
    return dims
