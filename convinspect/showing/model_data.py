"""A summary of a checkpoint → the data of its page: rows of few bytes, texts once, numbers as bytes."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from convinspect.arrays.read import Array
from convinspect.arrays.stats import Stats
from convinspect.checkpoint import Checkpoint
from convinspect.converting.possible import Way
from convinspect.errors import ConvInspectError
from convinspect.kinds import CONV_TRANSPOSES, CONVOLUTIONS, LISTED, shown_kind
from convinspect.layers.numberless import lines_on_numbers
from convinspect.layers.parameters import counted_in, parameters_of
from convinspect.layers.tree import Node
from convinspect.layouts import axis_names
from convinspect.records import Layer
from convinspect.render.cells import count, elide, safe, shape, size
from convinspect.reporting.numbers import Numbers, Picture
from convinspect.reporting.room import LONGEST_NAME
from convinspect.reporting.summary import Summary
from convinspect.showing.commands import quoted, way_command, way_words
from convinspect.showing.flags import as_flag, flagged
from convinspect.showing.footnotes import footnotes, layer_name
from convinspect.showing.opened import opened_name
from convinspect.showing.shapes import tags_of, totals
from convinspect.text import plural

_BINS = 96
"""Points of the chart of norms."""
_LONGEST_TEXT = 600
_MOST_NOTES = 6
_MOST_NODES = 3000
_TEXTS = 260_000
"""Bytes of all texts of a checkpoint: of very many layers each may have notes of its own."""
_LEFT_OUT = "(left out: the page would be too large)"
_FEW_DEAD = 16


class Texts:
    """Texts that rows name by number, each kept once, and no more than there is room for."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self._places: dict[str, int] = {}
        self._room = _TEXTS

    def place(self, text: str, longest: int = _LONGEST_TEXT) -> int:
        """The number of a text, which is made safe to show and cut to a length."""
        text = short(text, longest)
        if text not in self._places:
            nbytes = len(text.encode("utf-8", "replace"))
            text = text if nbytes <= self._room else _LEFT_OUT
            self._room -= nbytes if text is not _LEFT_OUT else 0
        place = self._places.setdefault(text, len(self.all))
        if place == len(self.all):
            self.all.append(text)
        return place


def short(text: str, longest: int = _LONGEST_TEXT) -> str:
    """A text without anything that a browser would not show, of limited length."""
    text = safe(text)
    return text if len(text) <= longest else elide(text, longest)


def model_data(summary: Summary) -> dict[str, Any]:
    """The data of one checkpoint."""
    checkpoint, texts = summary.checkpoint, Texts()
    ways: dict[Way, int] = {}
    shown = summary.layers[: summary.room.rows]
    counted = counted_in(checkpoint)
    rows = [_row(summary, place, layer, texts, ways, counted) for place, layer in enumerate(shown)]
    names = [short(layer_name(layer), LONGEST_NAME) for layer in shown]
    return {
        "file": short(opened_name(checkpoint)),
        "path": short(str(checkpoint.folder or checkpoint.path)),
        "format": checkpoint.format,
        "root": short(checkpoint.root.path),
        "role": checkpoint.root.role,
        "totals": _totals(summary),
        "dtypes": _dtypes(checkpoint),
        "problems": [short(problem) for problem in checkpoint.problems],
        "notes": _notes(summary),
        "values": summary.values,
        "names": _front_coded(names),
        "rows": rows,
        "numbers": [_numbers(summary.numbers.get(place), texts) for place in range(len(shown))],
        "texts": texts.all,
        "ways": [(short(what), *command) for what, *command in (way_words(checkpoint, way) for way in ways)],
        "together": [
            {"what": _together(way, number), "command": way_command(checkpoint, way)}
            for way, number in summary.possible.together
        ],
        "refused": _refused(summary),
        "tree": _tree(summary.tree, {id(layer): place for place, layer in enumerate(shown)}),
    }


def _refused(summary: Summary) -> str:
    """Why nothing of the file can be converted, where it has something that could be; else ""."""
    error = summary.possible.refused
    asked = any(layer.pointwise or layer.patch for layer in summary.layers)
    # What is wrong with the file itself is told already.
    if error is None or not asked or error.problem in summary.checkpoint.problems:
        return ""
    return short(error.line(as_flag))


def _together(way: Way, number: int) -> str:
    convolution = way.origin in (*CONVOLUTIONS, *CONV_TRANSPOSES)
    what = "" if not convolution else "patch " if way.patches else "pointwise "
    return f"{count(number)} {what}{way.origin} → {way.to}"


def _totals(summary: Summary) -> dict[str, Any]:
    found = [each for each in summary.numbers.values() if isinstance(each, Numbers)]
    return {
        **totals(summary.checkpoint, summary.layers),
        "modules": len(summary.layers),
        "rows": summary.room.rows,
        "read": len(summary.numbers),
        "dead": sum(len(each.dead) for each in found),
        "dead_layers": sum(bool(each.dead) for each in found),
        "nan": sum(each.stats.nan for each in found),
        "inf": sum(each.stats.inf for each in found),
    }


def _dtypes(checkpoint: Checkpoint) -> list[tuple[str, int]]:
    """Bytes of each dtype, the most first."""
    sums: dict[str, int] = {}
    for tensor in checkpoint.tensors.values():
        sums[tensor.dtype] = sums.get(tensor.dtype, 0) + tensor.nbytes
    return sorted(((short(dtype, 40), nbytes) for dtype, nbytes in sums.items()), key=lambda pair: -pair[1])[:8]


def _notes(summary: Summary) -> list[str]:
    """What a reader should know of the file, and of what is not in the page."""
    checkpoint, layers, room = summary.checkpoint, summary.layers, summary.room
    lines = [*footnotes(checkpoint, layers, layers, True), *lines_on_numbers(checkpoint, layers)]
    if not room.all_rows(layers):
        lines.append(
            f"the first {count(room.rows)} of {count(len(layers))} modules have a row: more make the page too large"
        )
    if summary.values and len(room.numbers) < room.rows:
        lines.append(
            f"numbers of the {plural(len(room.numbers), 'largest module')} are shown: more make the page too large"
        )
    if not summary.values:
        lines.append("only headers were read, so that no numbers are shown")
    return list(dict.fromkeys(map(short, lines)))[:60]


def _front_coded(names: Sequence[str]) -> list[Any]:
    """Names in turn with how much of its beginning each shares with the one before: 0, "a.b", 2, "c", …"""
    coded: list[Any] = []
    before = ""
    for name in names:
        same = next(
            (at for at, (x, y) in enumerate(zip(before, name, strict=False)) if x != y), min(len(before), len(name))
        )
        # JavaScript counts characters beyond the 16-bit range as two.
        same = sum(1 + (ord(c) > 0xFFFF) for c in name[:same])
        coded += [same, name.encode("utf-16-le", "surrogatepass")[2 * same :].decode("utf-16-le", "surrogatepass")]
        before = name
    return coded


_POINTWISE, _PATCH, _LISTED, _BIAS = 1, 2, 4, 8


def _row(
    summary: Summary, place: int, layer: Layer, texts: Texts, ways: dict[Way, int], counted: set[int]
) -> list[Any]:
    """One layer: numbers of texts, sums, flags."""
    flags = _POINTWISE * layer.pointwise | _PATCH * layer.patch | _LISTED * (layer.kind in LISTED)
    flags |= _BIAS * (layer.bias is not None)
    reason = summary.possible.reasons.get(id(layer), "")
    changes = summary.possible.changes.get(id(layer), ())
    possible = [ways.setdefault(change.way, len(ways)) for change in changes]
    named = quoted(layer.name or "(root)")
    return [
        texts.place(shown_kind(layer.kind, layer.tags), 60),
        texts.place(shape(layer.weight.shape), 80),
        texts.place(layer.weight.dtype, 40),
        parameters_of([layer], counted),
        layer.nbytes,
        flags,
        texts.place(", ".join(tags_of(layer)), 200),
        [texts.place(note) for note in layer.notes[:_MOST_NOTES]],
        [[texts.place(key, 40), texts.place(value, 300)] for key, value in _facts(layer)],
        possible,
        texts.place(flagged(reason)) if reason else -1,
        named if possible and named != short(layer_name(layer), LONGEST_NAME) else 0,
    ]


def _facts(layer: Layer) -> Iterable[tuple[str, str]]:
    """What is known of a layer, beyond the columns."""
    if layer.kernel_size or layer.in_width is not None:
        if len(layer.weight.shape) >= 2 and layer.kernel_size:
            yield "weight", f"{shape(layer.weight.shape)} = ({', '.join(axis_names(layer))})"
        if layer.in_width is not None and layer.out_width is not None:
            yield "in → out", f"{count(layer.in_width)} → {count(layer.out_width)}"
    for key, value in (("stride", layer.stride), ("padding", layer.padding), ("dilation", layer.dilation)):
        if value is not None and layer.kernel_size:
            yield key, value if isinstance(value, str) else " × ".join(map(str, value))
    if layer.groups is not None and layer.kernel_size:
        yield "groups", count(layer.groups)
    if layer.norm:
        yield "norm", layer.norm.replace("_", " ")
    yield "known from", _EVIDENCE.get(layer.evidence, layer.evidence)
    yield (
        "tensors",
        ", ".join(
            f"{leaf or 'tensor'} {shape(tensor.shape)} {tensor.dtype}"
            for leaf, tensor in list(layer.tensors.items())[:8]
        ),
    )
    yield "bytes", size(layer.nbytes)
    if layer.tied_to:
        more = f" and {count(layer.tied_to_more)} more" if layer.tied_to_more else ""
        yield "tied to", ", ".join(layer.tied_to) + more


_EVIDENCE = {"module": "the module that the file records", "shape": "the shapes and names of its tensors"}


# ------------------------------------------------------------------------------------------------------------- numbers


def _numbers(found: Numbers | ConvInspectError | None, texts: Texts) -> Any:
    """A layer's numbers; the number of a text that says why there are none; or null."""
    if found is None:
        return None
    if isinstance(found, ConvInspectError):
        return texts.place(found.line(as_flag))
    return [
        *_stats(found.stats),
        list(found.stats.histogram),
        None if found.norms is None else _chart(found.norms),
        [len(found.dead), list(found.dead[:_FEW_DEAD])] if found.dead else None,
        None if found.picture is None else _picture(found.picture),
        [texts.place(note) for note in found.notes],
    ]


def _stats(stats: Stats) -> list[Any]:
    figures = (stats.minimum, stats.maximum, stats.mean, stats.std, stats.l2)
    return [*map(figure, figures), stats.numel, stats.zeros, stats.nan, stats.inf]


def figure(value: float | None) -> float | int | None:
    """A number to five digits; None for what is none."""
    if value is None or not math.isfinite(value):
        return None
    if isinstance(value, int) and abs(value) < 1 << 53:
        return value
    return float(f"{value:.5g}")


def _chart(norms: Array) -> list[Any]:
    """The largest norm; how many there are; bytes of the smallest and the largest in each of few bins."""
    finite = np.where(np.isfinite(norms), norms, np.nan)
    top = float(np.nanmax(finite, initial=0.0)) if np.isfinite(finite).any() else 0.0
    each = -(-len(norms) // _BINS) if len(norms) else 1
    padded = np.full(-(-len(norms) // each) * each, np.nan)
    padded[: len(norms)] = finite
    bins = padded.reshape(-1, each)
    holes = np.isnan(bins).all(axis=1)
    high = np.where(holes, 0, np.nan_to_num(bins, nan=-np.inf).max(axis=1, initial=-np.inf))
    low = np.where(holes, 0, np.nan_to_num(bins, nan=np.inf).min(axis=1, initial=np.inf))
    scale = 255 / top if top else 0.0
    finest = np.nanmin(finite) if np.isfinite(finite).any() else None
    return [
        figure(top), figure(None if finest is None else float(finest)), len(norms), each,
        _bytes(np.ceil(high * scale)), _bytes(np.ceil(low * scale)) if each > 1 else "",
    ]  # fmt: skip


def _picture(picture: Picture) -> list[Any]:
    """Rows, columns, what a cell stands for, the least and the largest value, and a byte for each cell.

    Of numbers 128 is zero, and 1 to 255 are minus to plus the largest magnitude; of magnitudes 1 is the least and 255
    the largest. 0 is what is not finite.
    """
    values = picture.values
    finite = np.isfinite(values)
    top = float(np.abs(values[finite]).max(initial=0.0))
    least = -top if picture.exact else float(values[finite].min(initial=top))
    if least == top:
        least = 0.0
    known = np.where(finite, values, 0.0)
    if picture.exact:
        codes = 128 + np.rint(127 * (known / top if top else known))
    else:
        codes = 1 + np.rint(254 * ((known - least) / (top - least) if top else known))
    return [
        *values.shape, picture.high, picture.wide, picture.out, picture.across, picture.taps, int(picture.exact),
        figure(least), figure(top), _bytes(np.where(finite, codes, 0)),
    ]  # fmt: skip


def _bytes(values: Array) -> str:
    return base64.b64encode(np.clip(values, 0, 255).astype(np.uint8).tobytes()).decode("ascii")


# ---------------------------------------------------------------------------------------------------------------- tree


def _tree(root: Node, places: dict[int, int]) -> list[Any]:
    """[name, parameters, bytes, kind, repeats, row, children]; of very many nodes those of the upper levels."""
    depth, counts = 0, [1]
    level: Sequence[Node] = (root,)
    while level := [child for node in level for child in node.children]:
        if sum(counts) + len(level) > _MOST_NODES:
            break
        counts.append(len(level))
        depth += 1
    return _node(root, places, depth)


def _node(node: Node, places: dict[int, int], depth: int) -> list[Any]:
    row = next((places[id(layer)] for layer in node.layers if id(layer) in places), -1)
    children = [_node(child, places, depth - 1) for child in node.children] if depth > 0 else []
    pointwise = bool(node.layers) and node.layers[0].pointwise
    patch = bool(node.layers) and node.layers[0].patch
    return [
        short(node.name, 40), node.parameters, node.nbytes, short(node.kind, 60), node.repeats, row,
        1 if pointwise else 2 if patch else 0, children,
    ]  # fmt: skip
