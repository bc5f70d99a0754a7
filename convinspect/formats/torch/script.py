"""Hyperparameters of TorchScript modules, read from the archive's source text without running it.

A scripted module's class lists its constants (`groups : Final[int] = 2`); a traced one does not, but its
`forward` calls the operator with literal arguments (`torch._convolution(x, weight, bias, [1], [0], …)`).
The text is parsed by `ast`, which builds a syntax tree and evaluates nothing.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from convinspect.formats.torch.calls import PADS, with_pad

# Positions of the settings after (input, weight, bias), from the operators' schemas in
# PyTorch's aten/src/ATen/native/native_functions.yaml.
CONVOLUTIONS = {
    "_convolution": {"stride": 3, "padding": 4, "dilation": 5, "transposed": 6, "output_padding": 7, "groups": 8},
    "convolution": {"stride": 3, "padding": 4, "dilation": 5, "transposed": 6, "output_padding": 7, "groups": 8},
    "_convolution_mode": {"stride": 3, "padding": 4, "dilation": 5, "groups": 6},
    "conv1d": {"stride": 3, "padding": 4, "dilation": 5, "groups": 6},
    "conv2d": {"stride": 3, "padding": 4, "dilation": 5, "groups": 6},
    "conv3d": {"stride": 3, "padding": 4, "dilation": 5, "groups": 6},
    "conv_transpose1d": {"stride": 3, "padding": 4, "output_padding": 5, "groups": 6, "dilation": 7},
    "conv_transpose2d": {"stride": 3, "padding": 4, "output_padding": 5, "groups": 6, "dilation": 7},
    "conv_transpose3d": {"stride": 3, "padding": 4, "output_padding": 5, "groups": 6, "dilation": 7},
}
_AT_A_CLASS = re.compile(r"^(?=class )", re.MULTILINE)
_LONGEST_CLASS = 100_000
"""Characters. Each may take up to 900 bytes of syntax tree. A longer class is one large graph of many operators, from
which no single convolution could be told."""
_LONGEST_SOURCES = 8_000_000
"""Characters of all sources together that are read at most."""
_SOURCE_PER_BYTE = 50
"""Characters of source that are allowed per byte of the file. Code compresses five- to tenfold, and the file holds the
weights too."""


def class_name(qualified: str) -> str:
    """`__torch__.torch.nn.modules.conv.___torch_mangle_0.Conv1d` → `torch.nn.modules.conv.Conv1d`."""
    parts = qualified.removeprefix("__torch__.").split(".")
    return ".".join(part for part in parts if not part.startswith("___torch_mangle"))


def class_constants(sources: Iterable[tuple[str, str]], file_size: int) -> dict[str, dict[str, Any]]:
    """Constants of every class, by qualified name (`__torch__.torch.nn.modules.conv.Conv1d`).

    Args:
        sources: Name and text of each `code/….py` record. They are consumed one at a time.
        file_size: Bytes of the file, which limit how much text is read.
    """
    constants: dict[str, dict[str, Any]] = {}
    for record, text in bounded(sources, file_size):
        module = record.removeprefix("code/").removesuffix(".py").replace("/", ".")
        for node in _classes(text):
            constants[f"{module}.{node.name}"] = _constants(node)
    return constants


def bounded(sources: Iterable[tuple[str, str]], file_size: int) -> Iterator[tuple[str, str]]:
    """The first sources, up to the number of characters that a file of that size may have."""
    left = min(_LONGEST_SOURCES, _SOURCE_PER_BYTE * file_size)
    for record, text in sources:
        left -= len(text)
        if left < 0:
            return
        yield record, text


def _classes(text: str) -> Iterator[ast.ClassDef]:
    """The top-level classes of a source text. Each is parsed separately, so that memory holds one syntax tree."""
    for part in _AT_A_CLASS.split(text):
        if part.startswith("class ") and len(part) <= _LONGEST_CLASS:
            yield from (node for node in _parsed(part) if isinstance(node, ast.ClassDef))


def _parsed(text: str) -> list[ast.stmt]:
    try:
        with warnings.catch_warnings():
            # The parser would print a warning for an invalid escape and the like.
            warnings.simplefilter("ignore")
            return ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []


def _constants(node: ast.ClassDef) -> dict[str, Any]:
    """The literal values that a class assigns, and those of its convolution's call unless it assigns a stride."""
    values = _literals(_assignments(node))
    if node.name == "_SpectralNorm":
        return values | {"dim": _first_dimension(node)}
    return values if "stride" in values else values | _called_convolution(node)


def _assignments(node: ast.ClassDef) -> Iterator[tuple[str, ast.expr | None]]:
    """Name and value of each assignment in a class's body."""
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            yield statement.target.id, statement.value
        elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            # `__parameters__` and `__buffers__` are among these.
            yield statement.targets[0].id, statement.value


def _literals(expressions: Iterable[tuple[str, ast.expr | None]]) -> dict[str, Any]:
    """The values of the literal expressions, by name; lists become tuples. Other expressions are skipped."""
    values: dict[str, Any] = {}
    for name, node in expressions:
        if node is not None:
            with suppress(ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
                value = ast.literal_eval(node)
                values[name] = tuple(value) if isinstance(value, list) else value
    return values


def _called_convolution(node: ast.ClassDef) -> dict[str, Any]:
    """Literal arguments of the class's only call of a convolution; empty unless there is exactly one."""
    every = [call for call in ast.walk(node) if isinstance(call, ast.Call)]
    calls = [call for call in every if _operator(call) in CONVOLUTIONS]
    if len(calls) != 1:
        return {}
    arguments, positions = calls[0].args, CONVOLUTIONS[_operator(calls[0])]
    values = _literals((name, arguments[position]) for name, position in positions.items() if position < len(arguments))
    if len(arguments) > 1 and _is_own_weight(arguments[1]):
        values["called"] = _operator(calls[0])
    pads = [call for call in every if _operator(call) in PADS]
    return _with_pads(values, pads) if pads else values


def _is_own_weight(node: ast.expr) -> bool:
    """Whether an argument is `weight`, as `weight = self.weight` calls it, or `self.weight`."""
    return getattr(node, "id", getattr(node, "attr", "")) == "weight"


def _with_pads(values: dict[str, Any], pads: list[ast.Call]) -> dict[str, Any]:
    """A convolution's arguments with the padding of the same class's pads, which are part of the layer."""
    parts = dict(enumerate(pads[0].args))
    amounts = _literals([("pad", parts.get(1)), ("mode", parts.get(2))])
    padding = values.get("padding")
    dims = len(padding) if isinstance(padding, tuple) else 0
    if len(pads) > 1 or not dims:
        return {**values, "padding": None, "padded": "layer"}
    return with_pad(values, amounts.get("pad"), amounts.get("mode"), dims, own=True)


def _first_dimension(node: ast.ClassDef) -> Any:
    """Which dimension of the weight its code puts first; without a call of `permute` it is the weight's own first.

    `_SpectralNorm._reshape_weight_to_matrix` permutes the weight unless its `dim` is 0.
    """
    calls = [call for call in ast.walk(node) if isinstance(call, ast.Call) and _operator(call) == "permute"]
    if not calls:
        return 0
    order = _literals([("order", call.args[1]) for call in calls if len(call.args) > 1]).get("order")
    return order[0] if len(calls) == 1 and isinstance(order, tuple) and order else None


def _operator(call: ast.Call) -> str:
    function = call.func
    is_torch = isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name)
    return function.attr if is_torch and function.value.id == "torch" else ""  # type: ignore[attr-defined]
