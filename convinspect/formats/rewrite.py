"""A file with some tensors' shapes changed: its new header, and ranges of the old file for the rest."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from convinspect.errors import CannotWrite
from convinspect.formats import exported, torch_legacy, torch_zip
from convinspect.formats.files import File
from convinspect.formats.rewrite_zip import pieces_with_record
from convinspect.formats.safetensors_file import is_safetensors
from convinspect.formats.writing import Made, Piece, Range
from convinspect.records import Edit, Span, Tensor

_PICKLE = "data.pkl"


def pieces_for(file: File, edits: Iterable[Edit]) -> list[Piece]:
    """What to write so that the tensors of `file` have the shapes that the edits ask for, and nothing else changes.

    Args:
        file: A `torch.save` file of either format, or a safetensors file.
        edits: Of tensors in this file.

    Raises:
        CannotWrite: The file is of a kind whose shapes stand in more than one place, such as TorchScript.
    """
    wanted = list(edits)
    head = file.read(0, 64)
    if is_safetensors(head):
        return _safetensors(file, wanted)
    if torch_zip.is_zip(head):
        return _zip(file, wanted)
    if torch_legacy.is_legacy(file):
        return list(_spliced(file, wanted))
    raise CannotWrite("shapes in this kind of file cannot be changed")


def _zip(file: File, edits: list[Edit]) -> list[Piece]:
    archive = torch_zip.Archive(file)
    if exported.is_exported(archive) or any(name.startswith("code/") for name in archive.records):
        raise CannotWrite("it holds the model's program beside its weights, which would no longer fit")
    data = archive.read(_PICKLE)
    _check_protocol(data[:2], edits)
    parts: list[bytes] = []
    at = 0
    for span, new in _splices(edits):
        parts += [data[at : span.start], new]
        at = span.end
    return pieces_with_record(file, archive, _PICKLE, b"".join([*parts, data[at:]]))


def _check_protocol(head: bytes, edits: list[Edit]) -> None:
    """From protocol 4 on a pickle comes in frames whose lengths a splice would make wrong.

    Raises:
        CannotWrite: There is something to change in such a pickle.
    """
    if edits and head[:1] == b"\x80" and head[1:2] >= b"\x04":
        raise CannotWrite(
            f"its pickle is of protocol {head[1]}, whose frames cannot be edited yet",
            "--state-dict writes its state_dict anew",
        )


def _spliced(file: File, edits: list[Edit]) -> Iterator[Piece]:
    """Before 1.6 the pickle lies open in the file, so that spans are offsets of the file."""
    _check_protocol(file.read(0, 2), edits)
    at = 0
    for span, new in _splices(edits):
        yield Range(at, span.start)
        yield new
        at = span.end
    yield Range(at, file.size)


def _splices(edits: list[Edit]) -> list[tuple[Span, bytes]]:
    """Where the pickle pushes a size or stride tuple, and what it is to push instead; tied tensors share theirs."""
    found: dict[int, tuple[Span, bytes]] = {}
    for edit in edits:
        for span, numbers in ((edit.tensor.shape_span, edit.shape), (edit.tensor.stride_span, edit.stride)):
            if span is None:
                raise CannotWrite(f"tensor {edit.tensor.key!r}: its size is not written in the pickle")
            new = tuple_opcodes(numbers)
            if found.setdefault(span.start, (span, new)) != (span, new):
                raise CannotWrite(f"tensor {edit.tensor.key!r} is stored once for two names that would differ")
    return [found[start] for start in sorted(found)]


def tuple_opcodes(numbers: tuple[int, ...]) -> bytes:
    """Pickle instructions, protocol 2, that push a tuple of numbers, as Python's own pickler writes them."""
    pushed = b"".join(map(_number_opcode, numbers))
    if len(numbers) <= 3:
        return pushed + (b")", b"\x85", b"\x86", b"\x87")[len(numbers)]
    return b"(" + pushed + b"t"


def _number_opcode(number: int) -> bytes:
    if number < 1 << 8:
        return b"K" + number.to_bytes(1, "little")
    if number < 1 << 16:
        return b"M" + number.to_bytes(2, "little")
    if number < 1 << 31:
        return b"J" + number.to_bytes(4, "little")
    # LONG1 is signed, so that a number whose top bit is set takes one byte more.
    length = number.bit_length() // 8 + 1
    return b"\x8a" + length.to_bytes(1, "little") + number.to_bytes(length, "little")


# ---------------------------------------------------------------------------------------------- safetensors


def _safetensors(file: File, edits: list[Edit]) -> list[Piece]:
    length = int.from_bytes(file.read(0, 8), "little")
    header: dict[str, Any] = json.loads(file.read(8, length))
    for edit in edits:
        header[edit.tensor.key]["shape"] = list(edit.shape)
    base = 8 + length
    pieces: list[Piece] = [safetensors_header(header)]
    at = base
    for edit in sorted((edit for edit in edits if edit.transposed), key=lambda edit: _start(edit.tensor)):
        start = _start(edit.tensor)
        pieces += [Range(at, start), Made(edit.tensor.nbytes, _transposed(edit.tensor))]
        at = start + edit.tensor.nbytes
    return [*pieces, Range(at, file.size)]


def _start(tensor: Tensor) -> int:
    assert tensor.storage is not None
    assert tensor.storage.start is not None
    return tensor.storage.start


def safetensors_header(header: Mapping[str, Any]) -> bytes:
    """Header length and JSON, padded with blanks so that the tensors begin at a multiple of 8, as the format's own
    writer does.
    """
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


_BAND = 1 << 22
"""Bytes of a matrix that are in memory at a time while it is transposed."""


def _transposed(tensor: Tensor) -> Callable[[], Iterator[bytes]]:
    """Blocks of a matrix (rows, columns) as (columns, rows): a band of columns at a time."""

    def blocks() -> Iterator[bytes]:
        from convinspect import numbers

        rows, columns = tensor.shape
        step = max(1, _BAND * columns // max(tensor.nbytes, 1))
        for first in range(0, columns, step):
            width = min(step, columns - first)
            band = replace(tensor, shape=(rows, width), offset=tensor.offset + first)
            yield numbers.read(band).T.copy().tobytes()

    return blocks
