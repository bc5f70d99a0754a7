"""Storages that lie in a pickle's byte strings: NumPy arrays' numbers, and storages that `pickle.dump` was given.

`torch.storage._load_from_bytes(b"…")` is how a storage pickles itself: the bytes are a `torch.save` stream of the time
before PyTorch 1.6, which holds that storage alone. Its pickles are walked as all others, and none is run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from convinspect.dtypes import storage_nbytes
from convinspect.errors import BrokenFile, ConvInspectError
from convinspect.formats.pickle.byte_strings import Octets, behind, first_bytes, first_place, octets_of
from convinspect.formats.pickle.machine import Read, Walk, reader, walk
from convinspect.formats.pickle.opcodes import Undecodable, instructions
from convinspect.formats.pickle.values import Persistent, Tuple
from convinspect.formats.torch.nodes import function_name
from convinspect.formats.torch.storage_ids import STORAGE_DTYPES, storage_dtype
from convinspect.records import Storage, Tensor
from convinspect.text import first_few, plural

ARRAY = "numpy.ndarray"
LOADS = "torch.storage._load_from_bytes"
MAGIC = 0x1950A86A20F9469CFC6C
"""What a `torch.save` stream of the time before PyTorch 1.6 begins with."""
_HEAD = 1 << 12
"""Bytes that hold the five pickles of a stream with one storage several times."""
_MOST_SEARCHED = 1 << 26
"""Bytes of a pickle in which a string of one byte is looked for."""
_BEFORE_NUMBERS = 4
"""The pickle of the object is the fourth in a `torch.save` stream of that time."""
_AGAIN = "get the file again, or save it again"
_COUNT = 8
"""Bytes of the number of elements that stands before them."""


class Strings:
    """The byte strings of a pickle, as storages of the file that it lies in.

    Args:
        path: The file.
        read: Gives the pickle's stream.
        start: Offset of the stream in the file; None where the stream is compressed, so that its strings have no place.
        marked: Arrays have `ARRAY` for their subclass.
        packed: The zip record that a compressed stream is, as a storage.

    Attributes:
        left: Why arrays are no tensors, by their keys.
        cast: Keys of arrays that PyTorch would turn into another dtype, and that dtype.
        arrays: How many arrays are tensors.
        paddle: Whether some array is in a pair with a parameter's name, as `paddle.save` writes tensors.
        widened: How many arrays of uint16 are Paddle's bfloat16.
    """

    def __init__(
        self, path: Path, read: Read, start: int | None = 0, marked: bool = False, packed: Storage | None = None
    ) -> None:
        self.path, self.read, self.start, self.marked, self.packed = path, read, start, marked, packed
        self.left: dict[str, str] = {}
        self.cast: dict[str, str] = {}
        self.arrays = 0
        self.paddle = False
        self.widened = 0
        self._singles: dict[bytes | str, Octets] | None = None
        self._numbers: dict[int | tuple[int, str], int] = {}
        self._nested: dict[int, tuple[Persistent, Storage]] = {}

    def octets(self, value: Any, at: int) -> Octets | None:
        """As `octets_of`, of this pickle."""
        found = octets_of(self.read, value, at)
        if found is None and isinstance(value, (bytes, str)) and len(value) <= 1:
            # Python has one object for each, so that it may have been written elsewhere.
            found = self._single(value) if value else Octets(at, 0, "", 0)
        return found

    def _single(self, value: bytes | str) -> Octets | None:
        """The first place where a string of one byte was written."""
        if self._singles is None:
            self._singles = {}
            with suppress(Undecodable):
                for argument, at in _pushed(self.read(0, _MOST_SEARCHED)):
                    single = isinstance(argument, (bytes, str)) and len(argument) == 1
                    if single and argument not in self._singles:
                        found = octets_of(self.read, argument, at)
                        if found is not None:
                            self._singles[argument] = found
        return self._singles.get(value)

    def storage(
        self, octets: Octets | None, nbytes: int, byteorder: str = "little", at: int | None = None
    ) -> Storage | None:
        """The storage of so many bytes that begins where a string does; None where they have no place in the file.

        Args:
            octets: The string.
            nbytes: How many.
            byteorder: That of an element.
            at: Where the string was pushed. Strings of at most one byte are the same storage only where this is the
                same, since Python has one object for all that are equal.
        """
        if octets is None:
            return None
        place = (at, "pushed") if nbytes <= 1 and at is not None else octets.start
        # By number, which stays the same where the strings are moved.
        key = f"string {self._numbers.setdefault(place, len(self._numbers))}"
        if self.start is None:
            if self.packed is None or octets.encoding:
                return None
            return self.packed._replace(
                key=key, nbytes=nbytes, available=nbytes, crc=None, byteorder=byteorder, skipped=octets.start
            )
        packed = octets.packed if octets.encoding else None
        available = nbytes if octets.encoding else min(nbytes, octets.packed)
        return Storage(
            self.path, key, nbytes, available, self.start + octets.start,
            packed_nbytes=packed, byteorder=byteorder, encoding=octets.encoding,
        )  # fmt: skip

    def as_paddle_reads(self, tensor: Tensor) -> Tensor:
        """A tensor of Paddle's, which keeps bfloat16 as uint16 and has no tensors of that (paddle/framework/io.py)."""
        if tensor.dtype != "uint16":
            return tensor
        self.widened += 1
        return tensor._replace(dtype="bfloat16")

    def loads(self, node: Any) -> bool:
        """Whether a call loads a storage of a byte string."""
        return function_name(node) == LOADS

    def nested(self, node: Any) -> tuple[Persistent, Storage]:
        """The persistent id in a stream that `_load_from_bytes` would load, and its storage.

        Where the pickle is compressed, the storage has no bytes in the file.

        Raises:
            BrokenFile: It is no stream of one storage.
        """
        octets = self.octets(node.args.items[0], first_place(self.read, node.args))
        if octets is None:
            raise ValueError("no byte string")
        found = self._nested.get(octets.start)
        if found is None:
            found = self._nested[octets.start] = self._in(octets)
        return found

    def _in(self, octets: Octets) -> tuple[Persistent, Storage]:
        try:
            head = first_bytes(self.read, octets, _HEAD)
            found, end = _one_storage(head)
            rest = behind(self.read, octets, end)
        except (ConvInspectError, UnicodeError):
            raise ValueError("no stream of one storage") from None
        parts = found.id.items
        nbytes = storage_nbytes(storage_dtype(parts) or "uint8", parts[4])
        count = int.from_bytes(head[end - _COUNT : end], "little")
        if count != parts[4]:
            raise BrokenFile(f"a storage of {parts[4]:,} elements is pickled with {count:,} of them", _AGAIN)
        if not rest.may_have(nbytes):
            raise BrokenFile(f"a storage of {nbytes:,} bytes is pickled with {rest.packed:,} of them", _AGAIN)
        return found, self.storage(rest, nbytes) or Storage(self.path, f"string of {rest.start}", nbytes, 0, None)


def _pushed(data: bytes) -> Iterator[tuple[Any, int]]:
    """What the instructions of the first pickles in a stream say, and where.

    Raises:
        Undecodable: At what is no instruction.
    """
    end = 0
    for _ in range(_BEFORE_NUMBERS):
        for _, argument, at in instructions(data, end):
            yield argument, at
            end = at + 1


def _one_storage(head: bytes) -> tuple[Persistent, int]:
    """The object of a stream whose object is a storage, and where its numbers begin.

    Raises:
        ConvInspectError: It is no such stream.
    """
    read, position = reader(head), 0
    walks = []
    for _ in range(5):
        walks.append(walk(read, position, len(head)))
        position = walks[-1].end
    if any(not name.startswith("torch.") or name.rpartition(".")[2] not in STORAGE_DTYPES for name in _names(walks)):
        raise BrokenFile("a stream that names more than a storage")
    magic, _, _, found, keys = (walked.value for walked in walks)
    named = isinstance(found, Persistent) and isinstance(found.id, Tuple) and storage_dtype(found.id.items) is not None
    if magic != MAGIC or not named or not isinstance(keys, list) or len(keys) != 1:
        raise BrokenFile("a stream that holds no storage")
    return found, position + _COUNT


def _names(walks: Iterable[Walk]) -> Iterator[str]:
    return (name for walked in walks for name in walked.globals)


class InStrings:
    """Gives storages by their keys, as the function does that it is made of, and knows where byte strings lie."""

    def __init__(self, storage_of: Any, strings: Strings) -> None:
        self.storage_of, self.strings = storage_of, strings

    def __call__(self, key: str, nbytes: int) -> Storage:
        """The storage of a key."""
        found: Storage = self.storage_of(key, nbytes)
        return found


def notes_on_arrays(strings: Strings, listed: int = 0) -> tuple[str, ...]:
    """Lines that say which tensors are arrays, and which arrays are none.

    Args:
        strings: What gave the arrays.
        listed: How many tensors there are, where some may be no arrays.
    """
    notes = []
    if 0 < strings.arrays < listed:
        are = "is a NumPy array" if strings.arrays == 1 else "are NumPy arrays"
        notes.append(f"{strings.arrays:,} of its tensors {are}")
    elif strings.arrays:
        notes.append("its tensors are NumPy arrays")
    if strings.widened:
        are = "is" if strings.widened == 1 else "are"
        notes.append(f"{strings.widened:,} of them {are} bfloat16, which Paddle keeps as uint16")
    if strings.cast:
        which = ", ".join(dict.fromkeys(strings.cast.values()))
        notes.append(f"{first_few(list(strings.cast), 3)}: PyTorch turns the array into {which} when it loads it")
    if strings.left:
        keys = [f"{key} ({what})" for key, what in strings.left.items()]
        notes.append(f"{plural(len(keys), 'array')} of no plain numbers, left out: {first_few(keys, 3)}")
    return tuple(notes)
