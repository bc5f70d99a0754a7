"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convinspect.cli.completion import complete_layers, complete_roots
from convinspect.errors import naming as naming
from convinspect.render.format import Format

if TYPE_CHECKING:
    pass


def layer_option(text: str) -> Any:
    """The option `--layer`; each command has its own help text for it."""
    return typer.Option("--layer", "-l", metavar="GLOB", help=text, autocompletion=complete_layers)


PathArgument = Annotated[
    Path,
    typer.Argument(
        metavar="PATH",
        readable=False,
        help="A checkpoint: .pt, .pth, .ckpt, .safetensors, .pt2, a shard index or folder, … or ARCHIVE!MEMBER.",
    ),
]
RootOption = Annotated[
    str | None,
    typer.Option(
        "--root",
        metavar="KEY",
        help="Which dictionary in the file, as in 'ema' or '.' for all.",
        autocompletion=complete_roots,
    ),
]
LayerOption = Annotated[list[str] | None, layer_option("Only these layers.")]
FoldOption = Annotated[bool, typer.Option("--fold", help="One row for repeated blocks, as encoder.{0–11}.conv.")]
DeviceOption = Annotated[str, typer.Option("--device", metavar="NAME", help="Where to run, such as cuda.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, metavar="N", help="Of the random inputs.")]
FormatOption = Annotated[Format, typer.Option("--format", help="How to write the result; --json is short for json.")]
WidthOption = Annotated[
    int | None, typer.Option("--width", min=40, metavar="N", help="Lay out for N columns instead of the terminal's.")
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FILE", help="Keep it as .svg, .html, .png, .md, .txt, .csv or .json instead."
    ),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite FILE when it exists.")]
