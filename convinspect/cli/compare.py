"""`convinspect compare`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from convinspect.cli.output import Sink, check_output
from convinspect.errors import CannotShow
from convinspect.render.format import Format
from convinspect.text import dimension

if TYPE_CHECKING:
    from convinspect.comparing.compare import Comparison

Patches = Annotated[
    bool,
    typer.Option("--patches", help="Convolutions that cut patches (stride = kernel size), instead of pointwise ones."),
]
Patch = Annotated[
    str | None,
    typer.Option(
        "--patch",
        metavar="16x16",
        help="Kernel size of the convolution over patches; with MODEL, of that in whose place a Linear is.",
    ),
]
InChannels = Annotated[
    int | None,
    typer.Option(
        "--in-channels",
        min=1,
        max=2**31 - 1,
        metavar="N",
        help="Input channels of the convolution over patches, if it is in no file; by default 3.",
    ),
]
OutChannels = Annotated[
    int | None,
    typer.Option(
        "--out-channels",
        min=1,
        max=2**31 - 1,
        metavar="N",
        help="Output channels of the convolution over patches; by default 768.",
    ),
]
Batch = Annotated[
    int | None,
    typer.Option(
        "--batch", min=1, max=2**31 - 1, metavar="N", help="Batch size of a layer's input; by default 8, or as above."
    ),
]
Lengths = Annotated[
    str | None,
    typer.Option(
        "--length",
        "--lengths",
        metavar="L,…",
        help="Length of a layer's input, or its patches; several for a sweep: 1,20,1000. By default 1024, or as above.",
    ),
]


def compare(
    path: Annotated[
        Path | None,
        path_argument("MODEL", "A checkpoint; without it, well-known layers."),
    ] = None,
    layer: Annotated[
        list[str] | None, layer_option("; by default all pointwise Conv1d, or all that cut patches")
    ] = None,
    patches: Patches = False,
    patch: Patch = None,
    in_channels: InChannels = None,
    out_channels: OutChannels = None,
    batch: Batch = None,
    lengths: Lengths = None,
    dtypes: Annotated[
        str,
        typer.Option(
            "--dtype", "--dtypes", metavar="NAME,…", help="The dtype to measure in; or several: float32,bfloat16."
        ),
    ] = "float32",
    device: DeviceOption = "cpu",
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, max=1024, metavar="N", help="Threads; by default PyTorch's own choice."),
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", min=3, metavar="N", help="Timings of each.")] = 7,
    seed: SeedOption = 0,
    root: RootOption = None,
    fmt: FormatOption = Format.table,
    width: WidthOption = None,
    output: OutputOption = None,
    force: ForceOption = False,
) -> None:
    """Measure a convolution against Linear on this machine: speed, precision, gradients.

    Conv1d of kernel size 1 is run both ways with the same weights: forward, forward and backward, with and without the
    transposes that Linear needs for (N, C, L); errors are against float64. At the end three common claims about the two
    are compared with the figures. With several lengths, -o plot.svg draws time against length.

    With --patches, or a kernel size (--patch), it is convolutions that cut patches against PatchLinear, which takes and
    gives what they do, and against Linear on patches that are flattened already: a file's, the one whose sizes are
    given, or else ViT-B/16's on an image of 196 patches and Qwen2-VL's (Conv3d) on 1,024 examples of one patch, the
    defaults of all others too. Exit code 1: in float64 the two differ by more than rounding explains.

    [bold]Examples[/bold]

      convinspect compare

      convinspect compare model.pt --layer 'encoder.*' --batch 1 --length 4096

      convinspect compare --length 1,20,1000 --dtype float32,bfloat16 -o plot.svg

      convinspect compare --patches --dtype float32,bfloat16

      convinspect compare --patch 2x14x14 --out-channels 1152 --batch 4096 --device cuda
    """
    from convinspect.checkpoint import open_checkpoint
    from convinspect.comparing.compare import Options
    from convinspect.comparing.compare import compare as measure

    check_output(output, fmt, [path], force)
    names = tuple(name.strip() for name in dtypes.split(","))
    options = Options(
        tuple(layer or ()), patches, patch, in_channels, out_channels, batch,
        () if lengths is None else _lengths(lengths), names, device, threads, repeats, seed,
    )  # fmt: skip
    checkpoint = None if path is None else open_checkpoint(path, root)
    with _progress() as say:
        comparison = measure(checkpoint, options, say)
    _show(comparison, Sink(fmt, width, output, "convinspect compare"))
    if comparison.differs:
        raise typer.Exit(1)


def _lengths(text: str) -> tuple[int, ...]:
    """Parse lengths, separated by commas.

    Raises:
        CannotShow: One of them is not a length.
    """
    sizes = [size for size in map(dimension, text.split(",")) if size]
    if len(sizes) != text.count(",") + 1:
        raise CannotShow(f"--length {text[:40]!r} is no length", "write it as 1024, or 1,20,1000")
    return tuple(sizes)


def _show(comparison: Comparison, sink: Sink) -> None:
    """Show tables or numbers, or, for several lengths and a picture as output, a plot of time against length."""
    from convinspect.showing.compare import comparison_payload, comparison_tables, flat_table, verdict_lines

    verdict = verdict_lines(comparison)
    suffix = "" if sink.output is None else sink.output.suffix.lower()
    if sink.output is not None and suffix in (".svg", ".html") and len(comparison.setting.lengths) > 1:
        _save_plot(comparison, sink)
    elif suffix == ".csv" or sink.fmt is Format.csv:
        sink.show(flat_table(comparison.layers), comparison_payload(comparison), verdict)
    else:
        sink.show(comparison_tables(comparison), comparison_payload(comparison), verdict)


def _save_plot(comparison: Comparison, sink: Sink) -> None:
    from convinspect.render.html import page_head
    from convinspect.render.plot import plot
    from convinspect.showing.compare import panels, verdict_lines, what_is_drawn

    note = what_is_drawn(comparison)
    parts = list(plot(panels(comparison.layers), note))
    if sink.output is not None and sink.output.suffix.lower() == ".html":
        parts = [*page_head("convinspect compare"), *parts, "</main>\n</body>\n</html>\n"]
    sink.keep(parts, verdict_lines(comparison))


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Show on stderr what is being measured, if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda what: None
        return
    from rich.console import Console

    with Console(stderr=True).status("measuring") as status:
        yield lambda what: status.update(f"measuring {what}")
