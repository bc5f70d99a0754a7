"""Tells kinds of protobuf files apart by the numbers of a message's fields. Only tags and lengths are read.

The encoding is that of https://protobuf.dev/programming-guides/encoding/. The numbers are those of `onnx.proto`
(ModelProto), Core ML's `Model.proto`, and TensorFlow's `saved_model.proto`, `fingerprint.proto` and `graph.proto`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from convinspect.formats.files import File
from convinspect.formats.unsupported.kinds import CORE_ML, FINGERPRINT, FROZEN_GRAPH, ONNX, SAVED_MODEL, Kind

_VARINT, _FIXED64, _MESSAGE, _FIXED32 = 0, 1, 2, 5
_MOST_FIELDS = 10_000
"""Fields that are looked at: a frozen graph has one for each node."""
_CORE_ML_TYPES = range(200, 4000)
"""Numbers of the fields of Core ML's `oneof Type`: a pipeline, a neural network, an ML program, and others."""


class _Field(NamedTuple):
    number: int
    wire: int
    start: int
    size: int


def kind_of_protobuf(file: File) -> Kind | None:
    """What a protobuf file is; None where its fields do not tell."""
    fields = list(_fields(file, 0, file.size))
    if not fields:
        return None
    whole = fields[-1].start + fields[-1].size == file.size
    wires = {(field.number, field.wire) for field in fields}
    numbers = {number for number, _ in wires}
    versioned = (1, _VARINT) in wires
    if versioned and (2, _MESSAGE) in wires and any(number in _CORE_ML_TYPES for number in numbers):
        return CORE_ML
    if wires <= _ONNX and (7, _MESSAGE) in wires and (versioned or (whole and (8, _MESSAGE) in wires)):
        return ONNX
    if whole and _SUMS <= wires <= _SUMS | {(7, _MESSAGE)}:
        return FINGERPRINT
    if wires == {(1, _VARINT), (2, _MESSAGE)} and _holds(file, fields[1], {1, 2}):
        return SAVED_MODEL
    if (
        whole
        and numbers <= {1, 2, 3, 4}
        and {(1, _MESSAGE), (4, _MESSAGE)} <= wires
        and _holds(file, fields[0], {1, 2})
    ):
        return FROZEN_GRAPH
    return None


_ONNX = {(1, _VARINT), (5, _VARINT), *((number, _MESSAGE) for number in (2, 3, 4, 6, 7, 8, 14, 20, 25, 26))}
_SUMS = {(number, _VARINT) for number in range(1, 6)} | {(6, _MESSAGE)}
"""A fingerprint's five checksums, and the version of the format; newer ones have a uuid in field 7."""


def _holds(file: File, field: _Field, numbers: set[int]) -> bool:
    """Whether a field is a message with these fields, all of them messages or texts."""
    inner = list(_fields(file, field.start, field.start + field.size))
    return numbers <= {one.number for one in inner if one.wire == _MESSAGE} and (
        inner[-1].start + inner[-1].size == field.start + field.size
    )


def _fields(file: File, start: int, end: int) -> Iterator[_Field]:
    """The fields of a message, up to the first that is none; a length beyond `end` is given as it stands."""
    for _ in range(_MOST_FIELDS):
        if start >= end:
            return
        head = file.read(start, 20)
        tag, at = _varint(head, 0)
        number, wire = tag >> 3, tag & 7
        if at == 0 or number == 0 or wire not in (_VARINT, _FIXED64, _MESSAGE, _FIXED32):
            return
        value, behind = _varint(head, at) if wire in (_VARINT, _MESSAGE) else (0, at)
        if wire in (_VARINT, _MESSAGE) and behind == 0:
            return
        size = {_VARINT: behind - at, _FIXED64: 8, _FIXED32: 4}.get(wire, value)
        place = behind if wire == _MESSAGE else at
        yield _Field(number, wire, start + place, size)
        start += place + size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends; 0 for that where there is none."""
    value = 0
    for index, byte in enumerate(data[at : at + 10]):
        value |= (byte & 127) << (7 * index)
        if byte < 128:
            return value, at + index + 1
    return 0, 0
