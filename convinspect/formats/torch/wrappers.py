"""Tensor subclasses that keep other tensors, so that their shape stands in more than one place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from convinspect.formats.pickle.values import Call, Dict, Global, Tuple
from convinspect.records import Tensor

_DEEPEST, _MOST = 6, 40
"""Levels and parts of a setting that are written out."""


def is_wrapped(tensor: Tensor) -> bool:
    """Whether it is a Tensor subclass around other tensors: a DTensor, a quantized one of torchao, any other."""
    return tensor.subclass is not None and (tensor.layout == "wrapped" or bool(tensor.parts))


def is_dtensor(tensor: Tensor) -> bool:
    """Whether it is PyTorch's DTensor, whose module has moved twice."""
    name = tensor.subclass or ""
    return name.startswith("torch.distributed.") and name.endswith(".DTensor")


def is_torchao(tensor: Tensor) -> bool:
    """Whether it is one of torchao's classes, which copy only what has the same settings."""
    return (tensor.subclass or "").startswith("torchao.")


def settings_of(tensor: Tensor) -> dict[str, str]:
    """How one of torchao's tensors is to be used, by attribute, and the shapes of the tensors in it."""
    pairs = (line.partition("=") for line in tensor.quantizer.splitlines())
    shapes = {part.key.rpartition(".")[2]: str(part.shape) for part in tensor.parts}
    return {name: value for name, _, value in pairs} | shapes


def settings_apart(tensor: Tensor, other: Tensor) -> str:
    """What one of torchao's tensors has for the settings in which another differs: "act_quant_kwargs None"."""
    own, theirs = settings_of(tensor), settings_of(other)
    differing = (name for name in sorted({*own, *theirs}) if own.get(name) != theirs.get(name))
    return ", ".join(f"{name} {_short(own.get(name, 'None'))}" for name in differing)


def _short(value: str) -> str:
    """A setting in a word: of a call, what is called."""
    called, bracket, _ = value.partition("(")
    return f"{called.rpartition('.')[2]}(…)" if bracket and called else value


def settings_text(attributes: Mapping[Any, Any], tensors: Iterable[str]) -> str:
    """The attributes of one of torchao's tensors that are no tensors, a line each; those that are None are left out.

    Files of older versions lack attributes that are None today (`__setstate__` of torchao's `TorchAOBaseTensor`).
    """
    inner = set(tensors)
    named = ((str(name), value) for name, value in attributes.items() if value is not None)
    return "\n".join(f"{name}={_text(value, 0)}" for name, value in sorted(named, key=_first) if name not in inner)


def _first(pair: tuple[str, Any]) -> str:
    return pair[0]


def _text(value: Any, depth: int) -> str:
    """What a pickle's value is, on one line; of a deep or long one the beginning."""
    if depth > _DEEPEST:
        return "…"
    if isinstance(value, Global):
        return value.qualified
    if isinstance(value, Tuple | list):
        items = value if isinstance(value, list) else value.items
        inner = ", ".join(_text(item, depth + 1) for item in items[:_MOST])
        return f"[{inner}]" if isinstance(value, list) else f"({inner})"
    if isinstance(value, Dict):
        pairs = (f"{_text(key, depth + 1)}: {_text(each, depth + 1)}" for key, each in value.pairs[:_MOST])
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, Call):
        parts = [_text(value.args, depth + 1), *(_text(state, depth + 1) for state in value.states[:_MOST])]
        return f"{_text(value.function, depth + 1)}{''.join(parts)}"
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return repr(value)[:200]
    return type(value).__name__
