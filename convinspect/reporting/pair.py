"""Two checkpoints as a page shows them side by side, compared and summed up in one pass over their numbers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from convinspect.arrays import stats
from convinspect.arrays.distance import Deviation, with_run
from convinspect.arrays.equality import in_one_order, same_elements
from convinspect.arrays.read import Array, numpy_dtype, read_blocks
from convinspect.checkpoint import Checkpoint
from convinspect.diffing.checkpoints import diff
from convinspect.diffing.differences import DiffReport
from convinspect.diffing.numbers import Comparison, compare_numbers
from convinspect.errors import ConvInspectError
from convinspect.records import Layer, Tensor
from convinspect.reporting.numbers import Numbers, Taking, blocks_of, notes_of
from convinspect.reporting.shapes import view_of
from convinspect.reporting.summary import Summary, outline, with_numbers

_THREADS = 2


class Pair(NamedTuple):
    """Two checkpoints, and how they differ."""

    a: Summary
    b: Summary
    report: DiffReport


def summarize_pair(
    a: Checkpoint,
    b: Checkpoint,
    values: bool,
    nbytes: int,
    progress: Callable[[int], None] = lambda done: None,
) -> Pair:
    """All that a page shows of two checkpoints.

    Args:
        a: The first.
        b: The second.
        values: Read and compare their numbers, in blocks; else headers alone are read.
        nbytes: Bytes of the page that each may fill.
        progress: Called with the number of bytes that were read.

    Raises:
        ConvInspectError: Bytes of one of them are missing or damaged.
    """
    sides = _side(outline(a, values, nbytes)), _side(outline(b, values, nbytes))
    report = diff(a, b, values, progress, lambda x, y: _compare((x, y), sides), _THREADS)
    paired = {id(tensor) for each in report.tensors if each.a and each.b for tensor in (each.a, each.b)}

    def told(layer: Layer) -> None:
        # What was compared is told of already.
        progress(0 if id(layer.weight) in paired else layer.weight.nbytes)

    one, other = (with_numbers(side.summary, told, side.numbers) for side in sides)
    return Pair(one, other, report)


class _Side(NamedTuple):
    """One of the two.

    Attributes:
        summary: By headers alone.
        places: Of the layers that there is room for, by where their weights lie.
        numbers: By a layer's place, as they are taken.
    """

    summary: Summary
    places: Mapping[tuple[object, ...], Sequence[int]]
    numbers: dict[int, Numbers | ConvInspectError]


def _side(summary: Summary) -> _Side:
    places: dict[tuple[object, ...], list[int]] = {}
    for place in summary.room.numbers:
        layer = summary.layers[place]
        if not layer.norm:
            places.setdefault(_lies_at(layer.weight), []).append(place)
    return _Side(summary, places, {})


def _lies_at(tensor: Tensor) -> tuple[object, ...]:
    """What a tensor has in common with the same one in another shape."""
    return id(tensor.storage), tensor.offset, tensor.numel


def _compare(tensors: tuple[Tensor, Tensor], sides: tuple[_Side, _Side]) -> Comparison:
    """Compare two tensors, and take the numbers of their layers while they are read."""
    if not in_one_order(*tensors):
        return compare_numbers(*tensors)
    wanted = [_layer_of(tensor, side) for tensor, side in zip(tensors, sides, strict=True)]
    takings = [
        None if place is None else _taking(side.summary, place) for place, side in zip(wanted, sides, strict=True)
    ]
    if len({each.step for each in takings if each is not None}) > 1:
        return compare_numbers(*tensors)
    try:
        comparison, *numbers = _in_one_pass(tensors, takings)
    except ConvInspectError:
        # What is wrong with one alone is told in its row.
        return compare_numbers(*tensors)
    for place, side, found in zip(wanted, sides, numbers, strict=True):
        if place is not None and found is not None:
            side.numbers[place] = found
    return comparison


def _layer_of(tensor: Tensor, side: _Side) -> int | None:
    """The place of a layer with this weight, of which nothing is known yet; tied ones have their turn in turn."""
    return next((place for place in side.places.get(_lies_at(tensor), ()) if place not in side.numbers), None)


def _taking(summary: Summary, place: int) -> Taking:
    layer = summary.layers[place]
    dtype = numpy_dtype(layer.weight.dtype, sys.byteorder)
    return Taking(layer, view_of(layer, stored=True), summary.room.cells, dtype, notes_of(layer))


def _in_one_pass(
    tensors: tuple[Tensor, Tensor], takings: Sequence[Taking | None]
) -> tuple[Comparison, Numbers | None, Numbers | None]:
    step = next((each.step for each in takings if each is not None), stats.RUN)
    sources: list[Tensor | Array] = list(tensors)
    if tensors[0].nbytes <= stats.AT_ONCE:
        sources = [next(iter(read_blocks(tensor, tensor.numel))) for tensor in tensors]
    deviation, equal = Deviation(0, tensors[0].numel), True
    for pair in zip(*(blocks_of(source, step) for source in sources), strict=True):
        for block, taking in zip(pair, takings, strict=True):
            if taking is not None:
                taking.add(block)
        if not same_elements(*pair):
            deviation, equal = with_run(deviation, *pair), False
    a, b = (None if taking is None else taking.numbers(source) for source, taking in zip(sources, takings, strict=True))
    return Comparison(equal, deviation if deviation.count else None), a, b
