"""Frozen TorchScript (`torch.jit.freeze`): weights without names, in `constants.pkl`, and code that uses them.

`forward` passes the constants to each operator (`torch.conv1d(x, CONSTANTS.c0, CONSTANTS.c1, [1], …)`). The call gives
a layer's weight, bias, kind and hyperparameters. `torch.jit.optimize_for_inference` stores the weights of Linear turned
over, as (in, out), and multiplies with them (`torch.matmul(x, CONSTANTS.c0)`). The source text is split at brackets and
commas; it is never run.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from convinspect.formats.pickle.machine import reader, walk
from convinspect.formats.pickle.values import Tuple
from convinspect.formats.torch.calls import OTHER, PADS, TRANSPOSED, TRANSPOSED_BY, Call, merged, same_kind, with_pad
from convinspect.formats.torch.native import is_native, stored_in
from convinspect.formats.torch.nodes import function_name
from convinspect.formats.torch.script import CONVOLUTIONS, bounded
from convinspect.formats.torch.tensors import tensor_of
from convinspect.formats.zip.archive import Archive
from convinspect.records import Module, Problem, Root, Storage, Tensor

RECORD = "constants.pkl"
NOTE = (
    "frozen TorchScript keeps no names: c0 is the layer whose weight its code calls CONSTANTS.c0, and what is known of"
    " it comes from that call"
)

_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'|([\w.]*)\(|[\[\]),]')
_CONSTANT = re.compile(r"\s*CONSTANTS\.c(\d{1,9})\s*")
_NAME, _INDENT = re.compile(r"\s*([A-Za-z_]\w*)\s*"), re.compile(r"\s*")
_ASSIGNED = re.compile(r"^ *(\w+) = (?=torch\.)", re.MULTILINE)
_LOST = "ops.prim.ConstantMKLDNNTensor("
_DEFAULTS = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
_NUMBER, _WORD = re.compile(r" *-?\d{1,9} *"), re.compile(r"[\"'](\w{1,20})[\"']")
_DEEPEST, _MOST_ARGUMENTS, _LONGEST_LIST = 10_000, 16, 100
_TURNS = frozenset({"t", "numpy_T", "transpose", "permute"})
_ADDS = frozenset({"add", "add_"})


class Frozen(NamedTuple):
    """What a frozen module keeps.

    Attributes:
        roots: The constants as a single root; empty if they hold no tensors.
        problems: Constants that its code uses and that the file does not hold.
    """

    roots: tuple[Root, ...]
    problems: tuple[Problem, ...]


class _Use(NamedTuple):
    """An operator's call with a constant.

    Attributes:
        operator: "conv1d", "linear", "matmul", ….
        weight: Number of the constant.
        bias: Number of the bias's constant; None without a bias.
        settings: Of a convolution, its arguments by name; of a matrix that is turned over, or used in another way than
            as a layer's weight, `weight` says so.
    """

    operator: str
    weight: int
    bias: int | None
    settings: dict[str, Any]


def read_frozen(archive: Archive, sources: Iterable[tuple[str, str]], byteorder: str) -> Frozen:
    """The constants as a root, with constants that an operator uses together under one name.

    Args:
        archive: The archive of a TorchScript module without parameters.
        sources: Name and text of each record of code.
        byteorder: Byte order of the storages.
    """
    tensors, packed = _constants(archive, byteorder)
    uses: dict[int, list[_Use]] = defaultdict(list)
    lost = 0
    for _, text in bounded(sources, archive.file.size):
        lost += text.count(_LOST)
        for use in _Code(text, tensors).uses():
            uses[use.weight].append(use)
    roots = _roots(tensors, {number: found for number, found in uses.items() if number in tensors}, packed)
    return Frozen(roots, (_lost(lost),) if lost else ())


def _lost(number: int) -> Problem:
    what = f"{number:,} MKLDNN constants, weights and biases of convolutions, are not in the file"
    return Problem(
        f"{what}, since torch.jit.save does not write them; torch.jit.load refuses the file",
        "save the module as it was before torch.jit.optimize_for_inference",
    )


def _roots(tensors: Mapping[int, Tensor], uses: Mapping[int, list[_Use]], packed: Sequence[Tensor]) -> tuple[Root, ...]:
    keys = {number: _weight_key(number, tensor) for number, tensor in tensors.items()}
    biases = {number: _bias(found) for number, found in uses.items()}
    # A bias that two layers share keeps its own name, since either layer's name would hide it from the other.
    sharers = Counter(biases.values())
    for number, bias in biases.items():
        if bias is not None and sharers[bias] == 1:
            keys[bias] = f"c{number}.bias"
    named = (*(tensor._replace(key=keys[number]) for number, tensor in tensors.items()), *packed)
    modules = {f"c{number}": _module(number, found, tensors[number]) for number, found in uses.items()}
    return (Root("", "model", named, modules),) if named else ()


def _weight_key(number: int, tensor: Tensor) -> str:
    """Key of a constant, as a weight if it has the dimensions of one."""
    return f"c{number}.weight" if len(tensor.shape) > 1 else f"c{number}"


def _bias(uses: list[_Use]) -> int | None:
    """The bias that all calls with a weight have; None if they differ."""
    found = {use.bias for use in uses}
    return found.pop() if len(found) == 1 else None


def _constants(archive: Archive, byteorder: str) -> tuple[dict[int, Tensor], list[Tensor]]:
    """The tensors among the constants, by number; and those within C++ objects, as of a layer of that number."""

    def storage_of(key: str, nbytes: int) -> Storage:
        return archive.storage(f"constants/{key}", nbytes, byteorder, key)

    data = archive.read(RECORD)
    value = walk(reader(data), 0, len(data), len(archive.records)).value
    tensors: dict[int, Tensor] = {}
    packed: list[Tensor] = []
    for number, item in enumerate(value.items if isinstance(value, Tuple) else ()):
        if is_native(item):
            # An LSTM's object holds those of its matrices, and is no single layer.
            name = function_name(item) or ""
            own = "._packed_params" if "LinearPackedParams" in name else "" if "PackedParams" in name else ".param"
            held = [tensor_of(part, key, storage_of) for key, part in stored_in(f"c{number}{own}", item)]
            packed += [tensor for tensor in held if tensor is not None]
            continue
        tensor = tensor_of(item, f"c{number}", storage_of)
        if tensor is not None:
            tensors[number] = tensor
    return tensors, packed


class _Called(NamedTuple):
    """A call in the text: where its name starts, and where each of its arguments starts and ends."""

    operator: str
    start: int
    arguments: tuple[tuple[int, int], ...]


class _Code:
    """The calls in a source text whose arguments are constants."""

    def __init__(self, text: str, tensors: Mapping[int, Tensor]) -> None:
        self._text = text
        self._tensors = tensors
        # Where the call starts that gives a variable its value.
        self._assigned = {found[1]: found.end() for found in _ASSIGNED.finditer(text)}
        self._pads: dict[int, tuple[Any, Any]] = {}
        self._turned: dict[int, int] = {}
        self._products: dict[int, int] = {}

    def uses(self) -> list[_Use]:
        """The uses of constants of at least two dimensions, each with the bias that it is given."""
        found: list[_Use] = []
        added: dict[int, int] = {}
        for called in self._calls():
            if called.operator in PADS:
                self._pads[called.start] = (self._literal(called, 1), self._literal(called, 2))
            elif called.operator in _TURNS and self._constant(called, 0) is not None:
                self._turned[called.start] = self._constant(called, 0) or 0
            elif called.operator in _ADDS and self._origin(called, 0) in self._products:
                bias = self._constant(called, 1)
                product = self._products[self._origin(called, 0)]
                if bias is not None and len(self._tensors[bias].shape) == 1:
                    added[product] = bias
            else:
                for use in self._of(called):
                    if use.settings.get("weight") == TRANSPOSED and use.bias is None:
                        self._products[called.start] = len(found)
                    found.append(use)
        return [use._replace(bias=added.get(number, use.bias)) for number, use in enumerate(found)]

    def _calls(self) -> Iterator[_Called]:
        """All calls and lists, the inner ones first; of a list the operator is ""."""
        calls: list[tuple[str, int, list[int]]] = []
        for token in _TOKENS.finditer(self._text):
            mark = token[0][-1]
            if mark in "([":
                if len(calls) == _DEEPEST:
                    return
                calls.append((token[1] or "", token.start(), [token.end()]))
            elif mark in ")]" and calls:
                name, start, starts = calls.pop()
                ends = [*(after - 1 for after in starts[1:]), token.start()]
                operator = name.removeprefix("torch.") if name.startswith("torch.") else ""
                # The first argument is the input, an expression that may contain all previous calls. It is not copied.
                yield _Called(operator, start, tuple(zip(starts, ends, strict=True)))
            elif mark == "," and calls and len(calls[-1][2]) < _MOST_ARGUMENTS:
                calls[-1][2].append(token.end())

    def _of(self, called: _Called) -> Iterator[_Use]:
        operator = called.operator
        for place in range(len(called.arguments)):
            number = self._constant(called, place)
            if number is None:
                number = self._turned.get(self._origin(called, place)) if operator in TRANSPOSED_BY else None
                if number is not None and place == TRANSPOSED_BY[operator]:
                    # Turned over twice, it is a Linear's weight as PyTorch keeps it.
                    yield _Use("linear", number, self._constant(called, 0) if operator == "addmm" else None, {})
                continue
            dims = len(self._tensors[number].shape)
            if operator in CONVOLUTIONS and place == 1:
                yield _Use(operator, number, self._constant(called, 2), self._settings(called, dims - 2))
            elif operator == "linear" and place == 1:
                yield _Use(operator, number, self._constant(called, 2), {})
            elif operator == "embedding" and place == 0:
                yield _Use(operator, number, None, {})
            elif TRANSPOSED_BY.get(operator) == place and dims == 2:
                bias = self._constant(called, 0) if operator == "addmm" else None
                yield _Use(operator, number, bias, {"weight": TRANSPOSED})
            elif dims > 1:
                yield _Use(operator or "a list", number, None, {"weight": OTHER})

    def _settings(self, called: _Called, dims: int) -> dict[str, Any]:
        settings = dict[str, Any](_DEFAULTS)
        for name, place in CONVOLUTIONS[called.operator].items():
            if place < len(called.arguments):
                settings[name] = self._literal(called, place)
        before = self._pads.get(self._origin(called, 0))
        # Which module pads is not in the code of a frozen module.
        return settings if before is None else with_pad(settings, *before, dims, own=False)

    def _constant(self, called: _Called, place: int) -> int | None:
        if place >= len(called.arguments):
            return None
        found = _CONSTANT.fullmatch(self._text, *called.arguments[place])
        return int(found[1]) if found and int(found[1]) in self._tensors else None

    def _origin(self, called: _Called, place: int) -> int:
        """Where the call starts that an argument is, or that the variable's value comes from; -1 if there is none."""
        if place >= len(called.arguments):
            return -1
        start, end = called.arguments[place]
        name = _NAME.fullmatch(self._text, start, end)
        if name is not None:
            return self._assigned.get(name[1], -1)
        indent = _INDENT.match(self._text, start, end)
        return indent.end() if indent else -1

    def _literal(self, called: _Called, place: int) -> Any:
        return _literal(self._text[slice(*called.arguments[place])]) if place < len(called.arguments) else None


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


def _module(number: int, uses: list[_Use], weight: Tensor) -> Module:
    calls = [_call(use, weight) for use in uses]
    if not same_kind(calls):
        operators = " and ".join(dict.fromkeys(use.operator for use in uses))
        return Module(f"c{number}", operators, {"weight": OTHER})
    settings, differ = merged(calls)
    return Module(f"c{number}", calls[0].class_name, settings | ({"calls": "differ"} if differ else {}))


def _call(use: _Use, weight: Tensor) -> Call:
    kind = use.operator
    if kind in ("linear", "embedding"):
        kind = kind.capitalize()
    elif kind in CONVOLUTIONS:
        transposed = use.settings.get("transposed") or "transpose" in kind
        kind = f"Conv{'Transpose' if transposed else ''}{len(weight.shape) - 2}d"
    return Call(kind, use.settings, f"torch.ops.aten.{kind}")
