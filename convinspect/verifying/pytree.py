"""What a model gives, whatever it is nested in → numbers, plain values, and what nobody can hold against anything."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import fractions
import pathlib
import types
import uuid
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
import torch

_PLAIN = (
    int, str, bytes, bytearray, type(None), enum.Enum, range, slice, type, torch.dtype, torch.device, torch.layout,
    torch.memory_format, np.dtype, pathlib.PurePath, uuid.UUID, decimal.Decimal, fractions.Fraction, datetime.date,
    datetime.time, datetime.timedelta,
)  # fmt: skip
"""What is compared by equality; bool is an int. Floating numbers are no part of it: they may differ by rounding."""
_DEEPEST = 64


@dataclasses.dataclass(slots=True)
class Leaves:
    """A result's parts, by their place in its tuples, lists, dictionaries and dataclasses.

    Attributes:
        tensors: All floating and complex numbers, tensors and arrays; a Python float as a tensor of shape ().
        plain: Whole numbers, text, None and the like; of an empty container, its class.
        other: The class's name of each part that is none of these.
    """

    tensors: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    plain: dict[str, Any] = dataclasses.field(default_factory=dict)
    other: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def places(self) -> dict[str, str]:
        """Every place, with which of the three its part is."""
        kinds = {"tensor": self.tensors, "plain": self.plain, "other": self.other}
        return {place: kind for kind, held in kinds.items() for place in held}


def leaves(result: Any) -> Leaves:
    """The parts of a model's result; no part is left out."""
    found = Leaves()
    _collect(result, "", (), found)
    return found


def _collect(value: Any, place: str, above: tuple[int, ...], found: Leaves) -> None:
    tensors = _as_tensors(value)
    if tensors is not None:
        for at, one in tensors:
            found.tensors[_free(_below(place, at) or "output", found)] = one
        return
    if isinstance(value, _PLAIN):
        found.plain[_free(place or "output", found)] = value
        return
    # What holds itself has no end.
    parts = None if len(above) == _DEEPEST or id(value) in above else _parts(value)
    if parts is None:
        found.other[_free(place or "output", found)] = type(value).__name__
    elif not parts:
        found.plain[_free(place or "output", found)] = type(value)
    else:
        for name, part in parts:
            _collect(part, _below(place, name), (*above, id(value)), found)


def _below(place: str, name: str) -> str:
    return f"{place}.{name}" if place and name else place or name


def _free(place: str, found: Leaves) -> str:
    """The place, numbered where another part has it: keys 1 and "1" read the same."""
    number, new = 2, place
    while new in found.tensors or new in found.plain or new in found.other:
        number, new = number + 1, f"{place} ({number})"
    return new


def _as_tensors(value: Any) -> list[tuple[str, torch.Tensor]] | None:
    """Numbers as strided tensors, several for a nested tensor; None for what is no number."""
    if isinstance(value, torch.Tensor):
        try:
            if value.is_nested:
                return [(str(number), one) for number, one in enumerate(value.unbind())]
            if value.is_quantized:
                return [("", value.dequantize())]
            return [("", value if value.layout == torch.strided else value.to_dense())]
        except (RuntimeError, NotImplementedError):
            return None
    if isinstance(value, float | complex) and not isinstance(value, np.generic):
        return [("", torch.tensor(value, dtype=torch.complex128 if isinstance(value, complex) else torch.float64))]
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufc":
        try:
            return [("", torch.from_numpy(np.array(value, order="C")))]
        except TypeError:
            # Of long double and the like PyTorch has nothing.
            return None
    return None


def _parts(value: Any) -> list[tuple[str, Any]] | None:
    """What a container holds, by name; None for what is no container."""
    if isinstance(value, Mapping):
        return [(str(key), one) for key, one in value.items()]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(one.name, getattr(value, one.name)) for one in dataclasses.fields(value)]
    if hasattr(type(value), "__attrs_attrs__"):
        return [(one.name, getattr(value, one.name)) for one in type(value).__attrs_attrs__]
    if isinstance(value, types.SimpleNamespace):
        return list(vars(value).items())
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "OSUMm":
        flat = value.reshape(-1).tolist()
        # A scalar of these kinds may give itself back.
        known = value.dtype.kind not in "Mm" or all(isinstance(one, _PLAIN) for one in flat)
        return [("shape", value.shape), *_listed(flat)] if known else None
    if isinstance(value, AbstractSet) and all(isinstance(one, _PLAIN) for one in value):
        return _listed(sorted(value, key=repr))
    return _listed(value) if isinstance(value, Sequence) else None


def _listed(values: Sequence[Any]) -> list[tuple[str, Any]]:
    return [(str(number), one) for number, one in enumerate(values)]


def unequal(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Places of plain parts that are not equal, with what became of them; both have the same places."""
    for place, one in before.items():
        other = after[place]
        if type(one) is not type(other) or one != other:
            yield place, f"{_short(one)} became {_short(other)}"


def _short(value: Any) -> str:
    text = value.__name__ if isinstance(value, type) else repr(value)
    return text if len(text) < 60 else f"{text[:40]}… ({len(text):,} characters)"
