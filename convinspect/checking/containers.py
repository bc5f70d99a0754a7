"""One file, whatever container it is: whether its bytes are whole, and what its pickles would call."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from convinspect.checking.findings import Log, Place
from convinspect.checking.pickles import Seen, Stream, scan_bytes, scan_pickle
from convinspect.checking.required_records import scan_required
from convinspect.checking.zip import Record, scan_zip, unpacked
from convinspect.errors import ConvInspectError
from convinspect.formats.files import File
from convinspect.formats.pickle.machine import Read, reader
from convinspect.formats.pickle.safe_globals import RESTORED, SCRIPTED
from convinspect.formats.safetensors import header_text, is_safetensors
from convinspect.formats.torch.archive import SMALL_STORAGE, headless
from convinspect.formats.torch.legacy import is_legacy
from convinspect.formats.zip.ends import read_ends
from convinspect.formats.zip.limits import LARGEST_UNPACKED
from convinspect.formats.zip.structures import LOCAL_SIGNATURE, STORED, is_zip, read_local
from convinspect.text import plural

_PLAIN = {"data.pkl", "version", "byteorder", ".format_version", ".storage_alignment", ".data/serialization_id"}
"""Records of a torch.save archive beside its storages."""
_NEST = " > "
_DEEPEST = 4
_PROTOCOL = 1001
_PAYLOAD_PER_STORAGE = 6_400
_OPENING = re.compile(rb"\.(?:(?<=\btorch\.)|(?<=\bops\.aten\.))(?:save|from_file)\(")
"""It begins with a plain letter, so that `re` skips to the next one in megabytes of anything else."""
_MACHINE_CODE = (b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe")
_LIBRARIES = (".so", ".dll", ".dylib", ".pyd", ".cubin")
_MAY_BEGIN_PICKLES = frozenset(b"\x80\x95c(]})NIJKLMFGSTUVXBCP\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x96\x82\x83\x84")
NO_CHECKSUMS = "the format keeps no checksums, so a changed number would not show"


def scan_file(file: File, log: Log, within: str = "", ordinary: frozenset[str] = frozenset()) -> None:
    """Note what is wrong with a file, or with a part of one, and what its pickles ask for.

    Args:
        file: What to look at.
        log: Takes the findings.
        within: The outer record that it is, with what sets it apart; "" for a file of its own.
        ordinary: Names that are ordinary in its pickles.

    Raises:
        ConvInspectError: It cannot be looked at.
    """
    head = file.read(0, 64)
    if is_zip(head) and read_ends(file) is None:
        _look_at_cut_zip(file, log, within)
        raise headless(file)
    if is_zip(head):
        _look_at_records(file, scan_zip(file, log, within), log, within, ordinary)
    elif is_safetensors(head):
        _look_at_safetensors(file, log)
    elif is_legacy(file):
        _look_at_legacy(file, log, within)
    else:
        _look_at_stream(file, log, within)


# --- zip


def _look_at_records(
    file: File, records: list[Record], log: Log, within: str, ordinary: frozenset[str] = frozenset()
) -> None:
    names = {record.name for record in records}
    script = any(name.startswith("code/") for name in names)
    allowed = len(records) + file.size // _PAYLOAD_PER_STORAGE
    seen: dict[str, Seen] = {}
    for record in (one for one in records if one.name.endswith(".pkl") and "/" not in one.name):
        stream = _stream(file, record, log, within)
        if stream is not None:
            stream = _scripted(replace(stream, ordinary=ordinary)) if script else replace(stream, ordinary=ordinary)
            found = scan_pickle(stream, 0, log, allowed)
            seen[record.name.removesuffix(".pkl")] = found
            _look_behind(stream, found, log)
    named = {f"{folder}/{key}" for folder, one in seen.items() for key in one.storages}
    for record in records:
        if record.name not in named and not (record.name.endswith(".pkl") and "/" not in record.name):
            _look_into(file, record, log, within, script)
    _hold_storages(file, records, seen, log, within)
    scan_required(file, records, seen, log, within)
    _look_at_byteorder(file, records, log, within)
    if "data.pkl" in names and not script:
        _note_unnamed(file, records, named, seen, log, within)
    if script:
        number = sum(name.startswith("code/") and name.endswith(".py") for name in names)
        log.note(f"TorchScript: {plural(number, 'file')} of source text, which torch.jit.load compiles and the model"
                 " then runs; what they do was not judged")  # fmt: skip


def _look_at_cut_zip(file: File, log: Log, within: str) -> None:
    """PyTorch writes the pickle first, so of a file that is cut it is there to be looked at."""
    first = read_local(file, 0)
    # What begins with numbers lost its own beginning, and they would be read as instructions.
    if first is not None and first.name.endswith(b".pkl"):
        stream = Stream(file.part(first.payload), file.size - first.payload, file.path, f"{within}data.pkl",
                        file.start + first.payload)  # fmt: skip
        scan_pickle(stream, 0, log, file.size // SMALL_STORAGE)


def _stream(file: File, record: Record, log: Log, within: str) -> Stream | None:
    """The record's bytes; None when they cannot be had, which is noted already."""
    name = within + record.entry.name
    if record.entry.method == STORED:
        size = min(record.entry.packed, max(0, file.size - record.payload))
        return Stream(_part(file, record.payload, size), size, file.path, name, file.start + record.payload)
    if not record.sound:
        return None
    if record.entry.size > LARGEST_UNPACKED:
        log.add("unreadable", file.path, f"record {name!r} is too large to be unpacked and looked at", Place(name))
        return None
    quiet = Log()
    data = b"".join(unpacked(file, record.entry, record.payload, quiet))
    return Stream(reader(data), len(data), file.path, name, None)


def _scripted(stream: Stream) -> Stream:
    return replace(stream, ordinary=stream.ordinary | RESTORED, prefixes=SCRIPTED)


def _part(file: File, start: int, length: int) -> Read:
    """Reads within `length` bytes from `start`, and no further."""
    return lambda offset, size: file.read(start + offset, min(size, length - offset))


def _look_behind(stream: Stream, seen: Seen, log: Log) -> None:
    """A pickle that breaks says nothing of what follows; one that ends early leaves bytes that nobody reads."""
    if seen.error is not None:
        log.add("unreadable", stream.path, seen.error.problem, stream.place(0), seen.error.remedy)
    elif seen.end is not None and seen.end < stream.size:
        log.add("trailing-bytes", stream.path, f"{stream.size - seen.end:,} bytes follow its pickle",
                stream.place(seen.end, stream.size - seen.end))  # fmt: skip


def _look_into(file: File, record: Record, log: Log, within: str, script: bool) -> None:
    """A record that is no storage may be a pickle, source text, or a checkpoint itself."""
    name = within + record.entry.name
    if record.name.endswith(".py") and record.name.startswith("code/"):
        stream = _stream(file, record, log, within)
        if stream is not None:
            _look_at_source(stream, log)
        return
    claims = record.name.endswith((".pt", ".pkl", "_pkl"))
    if not record.entry.size or (record.entry.method != STORED and not claims):
        return
    stream = _stream(file, record, log, within)
    if stream is None or not stream.size:
        return
    stream = _scripted(stream) if script else stream
    head = stream.read(0, 4)
    if head.startswith(_MACHINE_CODE) or record.name.endswith(_LIBRARIES):
        log.add("native-code", file.path, "it is machine code", stream.place(0, stream.size))
    elif head == LOCAL_SIGNATURE or (claims and _is_old_save(file, record, stream.size)):
        _look_at_inner(file, record, stream, log, name + _NEST, claims)
    elif claims:
        _look_behind(stream, scan_pickle(stream, 0, log, stream.size // SMALL_STORAGE), log)
    elif head[0] in _MAY_BEGIN_PICKLES:
        # Numbers may begin like anything; but torch.export keeps some weights as pickles under any name.
        scan_bytes(stream, log)


def _look_at_source(stream: Stream, log: Log) -> None:
    source = stream.read(0, stream.size)
    try:
        source.decode()
    except UnicodeDecodeError as error:
        log.add("bad-metadata", stream.path, "its source text is no UTF-8", stream.place(error.start))
    found = _OPENING.search(source)
    if found is not None:
        owner = b"torch" if source.endswith(b"torch", 0, found.start()) else b"ops.aten"
        call = (owner + found[0]).decode()
        log.add("script-opens", stream.path, f"its code calls {call}…)", stream.place(found.start() - len(owner)))


def _is_old_save(file: File, record: Record, size: int) -> bool:
    """Whether a record is a torch.save file of before 1.6, in which storages follow five pickles."""
    if record.entry.method != STORED:
        return False
    with File(file.path, file.start + record.payload, size) as part:
        return is_legacy(part)


def _look_at_inner(file: File, record: Record, stream: Stream, log: Log, within: str, claims: bool) -> None:
    if within.count(_NEST) > _DEEPEST:
        log.add("unreadable", file.path, "its archives within archives nest too deeply to follow", stream.place(0))
        return
    if record.entry.method != STORED:
        scan_bytes(replace(stream, record=within.removesuffix(_NEST)), log)
        return
    try:
        with File(file.path, file.start + record.payload, stream.size) as part:
            scan_file(part, log, within)
    except ConvInspectError as error:
        if claims:
            log.add("unreadable", file.path, error.problem, stream.place(0), error.remedy)


def _hold_storages(file: File, records: Iterable[Record], seen: Mapping[str, Seen], log: Log, within: str) -> None:
    """Each storage that a pickle names against its record."""
    there = {record.name: record for record in records}
    # What a model was traced with is written without its numbers.
    for folder, one in ((name, seen[name]) for name in ("data", "constants") if name in seen):
        for key, nbytes in one.storages.items():
            record = there.get(f"{folder}/{key}")
            place = Place(f"{within}{folder}/{key}")
            if record is None:
                if nbytes:
                    log.add("storage-short", file.path, f"storage {key!r} of {nbytes:,} bytes has no record", place)
                continue
            place = Place(within + record.entry.name, None, None, file.start + record.entry.offset)
            size = record.entry.size
            if size < nbytes:
                log.add("storage-short", file.path, f"storage {key!r} has {size:,} of the {nbytes:,} bytes that the"
                        " pickle claims", place)  # fmt: skip
            elif size > nbytes:
                log.add("storage-long", file.path, f"storage {key!r} has {size:,} bytes, the pickle names {nbytes:,}",
                        place)  # fmt: skip


def _look_at_byteorder(file: File, records: Iterable[Record], log: Log, within: str) -> None:
    for record in (one for one in records if one.name == "byteorder" and one.entry.method == STORED):
        order = file.read(record.payload, min(record.entry.packed, 64))
        if order not in (b"little", b"big"):
            log.add("bad-metadata", file.path, f"its byte order is {order[:16]!r}, neither little nor big",
                    Place(within + record.entry.name, 0, record.entry.size, file.start + record.payload))  # fmt: skip


def _note_unnamed(
    file: File, records: Iterable[Record], named: set[str], seen: Mapping[str, Seen], log: Log, within: str
) -> None:
    """Records of a plain torch.save that its pickle does not name; of one that broke that cannot be told."""
    if seen.get("data") is None or seen["data"].end is None:
        return
    for record in records:
        if record.name not in named and record.name not in _PLAIN:
            log.add("unnamed-record", file.path, f"{record.entry.size:,} bytes that the pickle does not name",
                    Place(within + record.entry.name, None, None, file.start + record.entry.offset))  # fmt: skip


# --- pickles outside of a zip


def _look_at_legacy(file: File, log: Log, within: str) -> None:
    """Five pickles, then the storages in the order of the last one's keys."""
    stream = Stream(file.read, file.size, file.path, within.removesuffix(_NEST), file.start)
    parts: list[Seen] = []
    at: int | None = 0
    for _ in range(5):
        if at is not None:
            parts.append(scan_pickle(stream, at, log, file.size // SMALL_STORAGE))
            at = parts[-1].end
    log.note(NO_CHECKSUMS)
    if at is None or not isinstance(parts[4].tree, list):
        if parts[-1].error is not None:
            _look_behind(stream, parts[-1], log)
        return
    storages = parts[3].storages
    keys = [key for key in parts[4].tree if isinstance(key, str) and key in storages]
    end = at + sum(8 + storages[key] for key in keys)
    for key in (key for key in storages if key not in set(keys)):
        log.add(
            "storage-short", file.path, f"storage {key!r} of {storages[key]:,} bytes is not among those that follow"
        )
    if parts[1].tree != _PROTOCOL:
        log.add("bad-metadata", file.path, "its protocol number is not 1001, which PyTorch refuses",
                stream.place(parts[0].end or 0))  # fmt: skip
    log.advance(file.size)
    if len(keys) == len(parts[4].tree) and end < file.size:
        log.add("trailing-bytes", file.path, f"{file.size - end:,} bytes follow the last storage",
                stream.place(end, file.size - end))  # fmt: skip


def _look_at_stream(file: File, log: Log, within: str) -> None:
    """A file that is no checkpoint: torch.load would unpickle it all the same, so its names are shown."""
    stream = Stream(file.read, file.size, file.path, within.removesuffix(_NEST), file.start)
    if file.read(0, 1) == b"\x80":
        scan_pickle(stream, 0, log, file.size // SMALL_STORAGE)
        return
    # Any text may begin like a pickle of protocol 0; one that names what is known to do harm is no accident.
    trial = Log()
    scan_pickle(replace(stream, size=min(stream.size, 1 << 20)), 0, trial)
    if any(one.code == "global-executes" for one in trial.findings):
        log.take(trial)


# --- safetensors


def _look_at_safetensors(file: File, log: Log) -> None:
    """Header entries against each other and against the file; what makes it unreadable is told by its reader."""
    text = header_text(file)
    log.note(NO_CHECKSUMS)
    log.advance(file.size)
    try:
        header, repeated = parsed(text)
    except (ValueError, RecursionError):
        return
    for key in repeated:
        log.add("duplicate-name", file.path, f"the header names {key!r} twice", second_place(text, key, 8))
    if isinstance(header, dict):
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            log.add("bad-metadata", file.path, "its __metadata__ holds more than strings, which safetensors refuses")
        _look_at_offsets(file, header, 8 + len(text), log)


def parsed(text: bytes) -> tuple[Any, list[str]]:
    """A JSON text's value, and the keys that an object of it has more than once.

    Raises:
        ValueError: It is no JSON.
        RecursionError: It nests too deeply.
    """
    repeated: dict[str, None] = {}

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(items)
        if len(values) < len(items):
            repeated.update((key, None) for key, number in Counter(key for key, _ in items).items() if number > 1)
        return values

    return json.loads(text, object_pairs_hook=pairs), list(repeated)


def second_place(text: bytes, key: str, base: int = 0) -> Place:
    """Where a JSON text that begins at byte `base` names a key for the second time."""
    name = json.dumps(key).encode()
    first = text.find(name)
    at = text.find(name, first + 1) if first >= 0 else -1
    return Place() if at < 0 else Place("", base + at, len(name), base + at)


def _look_at_offsets(file: File, header: Mapping[str, Any], base: int, log: Log) -> None:
    spans = []
    for key, entry in header.items():
        offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
        if isinstance(offsets, list) and len(offsets) == 2 and all(type(one) is int and one >= 0 for one in offsets):
            spans.append((offsets[0], offsets[1], key))
    reached, last = 0, ""
    for begin, end, key in sorted(spans):
        if end <= begin:
            continue
        if begin < reached:
            log.add(
                "overlap", file.path, f"tensors {last!r} and {key!r} share bytes", _span(base + begin, reached - begin)
            )
        elif begin > reached:
            log.add("gap", file.path, f"{begin - reached:,} bytes before tensor {key!r} belong to none",
                    _span(base + reached, begin - reached))  # fmt: skip
        if end > reached:
            reached, last = end, key
    left = file.size - base - reached
    if left > 0:
        log.add("trailing-bytes", file.path, f"{left:,} bytes follow the last tensor", _span(base + reached, left))


def _span(start: int, length: int) -> Place:
    return Place("", start, length, start)
