"""What PyTorch refuses to open an archive without: its version, and the records that each kind of archive must have."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from convinspect.checking.findings import Finding, Place, finding
from convinspect.checking.pickles import Seen
from convinspect.checking.zip import Record, whole_record
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


def scan_required(file: File, records: Iterable[Record], seen: Mapping[str, Seen], within: str) -> Iterator[Finding]:
    """The records that are missing, and a version that no PyTorch reads.

    Args:
        file: The archive.
        records: All that it holds.
        seen: Its pickles, by the name of their record without `.pkl`.
        within: As of `zip.scan_zip`.
    """
    by_name = {record.name: record for record in records}
    script = any(name.startswith("code/") for name in by_name)
    exported = "archive_format" in by_name or any(map(_GRAPH.fullmatch, by_name))
    if not exported and "data.pkl" not in by_name:
        return
    needed: list[tuple[str, ...]] = [("version",)]
    if script:
        needed += [("constants.pkl",), *((name,) for name in _sources(seen))]
    if exported:
        needed += [("archive_format",), ("archive_version",), *_of_models(by_name)]
    for names in needed:
        if not by_name.keys() & (set(_VERSIONS) if names == ("version",) else set(names)):
            message = f"there is no record {names[0]!r}"
            yield finding("record-missing", file.path, message, Place(within + names[0]), subject=names[0])
    version = next((by_name[name] for name in _VERSIONS if name in by_name), None)
    if version is not None and version.entry.method == STORED:
        yield from _scan_version(file, version, within)


def _scan_version(file: File, record: Record, within: str) -> Iterator[Finding]:
    text = file.read(record.payload, min(record.entry.packed, _LONGEST))
    number = _NUMBER.match(text)
    if number is None or not _OLDEST <= int(number[1]) <= _NEWEST:
        message = f"its version is {text[:16]!r}; PyTorch reads {_OLDEST} to {_NEWEST}"
        yield finding("bad-metadata", file.path, message, whole_record(file, record, within))


def _of_models(names: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """What each exported model must have: one of these names each."""
    for match in filter(None, map(_GRAPH.fullmatch, names)):
        yield (f"data/sample_inputs/{match[1]}.pt",)
        for folder in ("weights", "constants"):
            yield f"data/{folder}/{match[1]}_{folder}_config.json", f"data/{folder}/{match[1]}.pt"


def _sources(seen: Mapping[str, Seen]) -> dict[str, None]:
    """Records of source text that define the classes which the pickles name."""
    names = (name for pickle in seen.values() for name in pickle.names if name.startswith(_CLASSES))
    modules = (name.rpartition(".")[0] for name in names if not name.startswith(_NATIVE))
    return dict.fromkeys(f"code/{module.replace('.', '/')}.py" for module in modules)
