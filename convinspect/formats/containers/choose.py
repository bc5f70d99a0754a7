"""Which member of an archive is the checkpoint."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from shlex import quote

from convinspect.containers import ARCHIVES, ARRAYS, WEIGHTS
from convinspect.errors import BrokenFile, ConvInspectError, NotACheckpoint, named
from convinspect.formats.companions import is_companion
from convinspect.formats.containers.member import Inside, same_as
from convinspect.formats.containers.members import command_for, listed
from convinspect.formats.files import File
from convinspect.formats.numpy_files.arrays import is_archive
from convinspect.formats.sharded import is_shard
from convinspect.formats.sources import INSIDE
from convinspect.formats.torch.distributed import METADATA
from convinspect.formats.torch.distributed_file import SUFFIX
from convinspect.formats.torch.exported import is_exported
from convinspect.formats.torch.unpacked import PICKLE, is_unpacked_in
from convinspect.formats.unsupported.zips import known_zip
from convinspect.formats.zip.archive import Archive
from convinspect.formats.zip.ends import find_directory
from convinspect.formats.zip.structures import is_zip
from convinspect.remote.addresses import path_of
from convinspect.text import first_few

_SUFFIXES = (WEIGHTS, ARRAYS, ARCHIVES)
"""Names of checkpoints, from those that are most likely the model's."""
_INDEX = ".index.json"
_SHOWN = 4


def checkpoint_within(file: File) -> Path | None:
    """As `checkpoint_in`, of any file: None also for a zip that is a checkpoint itself.

    Raises:
        As `checkpoint_in`.
    """
    if not is_zip(file.read(0, 64)):
        return checkpoint_in(file)
    if find_directory(file) is None:
        return None
    try:
        archive = Archive(file)
    except ConvInspectError:
        # Whoever reads it says why.
        return None
    if "data.pkl" in archive.records or is_exported(archive) or is_archive(archive.names()):
        return None
    return checkpoint_in_zip(file, archive)


def checkpoint_in_zip(file: File, archive: Archive) -> Path | None:
    """As `checkpoint_in`, of a zip that is no checkpoint itself: None also for one of a known kind.

    Raises:
        As `checkpoint_in`.
    """
    # What is named as a checkpoint is a damaged one, not an archive of some.
    is_named = file.path.name.lower().endswith(_SUFFIXES[0])
    return None if is_named or known_zip(archive.names()) is not None else checkpoint_in(file)


def checkpoint_in(file: File) -> Path | None:
    """The one checkpoint in an archive or a compressed file, as a path into it.

    Returns:
        None if the file is neither, or holds nothing whose name is that of a checkpoint.

    Raises:
        NotACheckpoint: It holds several.
        ConvInspectError: It is malformed or hostile.
    """
    inside = listed(file)
    if inside is None:
        return None
    folders = _folders(inside)
    inside = _without(inside, folders)
    found = folders + _each_once(inside, _likeliest(inside))
    if not found and inside.problem:
        raise BrokenFile(f"it is {inside.kind}, and {inside.problem}", "download or copy it again", file.path)
    if len(found) > 1:
        # All are shown, whatever their kind: which one is meant is for the user to say.
        others = [name for name in _named(inside, (*_SUFFIXES[0], *_SUFFIXES[1])) if name not in found]
        found = folders + _each_once(inside, [*found[len(folders) :], *others])
        paths = [quote(f"{named(file.path)}{INSIDE}{name}") for name in found]
        problem = f"it is {inside.kind} that holds {len(found):,} checkpoints{_links(inside, found[len(folders) :])}"
        raise NotACheckpoint(problem, f"give one of them: {first_few(paths, _SHOWN)}", file.path)
    if not found and (why := _unreadable(inside)):
        raise NotACheckpoint(
            f"it is {inside.kind}, {why}", f"unpack it first: {command_for(inside, file.path)}", file.path
        )
    return path_of(f"{os.fspath(file.path)}{INSIDE}{found[0]}") if found else None


def others_in(file: File, chosen: Path) -> list[str]:
    """Names of an archive's other members that may be checkpoints too."""
    inside = listed(file)
    name = os.fspath(chosen).removeprefix(f"{os.fspath(file.path)}{INSIDE}")
    inside = None if inside is None else _without(inside, _folders(inside))
    if inside is None:
        return []
    # What has the same bytes was looked at.
    seen = [name, *same_as(inside, name)] if name in inside.members else [name]
    if name.endswith(_INDEX):
        # An index is taken where all checkpoints are shards.
        seen += [one for one in inside.members if is_shard(PurePosixPath(one).name)]
    return [one for tier in _SUFFIXES[:2] for one in _named(inside, tier) if one not in seen]


def _each_once(inside: Inside, names: Sequence[str]) -> list[str]:
    """The names of members, of those that are linked to each other the first alone."""
    first: dict[int, str] = {}
    for name in names:
        first.setdefault(inside.members[name].start, name)
    return list(first.values())


def _links(inside: Inside, names: Sequence[str]) -> str:
    """Which other names members have, as a part of a sentence; "" where there are none."""
    named = {inside.members[name].start: name for name in names}
    others = ((other, named.get(one.start, other)) for other, one in inside.members.items() if not one.unreadable)
    alike = [f"{other!r} is {name!r} again" for other, name in others if other != name]
    return f" ({first_few(alike, 2)})" if alike else ""


def _likeliest(inside: Inside) -> list[str]:
    """The members of the likeliest kind that there is any of."""
    if len(inside.members) == 1:
        # Of a compressed file, whatever it is called.
        only = next(iter(inside.members))
        return [only] if inside.members[only].compression not in ("", "deflate") else _by_suffix(inside)
    return _by_suffix(inside)


def _by_suffix(inside: Inside) -> list[str]:
    for suffixes in _SUFFIXES:
        found = _named(inside, suffixes)
        indexes = [name for name in _readable(inside) if name.endswith(_INDEX)]
        if len(found) > 1 and indexes and all(is_shard(PurePosixPath(name).name) for name in found):
            return indexes
        if found:
            # What a training run keeps beside its weights is not meant.
            return [name for name in found if not is_companion(PurePosixPath(name).name)] or found
    return []


def _folders(inside: Inside) -> list[str]:
    """The folders in an archive that are a checkpoint each: a distributed one, or an unpacked file of `torch.save`."""
    found = []
    for name in _readable(inside):
        folder, _, last = name.rpartition("/")
        below = f"{folder}/" if folder else ""
        if last == METADATA:
            if any(other.startswith(below) and other.endswith(SUFFIX) for other in inside.members):
                found.append(folder)
        elif last == PICKLE and is_unpacked_in([other.removeprefix(below) for other in inside.members]):
            found.append(folder)
    return found


def _without(inside: Inside, folders: Sequence[str]) -> Inside:
    """An archive without what is in some of its folders."""
    below = tuple(f"{folder}/" if folder else "" for folder in folders)
    if not below:
        return inside
    return inside._replace(members={name: one for name, one in inside.members.items() if not name.startswith(below)})


def _unreadable(inside: Inside) -> str:
    """Why the first member whose name is that of a checkpoint cannot be read, as the end of a sentence."""
    suffixes = (*_SUFFIXES[0], *_SUFFIXES[1])
    lost = ((name, one.unreadable) for name, one in inside.members.items() if one.unreadable)
    return next((f"whose {name!r} cannot be read: {why}" for name, why in lost if name.lower().endswith(suffixes)), "")


def _named(inside: Inside, suffixes: Sequence[str]) -> list[str]:
    return [name for name in _readable(inside) if name.lower().endswith(tuple(suffixes))]


def _readable(inside: Inside) -> list[str]:
    """Names of the members that can be read, without what archivers add of their own."""
    return [
        name
        for name, member in inside.members.items()
        if not member.unreadable and not any(part.startswith(("._", "__MACOSX")) for part in name.split("/"))
    ]
