"""Checkpoints in several files: an index (`*.index.json`) and its shards in any format, or a folder of shards."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from convinspect.containers import WEIGHTS
from convinspect.errors import BrokenFile, ConvInspectError, NotACheckpoint, NotThere, RefusedFile
from convinspect.formats.files import File
from convinspect.formats.pieces import lost, names_of_pieces, of_an_index, read_pieces
from convinspect.formats.roots import main_root
from convinspect.formats.sources import folder_of, is_plain, read_each
from convinspect.keys.others import Other
from convinspect.records import Container, Contents, Problem, Root, Tensor, Version
from convinspect.text import first_few, plural

if TYPE_CHECKING:
    from convinspect.formats.pickle.record import Pickle

ReadFile: TypeAlias = Callable[[Path], Contents]
"""Reads one shard."""

SUFFIXES = {f".{suffix.rpartition('.')[2]}" for suffix in WEIGHTS} | {".pkl"}
_NUMBERED = re.compile(r"^(.*?)-?(\d+)-of-(\d+)(\.\w+)$")
_LARGEST_INDEX = 200_000_000
_AROUND_ENTRIES, _BESIDE_KEY = 80, 88
"""Bytes of a safetensors header: its length and metadata, and what an entry takes beside the tensor's name."""


def is_shard(name: str) -> bool:
    """Whether a file's name has its number among several: `model-00001-of-00002.safetensors`."""
    return _NUMBERED.match(name) is not None


def is_index(path: Path, head: bytes) -> bool:
    """True for a JSON file that may map tensors to shards."""
    return path.name.endswith(".json") and head.lstrip()[:1] == b"{"


def read_index(path: Path, read_file: ReadFile) -> Contents:
    """List all shards of an index. A shard that cannot be read is reported as a problem; the others are still listed.

    Raises:
        BrokenFile: The index is not valid JSON, or does not name its shards.
        NotACheckpoint: The JSON file is not an index.
        RefusedFile: It names a file outside its folder.
        NotThere: None of its shards can be read.
    """
    weight_map, total = parse_index(path)
    shards = list(dict.fromkeys(weight_map.values()))
    for shard in shards:
        check_inside(shard)
    return _combined(path, folder_of(path), shards, read_file, weight_map, total)


def parse_index(path: Path) -> tuple[dict[str, str], int | None]:
    """The shard of each tensor, and the total bytes of all tensors (None if the index does not give them).

    Raises:
        NotACheckpoint: The JSON file is not an index.
        BrokenFile: The index is malformed or too large.
    """
    # Imported here, since most checkpoints hold no JSON and open faster without its parser.
    import json

    with File(path) as file:
        if file.size > _LARGEST_INDEX:
            raise BrokenFile("its index is larger than 200 MB", "give one of the shards")
        text = file.read(0, file.size)

    try:
        index = json.loads(text)
    except (ValueError, RecursionError):
        raise BrokenFile("its index is not valid JSON", "download it again") from None
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise NotACheckpoint('it is a JSON file without a "weight_map"', "give the file that holds the weights")
    if path.name.endswith(".weights.json"):
        from convinspect.formats.unsupported.kinds import KERAS_INDEX

        raise NotACheckpoint(f"it is {KERAS_INDEX.what}", KERAS_INDEX.remedy)
    if not all(isinstance(shard, str) for shard in weight_map.values()):
        raise BrokenFile("its weight_map does not name files", "download it again")
    metadata = index.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    return weight_map, total if type(total) is int else None


def totals(tensors: Iterable[Tensor]) -> tuple[int, int]:
    """Bytes of all tensors, in both ways that indexes count them: tied tensors once per name, and once per storage."""
    listed = list(tensors)
    storages = [tensor.storage for tensor in listed if tensor.storage is not None]
    nbytes = {(storage.file, storage.key): storage.nbytes for storage in storages}
    return sum(tensor.nbytes for tensor in listed), sum(nbytes.values())


def check_inside(shard: str) -> None:
    """Check that a shard's name stays inside the index's folder.

    Raises:
        RefusedFile: It leads outside.
    """
    parts = re.split(r"[/\\]", shard)
    if ".." in parts or shard.startswith(("/", "\\", "~")) or re.match(r"^[A-Za-z]:", shard) or "\0" in shard:
        raise RefusedFile(f"its index names {shard!r}, a file outside its folder", "do not load it elsewhere either")


def _combined(
    path: Path,
    folder: Path,
    shards: list[str],
    read_file: ReadFile,
    weight_map: dict[str, str],
    total: int | None,
) -> Contents:
    tensors: dict[str, Tensor] = {}
    others: dict[str, Other] = {}
    homes: dict[str, list[str]] = {}
    problems: list[Problem] = []
    notes: list[str] = []
    foreign: dict[str, None] = {}
    versions: dict[Path, Version] = {}
    pickles: dict[Path, Pickle] = {}
    metadata: list[Mapping[str, str]] = []
    read: set[str] = set()
    missing: set[str] = set()
    size, container, layout, unwritten, unloadable = 0, Container.SAFETENSORS, None, "", ""
    named = Counter(weight_map.values())
    for shard, read_shard in zip(shards, _reads(folder, shards, read_file, weight_map), strict=True):
        try:
            contents = of_an_index(read_shard())
            held = main_root(contents.roots)
            shard_tensors = {tensor.key: tensor for tensor in held.tensors}
        except ConvInspectError as error:
            what, remedy = f": {error.problem}", error.remedy
            if isinstance(error, NotThere) and is_plain(folder / shard) and not os.path.exists(folder / shard):
                missing.add(shard)
                what, remedy = " is not there", "download it too"
            problems.append(Problem(f"shard {shard}{what} ({plural(named[shard], 'tensor')})", remedy))
            continue
        read.add(shard)
        metadata.append(contents.metadata)
        size, container = size + contents.nbytes_on_disk, contents.container
        layout, unwritten = layout or contents.layout, unwritten or contents.unwritten
        unloadable = unloadable or (f"shard {shard}: {contents.unloadable}" if contents.unloadable else "")
        problems.extend(Problem(f"shard {shard}: {problem.what}", problem.remedy) for problem in contents.problems)
        foreign.update(dict.fromkeys(contents.foreign))
        versions.update(contents.versions)
        pickles.update(contents.pickles)
        problems.extend(_disagreements(shard, shard_tensors, homes, weight_map))
        tensors.update(shard_tensors)
        others.update((other.key, other) for other in held.others)
        for key in shard_tensors:
            homes.setdefault(key, []).append(shard)
    problems.extend(_misplaced(weight_map, homes, read))
    if not read:
        # Each shard has one problem then, in the same order.
        is_missing = shards[0] in missing
        remedy = "download the shards into the same folder" if is_missing else problems[0].remedy
        raise NotThere(problems[0].what, remedy, path)
    if not problems:
        problems, notes = _other_total(total, tensors.values(), metadata)
    root = Root("", "model", tuple(tensors.values()), others=tuple(others.values()))
    return Contents(
        path, container, (root,), size, tuple(problems), tuple(notes), _together(metadata), tuple(foreign), versions,
        len(shards), pickles, layout, unwritten, unloadable,
    )  # fmt: skip


def _reads(
    folder: Path, shards: Sequence[str], read_file: ReadFile, weight_map: Mapping[str, str]
) -> list[Callable[[], Contents]]:
    """What reads each shard. Of one that lies elsewhere as many bytes are fetched as its header is likely to have."""
    sizes = dict.fromkeys(shards, 0)
    for key, shard in weight_map.items():
        if shard.endswith(".safetensors"):
            sizes[shard] = (sizes[shard] or _AROUND_ENTRIES) + len(key) + _BESIDE_KEY
    return read_each([folder / shard for shard in shards], read_file, list(sizes.values()))


def _other_total(
    total: int | None, tensors: Collection[Tensor], metadata: Sequence[Mapping[str, str]]
) -> tuple[list[Problem], list[str]]:
    """What to say where the index gives another sum of bytes than the shards hold: problems, and notes."""
    actual = totals(tensors)
    if total is None or total in actual:
        return [], []
    told = f"the index says {total:,} bytes of tensors, the shards hold {actual[0]:,}"
    problems = lost(metadata, told)
    return problems, [] if problems else [told]


def _together(metadata: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """What the shards' own metadata say together, without what they contradict each other in."""
    every = {key: value for one in metadata for key, value in one.items()}
    return {key: value for key, value in every.items() if all(one.get(key, value) == value for one in metadata)}


def _disagreements(
    shard: str, tensors: dict[str, Tensor], homes: dict[str, list[str]], weight_map: dict[str, str]
) -> list[Problem]:
    """Problems of a shard: each tensor that another shard holds too, and the first that the index does not name."""
    shared = [key for key in tensors if key in homes]
    problems = [Problem(f"shard {shard} holds {key!r}, which another shard holds too") for key in shared]
    extra = next((key for key in tensors if weight_map and key not in weight_map), None)
    if extra is not None:
        problems.append(Problem(f"shard {shard} holds {extra!r}, which the index does not name"))
    return problems


def _misplaced(weight_map: dict[str, str], homes: dict[str, list[str]], read: set[str]) -> list[Problem]:
    """Problems of tensors that are not in the shard that the index names, of the shards that could be read."""
    problems = []
    for key, shard in weight_map.items():
        holders = homes.get(key, [])
        if shard not in read or shard in holders:
            continue
        if not holders:
            problems.append(Problem(f"shard {shard} lacks {key!r}, which the index names", "download both again"))
        else:
            what = f"the index says that {key!r} is in shard {shard}, and it is in {holders[0]}"
            problems.append(Problem(what, "correct the index, or get the one that belongs to these shards"))
    return problems


class Folder(NamedTuple):
    """The checkpoint in a folder.

    Attributes:
        file: Its index or only file; None for numbered shards.
        shards: Names of the numbered shards.
        expected: Number of shards according to their names.
        pieces: Each shard holds a part of each tensor.
    """

    file: Path | None
    shards: tuple[str, ...] = ()
    expected: int = 0
    pieces: bool = False


def in_folder(path: Path) -> Folder:
    """Find the checkpoint in a folder.

    Raises:
        NotACheckpoint: The folder holds no checkpoint.
        NotThere: It holds several, so the choice is ambiguous.
    """
    names = sorted(entry.name for entry in path.iterdir() if entry.is_file())
    indexes = [name for name in names if name.endswith(".index.json")]
    indexes.sort(key=lambda name: "safetensors" not in name)
    if indexes:
        return Folder(path / indexes[0])
    files = [name for name in names if Path(name).suffix.lower() in SUFFIXES]
    if len(files) > 1:
        # Imported here, as all that only some checkpoints need.
        from convinspect.formats.companions import is_companion

        files = [name for name in files if not is_companion(name)] or files
    pieces = names_of_pieces(files)
    if pieces and len(pieces) == len(files):
        return Folder(None, pieces, len(pieces), pieces=True)
    groups = _numbered_groups(files)
    if len(groups) == 1 and (len(files) == len(next(iter(groups.values())))):
        ((_, count, _), shards) = next(iter(groups.items()))
        return Folder(None, tuple(shards), int(count))
    preferred = [name for name in files if name.endswith(".safetensors")]
    if len(files) == 1 or len(preferred) == 1:
        return Folder(path / (preferred or files)[0])
    if files:
        shown = ", ".join(files[:6]) + (", …" if len(files) > 6 else "")
        raise NotThere(f"the folder holds several checkpoints ({shown})", "name one of them", path)
    raise _nothing_here(path)


def read_folder(path: Path, read_file: ReadFile, read_any: ReadFile) -> Contents:
    """List the checkpoint in a folder: by its index, as numbered shards, or its only file.

    Raises:
        ConvInspectError: As `in_folder`, or the files cannot be read.
    """
    folder = in_folder(path)
    if folder.pieces:
        contents = read_pieces(path, folder.shards, read_file)
    elif folder.file is not None:
        contents = read_any(folder.file)
    else:
        contents = _numbered_shards(path, folder, read_file)
    return contents._replace(folder=path)


def _nothing_here(path: Path) -> ConvInspectError:
    inside = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and _has_weights(entry))
    if len(inside) == 1:
        return NotThere(f"the weights lie in its folder {inside[0]!r}", f"give {path / inside[0]}", path)
    if inside:
        return NotThere(f"the weights lie in its folders {first_few(inside, 6)}", "give one of them", path)
    from convinspect.formats.unsupported.folders import unsupported_folder_error

    return unsupported_folder_error(path)


def _has_weights(folder: Path) -> bool:
    try:
        names = [entry.name for entry in folder.iterdir()]
    except OSError:
        return False
    return any(Path(name).suffix.lower() in SUFFIXES or name == ".metadata" for name in names)


def _numbered_groups(names: list[str]) -> dict[tuple[str, str, str], list[str]]:
    """Files named like `model-00001-of-00003.safetensors`, grouped by (prefix, count, suffix)."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for name in names:
        match = _NUMBERED.match(name)
        if match:
            groups.setdefault((match[1], match[3], match[4]), []).append(name)
    return groups


def _numbered_shards(path: Path, folder: Folder, read_file: ReadFile) -> Contents:
    """List shards without an index. Their names give the expected number."""
    contents = _combined(path, path, list(folder.shards), read_file, {}, None)
    missing, problems = folder.expected - len(folder.shards), contents.problems
    if missing:
        what = f"{missing:,} of {folder.expected:,} shards are not there"
        problems = (*problems, Problem(what, "download them too"))
    notes = (*contents.notes, "there is no index; the shards are taken by their names")
    return contents._replace(path=path, problems=problems, notes=notes)
