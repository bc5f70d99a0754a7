"""What is known of a file that lies elsewhere."""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple, TypeAlias

Version: TypeAlias = tuple[int, ...]
"""As of the records: the third number is the size in bytes."""


class Facts(NamedTuple):
    """What a server says of a file.

    Attributes:
        size: In bytes.
        version: Differs between versions of the file, as far as the server tells them apart.
    """

    size: int
    version: Version


def version_from(size: int, mark: object) -> Version:
    """A version from whatever a server tells versions apart by: an ETag, a time, a checksum."""
    digest = blake2b(str(mark).encode("utf-8", "replace"), digest_size=8).digest()
    return (0, int.from_bytes(digest, "big"), size, 0)
