"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from convinspect.cli.completion import complete_layers, complete_members, complete_roots
from convinspect.errors import naming as naming
from convinspect.render.format import Format


def layer_option(more: str) -> Any:
    """The option `--layer`.

    Args:
        more: What its help says after "Only these layers".
    """
    text = f"Only these layers{more}."
    return typer.Option("--layer", "-l", metavar="GLOB", help=text, autocompletion=complete_layers)


def path_argument(name: str, text: str) -> Any:
    """An argument that is a checkpoint.

    Args:
        name: As the help calls it.
        text: What the help says of it.
    """
    return typer.Argument(metavar=name, readable=False, help=text, autocompletion=complete_members)


PathArgument = Annotated[
    Path,
    path_argument(
        "PATH", "A checkpoint: .pt, .pth, .ckpt, .safetensors, .pt2, a shard index or folder, … or ARCHIVE!MEMBER."
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
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="PACKAGE.MODULE:CLASS", help="Your model's code, to learn stride, padding, groups."
    ),
]
LayerOption = Annotated[list[str] | None, layer_option("")]
FoldOption = Annotated[bool, typer.Option("--fold", help="One row for repeated blocks, as encoder.{0–11}.conv.")]
DeviceOption = Annotated[str, typer.Option("--device", metavar="NAME", help="Where to run, such as cuda.")]
SeedOption = Annotated[
    int, typer.Option("--seed", min=0, max=2**63 - 1, metavar="N", help="Seed of the random numbers.")
]
FormatOption = Annotated[Format, typer.Option("--format", help="How to write the result; --json is short for json.")]
WidthOption = Annotated[
    int | None, typer.Option("--width", min=40, metavar="N", help="Lay out for N columns instead of the terminal's.")
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FILE", help="Write to this file: .svg, .html, .png, .md, .txt, .csv or .json."
    ),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite FILE when it exists.")]
