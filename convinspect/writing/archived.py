"""A checkpoint in an archive, written with the archive around it: its other members stay as they are."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from convinspect.errors import CannotWrite, Option, Wording
from convinspect.formats.containers.member import Member, same_as
from convinspect.formats.containers.members import listed
from convinspect.formats.containers.tar import BLOCK, header_with_size
from convinspect.formats.files import File
from convinspect.formats.sources import INSIDE, is_plain, member_of, outermost
from convinspect.formats.zip.archive import Archive
from convinspect.writing.pieces import Piece, Range, size_of
from convinspect.writing.zip import Content, pieces_with_record

_AT_ONCE = 1 << 20
_ALONE = Wording("write the checkpoint alone: end ", Option("target", None), " in .pt, .ckpt or .safetensors")


def archive_of(path: Path) -> Path | None:
    """The archive that holds a checkpoint, as a file of this machine; None where it lies in none."""
    if is_plain(path):
        return None
    outer = outermost(path)
    return outer if outer != path else None


def wraps(source: Path, target: Path) -> bool:
    """Whether a target is to be an archive as the source's is, judged by its suffix."""
    outer = archive_of(source)
    return outer is not None and bool(target.suffix) and target.suffix.lower() == outer.suffix.lower()


def is_rewritten(source: Path) -> bool:
    """Whether the archive that a checkpoint lies in is one that can be written again."""
    with File(outermost(source)) as file:
        return _plain_member(file, member_of(source)) is not None


def _plain_member(file: File, name: str) -> Member | None:
    """The member of this name; None if it is compressed, or lies in an archive within this one."""
    inside = listed(file)
    member = None if inside is None or inside.unpacked is not None else inside.members.get(name)
    if inside is None or member is None or member.compression:
        return None
    # What is linked to it would change with it.
    return None if same_as(inside, name) else member


def _why_not(file: File, name: str) -> str:
    """Why a checkpoint's archive is not written again, as a part of a sentence about the checkpoint."""
    inside = listed(file)
    if inside is not None and inside.unpacked is None and name in inside.members and same_as(inside, name):
        return f"has another name in its archive, {same_as(inside, name)[0]!r}"
    return "lies in an archive within another" if INSIDE in name else "is compressed in its archive"


def wrapped(source: Path, pieces: Sequence[Piece]) -> tuple[Path, list[Piece]]:
    """The archive with a new checkpoint in place of the old one.

    Args:
        source: The checkpoint, as a path into the archive.
        pieces: The new checkpoint; its ranges are of the old one.

    Returns:
        The file that ranges refer to, and the new archive's pieces.

    Raises:
        CannotWrite: The archive is compressed, lies in another, or keeps sizes in a way that is not edited.
    """
    outer, name = outermost(source), member_of(source)
    with File(outer) as file:
        member = _plain_member(file, name)
        if member is None:
            raise CannotWrite(f"the checkpoint {_why_not(file, name)}, which is not written again here", _ALONE)
        if member.local_header:
            return outer, _in_zip(file, name, pieces)
        return outer, _in_tar(file, member, pieces)


def _in_tar(file: File, member: Member, pieces: Sequence[Piece]) -> list[Piece]:
    """A tar archive: the member's header says its size, and its bytes are filled up to a whole block."""
    size, at = sum(map(size_of, pieces)), member.start - BLOCK
    header = header_with_size(file.read(at, BLOCK), size)
    if header is None:
        raise CannotWrite("its tar archive keeps the size in an extended header, which is not edited", _ALONE)
    end = member.start + -(-member.size // BLOCK) * BLOCK
    filled: list[Piece] = [bytes(-size % BLOCK)] if size % BLOCK else []
    rest: list[Piece] = [Range(end, file.size)] if end < file.size else []
    return [Range(0, at), header, *_shifted(pieces, member.start), *filled, *rest]


def _in_zip(file: File, name: str, pieces: Sequence[Piece]) -> list[Piece]:
    """A zip archive: the record's headers say its sizes and its CRC-32, for which all of it is read."""
    archive = Archive(file)
    record = name.removeprefix(archive.folder)
    shifted = _shifted(pieces, archive.payload(record))
    try:
        return pieces_with_record(file, archive, record, Content(shifted, _crc(file, shifted)))
    except CannotWrite as error:
        error.remedy = _ALONE
        raise


def _shifted(pieces: Iterable[Piece], by: int) -> list[Piece]:
    return [Range(one.start + by, one.end + by) if isinstance(one, Range) else one for one in pieces]


def _crc(file: File, pieces: Iterable[Piece]) -> int:
    crc = 0
    for piece in pieces:
        if isinstance(piece, Range):
            for at in range(piece.start, piece.end, _AT_ONCE):
                crc = zlib.crc32(file.read(at, min(_AT_ONCE, piece.end - at)), crc)
        else:
            for block in [piece] if isinstance(piece, bytes) else piece.blocks():
                crc = zlib.crc32(block, crc)
    return crc
