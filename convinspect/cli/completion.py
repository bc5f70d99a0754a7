"""Shell completion from the file that is named on the command line."""

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
    """Layer names in the file on the command line that begin with `incomplete`; none if it cannot be read."""
    from convinspect.checkpoint import open_checkpoint
    from convinspect.layers.find import find_layers

    path = ctx.params.get("path") or _path_typed()
    if not path:
        return
    try:
        names = [layer.name for layer in find_layers(open_checkpoint(path, ctx.params.get("root")))]
    except (ConvInspectError, OSError):
        return
    # Names are inserted unquoted, so those with characters that a shell interprets are left out.
    yield from (name for name in names if name.startswith(incomplete) and _HARMLESS.fullmatch(name))


def _path_typed() -> str | None:
    """The first word on the command line that is an existing path.

    After an option without its value the parser stops before it reaches the arguments, so they are read from the
    variable in which the shell passes the line: `COMP_WORDS` (bash) or `_TYPER_COMPLETE_ARGS` (the others).
    """
    import shlex

    line = os.environ.get("_TYPER_COMPLETE_ARGS") or os.environ.get("COMP_WORDS", "")
    try:
        words = shlex.split(line)
    except ValueError:
        words = line.split()
    return next((word for word in words[2:] if os.path.exists(word)), None)


def complete_kinds(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    """Kinds of the layers in the file on the command line."""
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
