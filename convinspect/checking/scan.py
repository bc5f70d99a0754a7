"""Is a checkpoint whole, and what would loading it elsewhere call? Findings, and never a verdict of "safe"."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import TypeAlias

from convinspect.checking.containers import parsed, scan_file, second_place
from convinspect.checking.findings import Log, Place, Report
from convinspect.checking.pickles import Seen, Stream, scan_pickle
from convinspect.dtypes import nbytes_of
from convinspect.errors import BrokenFile, ConvInspectError, NotACheckpoint, NotThere
from convinspect.formats import read_contents, sharded
from convinspect.formats.files import File
from convinspect.formats.pickle.safe_globals import DISTRIBUTED
from convinspect.formats.pickle.values import Call
from convinspect.formats.roots import main_root
from convinspect.formats.torch import distributed
from convinspect.formats.torch.archive import SMALL_STORAGE, read_torch_zip
from convinspect.formats.torch.tensors import pairs_of
from convinspect.formats.torch.tree import state_of
from convinspect.formats.zip.structures import is_zip
from convinspect.records import Container, Contents, Tensor
from convinspect.text import plural

_MAY_HOLD_PICKLES = sharded.SUFFIXES | {".pkl", ".pickle", ".distcp"}
_SHOWN = 6

_Kind: TypeAlias = tuple[Container, int]
"""What keeps the tensors, and into how many shards they are split; 0 for one file."""


def check(path: Path, values: bool = False, advance: Callable[[int], None] = lambda done: None) -> Report:
    """Look through a file or folder; nothing of it is run, and no error is raised for what cannot be read.

    Args:
        path: A checkpoint of any kind.
        values: Also read every number and look for NaN and infinities.
        advance: Told of every run of bytes that was read.
    """
    log = Log(advance=advance, values=values)
    container, shards = None, 0
    try:
        container, shards = _look_at(path, log)
    except ConvInspectError as error:
        _note_unreadable(error.path or path, error.problem, error.remedy, log)
    except RecursionError:
        _note_unreadable(path, "its parts nest too deeply to follow", "do not load it elsewhere either", log)
    except OSError as error:
        _note_unreadable(path, f"it cannot be read ({error.strerror or 'unknown'})", "", log)
    return log.report(path, container, shards)


def size_of(path: Path) -> int:
    """Bytes that a check of it reads, near enough for a progress bar."""
    folder = path if path.is_dir() else path.parent if path.name.endswith((".index.json", ".metadata")) else None
    try:
        return sum(one.stat().st_size for one in folder.iterdir() if one.is_file()) if folder else path.stat().st_size
    except (OSError, ValueError):
        return 0


def _note_unreadable(path: Path, problem: str, remedy: str, log: Log) -> None:
    """The failure, unless the same of the same file is noted with its place already."""
    if not any(one.code == "unreadable" and one.message == problem and one.path == path for one in log.findings):
        log.add("unreadable", path, problem, remedy=remedy)


def _look_at(path: Path, log: Log) -> _Kind:
    """What it is."""
    if distributed.is_distributed(path):
        return _look_at_distributed(path, log)
    if path.is_dir():
        _look_at_mode(path, log)
        folder = sharded.in_folder(path)
        if folder.one is not None:
            kind = _look_at(folder.one, log)
            if not folder.one.name.endswith(".index.json"):
                _note_others(path, {folder.one.name}, log)
            return kind
        log.note("there is no index; the shards are taken by their names")
        missing = folder.expected - len(folder.shards)
        if missing:
            log.add("shard-missing", path, f"{missing:,} of {folder.expected:,} shards are not there")
        return _look_at_shards(path, folder.shards, {}, None, log)
    with File(path) as file:
        head = file.read(0, 64)
    return _look_at_index(path, log) if sharded.is_index(path, head) else (_look_at_one(path, log).container, 0)


def _look_at_one(path: Path, log: Log) -> Contents:
    """One file, its bytes and pickles first, so that they are told of even when it cannot be listed.

    Raises:
        ConvInspectError: It cannot be listed.
    """
    failed: ConvInspectError | None = None
    with File(path) as file:
        _look_at_mode(path, log)
        try:
            scan_file(file, log)
        except ConvInspectError as error:
            failed = error
    broken = next((one for one in log.findings if one.code == "unreadable" and one.path == path), None)
    if broken is not None:
        # To list it would walk the same pickle to the same end.
        raise BrokenFile(broken.message, broken.remedy, path)
    contents = read_contents(path)
    if failed is not None:
        _note_unreadable(path, failed.problem, failed.remedy, log)
    _look_at_tensors(contents, log)
    if log.values:
        from convinspect.checking.nonfinite import scan_values

        scan_values(contents, log)
    return contents


def _look_at_mode(path: Path, log: Log) -> None:
    mode = path.stat().st_mode
    if os.name == "posix" and mode & stat.S_IWOTH and not (stat.S_ISDIR(mode) and mode & stat.S_ISVTX):
        what = "the folder" if stat.S_ISDIR(mode) else "the file"
        log.add("world-writable", path, f"anyone on this machine may change {what} (mode {stat.S_IMODE(mode):o})")


def _look_at_tensors(contents: Contents, log: Log) -> None:
    """Tensors against the storages that they are views of."""
    told = {one.code for one in log.findings if one.path == contents.path}
    for root in contents.roots:
        for tensor in root.tensors:
            storage = tensor.storage
            if storage is None or storage.start is None or not tensor.numel:
                continue
            reach = _reach(tensor)
            if reach > storage.nbytes:
                log.add("storage-short", contents.path, f"tensor {tensor.key!r} reaches to byte {reach:,} of storage"
                        f" {storage.key!r}, which has {storage.nbytes:,}", subject=tensor.key)  # fmt: skip
    # What a reader says of missing bytes was found above for a zip, record by record.
    if not told & {"storage-short", "record-outside", "unreadable"}:
        for problem in contents.problems:
            log.add("storage-short", contents.path, problem.rpartition("; ")[0] or problem)


def _reach(tensor: Tensor) -> int:
    """Bytes of its storage from the start to the tensor's last element."""
    last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride, strict=True))
    return nbytes_of(tensor.dtype, last + 1)


def _note_others(folder: Path, looked_at: Set[str], log: Log) -> None:
    """Say which files of a folder may be checkpoints too, and were not looked at."""
    others = sorted(
        one.name
        for one in folder.iterdir()
        if one.name not in looked_at and one.suffix.lower() in _MAY_HOLD_PICKLES and one.is_file()
    )
    if others:
        shown = ", ".join(others[:_SHOWN]) + (f" and {len(others) - _SHOWN:,} more" if len(others) > _SHOWN else "")
        log.note(f"not looked at, though in the same folder: {shown}")


# --- shards


def _look_at_index(path: Path, log: Log) -> _Kind:
    _look_at_mode(path, log)
    weight_map, _ = sharded.parse_index(path)
    with File(path) as file:
        text = file.read(0, file.size)
    index, repeated = parsed(text)
    metadata = index.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    for key in repeated:
        log.add("duplicate-name", path, f"the index names {key!r} twice", second_place(text, key))
    shards = list(dict.fromkeys(weight_map.values()))
    for shard in shards:
        sharded.check_inside(shard)
    return _look_at_shards(path, shards, weight_map, total, log)


def _look_at_shards(path: Path, shards: Sequence[str], weight_map: Mapping[str, str], total: object, log: Log) -> _Kind:
    """Every shard by itself, then all against each other and the index."""
    folder = path if path.is_dir() else path.parent
    held: dict[str, dict[str, Tensor]] = {}
    container = Container.SAFETENSORS
    for shard in shards:
        try:
            contents = _look_at_one(folder / shard, log)
            held[shard] = {tensor.key: tensor for tensor in main_root(contents.roots).tensors}
            container = contents.container
        except NotThere as error:
            named = sum(where == shard for where in weight_map.values())
            message = f"shard {shard}: {error.problem} ({plural(named, 'tensor')})"
            log.add("shard-missing", path, message, subject=shard)
        except ConvInspectError as error:
            _note_unreadable(folder / shard, error.problem, error.remedy, log)
    if not held:
        raise NotThere("none of its shards could be read", "download the shards into the same folder", path)
    _note_others(folder, {path.name, *shards}, log)
    owners: dict[str, str] = {}
    for shard, tensors in held.items():
        for key in tensors:
            if key in owners:
                log.add("tensor-twice", path, f"{key!r} is in {owners[key]} and in {shard}", subject=key)
            elif weight_map and key not in weight_map:
                log.add("tensor-unexpected", path, f"{shard} holds {key!r}, which the index does not name", subject=key)
            owners[key] = shard
    for key, shard in weight_map.items():
        if shard in held and key not in held[shard]:
            log.add("tensor-missing", path, f"the index sees {key!r} in {shard}, which lacks it", subject=key)
    if total is not None and len(held) == len(shards):
        right = sharded.totals(one for tensors in held.values() for one in tensors.values())
        if total not in right:
            said = f"its total_size is {total!r:.40}, the shards hold {right[0]:,} bytes of tensors"
            log.add("stale-total", path, said)
    return container, len(shards)


# --- distributed checkpoints


def _look_at_distributed(path: Path, log: Log) -> _Kind:
    """`.metadata`, then each piece of a tensor, which is a torch.save file within another."""
    folder = path if path.is_dir() else path.parent
    metadata = folder / distributed.METADATA
    for one in (folder, metadata):
        _look_at_mode(one, log)
    with File(metadata) as file:
        pieces = sum(one.stat().st_size for one in folder.iterdir() if one.is_file())
        stream = Stream(file.read, file.size, metadata, ordinary=DISTRIBUTED)
        seen = scan_pickle(stream, 0, log, pieces // SMALL_STORAGE)
    _look_at_pieces(folder, seen, log)
    del seen  # a tree of its own is built to list it
    return read_contents(path).container, 0


def _look_at_pieces(folder: Path, seen: Seen, log: Log) -> None:
    by_file: dict[str, dict[tuple[int, int], str]] = {}
    for index, info in pairs_of(state_of(seen.tree).get("storage_data")) or ():
        fields = state_of(info) if isinstance(info, Call) else {}
        name, start, size = fields.get("relative_path"), fields.get("offset"), fields.get("length")
        if not (isinstance(name, str) and type(start) is int and type(size) is int and min(start, size) >= 0):
            raise NotACheckpoint("its .metadata does not say where the pieces lie", "save it again", folder)
        by_file.setdefault(name, {})[start, size] = str(state_of(index).get("fqn", ""))
    _note_others(folder, {distributed.METADATA, *by_file}, log)
    for name, spans in by_file.items():
        sharded.check_inside(name)
        try:
            with File(folder / name) as file:
                _look_at_piece_file(file, spans, log)
        except NotThere as error:
            log.add("shard-missing", folder, f"{name}: {error.problem} ({len(spans):,} pieces)", subject=name)


def _look_at_piece_file(file: File, spans: Mapping[tuple[int, int], str], log: Log) -> None:
    _look_at_mode(file.path, log)
    reached = 0
    for (start, size), name in sorted(spans.items()):
        place = Place("", start, size, start)
        if start + size > file.size:
            log.add("storage-short", file.path, f"a piece ends at byte {start + size:,} of {file.size:,}", place)
            continue
        if start < reached:
            log.add("overlap", file.path, "two pieces share bytes", place)
        elif start > reached and file.read(reached, min(start - reached, 1 << 20)).strip(b"\0"):
            log.add("gap", file.path, f"{start - reached:,} bytes belong to no piece",
                    Place("", reached, start - reached, reached))  # fmt: skip
        reached = max(reached, start + size)
        if log.values:
            from convinspect.checking.nonfinite import scan_values
        try:
            with File(file.path, start, size) as part:
                scan_file(part, log, f"piece at {start:,} > ")
                if log.values and is_zip(part.read(0, 4)):
                    scan_values(read_torch_zip(part), log, name)
        except NotACheckpoint:
            # Objects beside the tensors are pieces too.
            continue
        except ConvInspectError as error:
            log.add("unreadable", file.path, error.problem, place, error.remedy)
    if reached < file.size:
        log.add("trailing-bytes", file.path, f"{file.size - reached:,} bytes follow the last piece",
                Place("", reached, file.size - reached, reached))  # fmt: skip


def worst(reports: Sequence[Report]) -> int:
    """The exit code of several: what could not be read before what was found before what is whole."""
    return max((report.exit_code for report in reports), default=0)
