"""NumPy arrays in a pickle, as tensors over the bytes that the pickle has of them.

What they are rebuilt by: `_reconstruct` with the state that `numpy.ndarray.__setstate__` takes, `_frombuffer` from
protocol 5 on (numpy/_core/numeric.py), and around the first JAX's `_reconstruct_array` (jax/_src/array.py) and dill's
`_create_array` (dill/_dill.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

from convinspect.errors import BrokenFile
from convinspect.formats.numpy_dtypes import EXTENSIONS, ArrayDtype, array_dtype, extension_dtype, told
from convinspect.formats.pickle.values import Call, Dict, Global, OutOfBand, Tuple
from convinspect.formats.torch.byte_storages import ARRAY, Strings
from convinspect.formats.torch.nodes import arguments, function_name
from convinspect.formats.torch.storage_ids import number
from convinspect.records import Tensor, contiguous

_NAMES = re.compile(
    r"numpy\._?core\.(?:multiarray\._reconstruct|numeric\._frombuffer)"
    r"|numpy\.ma\.core\._mareconstruct"
    r"|jax\._src\.(?:array\._reconstruct_array|device_array\.reconstruct_device_array)"
    r"|dill\._dill\._create_array"
)
NAMES = frozenset(
    {
        "numpy.ndarray", "numpy.dtype", "jax._src.array._reconstruct_array",
        *(f"numpy.{core}.{name}" for core in ("core", "_core")
          for name in ("multiarray._reconstruct", "numeric._frombuffer", "multiarray.scalar")),
        *(f"ml_dtypes.{name}" for name in EXTENSIONS),
    }
)  # fmt: skip
"""What NumPy and JAX themselves ask for to rebuild arrays and numbers."""
_MOST_AXES = 64
_DTYPE = "numpy.dtype"


class _Parts(NamedTuple):
    """What an array is made of.

    Attributes:
        shape: Its sizes, in the order in which its bytes lie, or the reverse.
        dtype: What the pickle says of its dtype.
        reversed: The first axis is the one whose elements lie next to each other.
        axes: Where each axis of the array is found in `shape`; None where that is its own place.
        data: Its bytes.
        at: Where these were pushed.
    """

    shape: tuple[int, ...]
    dtype: Any
    reversed: bool
    axes: tuple[int, ...] | None
    data: Any
    at: int


def is_array(name: str) -> bool:
    """Whether a function of this name rebuilds an array."""
    return name.startswith(("numpy.", "jax.", "dill.")) and _NAMES.fullmatch(name) is not None


def is_of_numbers(node: Call) -> bool:
    """Whether a call rebuilds an array that is listed as a tensor."""
    name = function_name(node) or ""
    try:
        parts = _parts(name, node) if is_array(name) else None
        return parts is not None and not isinstance(dtype_of(parts.dtype), str)
    except (IndexError, TypeError, ValueError, AttributeError):
        return False


def array_of(name: str, node: Call, key: str, strings: Strings) -> Tensor | None:
    """The array that a call would rebuild; None where its elements are no numbers, or it is of a class with more state.

    Args:
        name: Of the function, for which `is_array` holds.
        node: The call.
        key: What the tensor is to be called.
        strings: Where the pickle's byte strings lie.

    Raises:
        BrokenFile: Its shape, and how many bytes there are of it, disagree.
    """
    parts = _parts(name, node)
    if parts is None:
        if name.startswith("numpy.ma."):
            # Which of its numbers count is in its mask.
            strings.left[key] = "numbers with a mask"
        return None
    dtype = dtype_of(parts.dtype)
    if isinstance(dtype, str):
        strings.left[key] = dtype
        return None
    shape = tuple(parts.shape[axis] for axis in parts.axes) if parts.axes is not None else parts.shape
    steps = contiguous(parts.shape[::-1])[::-1] if parts.reversed else contiguous(parts.shape)
    stride = tuple(steps[axis] for axis in parts.axes) if parts.axes is not None else steps
    nbytes = prod(shape) * dtype.itemsize
    octets = strings.octets(parts.data, parts.at)
    if octets is None and not isinstance(parts.data, OutOfBand):
        raise BrokenFile(
            f"array {key!r} has no bytes where its numbers should be", "get the file again, or save it again"
        )
    if octets is not None and not octets.may_have(nbytes):
        have = octets.packed if octets.size is None else octets.size
        raise BrokenFile(
            f"array {key!r} of shape {shape} has {nbytes:,} bytes, and the pickle has {have:,} of them",
            "get the file again, or save it again",
        )
    strings.arrays += 1
    storage = strings.storage(octets, nbytes, dtype.byteorder, parts.at)
    layout = "strided" if storage is not None or not nbytes else "compressed" if octets is not None else "out-of-band"
    return Tensor(key, dtype.name, shape, stride, 0, storage, layout, subclass=ARRAY if strings.marked else None)


def _parts(name: str, node: Call) -> _Parts | None:
    args = arguments(node)
    if name.endswith("_frombuffer"):
        return _from_buffer(node, args)
    if name.startswith("dill.") and not _is_reconstruct(args[0]):
        # It calls whatever it is given.
        return None
    state = next(reversed(node.states), None) if name.startswith("numpy.") else args[2]
    if not isinstance(state, Tuple) or len(state.items) not in (4, 5):
        # Subclasses may have more, and the very first NumPy had no version in it.
        return None
    shape, dtype, is_reversed, data = state.items[-4:]
    return _Parts(_shape(shape), dtype, bool(is_reversed), None, data, state.starts[-1])


def _is_reconstruct(node: Any) -> bool:
    return isinstance(node, Global) and node.qualified.startswith("numpy.") and node.name == "_reconstruct"


def _from_buffer(node: Call, args: Sequence[Any]) -> _Parts:
    """`_frombuffer(buffer, dtype, shape, order, axis_order)`, whose last argument is there where the order is "K"."""
    data, dtype, size, order = args[:4]
    shape = _shape(size)
    axes = tuple(map(number, args[4].items)) if order == "K" and len(args) > 4 and args[4] is not None else None
    if axes is not None and sorted(axes) != list(range(len(shape))):
        raise ValueError("no order of axes")
    return _Parts(shape, dtype, order == "F", axes, data, node.args.starts[0])


def _shape(node: Any) -> tuple[int, ...]:
    """A tuple of sizes, or one size."""
    items = node.items if isinstance(node, Tuple) else [node]
    if len(items) > _MOST_AXES:
        raise ValueError("more dimensions than an array can have")
    return tuple(map(number, items))


def dtype_of(node: Any) -> ArrayDtype | str:
    """What `numpy.dtype(…)` with its state says: a dtype of numbers, or in words what its elements are."""
    if not isinstance(node, Call) or function_name(node) != _DTYPE:
        return "elements of an unknown dtype"
    first = next(iter(arguments(node)), None)
    state = node.states[-1].items if node.states and isinstance(node.states[-1], Tuple) else ()
    # Version, byte order, base and shape of a sub-array, names and fields of a record, and its size.
    order = _text(state[1]) if len(state) > 1 else ""
    if isinstance(first, Global):
        size = state[5] if len(state) > 5 and type(state[5]) is int else 0
        return extension_dtype(first.name, size, order) or f"elements of dtype {first.qualified}"
    text = _text(first)
    found = array_dtype(text, order)
    if found is None or any(part is not None for part in state[2:5]):
        if any(isinstance(part, Dict) for part in state[2:5]):
            return "records"
        return told(text) or f"elements of dtype {text!r:.20}"
    return found


def _text(node: Any) -> str:
    """A text, which pickles of Python 2 may have as bytes."""
    return node.decode("latin-1") if isinstance(node, bytes) else node if isinstance(node, str) else ""
