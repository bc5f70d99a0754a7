"""Scan an unpacked file of `torch.save`: its pickles, source text, and whether its storages' files have their sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from convinspect.checking.containers import scan_end, scan_source, scripted
from convinspect.checking.findings import Finding, Note, Progress, Scan, finding
from convinspect.checking.json_header import NO_CHECKSUMS
from convinspect.checking.pickles import Seen, Stream, scan_pickle
from convinspect.formats.files import File
from convinspect.formats.pickle.record import Pickle
from convinspect.formats.torch.archive import SMALL_STORAGE
from convinspect.formats.torch.unpacked import PICKLE, Unpacked
from convinspect.formats.zip.structures import Record


def scan_unpacked(folder: Path) -> Scan[Pickle | None]:
    """Scan the files of such a folder; returns its pickle, or None where that is malformed.

    Raises:
        ConvInspectError: A file cannot be read, or is a link that leads out of the folder.
    """
    with File(folder / PICKLE) as file:
        archive = Unpacked(folder, file)
    seen: dict[str, Seen] = {}
    is_script = any(name.startswith("code/") for name in archive.records)
    for name in archive.records:
        is_pickle = name.endswith(".pkl") and "/" not in name
        is_source = name.startswith("code/") and name.endswith(".py")
        if not (is_pickle or is_source):
            continue
        with File(archive.place(name)) as one:
            stream = Stream(one.read, one.size, one.path)
            if is_source:
                yield from scan_source(stream)
                continue
            stream = scripted(stream) if is_script else stream
            pickle = yield from scan_pickle(stream, 0, archive.nbytes // SMALL_STORAGE)
            seen[name.removesuffix(".pkl")] = pickle
            yield from scan_end(stream, pickle)
    yield from _scan_storages(folder, archive.records, seen)
    yield from _scan_unnamed(folder, archive.records, seen, is_script)
    yield Note(NO_CHECKSUMS)
    yield Progress(archive.nbytes)
    walk = seen["data"].walk if "data" in seen else None
    return Pickle(walk) if walk is not None else None


def _scan_storages(folder: Path, records: Mapping[str, Record], seen: Mapping[str, Seen]) -> Iterator[Finding]:
    """Compare each storage that a pickle names with its file."""
    # What a model was traced with is written without its numbers.
    for below in ("data", "constants"):
        for key, nbytes in (seen[below].storages if below in seen else {}).items():
            record = records.get(f"{below}/{key}")
            size = 0 if record is None else record.size
            path = folder / PICKLE if record is None else folder / below / key
            if record is None and nbytes:
                yield finding("storage-short", path, f"storage {key!r} of {nbytes:,} bytes has no file")
            elif size < nbytes:
                message = f"storage {key!r} has {size:,} of the {nbytes:,} bytes that the pickle claims"
                yield finding("storage-short", path, message)
            elif size > nbytes:
                message = f"storage {key!r} has {size:,} bytes, the pickle names {nbytes:,}"
                yield finding("storage-long", path, message)


def _scan_unnamed(
    folder: Path, records: Mapping[str, Record], seen: Mapping[str, Seen], is_script: bool
) -> Iterator[Finding]:
    """Report files of a plain torch.save's storages that its pickle does not name."""
    if is_script or "data" not in seen or seen["data"].end is None:
        return
    named = {f"data/{key}" for key in seen["data"].storages}
    for name, record in records.items():
        if name.startswith("data/") and name not in named:
            message = f"{record.size:,} bytes that the pickle does not name"
            yield finding("unnamed-record", folder / name, message)
