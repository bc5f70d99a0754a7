"""All that a pickle built, also what it dropped later; and which of its byte strings hold a storage alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from convinspect.errors import ConvInspectError
from convinspect.formats.pickle.machine import Machine, Read
from convinspect.formats.pickle.values import Blob, Call, Dict, Global, Persistent, Set, Tuple
from convinspect.formats.torch.byte_storages import LOADS, Strings
from convinspect.formats.torch.nodes import function_name

_DROPS = frozenset("01")
"""POP and POP_MARK, behind which a call may be that is nowhere else."""


def nodes(machine: Machine) -> Iterator[Any]:
    """Each container once, and every value in one, of all that is on the stack or remembered."""
    below_marks = (value for stack, _, _ in machine.marks for value in stack)
    todo: list[Any] = [*machine.stack, *machine.memo.values(), *below_marks]
    seen: set[int] = set()
    while todo:
        node = todo.pop()
        parts = _PARTS.get(type(node))
        if parts is not None or isinstance(node, Blob):
            if id(node) in seen:
                continue
            seen.add(id(node))
        yield node
        if parts is not None:
            todo += parts(node)


def storage_strings(machine: Machine, read: Read, path: Path) -> frozenset[int]:
    """The ids of the byte strings that hold a storage alone; empty unless all do that `_load_from_bytes` would load.

    Args:
        machine: After the pickle was carried out.
        read: Gives the pickle's stream.
        path: Its file.
    """
    if LOADS not in machine.globals or not _DROPS.isdisjoint(machine.rare):
        return frozenset()
    strings = Strings(path, read)
    found: set[int] = set()
    for node in nodes(machine):
        calls = isinstance(node, Call) and function_name(node) == LOADS
        if not calls:
            # Handed to something else, it would be called by that.
            if any(isinstance(part, Global) and part.qualified == LOADS for part in _besides_function(node)):
                return frozenset()
            continue
        try:
            strings.nested(node)
        except (ConvInspectError, ValueError, TypeError, IndexError, AttributeError):
            return frozenset()
        found |= {id(part) for part in _below(node.args)}
    return frozenset(found)


def _besides_function(node: Any) -> list[Any]:
    parts = _PARTS[type(node)](node) if type(node) in _PARTS else []
    return parts[1:] if isinstance(node, Call) else parts


def _below(args: Tuple) -> Iterator[Any]:
    """A byte string, and what it is made of where it is written as text."""
    first = args.items[0]
    while isinstance(first, Call) and isinstance(first.args, Tuple) and first.args.items:
        first = first.args.items[0]
    yield first


def _of_call(node: Call) -> list[Any]:
    parts = [node.function, node.args, node.kwargs, *node.states, *node.items]
    return parts + [part for pair in node.pairs for part in pair]


_PARTS: dict[type, Callable[[Any], list[Any]]] = {
    Dict: lambda node: [part for pair in node.pairs for part in pair],
    Call: _of_call,
    Tuple: lambda node: list(node.items),
    Set: lambda node: node.items,
    Persistent: lambda node: [node.id],
    list: lambda node: node,
}
