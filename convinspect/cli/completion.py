"""What the shells offer for words that are not finished, from the file that is named on the line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from convinspect.errors import ConvInspectError

if TYPE_CHECKING:
    from convinspect.checkpoint import Checkpoint

_HARMLESS = re.compile(r"[\w.+@:/-]+")


def complete_layers(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    """Layer names of the file on the command line that begin with what is typed; none when it cannot be read."""
    from convinspect.checkpoint import open_checkpoint
    from convinspect.layers.find import find_layers

    path = ctx.params.get("path") or _path_typed()
    if not path:
        return
    try:
        names = [layer.name for layer in find_layers(open_checkpoint(path, ctx.params.get("root")))]
    except (ConvInspectError, OSError):
        return
    # A name goes onto the command line unquoted, where a shell would obey what some of them hold.
    yield from (name for name in names if name.startswith(incomplete) and _HARMLESS.fullmatch(name))


def _path_typed() -> str | None:
    """The first word on the line being completed that is a path.

    After an option that waits for its value the parser gives up before it reaches the arguments, so they are taken
    from where the shells put the line: `COMP_WORDS` (bash) or `_TYPER_COMPLETE_ARGS` (the others).
    """
    import shlex

    line = os.environ.get("_TYPER_COMPLETE_ARGS") or os.environ.get("COMP_WORDS", "")
    try:
        words = shlex.split(line)
    except ValueError:
        words = line.split()
    return next((word for word in words[2:] if os.path.exists(word)), None)


def complete_kinds(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    """Kinds of layers that the file on the command line has."""
    opened = _opened(ctx)
    if opened is not None:
        from convinspect.layers.find import find_layers

        kinds = dict.fromkeys(layer.kind for layer in find_layers(opened))
        yield from (kind for kind in kinds if kind.startswith(incomplete) and _HARMLESS.fullmatch(kind))


def complete_roots(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    """Roots of the file on the command line, and "." for all."""
    opened = _opened(ctx)
    if opened is not None:
        paths = [root.path or "." for root in opened.roots] + ["."]
        yield from (path for path in dict.fromkeys(paths) if path.startswith(incomplete) and _HARMLESS.fullmatch(path))


def _opened(ctx: typer.Context) -> Checkpoint | None:
    from convinspect.checkpoint import open_checkpoint

    path = ctx.params.get("path") or _path_typed()
    try:
        return open_checkpoint(path) if path else None
    except (ConvInspectError, OSError):
        return None
