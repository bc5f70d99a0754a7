"""Check whether a checkpoint is intact, and what loading it elsewhere would call. Never gives a verdict of "safe"."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import TypeAlias

from convinspect.checking.collecting import Collector
from convinspect.checking.containers import scan_file
from convinspect.checking.contents import scan_contents
from convinspect.checking.findings import Finding, Held, Looked, Note, Report, Scan, finding
from convinspect.checking.json_header import parsed, second_place
from convinspect.checking.pickles import Seen, Stream, scan_pickle
from convinspect.checking.piece_files import Item as Piece
from convinspect.checking.piece_files import items_of, scan_part, scan_piece_file
from convinspect.checking.unpacked import scan_unpacked
from convinspect.errors import ConvInspectError, NotThere
from convinspect.formats import pieces, read_contents, sharded
from convinspect.formats.containers.choose import checkpoint_within, others_in
from convinspect.formats.containers.members import listed, steps_to
from convinspect.formats.files import File
from convinspect.formats.journal import check_no_journal
from convinspect.formats.pickle.record import Pickle
from convinspect.formats.pickle.safe_globals import DISTRIBUTED
from convinspect.formats.places import below, files_in, is_folder
from convinspect.formats.roots import main_root
from convinspect.formats.sources import fetching, folder_of, is_plain, is_spared, short_name
from convinspect.formats.torch import distributed, unpacked
from convinspect.formats.torch.archive import SMALL_STORAGE
from convinspect.formats.torch.distributed_file import is_part
from convinspect.formats.torch.distributed_pieces import is_metadata, pieces_in
from convinspect.records import Container, Contents, Tensor
from convinspect.text import first_few, plural

_MAY_HOLD_PICKLES = sharded.SUFFIXES | {".pkl", ".pickle", ".distcp"}
_SHOWN = 6

_Kind: TypeAlias = tuple[Container | None, int]
"""What keeps the tensors, and into how many shards they are split; None where it cannot be listed, 0 for one file."""


def check(
    path: Path, values: bool = False, advance: Callable[[int], None] = lambda nbytes: None, full: bool = False
) -> Report:
    """Scan a file or folder. Nothing in it is run, and what cannot be read is a finding, not an error.

    Args:
        path: A checkpoint of any kind.
        values: Also read every number and look for NaN and infinities.
        advance: Called with the number of bytes after each read.
        full: Fetch all bytes of a file that lies elsewhere, of which else no numbers are fetched.
    """
    with fetching(full or values):
        return _checked(path, values, advance)


def _checked(path: Path, values: bool, advance: Callable[[int], None]) -> Report:
    collector = Collector(advance)
    container, shards = None, 0
    try:
        container, shards = collector.run(_scan_given(path, values))
    except ConvInspectError as error:
        _take_failure(collector, finding("unreadable", error.path or path, error.problem, remedy=error.remedy))
    except RecursionError:
        message = "its parts nest too deeply to follow"
        collector.take(finding("unreadable", path, message, remedy="do not load it elsewhere either"))
    except OSError as error:
        collector.take(finding("unreadable", path, f"it cannot be read ({error.strerror or 'unknown'})"))
    return collector.report(path, container, shards)


def work_of(path: Path, values: bool = False, full: bool = False) -> int:
    """About how many bytes `check` reads, for a progress bar: with `values` the numbers are read a second time."""
    if not (full or values) and is_spared(path):
        return 0
    return _size_of(path) * (2 if values else 1)


def _size_of(path: Path) -> int:
    folder = path if path.is_dir() else path.parent if path.name.endswith((".index.json", ".metadata")) else None
    try:
        if folder is None:
            return path.stat().st_size
        return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    except (OSError, ValueError, ConvInspectError):
        return 0


def _take_failure(collector: Collector, failure: Finding) -> None:
    """Record the failure that ended a check, unless a finding with its place has the same code and file already."""
    said = {(found.code, found.path) for found in collector.findings}
    if (failure.code, failure.path) not in said:
        collector.take(failure)


def _scan_given(path: Path, values: bool) -> Scan[_Kind]:
    """Scan what a path names, which may lead into archives."""
    for step in steps_to(path):
        for name in step.inside.repeated:
            if name == step.name or name.startswith(f"{step.name.rstrip('/')}/".lstrip("/")):
                yield _named_again(step.path, name)
    return (yield from _scan_path(path, values))


def _named_again(archive: Path, name: str) -> Finding:
    message = f"the archive holds {name!r} more than once; the last one is read, as tar and tarfile do"
    return finding("duplicate-name", archive, message, subject=name)


def _scan_path(path: Path, values: bool) -> Scan[_Kind]:
    check_no_journal(path)
    if distributed.is_distributed(path):
        return (yield from _scan_distributed(path, values))
    if unpacked.is_unpacked(path):
        return (yield from _scan_unpacked(path, values))
    if path.is_dir():
        return (yield from _scan_folder(path, values))
    with File(path) as file:
        head = file.read(0, 64)
        member = checkpoint_within(file)
    if member is not None:
        return (yield from _scan_member(path, member, values))
    if sharded.is_index(path, head):
        return (yield from _scan_index(path, values))
    contents = yield from _scan_single(path, values)
    return contents.container if contents is not None else None, 0


def _scan_member(path: Path, member: Path, values: bool) -> Scan[_Kind]:
    """Scan the checkpoint in an archive, and say what else is in there."""
    yield from _scan_mode(path)
    yield Note(f"looked at {short_name(member)}")
    with File(path) as file:
        others, archive = others_in(file, member), listed(file)
    for name in archive.repeated if archive is not None else ():
        yield _named_again(path, name)
    inside = below(member)
    if inside is None:
        with File(member) as inner:
            yield Held(inner.source.within)
    else:
        yield Held(inside.within)
    if others:
        yield Note(f"not looked at, though in the same archive: {first_few(others, _SHOWN)}")
    return (yield from _scan_path(member, values))


def _scan_single(path: Path, values: bool, of_several: bool = False) -> Scan[Contents | None]:
    """Scan one file, its bytes and pickles first, so that these are reported even if it cannot be listed.

    Returns:
        Its contents; None if the findings already say why it cannot be listed.

    Raises:
        ConvInspectError: It cannot be listed.
    """
    check_no_journal(path)
    with File(path) as file:
        yield from _scan_mode(path)
        scan = scan_part(file) if is_part(file) else scan_file(file)
        pickle, failure, codes = yield from _scan_opened(scan, file.path)
    if "unreadable" in codes:
        # To list it would walk the same pickle to the same end.
        return None
    contents = read_contents(path, pickle=pickle)
    if pieces.is_piece(contents):
        for problem in () if of_several else contents.problems[-1:]:
            yield finding("piece", path, problem.what)
        # What is said of a part alone is no damage; what is, was found above in its bytes.
        contents = contents._replace(problems=())
    if contents.container is Container.DISTRIBUTED_PART:
        # All of them were found in its pieces.
        contents = contents._replace(problems=())
    if failure is not None:
        codes |= {"unreadable"}
        yield finding("unreadable", path, failure.problem, remedy=failure.remedy)
    yield from scan_contents(contents, codes, values)
    return contents


def _scan_unpacked(path: Path, values: bool) -> Scan[_Kind]:
    """Scan an unpacked file of torch.save."""
    folder = path if is_folder(path) else folder_of(path)
    yield from _scan_mode(folder)
    pickle, failure, codes = yield from _scan_opened(scan_unpacked(folder), None)
    if failure is not None:
        raise failure
    if "unreadable" in codes:
        return Container.TORCH_UNPACKED, 0
    contents = read_contents(path, pickle=pickle)
    yield from scan_contents(contents, codes, values)
    return contents.container, 0


def _scan_opened(
    scan: Scan[Pickle | None], path: Path | None
) -> Scan[tuple[Pickle | None, ConvInspectError | None, set[str]]]:
    """Run a scan; returns the object's pickle, why it cannot be scanned, and the codes of the findings in a file.

    Args:
        scan: Of a file or folder.
        path: The file; None for all files.
    """
    codes = set[str]()
    while True:
        try:
            item = next(scan)
        except StopIteration as end:
            return end.value, None, codes
        except ConvInspectError as error:
            return None, error, codes
        if isinstance(item, Finding) and path in (None, item.path):
            codes.add(item.code)
        yield item


def _scan_mode(path: Path) -> Iterator[Finding]:
    if not is_plain(path):
        # The archive's own mode was looked at, or is none of a file.
        return
    mode = path.stat().st_mode
    if os.name == "posix" and mode & stat.S_IWOTH and not (stat.S_ISDIR(mode) and mode & stat.S_ISVTX):
        what = "the folder" if stat.S_ISDIR(mode) else "the file"
        message = f"anyone on this machine may change {what} (mode {stat.S_IMODE(mode):o})"
        yield finding("world-writable", path, message)


# --- folders and shards


def _scan_folder(path: Path, values: bool) -> Scan[_Kind]:
    yield from _scan_mode(path)
    folder = sharded.in_folder(path)
    if folder.file is not None:
        kind = yield from _scan_path(folder.file, values)
        if kind[0] is not None and not folder.file.name.endswith(".index.json"):
            yield from _note_others(path, {folder.file.name})
        return kind
    if folder.pieces:
        return (yield from _scan_shards_of_tensors(path, folder.shards, values))
    yield Note("there is no index; the shards are taken by their names")
    missing = folder.expected - len(folder.shards)
    if missing:
        yield finding("shard-missing", path, f"{missing:,} of {folder.expected:,} shards are not there")
    return (yield from _scan_shards(path, folder.shards, {}, None, values))


def _scan_shards_of_tensors(path: Path, shards: Sequence[str], values: bool) -> Scan[_Kind]:
    """Scan every shard, of which each holds a part of each tensor, then see whether they make whole ones."""
    for shard in shards:
        yield from _scan_single(path / shard, values, of_several=True)
    yield from _note_others(path, set(shards))
    contents = read_contents(path)
    for problem in contents.problems:
        yield finding("piece-missing", path, problem.what)
    return contents.container, len(shards)


def _note_others(folder: Path, scanned: Set[str]) -> Iterator[Note]:
    """Note files of a folder that may be checkpoints too, and were not scanned; none where it cannot be listed."""
    if not folder.is_dir():
        return
    others = sorted(
        path.name
        for path in folder.iterdir()
        if path.name not in scanned and path.suffix.lower() in _MAY_HOLD_PICKLES and path.is_file()
    )
    if others:
        shown = ", ".join(others[:_SHOWN]) + (f" and {len(others) - _SHOWN:,} more" if len(others) > _SHOWN else "")
        yield Note(f"not looked at, though in the same folder: {shown}")


def _scan_index(path: Path, values: bool) -> Scan[_Kind]:
    yield from _scan_mode(path)
    weight_map, _ = sharded.parse_index(path)
    with File(path) as file:
        text = file.read(0, file.size)
    index, repeated = parsed(text)
    metadata = index.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    for key in repeated:
        yield finding("duplicate-name", path, f"the index names {key!r} twice", second_place(text, key))
    shards = list(dict.fromkeys(weight_map.values()))
    for shard in shards:
        sharded.check_inside(shard)
    return (yield from _scan_shards(path, shards, weight_map, total, values))


def _scan_shards(
    path: Path, shards: Sequence[str], weight_map: Mapping[str, str], total: object, values: bool
) -> Scan[_Kind]:
    """Scan every shard, then compare all with each other and with the index."""
    folder = path if path.is_dir() else folder_of(path)
    tensors: dict[str, dict[str, Tensor]] = {}
    container = Container.SAFETENSORS
    for shard in shards:
        try:
            contents = yield from _scan_single(folder / shard, values)
            if contents is not None:
                tensors[shard] = {tensor.key: tensor for tensor in main_root(contents.roots).tensors}
                container = contents.container
        except NotThere as error:
            number = sum(place == shard for place in weight_map.values())
            message = f"shard {shard}: {error.problem} ({plural(number, 'tensor')})"
            yield finding("shard-missing", path, message, subject=shard)
        except ConvInspectError as error:
            yield finding("unreadable", folder / shard, error.problem, remedy=error.remedy)
    if not tensors:
        raise NotThere("none of its shards could be read", "download the shards into the same folder", path)
    yield from _note_others(folder, {path.name, *shards})
    yield from _scan_agreement(path, tensors, weight_map)
    if total is not None and len(tensors) == len(shards):
        right = sharded.totals(tensor for shard in tensors.values() for tensor in shard.values())
        if total not in right:
            message = f"its total_size is {total!r:.40}, the shards hold {right[0]:,} bytes of tensors"
            yield finding("stale-total", path, message)
    return container, len(shards)


def _scan_agreement(
    path: Path, shards: Mapping[str, Mapping[str, Tensor]], weight_map: Mapping[str, str]
) -> Iterator[Finding]:
    """Compare the tensors of the shards with each other, and with the index."""
    owners: dict[str, str] = {}
    for shard, tensors in shards.items():
        for key in tensors:
            if key in owners:
                message = f"{key!r} is in {owners[key]} and in {shard}"
                yield finding("tensor-twice", path, message, subject=key)
            elif weight_map and key not in weight_map:
                message = f"{shard} holds {key!r}, which the index does not name"
                yield finding("tensor-unexpected", path, message, subject=key)
            owners[key] = shard
    for key, shard in weight_map.items():
        if shard in shards and key not in shards[shard]:
            message = f"the index sees {key!r} in {shard}, which lacks it"
            yield finding("tensor-missing", path, message, subject=key)


# --- distributed checkpoints


def _scan_distributed(path: Path, values: bool) -> Scan[_Kind]:
    """Scan `.metadata`, then each piece of a tensor, which is a torch.save file within another."""
    folder = path if is_folder(path) else folder_of(path)
    metadata = folder / distributed.METADATA
    for place in (folder, metadata):
        yield from _scan_mode(place)
    with File(metadata) as file:
        nbytes = sum(size for size, _ in files_in(folder).values()) or distributed.UNLISTED
        stream = Stream(file.read, file.size, metadata, ordinary=DISTRIBUTED)
        seen = yield from scan_pickle(stream, 0, nbytes // SMALL_STORAGE)
    yield from _scan_pieces(folder, seen, values)
    pickle = Pickle(seen.walk) if seen.walk is not None else None
    return read_contents(path, pickle=pickle).container, 0


def _scan_pieces(folder: Path, seen: Seen, values: bool) -> Scan[None]:
    """Scan the files of a distributed checkpoint, if its `.metadata` could be read."""
    if seen.walk is None or not is_metadata(seen.walk.value):
        return
    listed = pieces_in(seen.walk, folder)
    for problem in distributed.problems_of_tensors(listed):
        yield finding("piece-missing", folder / distributed.METADATA, problem.what, remedy=problem.remedy)
    by_file: dict[Path, dict[tuple[int, int], list[Piece]]] = {}
    for item in items_of(listed):
        by_file.setdefault(item.place.file, {}).setdefault((item.place.offset, item.place.length), []).append(item)
    yield from _note_others(folder, {distributed.METADATA, *(file.name for file in by_file)})
    for path, items in by_file.items():
        try:
            with File(path) as file:
                yield from _scan_mode(path)
                if is_spared(path):
                    yield Looked("spared", file.size)
                else:
                    yield from scan_piece_file(file, items, values)
        except NotThere as error:
            name = path.relative_to(folder).as_posix()
            message = f"{name}: {error.problem} ({len(items):,} pieces)"
            yield finding("shard-missing", folder, message, subject=name)
