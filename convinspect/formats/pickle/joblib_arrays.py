"""joblib's pickles, in which the numbers of an array stand right behind the instruction that builds its wrapper.

`joblib.numpy_pickle.NumpyArrayWrapper` has the array's shape, order and dtype. From joblib 1.2 on a byte follows that
says how much padding there is, then the padding, then the numbers; an array of Python objects is a pickle of its own
instead (`write_array` in joblib/numpy_pickle.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

from convinspect.errors import CutShort
from convinspect.formats.pickle.machine import Machine, Read
from convinspect.formats.pickle.opcodes import Undecodable, broken, instructions, undecodable
from convinspect.formats.pickle.values import EMPTY, Call, Dict, Global, RawBytes, Tuple

WRAPPER = "joblib.numpy_pickle.NumpyArrayWrapper"
"""Also as scikit-learn had it within itself."""
_REBUILT_BY = Global("numpy.core.multiarray", "_reconstruct")
_BUILD, _STOP = "b", "."
_WINDOW, _LARGEST_WINDOW = 1 << 12, 1 << 26
_MOST_AXES = 64
_HAS_OBJECTS = 1
"""The flag of NumPy's dtypes that have Python objects in them (`NPY_ITEM_HASOBJECT`)."""
_AGAIN = "get the file again, or save it again"


class Gap(NamedTuple):
    """Bytes `start:end` of the stream that are no instructions of its pickle; or that are a pickle of their own."""

    start: int
    end: int
    is_pickle: bool = False


def has_wrapper(names: Any) -> bool:
    """Whether a pickle that asks for these names is one of joblib with arrays in it."""
    return any(name.endswith(WRAPPER) for name in names)


_MARK = WRAPPER.rpartition(".")[2].encode()
_PIECE = 1 << 20


def is_of_joblib(read: Read, size: int) -> bool:
    """Whether the name of joblib's wrapper of arrays stands anywhere in so many bytes of a stream."""
    overlap = len(_MARK) - 1
    starts = range(0, size, _PIECE)
    return any(_MARK in read(max(0, at - overlap), min(_PIECE, size - at) + min(at, overlap)) for at in starts)


class JoblibMachine(Machine):
    """The pickle machine, for streams in which arrays stand between instructions.

    Attributes:
        gaps: Where they stand, in order.
    """

    def __init__(self, storages: int = 0) -> None:
        super().__init__(storages)
        self.gaps: list[Gap] = []
        self._storages = storages

    def carry_out(self, read: Read, start: int, end: int) -> int:
        """As of `Machine`."""
        position, size = start, _WINDOW
        while True:
            window = read(position, min(size, end - position))
            cut, stops, why = _first_build(window)
            whole = position + len(window) >= end
            if why and (whole or size > _LARGEST_WINDOW or why == "unknown"):
                raise undecodable(position + cut, why, read(position + cut, 1))
            if why and not cut:
                size *= 4
                continue
            behind = self._run(window[:cut], position, stops)
            if stops:
                return behind
            position, size = position + cut, _WINDOW
            if not why:
                position = self._taken(read, position, end)

    def _run(self, window: bytes, base: int, stops: bool) -> int:
        """Carry out the instructions of a window that ends with one."""
        try:
            return self.run(window, base)
        except Undecodable as error:
            if error.position < len(window) or stops:
                raise undecodable(
                    base + error.position, error.why, window[error.position : error.position + 1]
                ) from None
            return base + len(window)
        except (IndexError, KeyError, TypeError, AttributeError):
            raise broken(self.position, "an instruction does not fit what precedes it") from None

    def _taken(self, read: Read, position: int, end: int) -> int:
        """Take the array that begins at `position`, if what was just built is a wrapper; where the pickle goes on."""
        node = self.stack[-1] if self.stack else None
        if not isinstance(node, Call) or not _made_by(node).endswith(WRAPPER):
            return position
        try:
            states: Sequence[Any] = node.states
            fields = dict(states[-1].pairs) if isinstance(states[-1], Dict) else {}
            shape, dtype = fields["shape"], fields["dtype"]
            sizes: tuple[Any, ...] = tuple(shape.items) if isinstance(shape, Tuple) else (shape,)
            itemsize = _itemsize(dtype)
        except (IndexError, KeyError, TypeError, ValueError, AttributeError):
            raise broken(self.position, "an array's wrapper is malformed") from None
        if len(sizes) > _MOST_AXES or not all(type(one) is int and 0 <= one < 1 << 62 for one in sizes):
            raise broken(self.position, "an array's shape is none")
        if itemsize is None:
            after = self._of_objects(read, position, end)
            self.gaps.append(Gap(position, after, is_pickle=True))
            data: Any = None
        else:
            first = position
            if fields.get("numpy_array_alignment_bytes") is not None:
                first += 1 + int.from_bytes(read(position, 1), "little")
            after = first + prod(sizes) * itemsize
            if after > end:
                gone = after - max(first, end)
                raise CutShort(
                    f"it is truncated: it ends {gone:,} bytes before its array of shape {sizes} does", _AGAIN
                )
            self.gaps.append(Gap(position, after))
            data = RawBytes(first, after - first)
        reversed_ = fields.get("order") == "F"
        array = Call(_REBUILT_BY, EMPTY)
        array.states = [Tuple((1, Tuple(sizes, -1, -1), dtype, reversed_, data), -1, -1, (position,) * 5)]
        self.stack[-1] = array
        return after

    def _of_objects(self, read: Read, position: int, end: int) -> int:
        """Walk the pickle of an array of Python objects, for the names that it asks for; the offset behind it."""
        inner = Machine(self._storages)
        inner.left = self.left
        try:
            return inner.carry_out(read, position, end)
        finally:
            self.left = inner.left
            for name, span in inner.globals.items():
                self.globals.setdefault(name, span)


def _made_by(node: Call) -> str:
    """The class of what a call makes; of protocols 0 and 1 it is what `copyreg._reconstructor` is given."""
    function, args = node.function, node.args
    if isinstance(function, Global) and function.name == "_reconstructor" and isinstance(args, Tuple) and args.items:
        function = args.items[0]
    return function.qualified if isinstance(function, Global) else ""


def _first_build(window: bytes) -> tuple[int, bool, str]:
    """Where the first BUILD or STOP of a window ends, whether it is STOP, and "".

    Where neither is in it, the offset of the first instruction that cannot be decoded, and why.
    """
    try:
        for code, _, at in instructions(window, 0):
            if code in (_BUILD, _STOP):
                return at + 1, code == _STOP, ""
    except Undecodable as error:
        return error.position, False, error.why
    return len(window), False, "short"


def _itemsize(dtype: Any) -> int | None:
    """Bytes of an element; None where there are Python objects in it.

    Raises:
        ValueError: It is no dtype of a known size.
    """
    if not isinstance(dtype, Call) or not isinstance(dtype.args, Tuple):
        raise ValueError("no dtype")
    state = dtype.states[-1].items if dtype.states and isinstance(dtype.states[-1], Tuple) else ()
    if len(state) > 7 and type(state[7]) is int and state[7] & _HAS_OBJECTS:
        return None
    first = dtype.args.items[0]
    if isinstance(first, bytes):
        first = first.decode("latin-1")
    if isinstance(first, Global):
        size = state[5] if len(state) > 5 else -1
        if type(size) is int and size > 0:
            return size
        known = {"bfloat16": 2}.get(first.name) or (1 if first.name.startswith(("float8_", "int4", "uint4")) else None)
        if known is None:
            raise ValueError("no dtype of a known size")
        return known
    kind, digits = first.lstrip("<>|=")[:1], first.lstrip("<>|=")[1:].partition("[")[0]
    if kind == "O":
        return None
    if not digits.isdecimal() or len(digits) > 12:
        raise ValueError("no dtype of a known size")
    return int(digits) * (4 if kind == "U" else 1)


def without_gaps(read: Read, gaps: list[Gap], end: int) -> tuple[Read, int]:
    """The stream without what stands between its instructions, which is a pickle like any other; and its length."""
    kept: list[tuple[int, int, int]] = []
    position = at = 0
    for gap in [*gaps, Gap(end, end)]:
        kept.append((at, position, gap.start - position))
        at, position = at + gap.start - position, gap.end

    def part(offset: int, size: int) -> bytes:
        found = []
        for begin, first, length in kept:
            inside = max(0, offset - begin)
            if inside < length and begin < offset + size:
                found.append(read(first + inside, min(length, offset + size - begin) - inside))
        return b"".join(found)

    return part, at


def place_in(gaps: list[Gap], offset: int) -> int:
    """Where in the stream an offset of the stream without gaps is."""
    for gap in gaps:
        if gap.start > offset:
            break
        offset += gap.end - gap.start
    return offset
