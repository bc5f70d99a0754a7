"""Paths into archives: `OUTER!MEMBER` names a file in an archive, and that may be an archive too."""

from __future__ import annotations

import os
from _thread import allocate_lock
from pathlib import Path
from shlex import quote
from typing import NamedTuple, TypeVar

from convinspect.errors import BrokenFile, ConvInspectError, NotACheckpoint, NotThere, RefusedFile, named
from convinspect.formats.containers import tar
from convinspect.formats.containers.member import Inside, Member
from convinspect.formats.files import File
from convinspect.formats.places import Below
from convinspect.formats.safetensors import is_safetensors
from convinspect.formats.sources import (
    INSIDE,
    UNNAMED,
    Source,
    Within,
    is_plain,
    member_of,
    open_source,
    outermost,
)
from convinspect.formats.torch.plain_pickle import begins_pickle
from convinspect.formats.unsupported.tar import is_tar
from convinspect.formats.zip.structures import decode_name, is_zip, read_local
from convinspect.records import Version
from convinspect.remote.addresses import path_of
from convinspect.text import closest, first_few

DEEPEST = 4
"""Archives within each other at most."""
_MOST_KEPT = 8
_SHOWN = 4
_LZ4_BLOCK = (4 << 20) + (1 << 10)
"""Bytes that the largest block of an lz4 frame takes, with the headers before it."""
_HEAD = 1 << 14
_T = TypeVar("_T")

_listed: dict[tuple[Path, Version], Inside] = {}
_unpacked: dict[tuple[Path, Version], Source] = {}
_keeping = allocate_lock()
"""What was found out last, by path and version: every tensor of a member is read through its path."""


def open_member(path: Path) -> Source:
    """Open what a path into an archive names.

    Raises:
        NotThere: There is no such file, or no such member.
        ConvInspectError: The archive cannot be read, or it is none.
    """
    outer = outermost(path)
    if outer == path:
        raise NotThere("there is no such file", path=path)
    rest = member_of(path)
    file = File.over(outer, open_source(outer))
    try:
        for _ in range(DEEPEST):
            inside = listed(file)
            if inside is None:
                raise NotACheckpoint("it is no archive, so that nothing can be in it", path=file.path)
            name, rest = _split(rest, inside, file.path)
            file = _opened(file, name, inside)
            if not rest:
                return file.source
    except ConvInspectError as error:
        file.close()
        raise error.at(path) from None
    file.close()
    raise RefusedFile(f"its archives nest more than {DEEPEST} deep", "unpack the outer ones first", outer)


class Step(NamedTuple):
    """An archive on the way to a file.

    Attributes:
        path: The archive's.
        name: What is looked for in it.
        inside: Its members.
    """

    path: Path
    name: str
    inside: Inside


def steps_to(path: Path) -> list[Step]:
    """The archives that a path leads through, the outermost first, as far as they can be read."""
    steps: list[Step] = []
    if is_plain(path) or outermost(path) == path:
        return steps
    file, rest = File.over(outermost(path), open_source(outermost(path))), member_of(path)
    try:
        while len(steps) < DEEPEST and (inside := listed(file)) is not None:
            try:
                name, rest = _split(rest, inside, file.path)
            except ConvInspectError:
                # It may be a folder.
                name, rest = tar.clean(rest), ""
            steps.append(Step(file.path, name, inside))
            if not rest:
                break
            file = _opened(file, name, inside)
    except ConvInspectError:
        # Whoever opens it says why.
        pass
    finally:
        file.close()
    return steps


def members_below(path: Path) -> Below | None:
    """The files of a folder in an archive; None if there is no such folder.

    Raises:
        ConvInspectError: The archive cannot be read.
    """
    outer, rest = outermost(path), member_of(path)
    file = File.over(outer, open_source(outer))
    try:
        for _ in range(DEEPEST):
            inside = listed(file)
            if inside is None:
                return None
            prefix = f"{tar.clean(rest).rstrip('/')}/".lstrip("/")
            found = {name[len(prefix) :]: one.size for name, one in inside.members.items() if name.startswith(prefix)}
            if found:
                return Below(found, _holder(file, inside))
            # All of an archive in this one is asked for as `inner.tar!`.
            is_whole = rest.endswith(INSIDE)
            name, rest = _split(rest, inside, file.path)
            if not rest and not is_whole:
                return None
            file = _opened(file, name, inside)
    except NotThere:
        return None
    finally:
        file.close()
    return None


def listed(file: File) -> Inside | None:
    """What is in an archive or a compressed file; None if it is neither.

    Raises:
        ConvInspectError: Its directory is malformed or hostile.
    """
    key = (file.path, file.version)
    if (known := _listed.get(key)) is not None:
        return known
    found = _list(file)
    if found is not None:
        _keep(_listed, key, found)
    return found


def _keep(kept: dict[tuple[Path, Version], _T], key: tuple[Path, Version], value: _T) -> None:
    with _keeping:
        while len(kept) >= _MOST_KEPT:
            kept.pop(next(iter(kept)))
        kept[key] = value


def _list(file: File) -> Inside | None:
    head = file.read(0, _HEAD)
    if is_tar(head[:1024]):
        return tar.members_of(file)
    if is_zip(head):
        from convinspect.formats.containers.zips import members_of

        return members_of(file)
    return _compressed(file, head)


def _compressed(file: File, head: bytes) -> Inside | None:
    """A compressed tar archive, or another compressed file as an archive of one member: its name lacks the suffix."""
    from convinspect.formats.unsupported.compressed import compression_of, first_bytes

    found = compression_of(head)
    if found is None:
        return None
    from convinspect.formats.containers.packed import UNPACKERS, unpacked

    if found.name == "lz4":
        # Nothing comes out before a block is whole.
        head = file.read(0, _LZ4_BLOCK)
    article = "an" if found.name[0] in "lx" else "a"
    member, beginning = Member(0, -1, file.size, found.name), first_bytes(found, head)
    if not _may_be_a_checkpoint(beginning) or found.name not in UNPACKERS:
        # All of it would be unpacked in vain.
        return None
    if is_tar(beginning):
        source = unpacked(file, 0, member, file.path.name, f"{found.tar} {_quoted(file.path)}")
        inside = tar.members_of(File.over(file.path, source))
        kind = f"{article} {found.name}-compressed tar archive"
        return inside._replace(kind=kind, unpacks=f"{found.tar} {{}}", unpacked=source)
    name, suffix = file.path.name.rpartition(INSIDE)[2], found.suffix
    name = name[: -len(suffix)] if name.endswith(suffix) and name != suffix else f"{name}{UNNAMED}"
    command = f"{found.command} {{}} > {quote(name)}"
    return Inside(f"{article} {found.name}-compressed file", {name: member}, command)


def _may_be_a_checkpoint(head: bytes) -> bool:
    is_one = is_zip(head) or is_safetensors(head) or head.startswith(b"\x93NUMPY")
    # A pickle of a protocol before 2 has no mark of its own; it begins with one of these instructions.
    return is_one or is_tar(head) or begins_pickle(head) or head[:1] in (b"(", b"c", b"}", b"]", b"L")


def _split(rest: str, inside: Inside, path: Path) -> tuple[str, str]:
    """The name of the member that the rest of a path begins with, and what follows it."""
    end = len(rest)
    while end > 0:
        for name in (rest[:end], tar.clean(rest[:end])):
            if name in inside.members:
                return name, rest[end + 1 :]
        end = rest.rfind(INSIDE, 0, end)
    below = f"{tar.clean(rest).rstrip('/')}/"
    files = [quote(f"{named(path)}{INSIDE}{name}") for name in inside.members if name.startswith(below)]
    if files:
        raise NotACheckpoint(f"its {rest!r} is a folder of other files", f"give one: {first_few(files, _SHOWN)}", path)
    near = closest(rest, list(inside.members)) if inside.members else ""
    raise NotThere(f"it holds no {rest!r}", near, path)


def _opened(file: File, name: str, inside: Inside) -> File:
    """A member as a file, whose source holds the archive's. Where it raises, the archive is left open."""
    member = inside.members[name]
    path = path_of(f"{os.fspath(file.path)}{INSIDE}{name}")
    command = command_for(inside, file.path)
    if member.unreadable:
        raise NotACheckpoint(member.unreadable, f"unpack it first: {command}", path)
    start, holder = _start(file, name, member), _holder(file, inside)
    if not member.compression:
        outer = inside.unpacked or file.source
        if start + member.size > outer.size:
            gone = start + member.size - outer.size
            what = f"the archive ends {gone:,} bytes before this file does"
            raise BrokenFile(what, "download or copy it again", path)
        if inside.unpacked is not None:
            file.close()
        return File.over(path, Within(outer, start, member.size, holder))
    key = (path, file.version)
    source = _unpacked.get(key)
    if source is None:
        from convinspect.formats.containers.packed import unpacked

        source = unpacked(file, start, member, name, command)
        _keep(_unpacked, key, source)
    file.close()
    return File.over(path, Within(source, 0, source.size, holder))


def _holder(file: File, inside: Inside) -> str:
    """An archive, and what holds that in its turn: "a tar archive in a zip archive"."""
    return f"{inside.kind} in {file.source.within}" if file.source.within else inside.kind


def command_for(inside: Inside, path: Path) -> str:
    """A command that unpacks an archive, or the outermost one that it lies in."""
    return inside.unpacks.replace("{}", _quoted(path))


def _quoted(path: Path) -> str:
    return quote(named(outermost(path)))


def _start(file: File, name: str, member: Member) -> int:
    """Offset of a member's first byte, packed or not."""
    if not member.local_header:
        return member.start
    local = read_local(file, member.start)
    if local is None or tar.clean(decode_name(local.name, local.header.flags)) != name:
        raise BrokenFile(f"the archive has no header of {name!r} where its directory says", "download it again")
    return local.payload
