"""Hyperparameters of TorchScript modules, read from the archive's source text. Nothing of it is run.

A scripted module's class lists its constants (`groups : Final[int] = 2`); a traced one does not, but its
`forward` calls the operator with literal arguments (`torch._convolution(x, weight, bias, [1], [0], …)`).
The text is parsed by `ast`, which builds a syntax tree and evaluates nothing.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

# Positions of (stride, padding, dilation, groups) after (input, weight, bias), from the operators' schemas in
# PyTorch's aten/src/ATen/native/native_functions.yaml.
CONVOLUTIONS = {
    "_convolution": {"stride": 3, "padding": 4, "dilation": 5, "transposed": 6, "groups": 8},
    "convolution": {"stride": 3, "padding": 4, "dilation": 5, "transposed": 6, "groups": 8},
    "_convolution_mode": {"stride": 3, "padding": 4, "dilation": 5, "groups": 6},
    "conv1d": {"stride": 3, "padding": 4, "dilation": 5, "groups": 6},
    "conv2d": {"stride": 3, "padding": 4, "dilation": 5, "groups": 6},
    "conv3d": {"stride": 3, "padding": 4, "dilation": 5, "groups": 6},
    "conv_transpose1d": {"stride": 3, "padding": 4, "groups": 6, "dilation": 7},
    "conv_transpose2d": {"stride": 3, "padding": 4, "groups": 6, "dilation": 7},
    "conv_transpose3d": {"stride": 3, "padding": 4, "groups": 6, "dilation": 7},
}
_AT_A_CLASS = re.compile(r"^(?=class )", re.MULTILINE)
_LONGEST_CLASS = 100_000
"""Characters; each may become 900 bytes of syntax tree. A class that is longer than that is one big graph, in whose
many operators no single convolution would be found."""
_LONGEST_SOURCES = 8_000_000
"""Characters of all sources that are looked at, at most."""
_SOURCE_PER_BYTE = 50
"""Of them for each byte of the file: code packs five- to tenfold, and there are weights beside it."""


def class_name(qualified: str) -> str:
    """`__torch__.torch.nn.modules.conv.___torch_mangle_0.Conv1d` → `torch.nn.modules.conv.Conv1d`."""
    parts = qualified.removeprefix("__torch__.").split(".")
    return ".".join(part for part in parts if not part.startswith("___torch_mangle"))


def class_constants(sources: Iterable[tuple[str, str]], file_size: int) -> dict[str, dict[str, Any]]:
    """Constants of every class, by qualified name (`__torch__.torch.nn.modules.conv.Conv1d`).

    Args:
        sources: Name and text of each `code/….py` record; one at a time is asked for, and let go.
        file_size: Bytes of the file, which bound how much text is looked at.
    """
    found: dict[str, dict[str, Any]] = {}
    for record, text in bounded(sources, file_size):
        module = record.removeprefix("code/").removesuffix(".py").replace("/", ".")
        for node in _classes(text):
            found[f"{module}.{node.name}"] = _constants(node)
    return found


def bounded(sources: Iterable[tuple[str, str]], file_size: int) -> Iterator[tuple[str, str]]:
    """The first of the sources, as many as a file of that size may have."""
    left = min(_LONGEST_SOURCES, _SOURCE_PER_BYTE * file_size)
    for record, text in sources:
        left -= len(text)
        if left < 0:
            return
        yield record, text


def _classes(text: str) -> Iterator[ast.ClassDef]:
    """The classes at the text's left margin, each parsed by itself and let go."""
    for part in _AT_A_CLASS.split(text):
        if part.startswith("class ") and len(part) <= _LONGEST_CLASS:
            yield from (node for node in _parsed(part) if isinstance(node, ast.ClassDef))


def _parsed(text: str) -> list[ast.stmt]:
    try:
        with warnings.catch_warnings():
            # What the parser finds odd, it would print.
            warnings.simplefilter("ignore")
            return ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []


def _constants(node: ast.ClassDef) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            _keep_literal(values, statement.target.id, statement.value)
        elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            # What of its tensors are parameters and what are buffers; the others are plain attributes.
            _keep_literal(values, statement.targets[0].id, statement.value)
    if "stride" not in values:
        values |= _called_convolution(node)
    return values


def _keep_literal(values: dict[str, Any], name: str, node: ast.expr | None) -> None:
    if node is None:
        return
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return
    values[name] = tuple(value) if isinstance(value, list) else value


def _called_convolution(node: ast.ClassDef) -> dict[str, Any]:
    """Literal arguments of the class's only convolution; nothing when there are several."""
    calls = [call for call in ast.walk(node) if isinstance(call, ast.Call) and _operator(call) in CONVOLUTIONS]
    if len(calls) != 1:
        return {}
    values: dict[str, Any] = {}
    for name, position in CONVOLUTIONS[_operator(calls[0])].items():
        if position < len(calls[0].args):
            _keep_literal(values, name, calls[0].args[position])
    return values


def _operator(call: ast.Call) -> str:
    function = call.func
    is_torch = isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name)
    return function.attr if is_torch and function.value.id == "torch" else ""  # type: ignore[attr-defined]
