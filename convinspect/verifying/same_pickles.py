"""Whether two `torch.save` files' pickles say the same but for tensors' sizes and strides, seen by their bytes.

Building both trees again and comparing them takes forty times as long, and half a kilobyte for each tensor. Where the
bytes do not settle it, `objects` does.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from itertools import groupby
from typing import TypeAlias

from convinspect.checkpoint import Checkpoint
from convinspect.errors import ConvInspectError
from convinspect.formats.files import File
from convinspect.formats.pickle.opcodes import Undecodable, instructions
from convinspect.formats.torch.archive import first_pickle
from convinspect.records import Container, Span

_INT = rb"(?:K.|M..|J....)"
_NUMBERS = rb"(?:%b\x85|%b{2}\x86|%b{3}\x87|\((?:%b)*t|\))" % ((_INT,) * 4)
"""What pushes a tuple of numbers and does nothing else: each instruction begins with another byte, so that there is one
way to read it.
"""
_PUT = rb"(?:q(.)|r(....))"
_GET = rb"(?:h.|j....)"
_BEHIND = re.compile(
    _PUT + _NUMBERS + _PUT  # of the size, and of the stride,
    + rb"[\x88\x89](?:" + _GET + rb"|ccollections\nOrderedDict\n(?:q.|r....))\)R(?:q.|r....)"  # hooks,
    + rb"t" + _PUT + rb"R",  # of the arguments
    re.DOTALL,
)  # fmt: skip
"""What follows a tensor's size in its arguments; its groups are the numbers under which the memo has them."""
_TUPLE = re.compile(_NUMBERS, re.DOTALL)
_LONG_GET = re.compile(rb"(?=j(....))", re.DOTALL)
_TEXT_GET = re.compile(rb"g(\d{1,18})\n")
_SHORT = 256


def same_but_sizes(before: Checkpoint, after: Checkpoint) -> bool:
    """Whether the pickles are equal in all but the sizes and strides of tensors; False where that is not certain."""
    if {before.container, after.container} != {Container.TORCH_ZIP}:
        return False
    places = [_places(checkpoint) for checkpoint in (before, after)]
    if not places[0] or len(places[0]) != len(places[1]):
        return False
    with suppress(ConvInspectError, OSError), File(before.path) as file, File(after.path) as file_after:
        data, data_after = first_pickle(file), first_pickle(file_after)
        if data is not None and data_after is not None:
            memorised = _changed(data, data_after, places[0], places[1])
            return memorised is not None and not (memorised and _fetches(data, memorised))
    return False


_Place: TypeAlias = tuple[int, tuple[int, int, int, int]]
"""A tensor's `spans_at` and `spans`."""


def _places(checkpoint: Checkpoint) -> list[_Place]:
    """Where the pickle has each tensor's size and stride, in stored order."""
    places = [
        (tensor.spans_at, tensor.spans)
        for root in checkpoint.roots
        for tensor in root.tensors
        if tensor.spans is not None
    ]
    # A tensor that stands in two places of the tree is described once.
    return [place for place, _ in groupby(sorted(places))]


def _changed(data: bytes, data_after: bytes, places: list[_Place], places_after: list[_Place]) -> set[int] | None:
    """The memo's numbers of all that holds a size or stride which changed; None where anything else may have."""
    found: set[int] = set()
    at = at_after = 0
    for (first, spans), (first_after, spans_after) in zip(places, places_after, strict=True):
        size_at, size_end, stride_at, stride_end = spans
        size_at_after, size_end_after, stride_at_after, stride_end_after = spans_after
        if not at - first <= size_at < stride_at or not at_after - first_after <= size_at_after < stride_at_after:
            return None
        end, end_after = first + stride_end, first_after + stride_end_after
        if data[at:end] != data_after[at_after:end_after]:
            same = (
                data[at : first + size_at] == data_after[at_after : first_after + size_at_after]
                and data[first + size_end : first + stride_at]
                == data_after[first_after + size_end_after : first_after + stride_at_after]
            )
            numbers = _memorised(data, *_spans(first, spans)) if same else None
            if numbers is None or _memorised(data_after, *_spans(first_after, spans_after)) is None:
                return None
            found |= numbers
        at, at_after = end, end_after
    return found if data[at:] == data_after[at_after:] else None


def _spans(first: int, spans: tuple[int, int, int, int]) -> tuple[Span, Span]:
    return Span(first + spans[0], first + spans[1]), Span(first + spans[2], first + spans[3])


def _memorised(data: bytes, size: Span, stride: Span) -> set[int] | None:
    """The memo's numbers of a tensor's size, stride and arguments; None where other instructions build them."""
    if not all(_TUPLE.fullmatch(data, span.start, span.end) for span in (size, stride)):
        return None
    behind = _BEHIND.match(data, size.end)
    if behind is None or stride.end != (behind.start(3) if behind[3] is not None else behind.start(4)) - 1:
        return None
    return {int.from_bytes(number, "little") for number in behind.groups() if number is not None}


def _fetches(data: bytes, numbers: Collection[int]) -> bool:
    """Whether any instruction fetches one of these from the memo, and so may use it for something else."""
    if not any(_maybe_fetched(data, numbers)):
        return False
    try:
        return any(code in "hjg" and int(argument) in numbers for code, argument, _ in instructions(data))
    except (Undecodable, ValueError):
        return True


def _maybe_fetched(data: bytes, numbers: Collection[int]) -> Iterator[bool]:
    """Whether bytes read like such an instruction, wherever they stand: reading all instructions takes longer."""
    yield any(int(match[1]) in numbers for match in _TEXT_GET.finditer(data))
    yield any(b"h" + number.to_bytes(1, "little") in data for number in numbers if number < _SHORT)
    yield any(int.from_bytes(match[1], "little") in numbers for match in _LONG_GET.finditer(data))
