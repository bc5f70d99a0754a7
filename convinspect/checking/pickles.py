"""What loading the pickles of a file would call: every name that they ask for, and where. Nothing of it is called."""

from __future__ import annotations

import pickletools
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

from convinspect.checking.built import nodes, storage_strings
from convinspect.checking.collecting import Collector
from convinspect.checking.findings import Asked, Finding, Item, Looked, Place, Scan, finding
from convinspect.dtypes import storage_nbytes
from convinspect.errors import BrokenFile, ConvInspectError
from convinspect.formats import collector_paused
from convinspect.formats.pickle.machine import Machine, Read, Walk, reader
from convinspect.formats.pickle.opcodes import Undecodable, instructions
from convinspect.formats.pickle.safe_globals import classify_global
from convinspect.formats.pickle.values import Blob
from convinspect.formats.torch.byte_storages import LOADS
from convinspect.formats.torch.storage_ids import storage_dtype
from convinspect.formats.zip.ends import find_directory
from convinspect.formats.zip.layout import Entry, entries_of, extent_of
from convinspect.formats.zip.limits import LARGEST_UNPACKED, inflated, pieces_of
from convinspect.formats.zip.structures import DEFLATED, LOCAL_SIGNATURE, MAGIC, STORED, Memory, Source

_CODES = {"executes": "global-executes", "library": "global-library", "unknown": "global-unknown"}
_REASONS = {
    "library": "is of PyTorch, NumPy or Python's own library",
    "unknown": "is of other code, most likely the author's own class",
}
_INSTRUCTIONS = {
    "i": "INST makes an object of a class that it names",
    "o": "OBJ makes an object of a class on the stack",
    "P": "PERSID asks the reading program for an object by a text",
    "b": "BUILD sets attributes of something that is no object made here",
    "\x97": "NEXT_BUFFER takes what the reading program hands it",
}
_REFUSED = {
    "2": "DUP takes the topmost object twice",
    "0": "POP drops an object that was made",
    "1": "POP_MARK drops objects that were made",
    "l": "LIST makes a list as protocol 0 does",
    "d": "DICT makes a dictionary as protocol 0 does",
    "\x8b": "LONG4 is an integer of more than 255 bytes",
    "I": "INT is an integer or a truth value as text, as protocols 0 and 1 write it",
    "L": "LONG is an integer as text, as protocols 0 and 1 write large ones",
    "F": "FLOAT is a number as text, as protocol 0 writes it",
    "S": "STRING is a text as protocol 0 of Python 2 wrote it",
    "T": "BINSTRING is a text of more than 255 bytes as Python 2 wrote it",
    "V": "UNICODE is a text as protocol 0 writes it",
}
_LATER = {
    opcode.code: f"{opcode.name} is of pickle protocol {opcode.proto}, and safe loading reads protocol 2"
    for opcode in pickletools.opcodes
    if opcode.proto > 2 and opcode.code not in "\x8f\x97"
}
"""Instructions of later protocols that safe loading refuses: all but EMPTY_SET; NEXT_BUFFER is odd besides."""
_INSIDE = re.compile(rb"\x80[\x02-\x05]|" + re.escape(LOCAL_SIGNATURE))
"""What may begin a pickle or an archive inside a string of another."""
_DEEPEST, _MOST_STRINGS = 4, 10_000
_IN_A_ROW = 5
_LONGEST_NAME = 500
_PIECE = 1 << 20
_KNOWN_PROTOCOL = 2


class Stream(NamedTuple):
    """Bytes that hold a pickle.

    Attributes:
        read: Gives them.
        size: How many there are.
        path: The file that they are in.
        record: The zip record that they are; "" for the file itself.
        in_file: Where in the file the first of them lies; None when they are compressed there.
        ordinary: Names that are ordinary here beyond those that safe loading admits.
        prefixes: What such names may begin with.
        plain: It is a pickle that `torch.save` did not write, so that no safe loading reads it.
        moved: Where in the bytes of the file an offset is, if some of these are left out here.
    """

    read: Read
    size: int
    path: Path
    record: str = ""
    in_file: int | None = 0
    ordinary: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()
    plain: bool = False
    moved: Callable[[int], int] | None = None

    def place(self, offset: int, length: int | None = None) -> Place:
        """A place in these bytes."""
        offset = offset if self.moved is None else self.moved(offset)
        return Place(self.record, offset, length, None if self.in_file is None else self.in_file + offset)


class Seen(NamedTuple):
    """What a pickle showed before it ended or broke.

    Attributes:
        walk: What it would build, and what it asks for on the way; None when it broke.
        storages: Bytes of each storage that it names, by key.
        error: Why it broke.
        names: All that it asks for.
    """

    walk: Walk | None
    storages: dict[str, int]
    error: ConvInspectError | None = None
    names: tuple[str, ...] = ()

    @property
    def end(self) -> int | None:
        """Offset behind its last instruction; None when it broke."""
        return self.walk.end if self.walk is not None else None

    @property
    def tree(self) -> Any:
        """What it would build; None when it broke."""
        return self.walk.value if self.walk is not None else None


def scan_pickle(stream: Stream, start: int, storages: int = 0, depth: int = 0) -> Scan[Seen]:
    """Find every name that the pickle at `start` asks for beyond the safe set, whether it ends or breaks.

    Args:
        stream: Its bytes.
        start: Where it begins.
        storages: As of `machine.walk`.
        depth: How deep within other pickles it lies.
    """
    machine = Machine(storages)
    yield Looked("pickles")
    end, error = None, None
    try:
        with collector_paused():
            end = machine.carry_out(stream.read, start, stream.size)
    except ConvInspectError as raised:
        # Without its traceback, which would keep all that was built.
        error = BrokenFile(raised.problem, raised.remedy)
    known = storage_strings(machine, stream.read, stream.path) if stream.plain else frozenset()
    yield from _scan_names(machine, stream._replace(ordinary=stream.ordinary | {LOADS}) if known else stream)
    yield from _scan_instructions(machine, stream, start, depth)
    storage_sizes = dict(_storages(machine.persistent))
    if depth < _DEEPEST and _may_hold_pickles(stream, start, machine.position + _PIECE if end is None else end):
        yield from _scan_strings(machine, stream, depth, known)
    result = machine.result(end) if end is not None else None
    return Seen(result, storage_sizes, error, tuple(machine.globals))


def _scan_names(machine: Machine, stream: Stream) -> Iterator[Item]:
    for name, span in machine.globals.items():
        is_ordinary = bool(stream.prefixes) and name.startswith(stream.prefixes)
        verdict = None if is_ordinary else classify_global(name, stream.ordinary)
        if verdict is None or verdict.kind == "admitted":
            yield Asked(name, True)
            continue
        yield Asked(name, False)
        reason = verdict.reason or _REASONS[verdict.kind]
        place = stream.place(span.start, span.end - span.start)
        shown = name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…"
        yield finding(_CODES[verdict.kind], stream.path, f"{shown} {reason}", place, subject=shown)


def _scan_instructions(machine: Machine, stream: Stream, start: int, depth: int) -> Iterator[Finding]:
    """The instructions that safe loading refuses: each kind once, and of later protocols' the first."""
    for code, at in machine.rare.items():
        if code in _INSTRUCTIONS:
            yield finding("odd-instruction", stream.path, _INSTRUCTIONS[code], stream.place(at, 1))
        elif code in _REFUSED and not (stream.prefixes or stream.plain):
            yield finding("refused-instruction", stream.path, _REFUSED[code], stream.place(at, 1))
    # TorchScript and .metadata are not read by safe loading, nor is what lies in a string.
    if stream.prefixes or stream.ordinary or depth:
        return
    later = [(at, code) for code, at in machine.rare.items() if code in _LATER]
    later += _first_later(stream, start)
    if later:
        at, code = min(later)
        yield finding("refused-instruction", stream.path, _LATER[code], stream.place(at, 1))


def _first_later(stream: Stream, start: int) -> list[tuple[int, str]]:
    """The first instruction of a later protocol and its place, of a pickle that says it is of one."""
    head = stream.read(start, 2)
    if head[:1] != b"\x80" or head[1:] <= bytes([_KNOWN_PROTOCOL]):
        return []
    try:
        opcodes = instructions(stream.read(start, min(stream.size - start, LARGEST_UNPACKED)))
        return [next((start + at, code) for code, _, at in opcodes if code in _LATER)]
    except (StopIteration, Undecodable):
        return []


def _storages(persistent: Iterable[Sequence[Any]]) -> Iterator[tuple[str, int]]:
    for parts in persistent:
        dtype = storage_dtype(parts)
        if dtype is not None:
            yield parts[2], storage_nbytes(dtype, parts[4])


def _may_hold_pickles(stream: Stream, start: int, end: int) -> bool:
    """Whether a string in the pickle may be one itself, by a look at its bytes alone."""
    until = min(stream.size, end)
    pieces = (stream.read(at, min(_PIECE + 3, until - at)) for at in range(start + 2, until, _PIECE))
    return any(map(_INSIDE.search, pieces))


def _scan_strings(machine: Machine, stream: Stream, depth: int, known: Set[int]) -> Scan[None]:
    """The strings that are pickles or archives themselves; something may load them. `known` were looked at before."""
    left = LARGEST_UNPACKED
    for number, value in enumerate(_strings(machine, known)):
        if number >= _MOST_STRINGS or left < 0:
            message = "it holds more pickles within pickles than can be looked at"
            yield finding("unreadable", stream.path, message, Place(stream.record))
            return
        if isinstance(value, Blob):
            at: int | None = value.start
            read, size = _part(stream.read, value.start), value.length
        else:
            left -= len(value)
            at = _find(stream, value)
            read, size = reader(value), len(value)
        inner = stream._replace(
            read=read,
            size=size,
            prefixes=(),
            plain=False,
            record=_within(stream.record),
            in_file=None if at is None else stream.place(at).in_file,
            moved=None,
        )
        yield from scan_bytes(inner, depth + 1)


def _within(record: str) -> str:
    return f"{record} (a string in it)" if record else "(a string in it)"


def _part(read: Read, start: int) -> Read:
    return lambda offset, size: read(start + offset, size)


def _find(stream: Stream, value: bytes) -> int | None:
    """Where in the stream the string stands unchanged."""
    if stream.size > LARGEST_UNPACKED:
        return None
    at = stream.read(0, stream.size).find(value)
    return at if at >= 0 else None


def scan_bytes(inner: Stream, depth: int = 1) -> Scan[None]:
    """Bytes that may be a pickle or an archive, which something may load."""
    if inner.read(0, len(MAGIC)) == MAGIC:
        yield from _scan_archive(inner, depth)
        return
    trial = Collector()
    ends: list[int | None] = [0]
    # An old torch.save is five pickles in a row.
    while len(ends) <= _IN_A_ROW and ends[-1] is not None and ends[-1] < inner.size:
        ends.append(trial.run(scan_pickle(inner, ends[-1], inner.size // 512, depth)).end)
    # Bytes may begin like a pickle by chance; then they do not end like one, nor name anything that can exist.
    whole = _INSIDE.match(inner.read(0, 4)) and ends[1:2] != [None]
    if whole or any(finding.subject and _can_exist(finding.subject) for finding in trial.findings):
        yield from trial.items()


def _can_exist(name: str) -> bool:
    return all(part.isidentifier() for part in name.removesuffix("…").rstrip(".").split("."))


def _scan_archive(inner: Stream, depth: int) -> Scan[None]:
    """The pickles in an archive that is held in memory."""
    data = inner.read(0, min(inner.size, LARGEST_UNPACKED))
    source = Memory(data)
    ends = find_directory(source)
    entries, wrong = entries_of(source, ends) if ends is not None else ([], "there is no directory")
    for entry in entries:
        if entry.name.endswith(".pkl") and entry.size <= LARGEST_UNPACKED:
            content = _unpacked(source, entry)
            if content is None:
                wrong = "a record is damaged"
                break
            record = f"{inner.record} > {entry.name}"
            stream = inner._replace(read=reader(content), size=len(content), record=record, in_file=None)
            yield from scan_bytes(stream, depth)
    # Other bytes may begin like an archive by chance.
    if wrong and b"data.pkl" in data:
        message = "an archive within a pickle cannot be looked at"
        yield finding("unreadable", inner.path, message, Place(inner.record))


def _unpacked(source: Source, entry: Entry) -> bytes | None:
    """A record's bytes; None when they are not what its directory says."""
    extent = extent_of(source, entry)
    if extent is None or entry.encrypted or entry.method not in (STORED, DEFLATED):
        return None
    packed = pieces_of(source, extent.payload, entry.packed)
    try:
        data = b"".join(packed if entry.method == STORED else inflated(packed, entry.size + 1))
    except zlib.error:
        return None
    return data if len(data) == entry.size and zlib.crc32(data) == entry.crc else None


def _strings(machine: Machine, known: Set[int]) -> Iterator[bytes | Blob]:
    """Bytes in all that the pickle built, those also that it wrote as text, that may be a pickle themselves."""
    yielded: set[bytes] = set()
    for node in nodes(machine):
        if isinstance(node, (str, bytes, bytearray)):
            value = _octets(node)
            if value is not None and value not in yielded and id(node) not in known:
                yielded.add(value)
                yield value
        elif isinstance(node, Blob) and id(node) not in known:
            yield node


def _octets(node: str | bytes | bytearray) -> bytes | None:
    """The string as bytes when it begins like a pickle or an archive."""
    if isinstance(node, str):
        if not node.startswith(("\x80", LOCAL_SIGNATURE.decode())):
            return None
        try:
            node = node.encode("latin-1")
        except UnicodeEncodeError:
            return None
    return bytes(node) if _INSIDE.match(node) else None
