"""The optimizer files beside a folder's weights, as further roots of its checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from convinspect.checkpoint import Checkpoint
from convinspect.errors import ConvInspectError
from convinspect.formats import read_contents
from convinspect.formats.companions import states_in
from convinspect.records import Contents, Root
from convinspect.writing.carried import leads_out


class Stuck(NamedTuple):
    """Optimizer state that cannot be changed.

    Attributes:
        name: Its name in the folder.
        why: The reason, without its name.
    """

    name: str
    why: str


class Together(NamedTuple):
    """A folder's checkpoint with the optimizers beside its weights.

    Attributes:
        checkpoint: It, with a root for each optimizer, whose path is the name of its file.
        files: Names of the files that these come from.
        stuck: What is there and cannot be one.
    """

    checkpoint: Checkpoint
    files: tuple[str, ...] = ()
    stuck: tuple[Stuck, ...] = ()


def with_optimizers(checkpoint: Checkpoint) -> Together:
    """Join the optimizers beside a folder's weights to them. Only headers are read.

    Args:
        checkpoint: What a folder was opened as; one of a single file stays as it is.

    Raises:
        BrokenFile: The folder cannot be listed.
    """
    folder = checkpoint.folder
    if folder is None:
        return Together(checkpoint)
    states = states_in(folder)
    read: list[Contents] = []
    stuck = [Stuck(name, "its state is in pieces, or in a form of its own") for name in states.pieces]
    weights = set(checkpoint.versions)
    for name in states.files:
        if folder / name in weights:
            continue
        contents = _read(folder, name)
        if isinstance(contents, Stuck):
            stuck.append(contents)
        elif contents is not None:
            read.append(contents)
    if not read:
        return Together(checkpoint, (), tuple(stuck))
    joined = copy.copy(checkpoint)
    for contents in read:
        joined.roots = (*joined.roots, *contents.roots)
        joined.versions = {**joined.versions, **contents.versions}
        joined.nbytes_on_disk += contents.nbytes_on_disk
    return Together(joined, tuple(one.path.name for one in read), tuple(stuck))


def _read(folder: Path, name: str) -> Contents | Stuck | None:
    """A file's optimizer; None if it keeps no state."""
    path = folder / name
    if leads_out(folder, name):
        return Stuck(name, "it is a link out of the folder")
    try:
        contents = read_contents(path)
    except ConvInspectError as error:
        return Stuck(name, error.problem)
    if contents.problems:
        return Stuck(name, contents.problems[0].what)
    if any(root.tensors and root.role != "optimizer" for root in contents.roots):
        return Stuck(name, "it holds other tensors than an optimizer's state")
    if not contents.container.torch_save or any(root.parameters is None for root in contents.roots):
        return Stuck(name, "it is no optimizer's state_dict")
    roots = named(contents.roots, name)
    return contents._replace(roots=roots) if roots else None


def named(roots: Iterable[Root], name: str) -> tuple[Root, ...]:
    """The roots of a file beside others, under paths that begin with its name."""
    return tuple(root._replace(path=f"{name}:{root.path}" if root.path else name) for root in roots if root.tensors)


def roots_beside(folder: Path, names: Sequence[str]) -> tuple[Root, ...]:
    """The roots of a folder's optimizer files, as `with_optimizers` joins them.

    Raises:
        ConvInspectError: One cannot be read.
    """
    return tuple(root for name in names for root in named(read_contents(folder / name).roots, name))
