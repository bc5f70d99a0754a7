"""What the pane beside the tree tells of a row, as lines of styled text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from convinspect.browsing.model import Model
from convinspect.errors import ConvInspectError, spelled
from convinspect.kinds import shown_kind
from convinspect.layers.tree import Node, walk
from convinspect.records import Layer, Tensor
from convinspect.render.cells import count, safe, shape, size, wrap
from convinspect.render.style import GOOD, HEAD, NAME, QUIET, WARN
from convinspect.render.table import Styled
from convinspect.showing.flags import as_flag
from convinspect.showing.shapes import tags_of
from convinspect.text import plural

if TYPE_CHECKING:
    from convinspect.browsing.becoming import Prospects

Line = tuple[Styled, ...]

_LABEL = 10
_FEW = 12
"""Names and tensors that are listed; of more, their number."""


def error_line(error: BaseException) -> str:
    """What went wrong, in one line."""
    if isinstance(error, ConvInspectError):
        return f"error: {error.line(as_flag)}"
    if isinstance(error, MemoryError):
        return "error: there is not enough memory for that"
    return f"error: {type(error).__name__}: {error}"


def module_lines(model: Model, node: Node, width: int) -> list[Line]:
    """A module: its sums, and which kinds of layers it has."""
    layers = [layer for _, each in walk(node) for layer in each.layers]
    kinds: dict[str, int] = {}
    for layer in layers:
        kinds[layer.kind] = kinds.get(layer.kind, 0) + 1
    numbers = "numbers" if model.checkpoint.root.role == "optimizer" else "params"
    lines = [*_paragraph(node.path or "(root)", width, NAME)]
    lines += _fact("class", node.kind, width) if node.kind else []
    lines += _fact(numbers, count(node.parameters), width)
    lines += _fact("size", f"{size(node.nbytes)} in {plural(node.tensors, 'tensor')}", width)
    parts = [f"{kind} ×{number}" if number > 1 else kind for kind, number in kinds.items()]
    lines += _fact("layers", f"{count(len(layers))}: {', '.join(parts)}", width)
    return lines


def layer_lines(model: Model, layer: Layer, prospects: Prospects | None, width: int) -> list[Line]:
    """A layer: shapes, settings, tensors, ties, notes, and what it could become.

    Args:
        model: The file.
        layer: Any layer of it.
        prospects: What it could become; None while that is not known yet.
        width: Cells to wrap to.
    """
    lines = [*_paragraph(layer.name or "(root)", width, NAME)]
    lines += _fact("kind", f"{shown_kind(layer.kind, layer.tags)}{_evidence(layer)}", width)
    tags = ", ".join(tags_of(layer))
    lines += _fact("", tags, width, GOOD if layer.pointwise or layer.patch else WARN) if tags else []
    lines += _fact("weight", f"{shape(layer.weight.shape)} {layer.weight.dtype}", width)
    lines += _prospect_lines(prospects, width)
    lines += [line for label, text in _settings(layer) for line in _fact(label, text, width)]
    lines += _fact("size", f"{plural(layer.numel, 'number')}, {size(layer.nbytes)}", width)
    lines += _ties(layer, width)
    for note in layer.notes:
        lines += _fact("note", note, width, QUIET)
    lines += _tensor_lines(layer, width)
    return lines


def _evidence(layer: Layer) -> str:
    texts = {"module": " (its class is in the file)", "shape": "", "ambiguous": " (several kinds fit)"}
    return texts[layer.evidence]


def _settings(layer: Layer) -> Iterator[tuple[str, str]]:
    if layer.in_width is not None and layer.out_width is not None:
        yield "in → out", f"{layer.in_width} → {layer.out_width}"
    if layer.kernel_size:
        yield "kernel", "×".join(map(str, layer.kernel_size))
        known = [
            f"{name} {value if isinstance(value, (int, str)) else '×'.join(map(str, value))}"
            for name in ("stride", "padding", "dilation", "groups")
            if (value := getattr(layer, name)) is not None
        ]
        yield "settings", ", ".join(known) or "stride, padding and groups are not recorded"
    if layer.kind != "Parameter":
        yield "bias", "no" if layer.bias is None else shape(layer.bias.shape)
    if layer.norm:
        yield "norm", layer.norm.replace("_", " ")


def _prospect_lines(prospects: Prospects | None, width: int) -> list[Line]:
    if prospects is None:
        return []
    lines: list[Line] = []
    for each in prospects.possible:
        assumed = f", taking {', '.join(each.assumed)}" if each.assumed else ""
        lines += _fact("becomes", f"{each.to} {shape(each.shape)}{assumed}", width, GOOD)
        lines += _fact("c copies", each.command, width)
    if prospects.why_not:
        lines += _fact("stays", spelled(prospects.why_not, as_flag), width, WARN)
    return lines


def _ties(layer: Layer, width: int) -> list[Line]:
    if not layer.tied_to:
        return []
    more = len(layer.tied_to) - _FEW + layer.tied_to_more
    names = ", ".join(layer.tied_to[:_FEW]) + (f" and {count(more)} more" if more > 0 else "")
    return _fact("tied to", names, width)


def _tensor_lines(layer: Layer, width: int) -> list[Line]:
    tensors = list(layer.tensors.items())
    lines = [line for leaf, tensor in tensors[:_FEW] for line in _fact(leaf or "tensor", _described(tensor), width)]
    more = len(tensors) - _FEW
    return [*((Styled("tensors", HEAD),),), *lines, *(_fact("", f"and {count(more)} more", width) if more > 0 else [])]


def _described(tensor: Tensor) -> str:
    cut = "" if tensor.whole else ", cut"
    return f"{shape(tensor.shape)} {tensor.dtype}, {size(tensor.nbytes)}{cut}"


def _fact(label: str, text: str, width: int, style: str = "") -> list[Line]:
    """A label and its text, which is wrapped beside it; below it where the label is long."""
    label, text = safe(label), safe(text)
    room = max(width - _LABEL, 8)
    parts = [text[start:end] for start, end in wrap(text, room)]
    if len(label) >= _LABEL:
        return [(Styled(label, QUIET),), *((Styled(" " * _LABEL), Styled(part, style)) for part in parts)]
    labels = [label.ljust(_LABEL), *[" " * _LABEL] * (len(parts) - 1)]
    return [(Styled(head, QUIET), Styled(part, style)) for head, part in zip(labels, parts, strict=True)]


def _paragraph(text: str, width: int, style: str) -> list[Line]:
    text = safe(text)
    return [(Styled(text[start:end], style),) for start, end in wrap(text, max(width, 8))]
