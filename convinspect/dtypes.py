"""dtypes by PyTorch's names, how many bytes their elements take, and how far apart these lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from operator import mul

ITEMSIZE: dict[str, int | float] = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2,
    "float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1,
    "float6_e2m3fn": 0.75, "float6_e3m2fn": 0.75, "float4_e2m1fn_x2": 1, "float4_e2m1fn": 0.5,
    "complex32": 4, "complex64": 8, "complex128": 16,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1,
    "uint64": 8, "uint32": 4, "uint16": 2, "uint8": 1, "bool": 1,
    "quint8": 1, "qint8": 1, "qint32": 4, "quint4x2": 0.5, "quint2x4": 0.25,
    "bits8": 1, "bits16": 2, "bits1x8": 1, "bits2x4": 1, "bits4x2": 1,
}  # fmt: skip
"""Bytes of one element by PyTorch's name of the dtype; below 1 where several elements share a byte."""

FLOATING = frozenset(name for name in ITEMSIZE if name.startswith(("float", "bfloat")))

COMPLEX = frozenset(name for name in ITEMSIZE if name.startswith("complex"))

NUMBERS = FLOATING | COMPLEX
"""dtypes of parameters, which gradients can be taken of."""


def nbytes_of(dtype: str, numel: int) -> int:
    """Bytes of `numel` elements."""
    itemsize = ITEMSIZE.get(dtype, 0)
    # Whole sizes stay in integers: a float is exact only up to 2**53.
    return numel * itemsize if isinstance(itemsize, int) else math.ceil(numel * itemsize)


_STORAGE_ITEMSIZE = {dtype: max(1, int(itemsize)) for dtype, itemsize in ITEMSIZE.items()}


def storage_nbytes(dtype: str, numel: int) -> int:
    """Bytes of a storage of `numel` elements, as PyTorch counts them: where several values share a byte, bytes."""
    return numel * _STORAGE_ITEMSIZE[dtype]


@lru_cache(maxsize=1024)
def reach(shape: tuple[int, ...], stride: tuple[int, ...], offset: int, dtype: str) -> float:
    """Bytes from a storage's first to a tensor's last; remembered, since a large file has few tensors that differ."""
    if 0 in shape:
        return 0
    last: int = offset + 1 + sum(map(mul, shape, stride)) - sum(stride)
    return last * ITEMSIZE.get(dtype, 0)


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """Row-major strides of a shape, in elements, as PyTorch gives them."""
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(strides[::-1])
