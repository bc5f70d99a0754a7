"""Options that several commands share, and the completion of layer names."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from convinspect.checkpoint import Checkpoint, open_checkpoint
from convinspect.errors import BrokenFile, ConvInspectError
from convinspect.layers import find_layers
from convinspect.view.emit import Format, emit
from convinspect.view.text import safe


def complete_layers(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    """Layer names of the file on the command line that begin with what is typed; none when it cannot be read."""
    path = ctx.params.get("path")
    if not path:
        return
    try:
        names = [layer.name for layer in find_layers(open_checkpoint(path, ctx.params.get("root")))]
    except (ConvInspectError, OSError):
        return
    yield from (name for name in names if name.startswith(incomplete))


PathArgument = Annotated[
    Path, typer.Argument(help="A checkpoint: .pt, .pth, .ckpt, .safetensors, .pt2, a shard index or folder, …")
]
RootOption = Annotated[
    str | None,
    typer.Option("--root", metavar="KEY", help="Which dictionary in the file, as in 'ema' or '.' for all."),
]
FormatOption = Annotated[Format, typer.Option("--format", help="How to write the result.")]
WidthOption = Annotated[
    int | None, typer.Option("--width", min=40, metavar="N", help="Lay out for N columns instead of the terminal's.")
]
OutputOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Keep it as .svg, .html, .md, .txt, .csv or .json instead."),
]


def show(
    thing: object,
    payload: object,
    fmt: Format,
    width: int | None,
    output: Path | None,
    title: str,
) -> None:
    """Hand a result to stdout, or to a file where one was named."""
    if output is None:
        emit(payload if fmt is Format.json else thing, fmt, sys.stdout, width)
        return
    from convinspect.view.picture import save

    save(thing, output, title, width, payload=payload)


def end_with_problems(checkpoint: Checkpoint) -> None:
    """What can be shown of a damaged file was shown; now say what is wrong with it.

    Raises:
        BrokenFile: There is something wrong; all but the last line are printed before.
    """
    for problem in checkpoint.problems[:-1]:
        print(f"error: {safe(f'{checkpoint.path}: {problem}')}", file=sys.stderr)
    if checkpoint.problems:
        sys.stdout.flush()
        raise BrokenFile(checkpoint.problems[-1], path=checkpoint.path)
