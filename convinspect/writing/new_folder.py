"""Write the files of a new folder, whole or not at all; where several ranks do it, each its share of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from convinspect.records import Version
from convinspect.writing.atomic import Check, folder_of_ranks, new_folder, reporting_changes, sync_files

if TYPE_CHECKING:
    from convinspect.ranks.group import Group


class NewFile(NamedTuple):
    """A file, or a link, of a new folder.

    Attributes:
        name: Its path in the folder, with slashes.
        nbytes: About how many bytes it will have, by which ranks share the files out.
        write: Writes it to the path that it is given; may be called on one rank only.
        last: It says what the other files hold, so it is written after them: an index.
    """

    name: str
    nbytes: int
    write: Callable[[Path], None]
    last: bool = False


class Found(NamedTuple):
    """What the last files of a folder need of the others, which other ranks may have written.

    Attributes:
        tell: What was found while the files with these names were written, of plain types.
        hear: Takes it from all ranks.
    """

    tell: Callable[[Sequence[str]], Any]
    hear: Callable[[Sequence[Any]], None]


def write_new_folder(
    target: Path,
    files: Sequence[NewFile],
    check: Check,
    versions: Mapping[Path, Version],
    replace: bool,
    group: Group | None = None,
    found: Found | None = None,
) -> None:
    """Write a new folder atomically.

    Args:
        target: The new folder.
        files: What lies in it; the same on every rank.
        check: Raises if the new folder, at the path that it is given, is wrong; called on rank 0 alone.
        versions: What is read, as it was when it was opened.
        replace: Replace a folder.
        group: The ranks that write it together; None where this process does it alone.
        found: What one rank finds while it writes, and rank 0 needs for the last files.

    Raises:
        ConvInspectError: It cannot be written; the target is then unchanged.
    """
    first, last = [file for file in files if not file.last], [file for file in files if file.last]
    mine = _share(first, group)
    writing = new_folder(target, check, replace) if group is None else folder_of_ranks(target, check, replace, group)
    # Within it, so that other ranks are told of a change, and around it, for what it raises at the end.
    with reporting_changes(versions), writing as folder, reporting_changes(versions):
        for file in mine:
            _write(file, folder)
        if group is not None:
            sync_files(folder / file.name for file in mine)
            told = group.exchange(None if found is None else found.tell([file.name for file in mine]))
            if found is not None:
                found.hear(told)
        for file in last if group is None or not group.rank else ():
            _write(file, folder)


def _share(files: Sequence[NewFile], group: Group | None) -> Sequence[NewFile]:
    """The files that this rank writes, in their order."""
    if group is None:
        return files
    from convinspect.ranks.shares import shared_out

    mine = set(shared_out({file.name: file.nbytes for file in files}, group.size)[group.rank])
    return [file for file in files if file.name in mine]


def _write(file: NewFile, folder: Path) -> None:
    new = folder / file.name
    # Not with `parents=True`, which would make the folder itself again after another rank has taken it away.
    for parent in reversed(Path(file.name).parents[:-1]):
        (folder / parent).mkdir(exist_ok=True)
    file.write(new)
