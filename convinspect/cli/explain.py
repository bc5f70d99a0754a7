"""`convinspect explain`."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from convinspect.cli.complaints import say
from convinspect.cli.completion import complete_layers
from convinspect.cli.options import ForceOption, RootOption, SeedOption, WidthOption, path_argument
from convinspect.cli.output import Sink, check_output
from convinspect.errors import CannotShow
from convinspect.explaining.words import Words
from convinspect.render.format import Format

if TYPE_CHECKING:
    from convinspect.checkpoint import Checkpoint
    from convinspect.explaining.example import Example
    from convinspect.explaining.words import Language
    from convinspect.showing.explain_steps import DrawStep

_PAGE_STEPS = 400
"""Most steps on a page."""
_TERMINAL_LINES = 24
"""Lines of a terminal whose height is unknown."""


class Lang(str, Enum):
    """Languages that the drawing is in."""

    en = "en"
    zh = "zh"


class Names(str, Enum):
    """Which layer's notation to use."""

    conv1d = "conv1d"
    linear = "linear"
    both = "both"


PatchesOption = Annotated[
    bool,
    typer.Option(
        "--patches",
        help="Convolutions that cut patches (stride = kernel size), drawn beside the Linear on the patches.",
    ),
]


def explain(
    path: Annotated[
        Path | None,
        path_argument("PATH", "A checkpoint; without it, a small layer of 3 → 6."),
    ] = None,
    layer: Annotated[
        str | None, typer.Argument(metavar="LAYER", help="One of its layers.", autocompletion=complete_layers)
    ] = None,
    samples: Annotated[
        int,
        typer.Option("--samples", "--rows", min=1, max=10_000, metavar="N", help="How many rows of data, or patches."),
    ] = 4,
    row: Annotated[int | None, typer.Option("--row", metavar="I", help="Only this row or patch, from 0.")] = None,
    kernel: Annotated[int | None, typer.Option("--kernel", "-k", metavar="J", help="Only this kernel, from 0.")] = None,
    names: Annotated[
        Names | None,
        typer.Option("--as", help="Draw it as Conv1d, as Linear, or both layouts; what it is by default."),
    ] = None,
    patches: PatchesOption = False,
    lang: Annotated[
        Lang, typer.Option("--lang", help="Language of what is printed and drawn: English or Chinese.")
    ] = Lang.en,
    step: Annotated[bool, typer.Option("--step", help="Cell by cell, by the arrow keys.")] = False,
    animate: Annotated[bool, typer.Option("--animate", help="Play all cells.")] = False,
    seed: SeedOption = 0,
    given: Annotated[
        Path | None,
        typer.Option(
            "--input",
            "-i",
            metavar="FILE",
            help="The input: your data, n × in, or an image, C × H × W: .csv, .npy, .pt.",
        ),
    ] = None,
    root: RootOption = None,
    width: WidthOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Write to this file: .svg, .html, .gif, .png, .txt or .json."
        ),
    ] = None,
    force: ForceOption = False,
) -> None:
    """Draw how n rows of 3 columns become n rows of 6: data, kernels and result, on real numbers.

    Each number of the result is the dot product of a row of the data and a kernel, plus the kernel's bias. So 6 kernels
    make 6 columns. The active row, kernel and cell are marked, and the arithmetic stands below. Rows and kernels count
    from 0.

    With --patches, an image is cut into patches, each is flattened to a row, and has a dot product with each kernel.
    Beside it the convolution's window, which moves by its own size, gives the same numbers.

    [bold]Examples[/bold]

      convinspect explain

      convinspect explain --as both

      convinspect explain model.pt conv1 --row 1 --kernel 4

      convinspect explain --patches

      convinspect explain vit.pt patch_embed.proj --patches

      convinspect explain --lang zh

      convinspect explain --step

      convinspect explain -o pointwise.html
    """
    check_output(output, Format.table, [path, given], force)
    _check_font(output, lang)
    from convinspect.checkpoint import open_checkpoint

    checkpoint = None if path is None else open_checkpoint(path, root)
    if patches and names in (Names.conv1d, Names.linear):
        raise CannotShow(f"--patches draws both forms side by side, and --as {names.value} one", "leave out --as")
    example = _example(checkpoint, layer, (samples, seed, given, patches, lang.value))
    notation = None if names is None or patches else names.value
    _show(example, (row, kernel), notation, (step, animate), (width, output))
    if checkpoint is not None and checkpoint.unwritten:
        say("note", checkpoint.unwritten)


def _check_font(output: Path | None, lang: Lang) -> None:
    """Check that Chinese can be drawn in pixels, if it is to be.

    Raises:
        CannotShow: No font has its characters.
    """
    if lang is Lang.zh and output is not None and output.suffix.lower() in (".png", ".gif"):
        from convinspect.render.raster import check_wide_face

        check_wide_face()


def _example(
    checkpoint: Checkpoint | None, layer: str | None, data: tuple[int, int, Path | None, bool, Language]
) -> Example:
    from convinspect.explaining.explain import Options
    from convinspect.explaining.explain import explain as compute

    return compute(checkpoint, Options(layer, *data))


def _show(
    example: Example,
    place: tuple[int | None, int | None],
    names: str | None,
    play: tuple[bool, bool],
    target: tuple[int | None, Path | None],
) -> None:
    """Draw the example: some rows, step by step, or as a file.

    Args:
        example: The layer and its data.
        place: The row and the kernel asked for.
        names: "conv1d", "linear", "both", or None.
        play: Whether to go step by step, and whether to play all steps.
        target: Width in cells, and the file to write.
    """
    from convinspect.showing.explain_steps import COMFORT, drawer, drawn_as_linear, explain_payload, frames

    (row, kernel), (step, animate), (width, output) = place, play, target
    sink = Sink(Format.table, width, output, f"convinspect explain {example.name}")
    columns = width or (sink.space.width if output is None else None) or COMFORT
    linear = drawn_as_linear(example, names)
    draw = drawer(example, linear, columns)
    playing = (step or animate) and output is None and sys.stdout.isatty() and (animate or sys.stdin.isatty())
    if output is not None and output.suffix.lower() in (".html", ".gif"):
        _save_steps(example, draw, sink, names == "both")
    elif playing and names == "both":
        raise CannotShow("both layouts do not fit one step", "leave out --as both, or keep a page with -o x.html")
    elif playing:
        from convinspect.cli.player import play as play_steps

        lines = sink.space.height or _TERMINAL_LINES
        play_steps(example, drawer(example, linear, columns, lines - 1), step, (row or 0, kernel or 0), lines)
    else:
        sink.show(frames(example, draw, row, kernel, names == "both", columns), explain_payload(example))


def _save_steps(example: Example, draw: DrawStep, sink: Sink, both: bool) -> None:
    """Write all steps to a file: as frames of a GIF, or on a page."""
    from convinspect.cli.player import MOST_PICTURES
    from convinspect.render.page import Labels, page
    from convinspect.render.picture import save_steps
    from convinspect.showing.explain_steps import steps

    assert sink.output is not None
    if sink.output.suffix.lower() == ".gif":
        save_steps(steps(example, draw, MOST_PICTURES, both), sink.output, sink.title)
        sink.say_written()
    else:
        blocks = steps(example, draw, _PAGE_STEPS, both)
        word = Words(example.lang)
        # The place's numbers are put in by the page.
        labels = word("◀ back"), word("next ▶"), word("play"), word("{at} of {count}", at="{at}", count="{count}")
        title = f"{example.name}: {example.kind} {tuple(example.stored)}"
        sink.keep(page(blocks, title, example.lang, Labels(*labels)))
