"""Long runs of one number instruction in a pickle, decoded at once rather than one by one.

A checkpoint may hold the order of a data set's samples or every loss of a training: millions of numbers in lists,
none of which says anything of a tensor.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from struct import unpack
from typing import Any

RUN = re.compile(
    rb"(?:K.){65,}|(?:M..){65,}|(?:J.{4}){65,}|(?:G.{8}){65,}|N{65,}|\x88{65,}|\x89{65,}", re.DOTALL
)  # fmt: skip
"""More of the same instruction than a tensor has dimensions, which are 64."""

_CONSTANT = {b"N": None, b"\x88": True, b"\x89": False}
_FORMATS = {b"M": ("<", "xH", 3), b"J": ("<", "xi", 5), b"G": (">", "xd", 9)}
"""Byte order, one instruction and its length, as `struct` writes them."""


def values_of(run: bytes) -> tuple[Sequence[Any], int]:
    """What a run pushes, and how many bytes each instruction of it has."""
    code = run[:1]
    if code in _CONSTANT:
        return [_CONSTANT[code]] * len(run), 1
    if code == b"K":
        return run[1::2], 2
    order, one, width = _FORMATS[code]
    return unpack(order + one * (len(run) // width), run), width
