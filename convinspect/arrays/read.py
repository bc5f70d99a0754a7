"""Tensors as the file describes them → numpy arrays, reading only the bytes that are asked for."""

from __future__ import annotations

import itertools
import math
import sys
import zlib
from collections.abc import Iterator
from typing import Any, TypeAlias, cast

import ml_dtypes
import numpy as np
import numpy.typing as npt

from convinspect.arrays.storage import Fetch, check_range, compare_crc, fetch_bytes, opened
from convinspect.dtypes import COMPLEX
from convinspect.errors import CannotShow, RefusedFile
from convinspect.formats import pieces
from convinspect.records import Storage, Tensor

Array: TypeAlias = npt.NDArray[Any]

NUMPY = frozenset(
    ["float64", "float32", "float16", "complex64", "complex128", "bool"]
    + [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
)
ML_DTYPES = frozenset(
    ["bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"]
)
QUANTIZED = frozenset(["quint8", "qint8", "qint32", "quint4x2", "quint2x4"])

SPAN = 4 << 20
"""Most bytes of a file in memory at once while a tensor with gaps is read."""
MOST_AXES = 32
"""Most dimensions of an array in every version of numpy."""


def numpy_dtype(name: str, byteorder: str = "little") -> np.dtype[Any]:
    """The numpy dtype that reads the elements of a PyTorch dtype.

    Args:
        name: PyTorch's name, such as "bfloat16".
        byteorder: "little" or "big".

    Returns:
        A dtype of the same item size, except for complex32: numpy has no such type, and its pairs of float16
        are given as complex64.

    Raises:
        CannotShow: numpy cannot read the dtype (quantized, or several elements share a byte), or not in that
            byte order (bfloat16 in the other order than the machine's).
    """
    if name in QUANTIZED:
        raise CannotShow(f"{name} holds integers whose scale is kept apart from them", "dequantize it in PyTorch first")
    if name in ML_DTYPES:
        if byteorder != sys.byteorder and name == "bfloat16":
            raise CannotShow(f"numpy has no {byteorder}-endian bfloat16")
        small: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return small
    if name in NUMPY or name == "complex32":
        native = np.dtype("complex64" if name == "complex32" else name)
        known: np.dtype[Any] = native.newbyteorder("<" if byteorder == "little" else ">")
        return known
    raise CannotShow(f"{name} has no reading as one number per element", "unpack it in PyTorch first")


def read_tensor(tensor: Tensor) -> Array:
    """The values of one tensor.

    Returns:
        An array of `tensor.shape`, in the machine's byte order, that shares memory with nothing else. Its own
        strides are those of the file where the elements lie densely, C order otherwise.

    Raises:
        CannotShow: The file holds no numbers for it, or numpy cannot read its dtype or layout.
        BrokenFile: Bytes are missing or damaged.
        RefusedFile: Its shape, stride or offset reach outside its storage.
    """
    if tensor.layout == pieces.LAYOUT:
        joined: Array = np.concatenate([read_tensor(part) for part in tensor.parts], axis=_axis(tensor))
        return joined
    storage, itemsize = _checked(tensor)
    if tensor.numel == 0:
        return np.empty(tensor.shape, numpy_dtype(tensor.dtype, sys.byteorder))
    with opened(storage, sums=True) as fetch:
        if dense(tensor):
            raw = fetch_bytes(fetch, storage, tensor.offset * itemsize, tensor.numel * itemsize)
            return _strided(_values(raw, tensor), tensor.shape, tensor.stride)
        values = np.empty(tensor.shape, numpy_dtype(tensor.dtype, sys.byteorder))
        for box, part in _boxes(fetch, storage, tensor, elements=1 << 20):
            values[box] = part
        return values


def read_blocks(tensor: Tensor, elements: int = 1 << 17) -> Iterator[Array]:
    """The values of one tensor in bounded memory, each element once, in no order that is promised.

    Args:
        tensor: What to read.
        elements: Most elements of one block.

    Yields:
        1-D arrays in the machine's byte order. One buffer may serve for all of them: a block is valid until
        the next one is asked for.

    Raises:
        As `read_tensor`; a damaged record is noticed after its last block.
    """
    if tensor.layout == pieces.LAYOUT:
        for piece in tensor.parts:
            yield from read_blocks(piece, elements)
        return
    storage, itemsize = _checked(tensor)
    if tensor.numel == 0:
        return
    with opened(storage, sums=True) as fetch:
        if dense(tensor):
            yield from _stream(fetch, storage, tensor, elements * itemsize)
        else:
            for _, part in _boxes(fetch, storage, tensor, elements):
                yield part.reshape(-1)


def _axis(tensor: Tensor) -> int:
    """Along which dimension a tensor's parts follow each other.

    Raises:
        CannotShow: It is cut along several.
    """
    axis = pieces.axis_of(tensor)
    if axis is None:
        remedy = "write whole tensors with torch.distributed.checkpoint's consolidate_safetensors_files"
        raise CannotShow(f"tensor {tensor.key} has pieces that do not follow each other along one dimension", remedy)
    return axis


def _stream(fetch: Fetch, storage: Storage, tensor: Tensor, most: int) -> Iterator[Array]:
    itemsize = _itemsize(tensor.dtype)
    begin, size, crc = tensor.offset * itemsize, tensor.numel * itemsize, 0
    buffer = np.empty(min(size, most), np.uint8)
    # The CRC-32 is of the whole record; bytes that are a part of it cannot be checked.
    compare = storage.crc and size == storage.nbytes
    for done in range(0, size, most):
        raw = buffer[: size - done]
        fetch(begin + done, raw.data)
        crc = zlib.crc32(raw.data, crc) if compare else 0
        yield _values(raw, tensor)
    if compare:
        compare_crc(storage, crc)


def _boxes(fetch: Fetch, storage: Storage, tensor: Tensor, elements: int) -> Iterator[tuple[tuple[slice, ...], Array]]:
    """Boxes of indices that cover the tensor, and the values in each, in the order of the file."""
    itemsize = _itemsize(tensor.dtype)
    steps = _steps(tensor.shape, tensor.stride, itemsize, elements)
    outer_first = sorted(range(len(steps)), key=lambda axis: -tensor.stride[axis])
    for starts in itertools.product(*(range(0, tensor.shape[a], steps[a]) for a in outer_first)):
        box = [slice(0)] * len(steps)
        for axis, start in zip(outer_first, starts, strict=True):
            box[axis] = slice(start, min(start + steps[axis], tensor.shape[axis]))
        shape = tuple(s.stop - s.start for s in box)
        first = tensor.offset + sum(s.start * n for s, n in zip(box, tensor.stride, strict=True))
        span = 1 + sum((n - 1) * s for n, s in zip(shape, tensor.stride, strict=True))
        raw = fetch_bytes(fetch, storage, first * itemsize, span * itemsize)
        yield tuple(box), _strided(_values(raw, tensor), shape, tensor.stride)


def _steps(shape: tuple[int, ...], stride: tuple[int, ...], itemsize: int, elements: int) -> list[int]:
    """How many indices of each axis one box takes: what `elements` and `SPAN` allow, inner axes first."""
    steps, count, span = [1] * len(shape), 1, itemsize
    for axis in sorted(range(len(shape)), key=lambda axis: stride[axis]):
        step = min(shape[axis], elements // count)
        if stride[axis]:
            step = min(step, (SPAN - span) // (stride[axis] * itemsize) + 1)
        steps[axis] = max(1, step)
        count, span = count * steps[axis], span + (steps[axis] - 1) * stride[axis] * itemsize
        if steps[axis] < shape[axis]:
            break
    return steps


def _itemsize(dtype: str) -> int:
    """Bytes of one element in the file."""
    return 4 if dtype == "complex32" else numpy_dtype(dtype, sys.byteorder).itemsize


def _values(raw: npt.NDArray[np.uint8], tensor: Tensor) -> Array:
    """A run of bytes → its elements, 1-D. Swaps the bytes in place where the file has the other order."""
    storage = cast(Storage, tensor.storage)
    unit = _itemsize(tensor.dtype) // (2 if tensor.dtype in COMPLEX else 1)
    if unit > 1 and storage.byteorder != sys.byteorder:
        raw.view(f"u{unit}").byteswap(inplace=True)
    if tensor.dtype == "bool":
        truths: Array = raw != 0
        return truths
    if tensor.dtype == "complex32":
        pairs: Array = raw.view(np.float16).astype(np.float32).view(np.complex64)
        return pairs
    values: Array = raw.view(numpy_dtype(tensor.dtype, sys.byteorder))
    return values


def _strided(values: Array, shape: tuple[int, ...], stride: tuple[int, ...]) -> Array:
    """A view of 1-D values under other strides, in elements."""
    # Through bytes, since as_strided does not know every dtype of ml_dtypes.
    steps = [step * values.itemsize for step in stride]
    view: Array = np.ndarray(shape, values.dtype, values.view(np.uint8).data, strides=steps)
    return view


def dense(tensor: Tensor) -> bool:
    """Whether the elements fill one run of the storage, each place once, in whatever order of axes."""
    run = 1
    for stride, size in sorted((s, n) for n, s in zip(tensor.shape, tensor.stride, strict=True) if n > 1):
        if stride != run:
            return False
        run *= size
    return True


def _reach(tensor: Tensor) -> int:
    """Elements of the storage from the tensor's first to its last."""
    return 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride, strict=True))


def _where_not(storage: Storage | None) -> str:
    """Where a tensor's numbers were looked for in vain."""
    if storage is None or storage.pieces is None:
        return "not in this file, only its shape"
    files = (chunk.place.file.name for chunk in storage.pieces.chunks if chunk.place is not None)
    name = next(files, None)
    return "not here, only its shape" + (f": {name} is not there" if name is not None else "")


def _checked(tensor: Tensor) -> tuple[Storage, int]:
    """The storage and the bytes of one element, of a tensor that can be read."""
    where, storage = f"tensor {tensor.key}", tensor.storage
    if tensor.layout != "strided":
        raise CannotShow(f"{where} has the layout {tensor.layout}, of which only the shape can be shown")
    if storage is None or storage.start is None:
        raise CannotShow(f"the numbers of {where} are {_where_not(storage)}")
    if len(tensor.shape) > MOST_AXES:
        raise CannotShow(f"{where} has {len(tensor.shape)} dimensions; at most {MOST_AXES} can be shown")
    numbers = (tensor.offset, *tensor.shape, *tensor.stride)
    if len(tensor.shape) != len(tensor.stride) or min(numbers) < 0 or max(numbers) >= 1 << 48:
        raise RefusedFile(f"{where} has a shape, stride or offset that no tensor has", path=storage.file)
    # An expanded tensor repeats few bytes; without a limit four of them could ask for any amount of work.
    most = storage.available * 64 + (1 << 20) if tensor.numel else 1 << 56
    if math.prod(n for n in tensor.shape if n) > most:
        raise RefusedFile(
            f"{where} claims {tensor.numel} elements over a record of {storage.available} bytes",
            path=storage.file,
        )
    itemsize = _itemsize(tensor.dtype)
    if tensor.numel:
        check_range(storage, where, tensor.offset * itemsize, _reach(tensor) * itemsize)
    return storage, itemsize
