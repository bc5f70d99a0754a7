"""A file of a distributed checkpoint by itself whose zips lie about where they begin and end, or that is cut short.

DISTCP      name → what makes its bytes
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

from support.hostile.opcodes import PAYLOAD, integer, pickled, tensor


def _piece(stream: bytes, payload: bytes = PAYLOAD) -> bytes:
    """A torch.save file of one object, as Python's own zip writer makes it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", stream)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data/0", payload)
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


def _end(size: int, start: int, comment: int = 0) -> bytes:
    return b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 4, 4, size, start, comment)


TENSOR, OBJECT = _piece(pickled(tensor())), _piece(pickled(integer(3)))

DISTCP: dict[str, Callable[[], bytes]] = {
    "sound": lambda: TENSOR + OBJECT + TENSOR,
    "cut_in_the_last": lambda: TENSOR + OBJECT + TENSOR[:-60],
    "cut_in_numbers": lambda: TENSOR * 3 + TENSOR[: len(TENSOR) // 3],
    "cut_in_a_pickle": lambda: TENSOR + TENSOR[:50],
    "end_points_at_itself": lambda: TENSOR + b"PK\3\4" + _end(0, 0),
    "end_of_no_size": lambda: (b"PK\3\4" + bytes(40) + _end(0, 44)) * 2_000,
    "end_before_the_file": lambda: TENSOR + _end(2**31, 2**31),
    "end_with_comment": lambda: TENSOR[:-2] + b"\xff\xff" + TENSOR,
    "gaps": lambda: TENSOR + bytes(999) + TENSOR,
    "many_objects": lambda: OBJECT * 500,
    "many_short": lambda: (b"PK\3\4" + _end(0, 4)) * 10_000,
    "numbers_missing": lambda: _piece(pickled(tensor()), b"") * 2,
    "in_themselves": lambda: _piece(pickled(tensor()), TENSOR) + _piece(pickled(tensor()), TENSOR + TENSOR),
    "then_safetensors": lambda: TENSOR + struct.pack("<Q", 2**40) + b"{" + bytes(99),
}


def distcp(tmp_path: Path, marker: Path, content: Callable[[], bytes]) -> Path:
    """Such a file, without `.metadata`."""
    path = tmp_path / "__0_0.distcp"
    path.write_bytes(content())
    return path
