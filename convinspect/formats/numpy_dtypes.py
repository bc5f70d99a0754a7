"""NumPy's dtypes as files write them, such as "<f4", by PyTorch's names."""

from __future__ import annotations

import re
from typing import NamedTuple

_NUMBER = re.compile(r"([<>|=]?)([?bifuc])(\d{0,2})")
_OTHER = re.compile(r"[<>|=]?([A-Za-z])(\d{0,18})(?:\[[^\]]{0,20}\])?")

_KINDS = {"f": "float", "i": "int", "u": "uint", "c": "complex"}
_SIZES = {"f": (2, 4, 8), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "c": (8, 16)}
_WORDS = {"O": "Python objects", "U": "text", "S": "text", "a": "text", "V": "raw bytes or records", "M": "dates",
          "m": "time spans", "f": "extended-precision floats", "g": "extended-precision floats",
          "c": "extended-precision complex numbers", "G": "extended-precision complex numbers"}  # fmt: skip
EXTENSIONS = frozenset(
    {"bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"}
)
"""Names in `ml_dtypes`, which adds dtypes to NumPy under the names that PyTorch has for them."""


class ArrayDtype(NamedTuple):
    """A dtype of numbers.

    Attributes:
        name: PyTorch's, such as "float32".
        itemsize: Bytes of one element.
        byteorder: "little" or "big"; "little" where an element is one byte.
    """

    name: str
    itemsize: int
    byteorder: str = "little"


def array_dtype(text: str, order: str = "") -> ArrayDtype | None:
    """The dtype that NumPy's string names; None where it is none of plain numbers that PyTorch has too.

    Args:
        text: As `numpy.dtype.str` gives it ("<f4", "|b1"), or without its first character ("f4").
        order: That character ("<", ">", "|", "="), where the file has it apart. "=" is taken for little-endian.
    """
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    kind = match[2]
    if kind in "?b":
        return ArrayDtype("bool", 1) if text.lstrip("<>|=") in ("?", "b1") else None
    size = int(match[3] or 0)
    if (kind, size) == ("f", 1):
        # Of the dtypes of ml_dtypes only this one is a float to NumPy, which writes it and cannot read it.
        return ArrayDtype("float8_e5m2", 1)
    if size not in _SIZES[kind]:
        return None
    big = (order or match[1]) == ">" and size > 1
    return ArrayDtype(f"{_KINDS[kind]}{8 * size}", size, "big" if big else "little")


def extension_dtype(name: str, itemsize: int, order: str = "") -> ArrayDtype | None:
    """The dtype of `ml_dtypes` with this name; None where PyTorch has none of that name or size."""
    if name not in EXTENSIONS or itemsize != (2 if name == "bfloat16" else 1):
        return None
    return ArrayDtype(name, itemsize, "big" if order == ">" and itemsize > 1 else "little")


def told(text: str) -> str:
    """What the elements of another dtype are, in words: "Python objects", "text", …."""
    match = _OTHER.fullmatch(text)
    return _WORDS.get(match[1], "") if match else ""
