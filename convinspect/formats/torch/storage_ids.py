"""The persistent ids by which a pickle names its storages: type, key, device, number of elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from convinspect.formats.pickle.values import Global, Tuple

STORAGE_DTYPES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16",
    "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool", "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128", "QUInt8Storage": "quint8", "QInt8Storage": "qint8",
    "QInt32Storage": "qint32", "QUInt4x2Storage": "quint4x2", "QUInt2x4Storage": "quint2x4",
    "UntypedStorage": "uint8",
}  # fmt: skip

LARGEST = 2**63 - 1
"""No size of a tensor is above it."""


def storage_id(node: Any) -> tuple[str, str, str, int, int]:
    """`('storage', type, key, location, numel[, view])` → dtype, key, device, elements, first element.

    A view (before PyTorch 1.6 only) is (key, offset, size), with offset and size in elements.
    """
    parts = node.id.items
    if parts[0] != "storage":
        raise ValueError("not a storage")
    dtype = STORAGE_DTYPES[parts[1].name]
    view = parts[5] if len(parts) > 5 else None
    first = number(view.items[1]) if isinstance(view, Tuple) else 0
    if not isinstance(parts[2], str) or not isinstance(parts[3], str):
        raise TypeError("storage key and location are strings")
    return dtype, parts[2], parts[3], number(parts[4]), first


def storage_dtype(parts: Sequence[Any]) -> str | None:
    """dtype of the storage that a persistent id names; None if it names something else."""
    named = len(parts) >= 5 and parts[0] == "storage" and isinstance(parts[1], Global)
    if not named or not isinstance(parts[2], str) or type(parts[4]) is not int or not 0 <= parts[4] <= LARGEST:
        return None
    return STORAGE_DTYPES.get(parts[1].name)


def number(item: Any) -> int:
    """A size, an offset or a number of elements.

    Raises:
        TypeError: It is none.
    """
    if type(item) is not int or not 0 <= item <= LARGEST:
        raise TypeError("not a size")
    return item
