"""What the pane beside the tree tells of a row, as lines of styled text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from convinspect.browsing.model import Model
from convinspect.errors import ConvInspectError, spelled
from convinspect.kinds import TRANSFORMERS_CONV1D, shown_kind
from convinspect.layers.tree import Node, walk
from convinspect.records import Layer, Tensor
from convinspect.render.cells import count, safe, shape, size, wrap
from convinspect.render.style import GOOD, HEAD, NAME, QUIET, WARN
from convinspect.render.table import Styled
from convinspect.showing.flags import as_flag
from convinspect.showing.shapes import tags_of
from convinspect.text import plural

if TYPE_CHECKING:
    from convinspect.converting.possible import Change, Possible

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


def layer_lines(model: Model, layer: Layer, possible: Possible | None, width: int) -> list[Line]:
    """A layer: shapes, settings, tensors, ties, notes, and what it could become.

    Args:
        model: The file.
        layer: Any layer of it.
        possible: What it could become; None while that is not known yet.
        width: Cells to wrap to.
    """
    lines = [*_paragraph(layer.name or "(root)", width, NAME)]
    lines += _fact("kind", f"{shown_kind(layer.kind, layer.tags)}{_evidence(layer)}", width)
    tags = ", ".join(tags_of(layer))
    lines += _fact("", tags, width, GOOD if layer.pointwise or layer.patch else WARN) if tags else []
    lines += _fact("weight", f"{shape(layer.weight.shape)} {layer.weight.dtype}", width)
    lines += _possible_lines(model, layer, possible, width) if possible is not None else []
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


def _possible_lines(model: Model, layer: Layer, possible: Possible, width: int) -> list[Line]:
    changes = possible.changes.get(id(layer), ())
    lines = [line for change in changes for line in _fact("becomes", _change(change), width, GOOD)]
    if changes:
        lines += _fact("c copies", convert_command(model, layer, changes[0]), width)
    why = why_not(layer, possible)
    return [*lines, *(_fact("stays", why, width, WARN) if why and not changes else [])]


def _change(change: Change) -> str:
    """What a layer becomes, of which shape, and what that takes for granted."""
    from convinspect.showing.commands import way_text

    assumed = f", taking {', '.join(change.assumed)}" if change.assumed else ""
    return f"{way_text(change.way, shape(change.shape))}{assumed}"


def convert_command(model: Model, layer: Layer, change: Change) -> str:
    """What to type for one change of a layer."""
    # What plans a conversion is loaded after the first screen.
    from convinspect.showing.commands import way_command

    return way_command(model.checkpoint, change.way, layer.name)


def why_not(layer: Layer, possible: Possible) -> str:
    """Why a layer stays as it is; "" where no conversion is for layers like it."""
    asked = layer.pointwise or layer.patch or layer.kind in ("Linear", TRANSFORMERS_CONV1D)
    if possible.refused is not None and asked:
        return possible.refused.line(as_flag)
    return spelled(possible.reasons.get(id(layer), ""), as_flag)


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
