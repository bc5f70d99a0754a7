"""`torch.save` before PyTorch 1.6: a stream of five pickles, then the raw storages.

The pickles are: a magic number, a protocol version, facts about the system, the object, and the storages' keys.
Then each storage follows in the order of the keys: its number of elements as 8 bytes, and its elements. Both are
little-endian whatever the system was (`THPStorage_writeFileRaw` in PyTorch's torch/csrc/generic/serialization.cpp).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from convinspect.dtypes import storage_nbytes
from convinspect.errors import BrokenFile, ConvInspectError, CutShort, RefusedFile
from convinspect.formats.files import File, cut_short
from convinspect.formats.pickle.machine import Walk, walk
from convinspect.formats.pickle.record import Pickle
from convinspect.formats.sources import is_spared
from convinspect.formats.torch.archive import SMALL_STORAGE, foreign_globals, module_notes, roots_of
from convinspect.formats.torch.storage_ids import storage_dtype
from convinspect.records import Container, Contents, Problem, Storage

if TYPE_CHECKING:
    from convinspect.formats.torch.byte_storages import Strings

_MAGIC = 0x1950A86A20F9469CFC6C


def is_legacy(file: File) -> bool:
    """True when the file begins with the old format's magic number, in any pickle protocol."""
    if file.read(0, 1) not in (b"\x80", b"L"):
        return False
    try:
        return bool(walk(file.read, 0, min(file.size, 64)).value == _MAGIC)
    except ConvInspectError:
        return False


def read_torch_legacy(file: File, pickle: Pickle | None = None) -> Contents:
    """List a checkpoint in the format before 1.6.

    Args:
        file: The file.
        pickle: Its pickles, if they were read before.

    Raises:
        BrokenFile: It is truncated before its storages begin, or malformed.
    """
    try:
        pickle = pickle or pickles(file)
    except CutShort:
        raise cut_short(file.size, None, ", which end before all tensors are described") from None
    tree = pickle.tree
    storages, end = place_storages(file, pickle)

    def storage_of(key: str, nbytes: int) -> Storage:
        storage = storages.get(key)
        return storage if storage is not None else Storage(file.path, key, nbytes, 0, None)

    roots, notes, are_arrays = roots_of(tree, storage_of, lambda: _strings(file))
    problems = []
    if end > file.size:
        gone = [tensor.key for root in roots for tensor in root.tensors if not tensor.whole]
        where = f", in the bytes of {gone[0]!r}" if gone else ""
        more = f" and {len(gone) - 1:,} more tensor{'s' * (len(gone) > 2)}" if len(gone) > 1 else ""
        error = cut_short(file.size, end, where + more)
        problems.append(Problem(error.problem, error.remedy))
    return Contents(
        file.path,
        Container.TORCH_LEGACY,
        roots,
        file.size,
        tuple(problems),
        (*module_notes(roots), *notes),
        foreign=foreign_globals(tree, are_arrays),
        pickles={file.path: pickle},
    )


def _strings(file: File) -> Strings:
    from convinspect.formats.torch.byte_storages import Strings

    return Strings(file.path, file.read, file.start, marked=True)


def pickles(file: File) -> Pickle:
    """The object and the storages' keys.

    Raises:
        CutShort: The file ends within them.
    """
    start = 0
    for _ in range(3):
        start = walk(file.read, start, file.size).end
    tree = walk(file.read, start, file.size, file.size // SMALL_STORAGE)
    return Pickle(tree, start, walk(file.read, tree.end, file.size, file.size // SMALL_STORAGE))


def place_storages(file: File, pickle: Pickle) -> tuple[dict[str, Storage], int]:
    """All storages with their offsets, and where the last one ends (beyond the end of a truncated file)."""
    sizes, keys = _declared(pickle.tree), pickle.keys
    if keys is None or not isinstance(keys.value, list):
        raise BrokenFile("its list of storage keys is malformed", "save it again")
    storages: dict[str, Storage] = {}
    position, spared = keys.end, is_spared(file.path)
    for key in keys.value:
        if not isinstance(key, str) or key not in sizes or key in storages:
            raise RefusedFile(
                "its list of storages does not fit its pickle, so the bytes of each tensor cannot be told",
                "save it again with a current PyTorch",
            )
        numel, itemsize = sizes[key]
        # Each lies behind the numbers of the one before, and only tells again what the pickle says.
        claimed = b"" if spared else file.read(position, 8)
        length = int.from_bytes(claimed, "little")
        if len(claimed) == 8 and length != numel:
            raise BrokenFile(
                f"storage {key!r} has {length:,} elements, its pickle says {numel:,}",
                "get the file again, or save it again",
            )
        start, nbytes = position + 8, int(numel * itemsize)
        available = max(0, min(nbytes, file.size - start))
        storages[key] = Storage(file.path, key, nbytes, available, file.start + start)
        position = start + nbytes
    return storages, position


def _declared(tree: Walk) -> dict[str, tuple[int, int]]:
    """Number of elements, and bytes per element, of each storage that the pickle names."""
    sizes: dict[str, tuple[int, int]] = {}
    for parts in tree.persistent:
        dtype = storage_dtype(parts)
        if dtype is not None:
            key, numel = parts[2], parts[4]
            sizes[key] = (numel, storage_nbytes(dtype, 1))
    return sizes
