"""Tar archives: which member lies where.

The layout is that of POSIX.1-2017's `pax`, section "ustar Interchange Format" and "pax Extended Header", and of GNU
tar's manual, "Basic Tar Format". The standard library's `tarfile` is not used: it reads headers of any size into
memory, and versions of it that are still in use take quadratic time for some.
"""

from __future__ import annotations

from collections.abc import Mapping

from convinspect.errors import RefusedFile
from convinspect.formats.containers.member import Inside, Member
from convinspect.formats.files import File

BLOCK = 512
MOST_MEMBERS = 100_000
_LONGEST_HEADER = 1 << 20
"""Bytes of a long name, or of a pax header, of which real ones take some hundred."""
_FILES = b"0\0\x007"
_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL, _SPARSE = b"L", b"K", b"x", b"g", b"S"
_HARD_LINK = b"1"
_OTHERS = {b"2": "a link", b"3": "a device", b"4": "a device", b"6": "a pipe"}
_HOLES = "it is stored with its holes left out"
_HOSTILE = "do not unpack it elsewhere either"


def members_of(file: File) -> Inside:
    """The files in a tar archive that is not compressed.

    Raises:
        RefusedFile: It has more members, or a larger header, than archives of models have.
    """
    members: dict[str, Member] = {}
    repeated: dict[str, None] = {}
    at, problem = 0, ""
    name, link, size, sparse = "", "", -1, False
    while at + BLOCK <= file.size:
        head = file.read(at, BLOCK)
        if not head.strip(b"\0"):
            break
        told, kind = _size(head), head[156:157]
        if told is None or not is_header(head):
            problem = f"its header at byte {at:,} is damaged"
            break
        at += BLOCK
        if kind in (_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL):
            text = _long_header(file, at, told)
            if kind == _LONG_NAME:
                name = _text(text.partition(b"\0")[0])
            elif kind == _LONG_LINK:
                link = _text(text.partition(b"\0")[0])
            elif kind == _PAX:
                fields = _pax_fields(text)
                name = fields.get("GNU.sparse.name", fields.get("path", name))
                link = fields.get("linkpath", link)
                sparse = any(field.startswith("GNU.sparse.") for field in fields)
                size = _number(fields.get("size", ""))
        else:
            packed = told if size < 0 or kind not in _FILES else size
            known = clean(name or _name(head))
            member = None
            if kind in _FILES and not known.endswith("/"):
                member = Member(at, packed, packed, unreadable=_HOLES if sparse else "")
            elif kind == _HARD_LINK:
                member = _linked(members, clean(link or _text(head[157:257].partition(b"\0")[0])), at)
            elif kind == _SPARSE or kind in _OTHERS:
                member = Member(at, 0, 0, unreadable=f"it is {_OTHERS[kind]}" if kind in _OTHERS else _HOLES)
            if member is not None:
                if members.pop(known, None) is not None:
                    repeated[known] = None
                members[known] = member
            if kind in _FILES or kind == _SPARSE:
                told = packed
            elif kind == _HARD_LINK:
                # Whatever size it gives is that of the file it names.
                told = 0
            name, link, size, sparse = "", "", -1, False
        at += -(-told // BLOCK) * BLOCK
        if len(members) > MOST_MEMBERS:
            raise RefusedFile(f"the tar archive has more than {MOST_MEMBERS:,} members", _HOSTILE)
    return Inside("a tar archive", members, "tar -xf {}", problem, repeated=tuple(repeated))


def _linked(members: Mapping[str, Member], target: str, at: int) -> Member:
    """What a hard link names: a file that is stored before it, as whoever unpacks the archive finds it then."""
    found = members.get(target)
    return (
        Member(at, 0, 0, unreadable=f"it is a link to {target!r}, which is not before it") if found is None else found
    )


def is_header(head: bytes) -> bool:
    """Whether a block is a header: its checksum is that of its bytes, with blanks in its own place."""
    told = _number(head[148:156].strip(b" \0").decode("ascii", "replace"), 8)
    return len(head) == BLOCK and told == sum(head[:148]) + 8 * ord(" ") + sum(head[156:])


def header_with_size(head: bytes, size: int) -> bytes | None:
    """A header with another size, as the rest of it is written; None if the size is not in the header itself."""
    field, told = head[124:136], _size(head)
    digits = f"{size:011o}".encode()
    if told is None or field[0] & 0x80 or len(digits) > 11 or not is_header(head):
        return None
    new = head[:124] + digits + field[11:] + head[136:]
    total = sum(new[:148]) + 8 * ord(" ") + sum(new[156:])
    return new[:148] + f"{total:06o}".encode() + head[154:156] + new[156:]


def clean(name: str) -> str:
    """A member's name as it is called: `./weights.ckpt` is `weights.ckpt`, as is `/weights.ckpt`."""
    while name.startswith(("./", "/")):
        name = name[name.index("/") + 1 :]
    return name


def _long_header(file: File, at: int, size: int) -> bytes:
    if size > _LONGEST_HEADER:
        raise RefusedFile(f"a header of the tar archive claims {size:,} bytes", _HOSTILE)
    return file.read(at, size)


def _size(head: bytes) -> int | None:
    """The size field: octal digits, or, of GNU tar, a number in base 256 whose first bit is set."""
    field = head[124:136]
    if field[0] & 0x80:
        size = int.from_bytes(field, "big") & ((1 << 95) - 1)
        return size if size < 1 << 63 else None
    size = _number(field.strip(b" \0").decode("ascii", "replace") or "0", 8)
    return size if size >= 0 else None


def _name(head: bytes) -> str:
    name, prefix = head[:100].partition(b"\0")[0], head[345:500].partition(b"\0")[0]
    # GNU tar keeps times where ustar has the prefix, behind another magic.
    has_prefix = head[257:263] == b"ustar\0" and prefix
    return _text(prefix + b"/" + name if has_prefix else name)


def _pax_fields(text: bytes) -> dict[str, str]:
    """The records of a pax header: each its own length, a blank, and `key=value`."""
    fields: dict[str, str] = {}
    at = 0
    while at < len(text):
        digits, blank, _ = text[at : at + 20].partition(b" ")
        length = _number(digits.decode("ascii", "replace"))
        if not blank or length <= len(digits) + 1 or at + length > len(text):
            break
        key, _, value = text[at + len(digits) + 1 : at + length - 1].partition(b"=")
        fields[_text(key)] = _text(value)
        at += length
    return fields


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _number(text: str, base: int = 10) -> int:
    """A number of at most 20 digits alone; -1 for any other text."""
    return int(text, base) if 0 < len(text) <= 20 and set(text) <= set("0123456789"[:base]) else -1
