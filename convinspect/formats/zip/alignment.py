"""Where PyTorch puts the bytes of its records: at multiples of an alignment, which an archive may name.

The formula is that of `getPadding` in PyTorch's `caffe2/serialize/inline_container.cc`. With
`torch.utils.serialization.config.load.calculate_storage_offsets`, `torch.load` reads no header but the first storage's
and trusts this formula for all others.
"""

from __future__ import annotations

from convinspect.formats.zip.structures import (
    DESCRIPTOR64_SIZE,
    DESCRIPTOR_SIZE,
    FIELD_SIZE,
    FULL,
    LOCAL_SIZE,
    PLACE_SIZE,
)

ALIGNMENT_RECORD = ".storage_alignment"
"""Name of the record that holds the alignment, a number as text. PyTorch writes it from 2.7 on."""
VERSION_RECORD = ".format_version"
"""Name of the record without which PyTorch reads every storage's header."""
USUAL_ALIGNMENT = 64
"""PyTorch's alignment where the archive names none, in bytes."""
LONGEST_ALIGNMENT_TEXT = 64
"""Bytes of `.storage_alignment` that are looked at."""
_LARGEST = 1 << 16


def parse_alignment(text: bytes) -> int | None:
    """The alignment that the record's text means to PyTorch, in bytes; None when it is no positive number."""
    try:
        alignment = int(text)
    except ValueError:
        return None
    return alignment if alignment > 0 else None


def is_possible(alignment: int) -> bool:
    """Whether headers can be padded to it: their extra fields have 65,535 bytes at most."""
    return alignment <= _LARGEST


def aligned_payload(start: int, name_length: int, size: int, alignment: int) -> int:
    """Offset of a record's bytes.

    Args:
        start: Offset of its own header.
        name_length: Bytes of its whole name.
        size: Of its bytes.
        alignment: In bytes.
    """
    header = LOCAL_SIZE + name_length + FIELD_SIZE
    if start >= FULL or size >= FULL:
        header += FIELD_SIZE + (2 * PLACE_SIZE if size >= FULL else 0) + (PLACE_SIZE if start >= FULL else 0)
    return start + header + -(start + header) % alignment


def end_of_record(start: int, payload: int, size: int) -> int:
    """Offset behind a record's data descriptor, which PyTorch leaves out behind no bytes."""
    descriptor = DESCRIPTOR64_SIZE if start >= FULL or size >= FULL else DESCRIPTOR_SIZE
    return payload + size + (descriptor if size else 0)
