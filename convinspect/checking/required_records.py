"""What PyTorch refuses to open an archive without: its version, and the records that each kind of archive must have."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from convinspect.checking.findings import Log, Place
from convinspect.checking.pickles import Seen
from convinspect.checking.zip import Record
from convinspect.formats.files import File
from convinspect.formats.zip.structures import STORED

_OLDEST, _NEWEST = 1, 10
"""Versions that PyTorch reads: `kMinSupportedFileFormatVersion` and `kMaxSupportedFileFormatVersion` of
`caffe2/serialize/versions.h`, 2.13."""
_VERSIONS = (".data/version", "version")
_LONGEST = 64
_NUMBER = re.compile(rb"\s*([+-]?\d+)")
_GRAPH = re.compile(r"models/(.*)\.json")
_CLASSES, _NATIVE = "__torch__.", "__torch__.torch.classes."
"""What classes of TorchScript are named with, and those of them that are C++ and have no source text."""


def scan_required(file: File, records: Iterable[Record], seen: Mapping[str, Seen], log: Log, within: str) -> None:
    """Note the records that are missing, and a version that no PyTorch reads.

    Args:
        file: The archive.
        records: All that it holds.
        seen: Its pickles, by the name of their record without `.pkl`.
        log: Takes the findings.
        within: As of `zip_integrity.look_at_zip`.
    """
    there = {record.name: record for record in records}
    script = any(name.startswith("code/") for name in there)
    exported = "archive_format" in there or any(map(_GRAPH.fullmatch, there))
    if not exported and "data.pkl" not in there:
        return
    needed: list[tuple[str, ...]] = [("version",)]
    if script:
        needed += [("constants.pkl",), *((name,) for name in _sources(seen))]
    if exported:
        needed += [("archive_format",), ("archive_version",), *_of_models(there)]
    for names in needed:
        if not there.keys() & (set(_VERSIONS) if names == ("version",) else set(names)):
            log.add("record-missing", file.path, f"there is no record {names[0]!r}", Place(within + names[0]),
                    subject=names[0])  # fmt: skip
    version = next((there[name] for name in _VERSIONS if name in there), None)
    if version is not None and version.entry.method == STORED:
        _look_at_version(file, version, log, within)


def _look_at_version(file: File, record: Record, log: Log, within: str) -> None:
    said = file.read(record.payload, min(record.entry.packed, _LONGEST))
    number = _NUMBER.match(said)
    if number is None or not _OLDEST <= int(number[1]) <= _NEWEST:
        log.add("bad-metadata", file.path, f"its version is {said[:16]!r}; PyTorch reads {_OLDEST} to {_NEWEST}",
                Place(within + record.entry.name, 0, record.entry.size, file.start + record.payload))  # fmt: skip


def _of_models(there: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """What each exported model must have: one of these names each."""
    for match in filter(None, map(_GRAPH.fullmatch, there)):
        yield (f"data/sample_inputs/{match[1]}.pt",)
        for folder in ("weights", "constants"):
            yield f"data/{folder}/{match[1]}_{folder}_config.json", f"data/{folder}/{match[1]}.pt"


def _sources(seen: Mapping[str, Seen]) -> dict[str, None]:
    """Records of source text that define the classes which the pickles name."""
    names = (name for one in seen.values() for name in one.names if name.startswith(_CLASSES))
    modules = (name.rpartition(".")[0] for name in names if not name.startswith(_NATIVE))
    return dict.fromkeys(f"code/{module.replace('.', '/')}.py" for module in modules)
