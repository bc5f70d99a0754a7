"""Frozen TorchScript (`torch.jit.freeze`): weights without names, in `constants.pkl`, and code that uses them.

`forward` passes the constants to each operator (`torch.conv1d(x, CONSTANTS.c0, CONSTANTS.c1, [1], …)`). The call gives
a layer's weight, bias, kind and hyperparameters. The source text is split at brackets and commas; it is never run.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from convinspect.formats.pickle.machine import reader, walk
from convinspect.formats.pickle.values import Tuple
from convinspect.formats.torch.script import CONVOLUTIONS, bounded
from convinspect.formats.torch.tensors import tensor_of
from convinspect.formats.zip.archive import Archive
from convinspect.records import Module, Root, Tensor

RECORD = "constants.pkl"
NOTE = (
    "frozen TorchScript keeps no names: c0 is the layer whose weight its code calls CONSTANTS.c0, and what is known of"
    " it comes from that call"
)

_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'|([\w.]*)\(|[\[\]),]')
_CONSTANT = re.compile(r"\s*CONSTANTS\.c(\d{1,9})\s*")
_DEFAULTS = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
_NUMBER, _WORD = re.compile(r" *-?\d{1,9} *"), re.compile(r"[\"'](\w{1,20})[\"']")
_DEEPEST, _MOST_ARGUMENTS, _LONGEST_LIST = 10_000, 16, 100


class _Use(NamedTuple):
    """An operator's call with constants as weight and bias.

    Attributes:
        operator: "conv1d", "linear", ….
        weight: Number of the weight's constant.
        bias: Number of the bias's constant; None without a bias.
        settings: Literal arguments by name.
    """

    operator: str
    weight: int
    bias: int | None
    settings: dict[str, Any]


def frozen_roots(archive: Archive, sources: Iterable[tuple[str, str]], byteorder: str) -> tuple[Root, ...]:
    """The constants as a single root, with constants that an operator uses together under one name.

    Args:
        archive: The archive of a TorchScript module without parameters.
        sources: Name and text of each record of code.
        byteorder: Byte order of the storages.

    Returns:
        The root; empty if the constants hold no tensors.
    """
    tensors = _constants(archive, byteorder)
    uses: dict[int, _Use] = {}
    unclear: set[int] = set()
    for _, text in bounded(sources, archive.file.size):
        for use in _uses(text):
            if use.weight in tensors and uses.setdefault(use.weight, use) != use:
                unclear.add(use.weight)
    keys = {number: _weight_key(number, tensor) for number, tensor in tensors.items()}
    clear = {number: use for number, use in uses.items() if number not in unclear}
    # A bias that two layers share keeps its own name, since either layer's name would hide it from the other.
    sharers = Counter(use.bias for use in clear.values())
    for number, use in clear.items():
        if use.bias in tensors and sharers[use.bias] == 1:
            keys[use.bias] = f"c{number}.bias"
    named = tuple(tensor._replace(key=keys[number]) for number, tensor in tensors.items())
    modules = {f"c{number}": _module(use, tensors[number]) for number, use in clear.items()}
    return (Root("", "model", named, modules),) if named else ()


def _weight_key(number: int, tensor: Tensor) -> str:
    """Key of a constant, as a weight if it has the dimensions of one."""
    return f"c{number}.weight" if len(tensor.shape) > 1 else f"c{number}"


def _constants(archive: Archive, byteorder: str) -> dict[int, Tensor]:
    """The tensors among the constants, by number."""
    data = archive.read(RECORD)
    value = walk(reader(data), 0, len(data), len(archive.records)).value
    tensors = {}
    for number, item in enumerate(value.items if isinstance(value, Tuple) else ()):
        tensor = tensor_of(
            item, f"c{number}", lambda key, nbytes: archive.storage(f"constants/{key}", nbytes, byteorder, key)
        )
        if tensor is not None:
            tensors[number] = tensor
    return tensors


def _uses(text: str) -> Iterator[_Use]:
    """The calls of layer operators in a source text whose weight is a constant."""
    calls: list[tuple[str, list[int]]] = []
    for token in _TOKENS.finditer(text):
        mark = token[0][-1]
        if mark in "([":
            if len(calls) == _DEEPEST:
                return
            calls.append((token[1] or "", [token.end()]))
        elif mark in ")]" and calls:
            name, starts = calls.pop()
            operator = name.removeprefix("torch.")
            if name != operator and (operator in CONVOLUTIONS or operator == "linear") and len(starts) > 1:
                ends = [*(start - 1 for start in starts[1:]), token.start()]
                # The first argument is the input, an expression that may contain all previous calls. It is not copied.
                use = _use(operator, ["", *(text[a:b] for a, b in zip(starts[1:], ends[1:], strict=True))])
                if use is not None:
                    yield use
        elif mark == "," and calls and len(calls[-1][1]) < _MOST_ARGUMENTS:
            calls[-1][1].append(token.end())


def _use(operator: str, arguments: list[str]) -> _Use | None:
    weight = _CONSTANT.fullmatch(arguments[1])
    if weight is None:
        return None
    bias = _CONSTANT.fullmatch(arguments[2]) if len(arguments) > 2 else None
    settings = dict[str, Any](_DEFAULTS) if operator in CONVOLUTIONS else {}
    for name, place in CONVOLUTIONS.get(operator, {}).items():
        if place < len(arguments):
            settings[name] = _literal(arguments[place])
    return _Use(operator, int(weight[1]), int(bias[1]) if bias else None, settings)


def _literal(text: str) -> Any:
    """A number, a boolean, a word in quotes or a list of numbers; None for anything else."""
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return int(text)
    if text in ("True", "False"):
        return text == "True"
    word = _WORD.fullmatch(text)
    if word:
        return word[1]
    numbers = text[1:-1].split(",") if text[:1] == "[" and text[-1:] == "]" and len(text) < _LONGEST_LIST else []
    return tuple(map(int, numbers)) if numbers and all(map(_NUMBER.fullmatch, numbers)) else None


def _module(use: _Use, weight: Tensor) -> Module:
    if use.operator == "linear":
        kind = "Linear"
    else:
        transposed = use.settings.get("transposed") or "transpose" in use.operator
        kind = f"Conv{'Transpose' if transposed else ''}{len(weight.shape) - 2}d"
    return Module(f"c{use.weight}", f"torch.ops.aten.{kind}", use.settings)
