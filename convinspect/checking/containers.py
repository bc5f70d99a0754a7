"""Scan a single file of any container: whether its bytes are intact, and what its pickles would call."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from convinspect.checking.arrays import is_pickled, scan_array
from convinspect.checking.collecting import Collector
from convinspect.checking.findings import Finding, Looked, Note, Place, Progress, Scan, finding
from convinspect.checking.joblib_files import scan_joblib
from convinspect.checking.json_header import NO_CHECKSUMS, scan_safetensors
from convinspect.checking.offsets import scan_offsets
from convinspect.checking.pickles import Seen, Stream, scan_bytes, scan_pickle
from convinspect.checking.required_records import scan_required
from convinspect.checking.zip import Record, scan_zip, unpacked, whole_record
from convinspect.errors import ConvInspectError
from convinspect.formats.files import File
from convinspect.formats.numpy_files.arrays import SUFFIX, is_array, record_read
from convinspect.formats.numpy_files.header import MAGIC
from convinspect.formats.pickle.joblib_arrays import is_of_joblib
from convinspect.formats.pickle.machine import Read, most_steps, reader
from convinspect.formats.pickle.record import Pickle
from convinspect.formats.pickle.safe_globals import RESTORED, SCRIPTED
from convinspect.formats.safetensors import is_safetensors
from convinspect.formats.sources import is_spared
from convinspect.formats.torch.archive import SMALL_STORAGE, headless
from convinspect.formats.torch.legacy import is_legacy
from convinspect.formats.torch.plain_pickle import ORDINARY, is_pickle
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


def scan_file(file: File, within: str = "", ordinary: frozenset[str] = frozenset()) -> Scan[Pickle | None]:
    """Find what is wrong with a file, or with a part of one, and which names its pickles ask for.

    Args:
        file: What to look at.
        within: The outer record that it is, as a prefix for its record names; "" for a separate file.
        ordinary: Names that are ordinary in its pickles.

    Returns:
        The object's pickle, for listing the file; None if there is none, or it is malformed.

    Raises:
        ConvInspectError: It cannot be scanned.
    """
    head = file.read(0, 64)
    if is_zip(head) and read_ends(file) is None:
        yield from _scan_truncated_zip(file, within)
        raise headless(file)
    if is_zip(head):
        records = yield from scan_zip(file, within)
        return (yield from _scan_records(file, records, within, ordinary))
    if is_safetensors(head):
        yield from scan_safetensors(file)
    elif is_legacy(file):
        return (yield from _scan_legacy(file, within))
    elif is_array(head):
        yield from scan_array(Stream(file.read, file.size, file.path, within.removesuffix(_NEST), file.start))
        yield Note(NO_CHECKSUMS)
    else:
        return (yield from _scan_unknown(file, within))
    return None


# --- zip


def _scan_records(file: File, records: Sequence[Record], within: str, ordinary: frozenset[str]) -> Scan[Pickle | None]:
    names = {record.name for record in records}
    is_script = any(name.startswith("code/") for name in names)
    seen = yield from _scan_pickles(file, records, within, ordinary, is_script)
    storages = {f"{folder}/{key}" for folder, pickle in seen.items() for key in pickle.storages}
    for record in records:
        if (
            record.fetched
            and record.name not in storages
            and not (record.name.endswith(".pkl") and "/" not in record.name)
        ):
            yield from _scan_other_record(file, record, within, is_script)
    yield from _scan_storages(file, records, seen, within)
    if all(record.fetched for record in records):
        yield from scan_offsets(file, records, seen, within)
    yield from scan_required(file, records, seen, within)
    yield from _scan_byteorder(file, records, within)
    if "data.pkl" in names and not is_script:
        yield from _scan_unnamed(file, records, storages, seen, within)
    if is_script:
        number = sum(name.startswith("code/") and name.endswith(".py") for name in names)
        yield Note(
            f"TorchScript: {plural(number, 'file')} of source text, which torch.jit.load compiles and the model"
            " then runs; what they do was not judged"
        )
    walk = seen["data"].walk if "data" in seen else None
    return Pickle(walk) if walk is not None else None


def _scan_pickles(
    file: File, records: Sequence[Record], within: str, ordinary: frozenset[str], is_script: bool
) -> Scan[dict[str, Seen]]:
    """The archive's own pickles, by their name without `.pkl`."""
    allowed = len(records) + file.size // _PAYLOAD_PER_STORAGE
    seen: dict[str, Seen] = {}
    for record in records:
        if not record.name.endswith(".pkl") or "/" in record.name:
            continue
        stream = yield from _stream(file, record, within)
        if stream is not None:
            stream = stream._replace(ordinary=ordinary)
            stream = scripted(stream) if is_script else stream
            pickle = yield from scan_pickle(stream, 0, allowed)
            seen[record.name.removesuffix(".pkl")] = pickle
            yield from scan_end(stream, pickle)
    return seen


def _scan_truncated_zip(file: File, within: str) -> Scan[None]:
    """Scan a truncated zip; PyTorch writes the pickle first, so it is still there."""
    first = read_local(file, 0)
    # What begins with numbers lost its own beginning, and they would be read as instructions.
    if first is not None and first.name.endswith(b".pkl"):
        size, in_file = file.size - first.payload, file.start + first.payload
        stream = Stream(file.part(first.payload), size, file.path, f"{within}data.pkl", in_file)
        yield from scan_pickle(stream, 0, file.size // SMALL_STORAGE)


def _stream(file: File, record: Record, within: str) -> Scan[Stream | None]:
    """The record's bytes; None if they cannot be read, which is reported as a finding."""
    name, entry = within + record.entry.name, record.entry
    if entry.method == STORED:
        size = min(entry.packed, max(0, file.size - record.payload))
        return Stream(_part(file, record.payload, size), size, file.path, name, file.start + record.payload)
    if not record.sound:
        return None
    if entry.size > LARGEST_UNPACKED:
        message = f"record {name!r} is too large to be unpacked and looked at"
        yield finding("unreadable", file.path, message, Place(name))
        return None
    data = b"".join(unpacked(file, entry, record.payload))
    return Stream(reader(data), len(data), file.path, name, None)


def scripted(stream: Stream) -> Stream:
    """The stream of a pickle of TorchScript, in which other names are ordinary."""
    return stream._replace(ordinary=stream.ordinary | RESTORED, prefixes=SCRIPTED)


def _part(file: File, start: int, length: int) -> Read:
    """Reads within `length` bytes from `start`, and no further."""
    return lambda offset, size: file.read(start + offset, min(size, length - offset))


def scan_end(stream: Stream, pickle: Seen) -> Iterator[Finding]:
    """Report a pickle that is malformed, so that what follows is unknown, or that ends early, with unread bytes."""
    if pickle.error is not None:
        error = pickle.error
        yield finding("unreadable", stream.path, error.problem, stream.place(0), remedy=error.remedy)
    elif pickle.end is not None and pickle.end < stream.size:
        left = stream.size - pickle.end
        yield finding(
            "trailing-bytes", stream.path, f"{left:,} bytes follow its pickle", stream.place(pickle.end, left)
        )


def _scan_other_record(file: File, record: Record, within: str, is_script: bool) -> Scan[None]:
    """Scan a record that is not a storage: it may be a pickle, source text, or a checkpoint itself."""
    name, entry = within + record.entry.name, record.entry
    if record.name.endswith(".py") and record.name.startswith("code/"):
        stream = yield from _stream(file, record, within)
        if stream is not None:
            yield from scan_source(stream)
        return
    if record.name.endswith(SUFFIX):
        yield from _scan_array(file, record, within)
        return
    claims_pickle = record.name.endswith((".pt", ".pkl", "_pkl"))
    if not entry.size or (entry.method != STORED and not claims_pickle):
        return
    stream = yield from _stream(file, record, within)
    if stream is None or not stream.size:
        return
    stream = scripted(stream) if is_script else stream
    head = stream.read(0, 4)
    if head.startswith(_MACHINE_CODE) or record.name.endswith(_LIBRARIES):
        yield finding("native-code", file.path, "it is machine code", stream.place(0, stream.size))
    elif head == LOCAL_SIGNATURE or (claims_pickle and _is_old_save(file, record, stream.size)):
        yield from _scan_inner(file, record, stream, name + _NEST, claims_pickle)
    elif claims_pickle:
        pickle = yield from scan_pickle(stream, 0, stream.size // SMALL_STORAGE)
        yield from scan_end(stream, pickle)
    elif head[0] in _MAY_BEGIN_PICKLES:
        # Numbers may begin like anything; but torch.export keeps some weights as pickles under any name.
        yield from scan_bytes(stream)


def _scan_array(file: File, record: Record, within: str) -> Scan[None]:
    """Scan a record that is an array, unless its bytes are known to be damaged already."""
    entry = record.entry
    if not record.sound:
        return
    read = record_read(file, entry, record.payload)
    if not is_array(read(0, len(MAGIC))):
        return
    in_file = file.start + record.payload if entry.method == STORED else None
    stream: Stream | None = Stream(read, entry.size, file.path, within + entry.name, in_file)
    if in_file is None and is_pickled(read):
        stream = yield from _stream(file, record, within)
    if stream is not None:
        yield from scan_array(stream)


def scan_source(stream: Stream) -> Iterator[Finding]:
    """Scan source text of TorchScript for calls that save or open files."""
    source = stream.read(0, stream.size)
    try:
        source.decode()
    except UnicodeDecodeError as error:
        yield finding("bad-metadata", stream.path, "its source text is no UTF-8", stream.place(error.start))
    opening = _OPENING.search(source)
    if opening is not None:
        owner = b"torch" if source.endswith(b"torch", 0, opening.start()) else b"ops.aten"
        call = (owner + opening[0]).decode()
        place = stream.place(opening.start() - len(owner))
        yield finding("script-opens", stream.path, f"its code calls {call}…)", place)


def _is_old_save(file: File, record: Record, size: int) -> bool:
    """Whether a record is a torch.save file from before PyTorch 1.6, in which storages follow five pickles."""
    if record.entry.method != STORED:
        return False
    with File(file.path, file.start + record.payload, size) as part:
        return is_legacy(part)


def _scan_inner(file: File, record: Record, stream: Stream, within: str, claims_pickle: bool) -> Scan[None]:
    """Scan a record that is an archive, or an old torch.save file."""
    if within.count(_NEST) > _DEEPEST:
        message = "its archives within archives nest too deeply to follow"
        yield finding("unreadable", file.path, message, stream.place(0))
        return
    if record.entry.method != STORED:
        yield from scan_bytes(stream._replace(record=within.removesuffix(_NEST)))
        return
    try:
        with File(file.path, file.start + record.payload, stream.size) as part:
            yield from scan_file(part, within)
    except ConvInspectError as error:
        if claims_pickle:
            yield finding("unreadable", file.path, error.problem, stream.place(0), remedy=error.remedy)


def _scan_storages(file: File, records: Iterable[Record], seen: Mapping[str, Seen], within: str) -> Iterator[Finding]:
    """Compare each storage that a pickle names with its record."""
    by_name = {record.name: record for record in records}
    # What a model was traced with is written without its numbers.
    for folder in ("data", "constants"):
        storages = seen[folder].storages if folder in seen else {}
        for key, nbytes in storages.items():
            record = by_name.get(f"{folder}/{key}")
            if record is None:
                if nbytes:
                    message = f"storage {key!r} of {nbytes:,} bytes has no record"
                    yield finding("storage-short", file.path, message, Place(f"{within}{folder}/{key}"))
                continue
            place = _place_of(file, record, within)
            size = record.entry.size
            if size < nbytes:
                message = f"storage {key!r} has {size:,} of the {nbytes:,} bytes that the pickle claims"
                yield finding("storage-short", file.path, message, place)
            elif size > nbytes:
                message = f"storage {key!r} has {size:,} bytes, the pickle names {nbytes:,}"
                yield finding("storage-long", file.path, message, place)


def _place_of(file: File, record: Record, within: str) -> Place:
    return Place(within + record.entry.name, None, None, file.start + record.entry.offset)


def _scan_byteorder(file: File, records: Iterable[Record], within: str) -> Iterator[Finding]:
    for record in records:
        if record.name != "byteorder" or record.entry.method != STORED:
            continue
        order = file.read(record.payload, min(record.entry.packed, 64))
        if order not in (b"little", b"big"):
            message = f"its byte order is {order[:16]!r}, neither little nor big"
            place = whole_record(file, record, within)
            yield finding("bad-metadata", file.path, message, place)


def _scan_unnamed(
    file: File, records: Iterable[Record], storages: set[str], seen: Mapping[str, Seen], within: str
) -> Iterator[Finding]:
    """Report records of a plain torch.save that its pickle does not name; unknown if the pickle is malformed."""
    if "data" not in seen or seen["data"].end is None:
        return
    for record in records:
        if record.name not in storages and record.name not in _PLAIN:
            message = f"{record.entry.size:,} bytes that the pickle does not name"
            yield finding("unnamed-record", file.path, message, _place_of(file, record, within))


# --- pickles outside of a zip


def _scan_legacy(file: File, within: str) -> Scan[Pickle | None]:
    """Scan an old torch.save file: five pickles, then the storages in the order of the last one's keys."""
    stream = Stream(file.read, file.size, file.path, within.removesuffix(_NEST), file.start)
    parts: list[Seen] = []
    end: int | None = 0
    for _ in range(5):
        if end is not None:
            part = yield from scan_pickle(stream, end, file.size // SMALL_STORAGE)
            parts.append(part)
            end = part.end
    yield Note(NO_CHECKSUMS)
    if is_spared(file.path) and len(parts) > 3:
        yield Looked("spared", sum(parts[3].storages.values()))
    if end is None or not isinstance(parts[4].tree, list):
        if parts[-1].error is not None:
            yield from scan_end(stream, parts[-1])
        return None
    storages = parts[3].storages
    keys = [key for key in parts[4].tree if isinstance(key, str) and key in storages]
    end += sum(8 + storages[key] for key in keys)
    listed = set(keys)
    for key, nbytes in storages.items():
        if key not in listed:
            message = f"storage {key!r} of {nbytes:,} bytes is not among those that follow"
            yield finding("storage-short", file.path, message)
    if parts[1].tree != _PROTOCOL:
        message = "its protocol number is not 1001, which PyTorch refuses"
        yield finding("bad-metadata", file.path, message, stream.place(parts[0].end or 0))
    yield Progress(file.size)
    left = file.size - end
    if len(keys) == len(parts[4].tree) and left > 0:
        message = f"{left:,} bytes follow the last storage"
        yield finding("trailing-bytes", file.path, message, stream.place(end, left))
    return _legacy_pickle(parts)


def _legacy_pickle(parts: Sequence[Seen]) -> Pickle | None:
    """What a reader needs of the five pickles; it allows the first three no more work than a file without storages."""
    walks = [part.walk for part in parts if part.walk is not None]
    if any(walk.steps > most_steps(0) for walk in walks[:3]):
        return None
    return Pickle(walks[3], walks[2].end, walks[4])


def _scan_unknown(file: File, within: str) -> Scan[Pickle | None]:
    """Scan a plain pickle, or a file that is not a checkpoint: torch.load would unpickle it anyway, so its names are
    reported.
    """
    stream = Stream(file.read, file.size, file.path, within.removesuffix(_NEST), file.start)
    if is_pickle(file):
        plain = stream._replace(plain=True, ordinary=ORDINARY)
        if is_of_joblib(file.read, file.size):
            yield Note(NO_CHECKSUMS)
            return (yield from scan_joblib(plain))
        seen = yield from scan_pickle(plain, 0, file.size // SMALL_STORAGE)
        if seen.error is None:
            yield Note(NO_CHECKSUMS)
            yield from scan_end(stream, seen)
        return None if seen.walk is None else Pickle(seen.walk)
    # Any text may begin like a pickle of protocol 0; one that names what is known to do harm is no accident.
    trial = Collector()
    trial.run(scan_pickle(stream._replace(size=min(stream.size, 1 << 20)), 0))
    if any(finding.code == "global-executes" for finding in trial.findings):
        yield from trial.items()
    return None
