"""`convinspect verify`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from convinspect.cli.options import (
    DeviceOption,
    ForceOption,
    FormatOption,
    OutputOption,
    RootOption,
    SeedOption,
    WidthOption,
    layer_option,
    path_argument,
)
from convinspect.cli.output import Sink, check_output, reading_progress
from convinspect.cli.sharing import sharing_ranks
from convinspect.formats.sources import short_name
from convinspect.render.format import Format

BeforeArgument = Annotated[Path, path_argument("BEFORE", "The checkpoint before its conversion.")]
AfterArgument = Annotated[
    Path | None,
    path_argument("AFTER", "The checkpoint after; without it BEFORE is converted in memory."),
]
LayersOption = Annotated[list[str] | None, layer_option("; the others are not run")]
RenameOption = Annotated[
    list[str] | None,
    typer.Option("--rename", metavar="OLD=NEW", help="Other names, as given to convert."),
]
BitsOption = Annotated[bool, typer.Option("--bits", help="Compare the stored bits only, without PyTorch.")]
GradOption = Annotated[bool, typer.Option("--grad", help="Also compare the gradients of input, weight and bias.")]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", metavar="PACKAGE.MODULE:CLASS", help="Your model's code, to run the whole model too."),
]
ModelAfterOption = Annotated[
    str | None,
    typer.Option(
        "--model-after", metavar="PACKAGE.MODULE:CLASS", help="The code for AFTER; else MODEL's layers are swapped."
    ),
]
InputOption = Annotated[
    list[str] | None,
    typer.Option("--input", "-i", metavar="SHAPE|FILE", help="The input: 2x64x1024, 2x16:int64:1000, x.npy, x.pt."),
]
DtypeOption = Annotated[
    str,
    typer.Option("--dtype", metavar="NAME", help="The dtype to measure in; by default the file's own."),
]
BatchOption = Annotated[
    int | None,
    typer.Option(
        "--batch", min=1, max=2**31 - 1, metavar="N", help="Batch size of a layer's input; by default 2 × 1 and 1 × 2."
    ),
]
LengthOption = Annotated[
    int | None, typer.Option("--length", min=1, max=2**31 - 1, metavar="L", help="Length of a layer's input.")
]


def verify(
    path: BeforeArgument,
    after: AfterArgument = None,
    layer: LayersOption = None,
    rename: RenameOption = None,
    bits: BitsOption = False,
    grad: GradOption = False,
    model: ModelOption = None,
    model_after: ModelAfterOption = None,
    inputs: InputOption = None,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "",
    seed: SeedOption = 0,
    batch: BatchOption = None,
    length: LengthOption = None,
    root: RootOption = None,
    fmt: FormatOption = Format.table,
    width: WidthOption = None,
    output: OutputOption = None,
    force: ForceOption = False,
) -> None:
    """Check that a conversion changed shapes and nothing else.

    Three strengths, and the report names the one it reached. bits: every number of every tensor is the same to the bit,
    every other tensor, key and object is unchanged. layer: each converted layer is run before and after on random
    inputs, in float64, within the bound that rounding analysis gives. model: with --model, the whole model is loaded
    strictly and run, before and after. Outputs in float32 differ by rounding; this is reported, and is not a fault.
    Under torchrun the ranks share the tensors and layers.

    Exit code 0: equal, 1: something differs.

    [bold]Examples[/bold]

      convinspect verify model.pt linear.pt

      convinspect verify model.pt

      convinspect verify model.pt linear.pt --model net:PointNet --model-after net:LinearPointNet -i 2x3x1024

      convinspect verify big.safetensors converted.safetensors --bits
    """
    from convinspect.checkpoint import open_alike, open_whole
    from convinspect.showing.verify import verdict_lines, verdict_payload, verdict_table
    from convinspect.verifying.options import VerifyOptions
    from convinspect.verifying.verify import verify_opened

    options = VerifyOptions(
        tuple(layer or ()), tuple(rename or ()), bits, grad, model, model_after, tuple(inputs or ()), device, dtype,
        seed, batch, length,
    )  # fmt: skip
    check_output(output, fmt, [path, after], force)
    with sharing_ranks() as group:
        opened = [open_whole(path, root), None if after is None else open_alike(after, root)]
        with ExitStack() as shown:

            def bar(nbytes: int, what: str) -> Callable[[int], None]:
                shown.close()
                return shown.enter_context(reading_progress(nbytes, what))

            report = verify_opened(opened, options, bar, group)
    names = (short_name(path), "converted in memory" if after is None else short_name(after))
    on_screen = fmt is Format.table and output is None and sys.stdout.isatty()
    Sink(fmt, width, output, f"convinspect verify {short_name(path)}").show(
        verdict_table(report, names, on_screen), verdict_payload(report), verdict_lines(report)
    )
    if not report.equal:
        raise typer.Exit(1)
