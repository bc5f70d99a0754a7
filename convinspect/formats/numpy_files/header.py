"""The header that an array has in NumPy's own format: a magic number, a version, a length, and a Python dictionary.

Source: NEP 1 and `numpy/lib/format.py` of NumPy, versions 1.0 to 3.0 of the format.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from convinspect.errors import BrokenFile, CutShort, RefusedFile
from convinspect.formats.numpy_dtypes import ArrayDtype, array_dtype, told
from convinspect.records import contiguous

if TYPE_CHECKING:
    from convinspect.formats.pickle.machine import Read

MAGIC = b"\x93NUMPY"
_LONGEST = 10_000
"""Bytes of a header's text that NumPy reads unless it is told to trust the file (`max_header_size`)."""
_KEYS = {"descr", "fortran_order", "shape"}
_MOST_BYTES = 1 << 60
"""No array has more: it is more than a file system holds in one file."""
_LONG = re.compile(r"(\d)L\b")
"""What Python 2 wrote behind the sizes of a shape."""
_AGAIN = "download or copy it again"


class ArrayHeader(NamedTuple):
    """What an array's header says.

    Attributes:
        dtype: Of its elements; None where they are no plain numbers that PyTorch has too.
        what: What the elements are instead, in words.
        shape: Sizes.
        stride: In elements.
        size: Bytes of the header, behind which the elements lie.
        pickled: The elements are Python objects, in a pickle behind the header.
    """

    dtype: ArrayDtype | None
    what: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    size: int
    pickled: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, of one that has a dtype."""
        return math.prod(self.shape) * (0 if self.dtype is None else self.dtype.itemsize)


def read_header(read: Read) -> ArrayHeader:
    """Read an array's header, without anything behind it.

    Args:
        read: Gives the bytes from an offset, fewer only where they end.

    Raises:
        CutShort: It ends before its header does.
        BrokenFile: The header is none.
        RefusedFile: It asks for what no honest array has.
    """
    start = read(0, 12)
    if not MAGIC.startswith(start[: len(MAGIC)]):
        raise BrokenFile("it does not begin as an array of NumPy does", _AGAIN)
    if len(start) < 10:
        raise CutShort("it ends within the first bytes of its header", _AGAIN)
    major, width = start[6], 2 if start[6] == 1 else 4
    if major not in (1, 2, 3):
        raise BrokenFile(f"it is version {major}.{start[7]} of NumPy's format, and 1 to 3 are known", _AGAIN)
    length, begin = int.from_bytes(start[8 : 8 + width], "little"), 8 + width
    if length > _LONGEST:
        raise RefusedFile(f"its header claims {length:,} bytes; NumPy reads no more than {_LONGEST:,}")
    text = read(begin, length)
    if len(text) < length:
        raise CutShort(f"{len(text):,} of the {length:,} bytes of its header are there", _AGAIN)
    try:
        return _of_text(text.decode("utf-8" if major == 3 else "latin-1"), begin + length)
    except UnicodeDecodeError:
        raise _malformed("it is no text") from None


@lru_cache(maxsize=512)
def _of_text(text: str, size: int) -> ArrayHeader:
    """The header of a text; remembered, since an archive of thousands of arrays has few that differ."""
    return _checked(_parsed(text), size)


def _parsed(text: str) -> dict[str, Any]:
    """The dictionary that a header's text is; only constants are accepted, and nothing is run."""
    # Imported here, since all other files open faster without it.
    import ast
    import warnings

    for old in (False, True):
        attempt = _LONG.sub(r"\1", text) if old else text
        try:
            with warnings.catch_warnings():
                # An escape that Python does not know is none of the user's code.
                warnings.simplefilter("ignore")
                fields = ast.literal_eval(attempt.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        if isinstance(fields, dict) and set(fields) == _KEYS:
            return fields
        raise _malformed("it is no dictionary of descr, fortran_order and shape")
    raise _malformed("it is no dictionary of plain values")


def _checked(fields: dict[str, Any], size: int) -> ArrayHeader:
    descr, fortran, shape = fields["descr"], fields["fortran_order"], fields["shape"]
    if not isinstance(shape, tuple) or not all(type(one) is int for one in shape):
        raise _malformed("its shape is no tuple of numbers")
    if not isinstance(fortran, bool):
        raise _malformed("its fortran_order is neither True nor False")
    if any(one < 0 for one in shape):
        raise RefusedFile(f"its shape {_short(shape)} has a negative size")
    dtype, what = _dtype(descr)
    if math.prod(one for one in shape if one) * (1 if dtype is None else dtype.itemsize) > _MOST_BYTES:
        raise RefusedFile(f"its shape {_short(shape)} asks for more than any file holds")
    stride = contiguous(shape[::-1])[::-1] if fortran else contiguous(shape)
    return ArrayHeader(dtype, what, shape, stride, size, any(map(_is_object, _types(descr))))


_RAW = {"V1": ("float8_e4m3fn", "float8"), "V2": ("bfloat16", "bfloat16")}
"""What NumPy, which does not know the dtypes of `ml_dtypes`, keeps the bytes of, by their size: the dtype that is most
likely, and its family."""


def _dtype(descr: object) -> tuple[ArrayDtype | None, str]:
    """The dtype that a header names, or what its elements are instead."""
    if isinstance(descr, str):
        dtype = array_dtype(descr)
        return dtype, "" if dtype is not None else _told(descr)
    return None, "records of several fields"


def _told(descr: str) -> str:
    """What the elements of a dtype are that is none of plain numbers."""
    size = descr.lstrip("<>|=")
    if size in _RAW:
        return f"raw bytes ({size}), as NumPy keeps {_RAW[size][1]}"
    return told(descr) or f"the dtype {descr[:40]!r}"


def way_to_read(path: str, what: str) -> str:
    """What to type to get at numbers whose bytes NumPy keeps without their dtype.

    Args:
        path: What `numpy.load` is given, and the name of the array in it where it holds several.
        what: As of the header.
    """
    dtype = next((dtype for size, (dtype, _) in _RAW.items() if f"({size})" in what), "")
    exact = " (or the float8 that it was)" if dtype.startswith("float8") else ""
    return f"{path}.view(ml_dtypes.{dtype}){exact}.astype('float32')" if dtype else ""


def _types(descr: object, depth: int = 0) -> Iterator[str]:
    """The texts of all elementary dtypes that a `descr` is made of."""
    if isinstance(descr, str):
        yield descr
    elif isinstance(descr, (list, tuple)) and depth < 32:
        for one in descr:
            # A field is (name, dtype) or (name, dtype, shape); a subarray's dtype is (dtype, shape).
            parts = one[1:2] if isinstance(one, tuple) and len(one) > 1 else [one]
            for part in parts:
                yield from _types(part, depth + 1)


def _is_object(descr: str) -> bool:
    return descr.lstrip("<>|=")[:1] == "O"


def _short(shape: tuple[int, ...]) -> str:
    text = ", ".join(str(one) if one.bit_length() < 200 else "…" for one in shape[:6])
    return f"({text}{', …' if len(shape) > 6 else ''})"


def _malformed(why: str) -> BrokenFile:
    return BrokenFile(f"its header is malformed ({why})", _AGAIN)
