"""`convinspect shapes`."""

from __future__ import annotations

from typing import Annotated

import typer

from convinspect.cli.completion import complete_kinds
from convinspect.cli.options import (
    FoldOption,
    FormatOption,
    LayerOption,
    ModelOption,
    OutputOption,
    PathArgument,
    RootOption,
    WidthOption,
    naming,
)
from convinspect.cli.output import Sink, check_output, end_with_problems
from convinspect.formats.sources import short_name
from convinspect.render.format import Format


def shapes(
    path: PathArgument,
    layer: LayerOption = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            "--kind", metavar="KIND", help="Only this kind, as in conv1d or 'conv*'.", autocompletion=complete_kinds
        ),
    ] = None,
    pointwise: Annotated[bool, typer.Option("--pointwise", help="Only convolutions of kernel size 1.")] = False,
    everything: Annotated[bool, typer.Option("--all", "-a", help="List everything: every tensor's owner.")] = False,
    fold: FoldOption = False,
    model: ModelOption = None,
    root: RootOption = None,
    fmt: FormatOption = Format.table,
    width: WidthOption = None,
    output: OutputOption = None,
) -> None:
    """List the convolution and Linear layers of a saved model, with their kernel shapes.

    Nothing in the file is run and only its headers are read; --model runs your own code, which says what a state_dict
    does not record. Params counts a layer's parameters without its buffers
    (batch statistics, masks, position ids), as the total does, which counts ties once.

    [bold]Examples[/bold]

      convinspect shapes model.pt

      convinspect shapes model.pt --pointwise --fold

      convinspect shapes model.safetensors --layer 'encoder.*' --format json

      convinspect shapes model.ckpt --root ema --output table.svg
    """
    from convinspect.checkpoint import open_checkpoint
    from convinspect.layers.find import find_layers
    from convinspect.layers.folding import fold as folded
    from convinspect.layers.folding import unfolded
    from convinspect.layers.select import select
    from convinspect.report.shapes import listing_payload, listing_table

    check_output(output, fmt, path)
    checkpoint = open_checkpoint(path, root)
    if model is not None:
        from convinspect.converting.checks import described_by_code

        with naming(path):
            modules = described_by_code(checkpoint, model).modules
        # Of layers that the code has not, the file's names tell what is a parameter.
        checkpoint = checkpoint.described_by(modules, checkpoint.known_parameters)
    layers = find_layers(checkpoint)
    with naming(path):
        shown = select(layers, layer or (), kind or (), pointwise, everything)
    sink = Sink(fmt, width, output, f"convinspect shapes {short_name(path)}")
    if sink.wants_payload:
        sink.show(None, listing_payload(checkpoint, layers, shown))
    else:
        rows = folded(shown) if fold else unfolded(shown)
        sink.show(listing_table(checkpoint, layers, rows, everything or bool(layer or kind or pointwise)), None)
    end_with_problems(checkpoint, layers)
