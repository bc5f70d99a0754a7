"""A model's nested result → tensors, plain values, and parts that cannot be compared, by place."""

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
from typing import Any, NamedTuple

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
        other: Class names of the parts that are neither.
    """

    tensors: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    plain: dict[str, Any] = dataclasses.field(default_factory=dict)
    other: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def places(self) -> dict[str, str]:
        """Every place, with the kind of its part."""
        kinds = {"tensor": self.tensors, "plain": self.plain, "other": self.other}
        return {place: kind for kind, parts in kinds.items() for place in parts}


def leaves(result: Any) -> Leaves:
    """The parts of a model's result; no part is left out."""
    parts = Leaves()
    for place, part in _collect(result, "", ()):
        place = _unused(place or "output", parts)
        if isinstance(part, _Number):
            parts.tensors[place] = part.tensor
        elif isinstance(part, _Other):
            parts.other[place] = part.class_name
        else:
            parts.plain[place] = part
    return parts


class _Number(NamedTuple):
    """A part that holds numbers."""

    tensor: torch.Tensor


class _Other(NamedTuple):
    """A part that cannot be compared."""

    class_name: str


def _collect(value: Any, place: str, above: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
    """Parts by place, in order; `above` are the ids of the containers that a part lies in."""
    tensors = _as_tensors(value)
    if tensors is not None:
        yield from ((_below(place, name), _Number(tensor)) for name, tensor in tensors)
        return
    if isinstance(value, _PLAIN):
        yield place, value
        return
    # A container inside itself is not followed.
    parts = None if len(above) == _DEEPEST or id(value) in above else _parts(value)
    if parts is None:
        yield place, _Other(type(value).__name__)
    elif not parts:
        yield place, type(value)
    else:
        for name, part in parts:
            yield from _collect(part, _below(place, name), (*above, id(value)))


def _below(place: str, name: str) -> str:
    return f"{place}.{name}" if place and name else place or name


def _unused(place: str, parts: Leaves) -> str:
    """The place, numbered where another part has it: keys 1 and "1" read the same."""
    number, new = 2, place
    while new in parts.tensors or new in parts.plain or new in parts.other:
        number, new = number + 1, f"{place} ({number})"
    return new


def _as_tensors(value: Any) -> list[tuple[str, torch.Tensor]] | None:
    """A number or array as strided tensors, several for a nested tensor; None for other values."""
    if isinstance(value, torch.Tensor):
        try:
            if value.is_nested:
                return [(str(number), tensor) for number, tensor in enumerate(value.unbind())]
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
            # PyTorch has no long double.
            return None
    return None


def _parts(value: Any) -> list[tuple[str, Any]] | None:
    """The parts of a container by name; None for other values."""
    if isinstance(value, Mapping):
        return [(str(key), part) for key, part in value.items()]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    if hasattr(type(value), "__attrs_attrs__"):
        return [(field.name, getattr(value, field.name)) for field in type(value).__attrs_attrs__]
    if isinstance(value, types.SimpleNamespace):
        return list(vars(value).items())
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "OSUMm":
        flat = value.reshape(-1).tolist()
        # `tolist` of these kinds may return the same scalars.
        known = value.dtype.kind not in "Mm" or all(isinstance(scalar, _PLAIN) for scalar in flat)
        return [("shape", value.shape), *_numbered(flat)] if known else None
    if isinstance(value, AbstractSet) and all(isinstance(member, _PLAIN) for member in value):
        return _numbered(sorted(value, key=repr))
    return _numbered(value) if isinstance(value, Sequence) else None


def _numbered(values: Sequence[Any]) -> list[tuple[str, Any]]:
    return [(str(number), value) for number, value in enumerate(values)]


def unequal(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Places where plain parts differ, with a description; both mappings have the same places."""
    for place, old in before.items():
        new = after[place]
        if type(old) is not type(new) or old != new:
            yield place, f"{_shortened(old)} became {_shortened(new)}"


def _shortened(value: Any) -> str:
    """A value as text, shortened if it is long."""
    text = value.__name__ if isinstance(value, type) else repr(value)
    return text if len(text) < 60 else f"{text[:40]}… ({len(text):,} characters)"
