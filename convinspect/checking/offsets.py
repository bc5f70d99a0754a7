"""Storages that do not lie where PyTorch calculates them to be.

`torch.load` reads each storage's header for its place. With `config.load.calculate_storage_offsets` it reads the first
one's alone, and adds up sizes and the alignment that the archive names; it compares the result with nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from convinspect.checking.findings import Finding, finding
from convinspect.checking.pickles import Seen
from convinspect.checking.zip import Record, whole_record
from convinspect.formats.files import File
from convinspect.formats.zip.alignment import (
    ALIGNMENT_RECORD,
    LONGEST_ALIGNMENT_TEXT,
    USUAL_ALIGNMENT,
    VERSION_RECORD,
    aligned_payload,
    end_of_record,
    parse_alignment,
)
from convinspect.formats.zip.structures import PADDING_FIELD, STORED, extra_fields, read_local

_FIRST_CALCULATED = b"1"
"""The `.format_version` from which on PyTorch calculates offsets."""


def scan_offsets(file: File, records: Iterable[Record], seen: Mapping[str, Seen], within: str) -> Iterator[Finding]:
    """One finding for all storages that lie elsewhere, and one where the alignment is no number.

    Args:
        file: The archive.
        records: All that it holds.
        seen: Its pickles, by the name of their record without `.pkl`.
        within: As of `zip.scan_zip`.
    """
    by_name = {record.name: record for record in records}
    claim = by_name.get(ALIGNMENT_RECORD)
    if claim is None or claim.entry.method != STORED:
        return
    text = _text(file, claim)
    alignment = parse_alignment(text)
    if alignment is None:
        message = f"its storage alignment is {text[:16]!r}, no positive number"
        yield finding("bad-metadata", file.path, message, whole_record(file, claim, within))
        return
    if "data" not in seen or not _is_calculated(file, by_name.get(VERSION_RECORD)):
        return
    storages = _storages(by_name, seen["data"].storages)
    wrong = list(_misplaced(storages, alignment))
    # Archivers pack without padding, and what they packed again is whole; 64 was then nobody's own choice.
    if wrong and (alignment != USUAL_ALIGNMENT or _is_padded(file, wrong[0][0])):
        record, payload = wrong[0]
        number = f"{len(wrong):,} of {len(storages):,} storages"
        message = (
            f"{number} {'does' if len(wrong) == 1 else 'do'} not lie where an alignment of {alignment:,} puts them:"
            f" {record.entry.name!r} begins at byte {record.payload:,}, not {payload:,}"
        )
        yield finding("storage-misplaced", file.path, message, whole_record(file, record, within))


def _is_calculated(file: File, version: Record | None) -> bool:
    return version is not None and version.entry.method == STORED and _text(file, version) >= _FIRST_CALCULATED


def _is_padded(file: File, record: Record) -> bool:
    local = read_local(file, record.entry.offset)
    return local is not None and PADDING_FIELD in dict(extra_fields(local.extra))


def _text(file: File, record: Record) -> bytes:
    return file.read(record.payload, min(record.entry.packed, LONGEST_ALIGNMENT_TEXT))


def _storages(records: Mapping[str, Record], sizes: Mapping[str, int]) -> list[tuple[Record, int]]:
    """The storages in the order in which the pickle names them, with their sizes in bytes, up to one that is missing.

    None where PyTorch calculates nothing: it wants storage 0 first, and numbers as they are.
    """
    storages: list[tuple[Record, int]] = []
    for key, nbytes in sizes.items():
        record = records.get(f"data/{key}")
        if record is None or record.entry.method != STORED or (not storages and key != "0"):
            break
        storages.append((record, nbytes))
    return storages


def _misplaced(storages: list[tuple[Record, int]], alignment: int) -> Iterator[tuple[Record, int]]:
    """The storages whose bytes begin elsewhere than at the calculated offset, with that offset."""
    if not storages:
        return
    first, nbytes = storages[0]
    end = end_of_record(first.entry.offset, first.payload, nbytes)
    for record, nbytes in storages[1:]:
        payload = aligned_payload(end, len(record.entry.raw_name), nbytes, alignment)
        if payload != record.payload:
            yield record, payload
        end = end_of_record(end, payload, nbytes)
