"""Where a live model holds modules and weights outside the registers that PyTorch keeps of them.

A layer in a plain list (`self.layers = [a, b]`), a bound method (`self.f = self.conv.forward`) or a weight kept for a
penalty (`self.decayed = [self.conv.weight]`) goes on being used after the layer was replaced, and would neither train
nor move with the model.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

_REGISTERS = {"_modules", "_parameters", "_buffers"}
_DEEPEST = 4
_PLAIN = frozenset({type(None), bool, int, float, str, bytes})
"""Types of most attributes, which hold nothing and need no place."""


def held_elsewhere(model: nn.Module, wanted: set[int]) -> dict[int, str]:
    """Places outside PyTorch's registers that hold certain modules or parameters.

    Args:
        model: Searched with all its modules: their attributes, and lists, tuples, sets, dictionaries, bound methods
            and partial functions in these.
        wanted: Ids of what is looked for.

    Returns:
        By id, the first place, as code would write it: "encoder.layers[0]".
    """
    found: dict[int, str] = {}
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if type(value) not in _PLAIN and attribute not in _REGISTERS and "hook" not in attribute:
                for place, held in _within(value, f"{name}.{attribute}" if name else attribute, 0):
                    if id(held) in wanted:
                        found.setdefault(id(held), place)
    return found


def _within(value: Any, place: str, depth: int) -> Iterator[tuple[str, Any]]:
    """What a value holds, itself included."""
    yield place, value
    if depth == _DEEPEST or isinstance(value, str | bytes):
        return
    if isinstance(value, list | tuple | set | frozenset):
        for number, one in enumerate(value):
            if type(one) not in _PLAIN:
                yield from _within(one, f"{place}[{number}]", depth + 1)
    elif isinstance(value, Mapping):
        for key, one in list(value.items()):
            if type(one) not in _PLAIN:
                yield from _within(one, f"{place}[{key!r}]", depth + 1)
    elif isinstance(value, functools.partial):
        yield from _within((value.func, *value.args, *value.keywords.values()), place, depth + 1)
    elif hasattr(value, "__self__") and callable(value):
        yield from _within(value.__self__, f"{place} (a method of it)", depth + 1)
