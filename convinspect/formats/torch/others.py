"""Keys of a state_dict whose values are no tensors: modules' extra state, uninitialized parameters, an epoch.

`load_state_dict` counts them as it counts tensors, so they are listed with what their values are. Nothing is run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from convinspect.formats.pickle.values import Blob, Call, Dict, Global, Persistent, Set, Tuple
from convinspect.formats.torch.nodes import arguments, class_name, function_name, pairs_of
from convinspect.keys.others import Other, Value
from convinspect.records import Root, Tensor

_UNINITIALIZED = ("torch.nn.parameter.UninitializedParameter", "torch.nn.parameter.UninitializedBuffer")
_NESTED = "torch._utils._rebuild_nested_tensor"
_RECONSTRUCTORS = ("copyreg.", "copy_reg.")
_WORDS = {
    "_codecs.encode": "bytes", "_io.BytesIO": "BytesIO", "io.BytesIO": "BytesIO", "builtins.bytearray": "bytearray",
}  # fmt: skip
_LONGEST = 200
"""Characters of a plain value that is kept."""


def others_beside(node: Any, tensors: Sequence[Tensor]) -> tuple[Other, ...]:
    """The keys of a dictionary whose values are none of its tensors, in stored order.

    Args:
        node: The dictionary; None where there is none.
        tensors: All tensors that were found in it; of a value that is a tuple, their keys end in its places.
    """
    if not isinstance(node, (Dict, Call)):
        return ()
    # Most dictionaries hold nothing else, and are not looked through again.
    if len(node.pairs) == len(tensors) and not any(type(value) is Tuple for _, value in node.pairs):
        return ()
    keys = {tensor.key for tensor in tensors}
    return tuple(
        other_of(key, value)
        for key, value in pairs_of(node) or ()
        if isinstance(key, str) and key not in keys and not _holds(key, value, keys)
    )


def without_tensors(nodes: Mapping[tuple[str, ...], Any]) -> Iterator[Root]:
    """A root of keys without tensors, such as the state_dict of a lazy module that has not run; none where none is.

    Args:
        nodes: The file's containers by their path.
    """
    for path, node in nodes.items():
        others = others_beside(node, ())
        if any(other.value is not Value.OBJECT for other in others):
            yield Root(".".join(path), "model", (), others=others)
            return


def _holds(key: str, value: Any, keys: set[str]) -> bool:
    """Whether a tuple holds tensors, which are listed in its place."""
    return isinstance(value, Tuple) and any(f"{key}.{place}" in keys for place in range(len(value.items)))


def other_of(key: str, value: Any) -> Other:
    """What a key holds that is no plain tensor."""
    name = function_name(value)
    if name in _UNINITIALIZED:
        return Other(key, Value.UNINITIALIZED, name.rpartition(".")[2])
    if is_nested(value):
        return Other(key, Value.NESTED, Value.NESTED.value)
    plain = value is None or isinstance(value, (bool, int, float, str))
    text = repr(value) if plain and (not isinstance(value, str) or len(value) <= _LONGEST) else ""
    return Other(key, Value.OBJECT, _type(value, name), text[: _LONGEST + 2])


def is_nested(node: Any) -> bool:
    """Whether a call rebuilds a nested tensor, `_rebuild_from_type_v2(_rebuild_njt, NestedTensor, …)` a jagged one."""
    name = function_name(node) or ""
    if "_from_type" not in name:
        return name == _NESTED
    return any((class_name(argument) or "").startswith("torch.nested.") for argument in arguments(node)[:2])


def _type(value: Any, name: str | None) -> str:
    """The type of a value, in a word."""
    if isinstance(value, Call):
        if name is not None and name.startswith(_RECONSTRUCTORS):
            name = next((class_name(argument) for argument in arguments(value)[:1]), None)
        return _WORDS.get(name or "", (name or "object").rpartition(".")[2])
    kinds = {Dict: "dict", Tuple: "tuple", Set: "set", Persistent: "storage", Blob: "long text or bytes"}
    if isinstance(value, Global):
        return value.qualified
    return "None" if value is None else kinds.get(type(value), type(value).__name__)
