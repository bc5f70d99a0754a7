"""Change shapes or names of tensors in a `torch.save` file: a new pickle, and ranges of the old file for the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from convinspect.errors import CannotWrite, Option, Wording
from convinspect.formats.files import File
from convinspect.formats.pickle.machine import Read, reader, walk
from convinspect.formats.pickle.record import Pickle
from convinspect.formats.torch import exported, legacy
from convinspect.formats.torch.legacy import is_legacy as is_legacy
from convinspect.formats.torch.wrappers import is_wrapped
from convinspect.formats.zip.alignment import VERSION_RECORD
from convinspect.formats.zip.archive import Archive
from convinspect.formats.zip.structures import is_zip as is_zip
from convinspect.records import Edit, Span
from convinspect.writing import pickle as pickle_edit
from convinspect.writing import pickle_keys
from convinspect.writing.changes import Changes
from convinspect.writing.moving import Place, moved_pieces, moves_in, start_of
from convinspect.writing.pieces import Piece, Range
from convinspect.writing.zip import Numbers, pieces_with_record

_PICKLE, _FIRST_STORAGE = "data.pkl", "data/0"


def pieces_of_zip(file: File, changes: Changes) -> list[Piece]:
    archive = Archive(file)
    if exported.is_exported(archive) or any(name.startswith("code/") for name in archive.records):
        raise CannotWrite("it holds the model's program beside its weights, which would no longer fit")
    data = archive.read(_PICKLE)
    moving = {
        f"data/{key}": Numbers(edits, changes.sums.get((path, key), 0))
        for (path, key), edits in moves_in(changes.edits).items()
    }
    if not changes.restructure:
        return pieces_with_record(file, archive, _PICKLE, with_other_tuples(data, 0, changes.edits), [], moving)
    # The file was listed already, which refuses pickles that need too much work for their size.
    pickle = changes.pickle or Pickle(walk(reader(data), 0, len(data), len(data)))
    new, dropped = _edited(data, pickle, changes)
    gone = [name for key in dropped if (name := f"data/{key}") in archive.records]
    if _FIRST_STORAGE in gone and VERSION_RECORD in archive.records:
        # PyTorch calculates the storages' offsets from this one's, and without that record it reads their headers.
        gone.append(VERSION_RECORD)
    staying = {name: numbers for name, numbers in moving.items() if name not in gone}
    return pieces_with_record(file, archive, _PICKLE, new, gone, staying)


def pieces_of_legacy(file: File, changes: Changes) -> list[Piece]:
    """Before PyTorch 1.6 the pickle is stored directly in the file, so spans are offsets in the file."""
    structure = changes.restructure
    moving = moves_in(changes.edits)
    if not structure and file.read(1, 1) < b"\x04":
        return [*_with_tuples(file, changes.edits, moving)]
    pickle = changes.pickle or legacy.pickles(file)
    start, end = pickle.start, pickle.tree.end
    data = file.read(start, end - start)
    if structure:
        new, dropped = _edited(data, pickle, changes)
    else:
        new, dropped = with_other_tuples(data, start, changes.edits), set()
    pieces: list[Piece] = [Range(0, start), new]
    if not dropped:
        return [*pieces, *_with_numbers(end, moving, file.size)]
    storages, _ = legacy.place_storages(file, pickle)
    kept = [key for key in storages if key not in dropped]
    pieces.append(
        b"\x80\x02](" + b"".join(b"X" + len(key).to_bytes(4, "little") + key.encode() for key in kept) + b"e."
    )
    for key in kept:
        begin = storages[key].start or 0
        pieces.append(Range(begin - 8, begin))
        pieces += moved_pieces(begin, storages[key], moving.get((file.path, key), ()))
    return pieces


def _with_tuples(file: File, edits: Sequence[Edit], moving: Mapping[Place, Sequence[Edit]]) -> Iterator[Piece]:
    """Ranges of the file around new tuples, so that a pickle with more than tensors need not be held in memory."""
    at = 0
    for span, new in _tuples(edits, file.read):
        yield Range(at, span.start)
        yield new
        at = span.end
    yield from _with_numbers(at, moving, file.size)


def _with_numbers(at: int, moving: Mapping[Place, Sequence[Edit]], end: int) -> Iterator[Piece]:
    """Bytes `at:end` of a file in which storages lie as they are, with numbers of some in other places."""
    storages = [(edits[0].tensor.storage, edits) for edits in moving.values()]
    for storage, edits in sorted(storages, key=lambda pair: start_of(pair[1][0].tensor)):
        assert storage is not None
        start = start_of(edits[0].tensor)
        yield Range(at, start)
        yield from moved_pieces(start, storage, edits)
        at = start + storage.available
    yield Range(at, end)


def _edited(data: bytes, pickle: Pickle, changes: Changes) -> tuple[bytes, set[str]]:
    """The new pickle, and the keys of the storages that it no longer refers to.

    Args:
        data: The pickle's bytes.
        pickle: The parsed pickle.
        changes: What to change.
    """
    root, base = pickle.tree.value, pickle.start
    keys = pickle_keys.places_of_keys(root, changes.names, changes.others)
    keys |= pickle_keys.places_of_parameter_names(root, data, base, changes.parameters)
    emptied = pickle_keys.optimizer_states(root) if changes.drop_optimizer else []
    cuts = [Span(span.start - base, span.end - base) for state in emptied for span in pickle_keys.items_of(state)]
    new = pickle_edit.edited(
        data, _tuples_in(data, base, changes.edits), {at - base: key for at, key in keys.items()}, cuts
    )
    return new, pickle_keys.storages(root) - pickle_keys.storages(root, emptied) if cuts else set()


def with_other_tuples(data: bytes, base: int, edits: Sequence[Edit]) -> bytes:
    """A pickle, whose first byte is at `base`, with tensors' sizes and strides changed."""
    return pickle_edit.edited(data, _tuples_in(data, base, edits))


def _tuples_in(data: bytes, base: int, edits: Sequence[Edit]) -> list[tuple[Span, bytes]]:
    """As `_tuples`, with offsets relative to the pickle, whose first byte is at `base`."""
    marked = pickle_edit.protocol_of(data) < 2
    tuples = _tuples(edits, lambda start, size: data[start - base : start - base + size], marked)
    return [(Span(span.start - base, span.end - base), new) for span, new in tuples]


def _tuples(edits: Sequence[Edit], read: Read, marked: bool = False) -> list[tuple[Span, bytes]]:
    """Spans where the pickle pushes a size or stride tuple to change, and their replacements; ties share a span.

    Args:
        edits: What changes.
        read: Reads bytes of the pickle.
        marked: As of `tuple_opcodes`.
    """
    tuples: dict[int, tuple[Span, bytes]] = {}
    for edit in edits:
        tensor = edit.tensor
        if (edit.shape, edit.stride) == (tensor.shape, tensor.stride):
            continue
        if is_wrapped(tensor):
            raise CannotWrite(f"tensor {tensor.key!r} is a {tensor.subclass}, whose parts would keep their shape")
        for span, numbers in ((tensor.shape_span, edit.shape), (tensor.stride_span, edit.stride)):
            if span is None:
                remedy = Wording(Option("state_dict"), " writes a plain state_dict instead")
                raise CannotWrite(
                    f"tensor {tensor.key!r}: its pickle, as of a NumPy array, has no size to edit", remedy
                )
            new = tuple_opcodes(numbers, _as_longs(read(span.start, 3)), marked)
            if tuples.setdefault(span.start, (span, new)) != (span, new):
                raise CannotWrite(f"tensor {tensor.key!r} is stored once for two names that would differ")
    return [tuples[start] for start in sorted(tuples)]


def tuple_opcodes(numbers: tuple[int, ...], longs: bool = False, marked: bool = False) -> bytes:
    """Pickle instructions that push a tuple of numbers, as Python's own pickler writes them.

    Args:
        numbers: The tuple.
        longs: Write them as Python 2's `long`, the type of sizes in files that Python 2 saved.
        marked: As protocol 1 does, which has no instructions for short tuples.
    """
    pushed = b"".join(map(_long_opcode if longs else number_opcode, numbers))
    if len(numbers) <= 3 and not (marked and numbers):
        return pushed + (b")", b"\x85", b"\x86", b"\x87")[len(numbers)]
    return b"(" + pushed + b"t"


def _as_longs(head: bytes) -> bool:
    """Whether a tuple's first bytes encode a number as LONG1 that Python 3 would encode shorter."""
    code = head.removeprefix(b"(")
    return code[:1] == b"\x8a" and code[1] <= _SHORT


_SHORT = 4
"""Most bytes of an integer for which there is a shorter instruction than LONG1."""


def number_opcode(number: int) -> bytes:
    if number < 1 << 8:
        return b"K" + number.to_bytes(1, "little")
    if number < 1 << 16:
        return b"M" + number.to_bytes(2, "little")
    if number < 1 << 31:
        return b"J" + number.to_bytes(4, "little")
    return _long_opcode(number)


def _long_opcode(number: int) -> bytes:
    # LONG1 is signed, so that a number whose top bit is set takes one byte more; zero takes none.
    length = number.bit_length() // 8 + 1 if number else 0
    return b"\x8a" + length.to_bytes(1, "little") + number.to_bytes(length, "little")
