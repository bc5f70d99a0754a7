"""What the page of one checkpoint, or of two, is made of."""

from __future__ import annotations

from typing import Any

from convinspect import __version__
from convinspect.diffing.differences import Difference, DiffReport, Kind
from convinspect.render.cells import safe, shape
from convinspect.render.style import BAD, GOOD, WARN
from convinspect.render.table import Cell, Styled, plain
from convinspect.reporting.room import LONGEST_NAME
from convinspect.reporting.summary import Summary
from convinspect.showing.diff import note_of, notes
from convinspect.showing.flags import Reader, flagged, read_by
from convinspect.showing.model_data import Texts, figure, model_data, short
from convinspect.showing.opened import opened_name
from convinspect.showing.verdict import STYLES, commands, counts_cell, prefix_lines, pytorch_lines, verdict_cell
from convinspect.text import more_are

DIFFERENCES = 1_000_000
"""Bytes of a page that rows of differences may fill."""
_TONES = {GOOD: "good", WARN: "warn", BAD: "bad"}


def page_data(summary: Summary) -> dict[str, Any]:
    """The data of a page of one checkpoint."""
    with read_by(Reader.PAGE):
        return {"models": [model_data(summary)], "diff": None, "made": _made()}


def pair_data(a: Summary, b: Summary, report: DiffReport) -> dict[str, Any]:
    """The data of a page of two checkpoints, side by side."""
    with read_by(Reader.PAGE):
        models = [model_data(a), model_data(b)]
        return {"models": models, "diff": _differences(report, a, b), "made": _made()}


def title_of(*summaries: Summary) -> str:
    """What the page is called."""
    return " · ".join(opened_name(summary.checkpoint) for summary in summaries)


def verdict_text(report: DiffReport) -> str:
    """The verdict as a line."""
    return plain(verdict_cell(report))


def _made() -> str:
    return f"made by convinspect {__version__}; nothing in the file was run"


def _differences(report: DiffReport, a: Summary, b: Summary) -> dict[str, Any]:
    texts = Texts()
    places = [_places(summary) for summary in (a, b)]
    order = {kind: place for place, kind in enumerate(Kind)}
    rows: list[Any] = []
    taken = 0
    for difference in sorted(report.tensors, key=lambda each: order[each.kind]):
        row = _row(difference, texts, places)
        taken += 70 + len(row[1])
        if taken > DIFFERENCES:
            break
        rows.append(row)
    left = len(report.tensors) - len(rows)
    said, *more = _pieces(verdict_cell(report))
    typed = commands(report)
    return {
        "verdict": safe(said.text),
        "more": safe("".join(piece.text for piece in more)),
        "tone": _TONES.get(said.style, ""),
        "counts": safe(plain(counts_cell(report))),
        "prefixes": [safe(plain(line)) for line in prefix_lines(report)],
        "commands": typed,
        "pytorch": pytorch_lines(report, typed),
        "notes": [
            *(short(flagged(note)) for note in notes(report)),
            *([f"{more_are(left, 'tensor')} not in this page, which would be too large"] if left else []),
        ],
        "compared": report.compared,
        "styles": {kind.value: _TONES.get(style, "") for kind, style in STYLES.items()},
        "texts": texts.all,
        "rows": rows,
    }


def _pieces(cell: Cell) -> tuple[Styled, ...]:
    if isinstance(cell, Styled):
        return (cell,)
    return (Styled(cell),) if isinstance(cell, str) else tuple(cell)


def _places(summary: Summary) -> dict[int, int]:
    """The place of the layer that each tensor belongs to, by the tensor's identity."""
    return {
        id(tensor): place
        for place, layer in enumerate(summary.layers[: summary.room.rows])
        for tensor in layer.tensors.values()
    }


def _row(difference: Difference, texts: Texts, places: list[dict[int, int]]) -> list[Any]:
    """[kind, name, A, B, figures, note, places of the layers]."""
    sides = (difference.a, difference.b)
    others = (difference.other_a, difference.other_b)
    alike = None not in sides and len({tensor.dtype for tensor in sides if tensor is not None}) == 1
    shown = []
    for tensor, other in zip(sides, others, strict=True):
        if tensor is None:
            shown.append(-1 if other is None else texts.place(other.what, 80))
        else:
            shown.append(texts.place(shape(tensor.shape) + ("" if alike else f" {tensor.dtype}"), 120))
    deviation = difference.deviation
    figures = None
    if deviation is not None and deviation.count:
        figures = [figure(deviation.absolute), figure(deviation.relative), deviation.count]
    return [
        texts.place(difference.kind),
        short(difference.name or "(root)", LONGEST_NAME),
        *shown,
        figures,
        texts.place(note_of(difference)),
        [-1 if tensor is None else here.get(id(tensor), -1) for tensor, here in zip(sides, places, strict=True)],
    ]
