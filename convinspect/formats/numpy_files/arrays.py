"""`.npy`, an array, and `.npz`, a zip of arrays, as `numpy.save` and `numpy.savez` write them. Only headers."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from convinspect.errors import BrokenFile, ConvInspectError, NotACheckpoint
from convinspect.formats.files import File, cut_short
from convinspect.formats.numpy_files.header import MAGIC, ArrayHeader, read_header, way_to_read
from convinspect.formats.zip.archive import Archive
from convinspect.formats.zip.limits import Incomplete, inflated
from convinspect.formats.zip.structures import DEFLATED, ENCRYPTED, STORED, Record
from convinspect.keys.others import Other, Value
from convinspect.records import Container, Contents, Problem, Root, Storage, Tensor
from convinspect.text import first_few, one_line

if TYPE_CHECKING:
    from convinspect.formats.pickle.machine import Read
    from convinspect.formats.zip.layout import Entry

SUFFIX = ".npy"
_PACKED_AT_ONCE = 2_048
"""Bytes of a deflated member that are read at once for its header, which is mostly 128 bytes long."""
_AGAIN = "download or copy it again"
_NAMED_BY_FILE = "one array, which has no name in the file and is called as the file is"


def is_array(head: bytes) -> bool:
    """True for the first bytes of a `.npy`."""
    return head.startswith(MAGIC)


def is_archive(names: Collection[str]) -> bool:
    """Whether a zip whose records have these names is one of arrays: some are, and no checkpoint is among them."""
    from convinspect.formats.unsupported.zips import of_kind

    rest = [name for name in names if not name.endswith(SUFFIX)]
    return len(rest) < len(names) and of_kind(rest) is None


def read_array(file: File) -> Contents:
    """List the array of a `.npy`.

    Raises:
        NotACheckpoint: Its elements are no plain numbers.
        ConvInspectError: Its header is cut, malformed or hostile.
    """
    header = read_header(file.read)
    name = file.path.name
    key = name.removesuffix(SUFFIX) or name
    if header.pickled and (objects := _objects(file, header)) is not None:
        return objects
    if header.dtype is None:
        remedy = "load it with numpy.load, and save arrays of plain numbers"
        if header.pickled:
            remedy = "where you trust it, load it with numpy.load and allow_pickle=True, and save its arrays"
        elif way := way_to_read(f"numpy.load({name!r})", header.what):
            remedy = f"save {way}"
        raise NotACheckpoint(f"it is a NumPy array of {header.what}, and not of plain numbers", remedy)
    available = max(0, file.size - header.size)
    storage = Storage(
        file.path, key, header.nbytes, available, file.start + header.size, byteorder=header.dtype.byteorder
    )
    problems = list[Problem]()
    if available < header.nbytes:
        error = cut_short(file.size, header.size + header.nbytes)
        problems.append(Problem(error.problem, error.remedy))
    root = Root("", "model", (_tensor(key, header, storage),))
    return Contents(file.path, Container.NUMPY_ARRAY, (root,), file.size, tuple(problems), (_NAMED_BY_FILE,))


def _objects(file: File, header: ArrayHeader) -> Contents | None:
    """What an array of Python objects holds, if it is a single object with arrays of numbers in it, as
    `numpy.save(path, {"fc": {"weight": …}})` writes it.

    Raises:
        ConvInspectError: Its pickle is malformed or hostile.
    """
    # Imported here, since few arrays are of objects.
    from convinspect.formats.pickle.machine import walk
    from convinspect.formats.pickle.record import Pickle
    from convinspect.formats.pickle.values import Call, Tuple
    from convinspect.formats.roots import root_at
    from convinspect.formats.torch.archive import SMALL_STORAGE, foreign_globals
    from convinspect.formats.torch.plain_pickle import ORDINARY, listed_in

    tree = walk(file.read, header.size, file.size, file.size // SMALL_STORAGE)
    state = tree.value.states[-1] if isinstance(tree.value, Call) and tree.value.states else None
    objects = state.items[-1] if isinstance(state, Tuple) and state.items else None
    if header.shape != () or not isinstance(objects, list) or len(objects) != 1:
        return None
    tree = tree._replace(value=objects[0])
    roots, notes = listed_in(file, tree)
    if not any(root.tensors for root in roots):
        return None
    # Its dictionaries are layers, each within the one of all.
    whole = root_at(roots, ".")
    return Contents(
        file.path,
        Container.NUMPY_ARRAY,
        (whole,),
        file.size,
        (),
        ("its tensors lie in the pickle of one Python object, which numpy.load takes with allow_pickle=True", *notes),
        foreign=tuple(name for name in foreign_globals(tree) if name not in ORDINARY),
        pickles={file.path: Pickle(tree)},
    )


def read_archive(file: File, archive: Archive) -> Contents:
    """List the arrays of a `.npz`.

    Raises:
        NotACheckpoint: None of them has plain numbers.
        ConvInspectError: A member's header is cut, malformed or hostile, or members share bytes.
    """
    tensors: list[Tensor] = []
    others: list[Other] = []
    problems: list[Problem] = []
    members = [*zip(archive.names(), archive.records, strict=True)]
    for name, record_name in members:
        if not name.endswith(SUFFIX):
            continue
        key = name.removesuffix(SUFFIX)
        member = _member(file, archive, record_name, key)
        if member.header.dtype is None:
            others.append(Other(key, Value.OBJECT, f"array of {member.header.what}"))
            continue
        tensor = _tensor(key, member.header, member.storage(file, key))
        tensors.append(tensor)
        if not tensor.whole and not problems:
            problems.append(Problem(f"the bytes of array {key!r} are not all in the file", _AGAIN))
    if not tensors:
        what = f"it is a NumPy archive without arrays of plain numbers: {_left(others)}"
        raise NotACheckpoint(what, "load it with numpy.load, and save arrays of plain numbers")
    rest = [name for name, _ in members if not name.endswith(SUFFIX)]
    root = Root("", "model", tuple(tensors), others=tuple(others))
    notes = tuple(_notes(others, rest))
    return Contents(file.path, Container.NUMPY_ARCHIVE, (root,), file.size, tuple(problems), notes)


class Member(NamedTuple):
    """An array in an archive.

    Attributes:
        record: What the directory says of it.
        payload: Offset of the first byte of its record in the archive.
        header: Its own header.
    """

    record: Record
    payload: int
    header: ArrayHeader

    def storage(self, file: File, key: str) -> Storage:
        """Where its elements lie, which follow its header."""
        record, header = self.record, self.header
        order = "little" if header.dtype is None else header.dtype.byteorder
        size = min(record.size, record.packed) if record.method == STORED else record.size
        available = max(0, min(size - header.size, header.nbytes))
        start = file.start + self.payload
        if record.method == STORED:
            return Storage(file.path, key, header.nbytes, available, start + header.size, byteorder=order)
        return Storage(
            file.path, key, header.nbytes, available, start, packed_nbytes=record.packed, byteorder=order,
            skipped=header.size,
        )  # fmt: skip


def _member(file: File, archive: Archive, name: str, key: str) -> Member:
    """The array in a record.

    Raises:
        ConvInspectError: As `read_archive`; the error names the array.
    """
    record = archive.records[name]
    try:
        if record.flags & ENCRYPTED:
            raise BrokenFile("it is encrypted", "unpack the archive, and pack it without a password")
        if record.method not in (STORED, DEFLATED):
            remedy = "load it with numpy.load, and save it with numpy.savez"
            raise BrokenFile(f"it is compressed by method {record.method}, which is not read here", remedy)
        payload = archive.apart(name)
        return Member(record, payload, read_header(record_read(file, record, payload)))
    except ConvInspectError as error:
        raise type(error)(f"array {key!r}: {error.problem}", error.remedy) from None


def record_read(file: File, record: Record | Entry, payload: int) -> Read:
    """Reads the beginning of a stored or deflated record, unpacked.

    Args:
        file: The archive.
        record: What its directory says of the record.
        payload: Offset of the record's first byte.
    """
    if record.method == STORED:
        return file.within(payload, min(record.size, record.packed, max(0, file.size - payload))).read

    def read(offset: int, size: int) -> bytes:
        wanted = min(offset + size, record.size)
        try:
            return b"".join(inflated(_packed(file, payload, record.packed), wanted))[offset:]
        except Incomplete:
            return b""
        except zlib.error as error:
            raise BrokenFile(f"it cannot be unpacked ({error})", _AGAIN) from None

    return read


def _packed(file: File, start: int, size: int) -> Iterator[bytes]:
    end = start + size
    while start < end and (piece := file.read(start, min(_PACKED_AT_ONCE, end - start))):
        yield piece
        start += len(piece)


def _tensor(key: str, header: ArrayHeader, storage: Storage) -> Tensor:
    assert header.dtype is not None
    return Tensor(key, header.dtype.name, header.shape, header.stride, 0, storage)


def _left(others: Sequence[Other]) -> str:
    return first_few([f"{one_line(other.key)} ({other.what.removeprefix('array of ')})" for other in others], 3)


def _notes(others: Sequence[Other], rest: Sequence[str]) -> Iterator[str]:
    if others:
        yield f"not listed, since they are no plain numbers: {_left(others)}"
        ways = (way_to_read(f"numpy.load(…)[{one_line(other.key)!r}]", other.what) for other in others)
        if way := next(filter(None, ways), ""):
            yield f"as plain numbers such an array is {way}"
    if rest:
        yield f"not listed, since they are no arrays: {first_few([one_line(name) for name in rest], 3)}"
