"""Storages whose numbers may never have been written: `torch.serialization.skip_data()` only makes room for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from convinspect.formats.zip.structures import STORED, Record
from convinspect.records import Root

NOTE = (
    "no storage has a CRC-32 though the pickle has one, as torch.serialization.skip_data() leaves them: unless somebody"
    " wrote the numbers afterwards, they are missing and read as zeros"
)


def why_unwritten(records: Mapping[str, Record], roots: Sequence[Root]) -> str:
    """`NOTE` if no storage of the tensors has a CRC-32 and the pickle has one; else "".

    `torch.serialization.set_crc32_options(False)` leaves out the pickle's too.

    Args:
        records: Of the archive.
        roots: What it holds.
    """
    if not records["data.pkl"].crc:
        return ""
    for root in roots:
        for tensor in root.tensors:
            storage = tensor.storage
            if storage is None or not storage.available or storage.packed_nbytes is not None:
                continue
            if storage.crc:
                return ""
            break
    return NOTE if _any_stored(records) else ""


def _any_stored(records: Mapping[str, Record]) -> bool:
    """Whether there are storages, and none of them has a CRC-32."""
    storages = [record for name, record in records.items() if name.startswith("data/") and record.size]
    return bool(storages) and not any(record.crc or record.method != STORED for record in storages)
