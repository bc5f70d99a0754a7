"""What an archive says of its members."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from convinspect.formats.sources import Source


class Member(NamedTuple):
    """A file in an archive.

    Attributes:
        start: Offset in the archive of its first byte, or of its zip header when `local_header` is set.
        size: Its bytes, once unpacked; -1 if that is not known.
        packed: Its bytes in the archive.
        compression: How it is packed ("deflate", "gzip", …); "" if its bytes lie there as they are.
        crc: CRC-32 of its bytes, or None where none is kept.
        local_header: `start` is that of a zip header.
        unreadable: Why its bytes cannot be read, as the end of a sentence about it; "" where they can.
    """

    start: int
    size: int
    packed: int
    compression: str = ""
    crc: int | None = None
    local_header: bool = False
    unreadable: str = ""


class Inside(NamedTuple):
    """The members of an archive, or the one of a compressed file.

    Attributes:
        kind: What holds them, with its article: "a tar archive".
        members: By name, in stored order.
        unpacks: A command that unpacks it, in which {} stands for its path.
        problem: What is wrong with the archive itself, as a sentence about it; "" if nothing is.
        repeated: Names that several members have, of which the last one is read.
        unpacked: Where the members lie, if the archive as a whole is compressed; else None.
    """

    kind: str
    members: Mapping[str, Member]
    unpacks: str
    problem: str = ""
    unpacked: Source | None = None
    repeated: tuple[str, ...] = ()


def same_as(inside: Inside, name: str) -> list[str]:
    """The other names of a member: those that are linked to it, as `tar` keeps hard links."""
    member = inside.members[name]
    alike = (other for other, one in inside.members.items() if one.start == member.start and not one.unreadable)
    return [] if member.unreadable else [other for other in alike if other != name]
