"""What a node of a pickle's tree says: the name of what it calls, its arguments, its items, its plain value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from convinspect.formats.pickle.values import Call, Dict, Global, Persistent, Tuple

_DEEPEST_NAME = 16
_MAKE_CLASSES = ("cloudpickle._make_skeleton_class", "dill._dill._create_type")
"""What is called with a class's name and attributes, where the class itself is in the pickle."""


def function_name(node: Any) -> str | None:
    """Qualified name of the function that a call record calls; None if it has no plain name."""
    if not isinstance(node, Call):
        return None
    function = node.function
    if type(function) is Global:
        return function.qualified
    if isinstance(function, Persistent):
        # Before PyTorch 1.6 a module's class was wrapped as ('module', class, file name, source text).
        parts = function.id.items if isinstance(function.id, Tuple) else []
        function = parts[1] if len(parts) > 1 and parts[0] == "module" else None
    return class_name(function)


def class_name(node: Any) -> str | None:
    """Qualified name of a class or function; None if the pickle does not name it."""
    inner: list[str] = []
    # Below protocol 4 a class inside a class is pickled as `getattr(outer, 'Inner')`.
    while isinstance(node, Call) and len(inner) < _DEEPEST_NAME:
        args = arguments(node)
        called = getattr(node.function, "qualified", "")
        if called.endswith(_MAKE_CLASSES) and len(args) > 3 and isinstance(args[1], str):
            module = dict(pair for pair in pairs_of(args[3]) or () if pair[0] == "__module__").get("__module__")
            return ".".join([module, args[1], *inner] if isinstance(module, str) else [args[1], *inner])
        if called != "builtins.getattr" or len(args) != 2:
            return None
        if not isinstance(args[1], str):
            return None
        inner.insert(0, args[1])
        node = args[0]
    return ".".join([node.qualified, *inner]) if isinstance(node, Global) else None


def arguments(node: Call) -> Sequence[Any]:
    """The call's positional arguments."""
    return node.args.items if isinstance(node.args, Tuple) else ()


def plain(node: Any, depth: int = 0) -> Any:
    """A number, string, boolean, None or tuple of these, as Python values; otherwise raises TypeError."""
    if node is None or isinstance(node, (bool, int, float, str)):
        return node
    if depth < 4:
        if isinstance(node, Call) and function_name(node) in _LISTS:
            node = next(iter(arguments(node)), node)
        if isinstance(node, (list, Tuple)):
            items = node if isinstance(node, list) else node.items
            if len(items) <= 64:
                return tuple(plain(item, depth + 1) for item in items)
    raise TypeError("not a plain value")


_LISTS = {
    "torch.Size",
    "torch.jit._pickle.build_intlist",
    "torch.jit._pickle.build_doublelist",
    "torch.jit._pickle.build_boollist",
}


def pairs_of(node: Any) -> list[tuple[Any, Any]] | None:
    """Items of a mapping in stored order; None for anything else.

    As in Python, a repeated key keeps its first position and its last value.
    """
    if isinstance(node, Dict):
        pairs = node.pairs
    elif isinstance(node, Call):
        pairs = [*_given_pairs(node), *node.pairs]
        if not pairs and function_name(node) not in _MAPPINGS:
            return None
    else:
        return None
    named = {key: value for key, value in pairs if isinstance(key, (str, int))}
    if len(named) == len(pairs):
        return pairs
    return list(named.items()) + [pair for pair in pairs if not isinstance(pair[0], (str, int))]


_MAPPINGS = {
    "collections.OrderedDict", "collections.defaultdict", "builtins.dict", "flax.core.frozen_dict.FrozenDict",
}  # fmt: skip


def _given_pairs(node: Call) -> list[tuple[Any, Any]]:
    """Items that are arguments of the call: Python 2 pickled `OrderedDict([[key, value], …])`, Flax a dictionary."""
    args = arguments(node)
    if args and isinstance(args[-1], Dict) and function_name(node) in _MAPPINGS:
        return args[-1].pairs
    if function_name(node) not in _MAPPINGS or not args or not isinstance(args[-1], (list, Tuple)):
        return []
    entries = args[-1] if isinstance(args[-1], list) else args[-1].items
    items = [entry if isinstance(entry, list) else getattr(entry, "items", []) for entry in entries]
    return [(item[0], item[1]) for item in items if isinstance(item, (list, tuple)) and len(item) == 2]
