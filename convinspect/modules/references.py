"""Where a live model holds modules and weights outside `_modules`, `_parameters` and `_buffers`.

A layer in a plain list (`self.layers = [a, b]`), in another object (`self.helper = Helper(self.conv)`), a bound method
(`self.f = self.conv.forward`) or a weight kept for a penalty (`self.decayed = [self.conv.weight]`) goes on being used
after the layer was replaced, and would neither train nor move with the model.
"""

from __future__ import annotations

import functools
import types
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Any

from torch import nn

_REGISTERS = {"_modules", "_parameters", "_buffers"}
_DEEPEST = 4
_MOST = 100_000
"""Objects looked into, so that a model that holds a whole data set is done in time."""

_PLAIN = frozenset({type(None), bool, int, float, str, bytes})
"""Types of most attributes, which hold nothing and need no place."""

_OPAQUE = ("builtins", "torch", "numpy")
"""Whose objects have no attributes of a model's author; optimizers are made after converting, as documented."""


# Made once, since a union costs more than the question that it is for.
_LISTED = (list, tuple, set, frozenset, deque)
_MAPPED = (dict, types.MappingProxyType)
_METHODS = (types.MethodType, types.BuiltinMethodType, types.MethodWrapperType)


def outside_references(model: nn.Module, wanted: set[int]) -> dict[int, str]:
    """Places outside PyTorch's registers that hold certain modules or parameters.

    Args:
        model: Searched with all its modules: their attributes, and lists, tuples, sets, deques, dictionaries, bound
            methods, partial functions, closures, weak references and attributes of any other objects in these, to a
            depth of 4 and 100 000 objects. No code of these objects runs: no property, no iterator.
        wanted: Ids of what is looked for.

    Returns:
        By id, the first place, as code would write it: "encoder.layers[0]".
    """
    places: dict[int, str] = {}
    # The model's own modules are searched through their registers. Values are kept, so that no id is used again.
    seen: dict[int, Any] = {id(module): module for module in model.modules()}
    most = len(seen) + _MOST
    # Breadth first, so that a value that is reached in two ways counts with its smaller depth.
    todo = deque((place, value, 0) for place, value in _attributes(model))
    while todo:
        place, value, depth = todo.popleft()
        if id(value) in wanted:
            places.setdefault(id(value), place)
        if depth < _DEEPEST and id(value) not in seen and len(seen) < most:
            seen[id(value)] = value
            todo.extend((place + step, inner, depth + 1) for step, inner in _inside(value) if type(inner) not in _PLAIN)
    return places


def _attributes(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if type(value) not in _PLAIN and attribute not in _REGISTERS and "hook" not in attribute:
                yield f"{name}.{attribute}" if name else attribute, value


def _inside(value: Any) -> Iterator[tuple[str, Any]]:
    """The values inside a value, each with the code that would reach it, such as `[0]`."""
    # Not `isinstance`, which may run code of the object (`__class__`).
    cls = type(value)
    if issubclass(cls, (type, types.ModuleType)):
        return
    if issubclass(cls, _LISTED):
        yield from ((f"[{number}]", item) for number, item in enumerate(value) if type(item) not in _PLAIN)
    elif issubclass(cls, _MAPPED):
        for key, item in list(value.items()):
            yield f"[{key!r}]" if type(key) in _PLAIN else "[…]", item
            yield " (a key of it)", key
    elif issubclass(cls, functools.partial):
        yield from ((f"[{number}]", item) for number, item in enumerate((value.func, *value.args)))
        yield from ((f"[{number}]", item) for number, item in enumerate(value.keywords.values(), 1 + len(value.args)))
    elif issubclass(cls, _METHODS):
        yield " (a method of it)", value.__self__
        yield "", getattr(value, "__func__", None)
    elif issubclass(cls, types.FunctionType):
        yield from _variables(value)
    elif issubclass(cls, weakref.ref):
        yield "()", weakref.ref.__call__(value)
    if issubclass(cls, nn.Module) or str(cls.__module__).partition(".")[0] not in _OPAQUE:
        yield from _fields(value)


def _variables(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Values that a function captured: its closure and defaults."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f" (its variable {name})", cell.cell_contents
        except ValueError:
            continue  # Not assigned yet.
    defaults = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    yield from ((" (a default of it)", value) for value in defaults)


def _fields(value: Any) -> Iterator[tuple[str, Any]]:
    """An object's attributes, including slots, without running its code."""
    try:
        fields = object.__getattribute__(value, "__dict__")
    except AttributeError:
        fields = {}
    for name, field in list(fields.items()):
        if issubclass(type(value), nn.Module) and name in _REGISTERS:
            yield from ((f".{key}", inner) for key, inner in list(field.items()))
        else:
            yield f".{name}", field
    cls: Any = type(value)
    for name, slot in _slots(cls):
        try:
            yield f".{name}", slot.__get__(value)
        except AttributeError:
            continue  # Not assigned yet.


@functools.lru_cache(maxsize=1024)
def _slots(cls: Any) -> tuple[tuple[str, Any], ...]:
    return tuple(
        (name, slot)
        for ancestor in cls.__mro__
        if "__slots__" in vars(ancestor)
        for name, slot in vars(ancestor).items()
        if type(slot) is types.MemberDescriptorType
    )
