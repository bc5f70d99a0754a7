"""Shell completion from the file that is named on the command line."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from convinspect.errors import ConvInspectError

if TYPE_CHECKING:
    from convinspect.checkpoint import Checkpoint

_ZSH_RUNS = frozenset("\"'`$\\")
"""What Typer does not keep from zsh, which reads the names that it is offered as a part of a script."""


def complete_layers(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    """Layer names in the file on the command line that begin with `incomplete`; none if it cannot be read."""
    opened = _opened(ctx, ctx.params.get("root"))
    if opened is not None:
        from convinspect.layers.find import find_layers

        yield from _offered((layer.name for layer in find_layers(opened)), incomplete)


def complete_kinds(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    """Kinds of the layers in the file on the command line."""
    opened = _opened(ctx)
    if opened is not None:
        from convinspect.layers.find import find_layers

        yield from _offered((layer.kind for layer in find_layers(opened)), incomplete)


def complete_roots(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    """Roots of the file on the command line, and "." for all."""
    opened = _opened(ctx)
    if opened is not None:
        yield from _offered([*(root.path for root in opened.roots), "."], incomplete)


def complete_members(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    """What is in an archive, after its name and "!"; files are completed by the shell itself."""
    from convinspect.formats.sources import INSIDE

    outer, inside, _ = incomplete.partition(INSIDE)
    if not inside or not os.path.isfile(outer):
        return
    from convinspect.formats.containers.members import listed
    from convinspect.formats.files import File

    try:
        found = listed(File(Path(outer)))
    except (ConvInspectError, OSError):
        return
    if found is not None:
        readable = (name for name, member in found.members.items() if not member.unreadable)
        yield from _offered((f"{outer}{INSIDE}{name}" for name in readable), incomplete)


def _offered(names: Iterable[str], incomplete: str) -> Iterator[str]:
    """The names, each once, that begin so and that the shell will take as they are."""
    unsafe = _ZSH_RUNS if os.environ.get("_CONVINSPECT_COMPLETE", "").endswith("zsh") else frozenset()
    for name in dict.fromkeys(names):
        if name and name.startswith(incomplete) and name.isprintable() and unsafe.isdisjoint(name):
            yield name


def _opened(ctx: typer.Context, root: str | None = None) -> Checkpoint | None:
    from convinspect.checkpoint import open_checkpoint

    path = ctx.params.get("path") or _path_typed()
    try:
        return open_checkpoint(path, root) if path else None
    except (ConvInspectError, OSError):
        return None


def _path_typed() -> str | None:
    """The first word on the command line that is an existing path, or one within an archive.

    After an option without its value the parser stops before it reaches the arguments, so they are read from the
    variable in which the shell passes the line: `COMP_WORDS` (bash) or `_TYPER_COMPLETE_ARGS` (the others).
    """
    import shlex

    from convinspect.cli.commands import SUMMARIES
    from convinspect.formats.sources import INSIDE

    line = os.environ.get("_TYPER_COMPLETE_ARGS") or os.environ.get("COMP_WORDS", "")
    try:
        words = shlex.split(line)
    except ValueError:
        words = line.split()
    words = words[2:] if words[1:2] and words[1] in SUMMARIES else words[1:]
    return next((word for word in words if os.path.exists(word.partition(INSIDE)[0])), None)
