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
    FormatOption,
    OutputOption,
    RootOption,
    SeedOption,
    WidthOption,
    layer_option,
)
from convinspect.cli.output import Sink
from convinspect.errors import CannotShow
from convinspect.render.format import Format
from convinspect.text import dimension, plural

if TYPE_CHECKING:
    from convinspect.comparing.compare import Comparison


def compare(
    path: Annotated[
        Path | None,
        typer.Argument(metavar="[MODEL]", readable=False, help="A checkpoint; without it, PointNet's three layers."),
    ] = None,
    layer: Annotated[list[str] | None, layer_option("Default: all pointwise Conv1d.")] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, max=2**31 - 1, metavar="N", help="Batch size.")] = 8,
    lengths: Annotated[
        str, typer.Option("--length", "--lengths", metavar="L,…", help="Length, or several for a sweep: 1,20,1000.")
    ] = "1024",
    dtypes: Annotated[
        str, typer.Option("--dtype", "--dtypes", metavar="NAME,…", help="dtype, or several: float32,bfloat16.")
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
) -> None:
    """Measure Conv1d of kernel size 1 against Linear on this machine: speed, precision, gradients.

    The same weights are run both ways: forward, forward and backward, with and without the transposes that Linear needs
    for (N, C, L); errors are against float64. At the end three common claims about the two are compared with the
    figures. With several lengths, -o plot.svg draws time against length.

    [bold]Examples[/bold]

      convinspect compare

      convinspect compare model.pt --layer 'encoder.*' --batch 1 --length 4096

      convinspect compare --lengths 1,20,1000 --dtypes float32,bfloat16 -o plot.svg
    """
    from convinspect.checkpoint import open_checkpoint
    from convinspect.comparing.compare import Options
    from convinspect.comparing.compare import compare as measure

    names = tuple(name.strip() for name in dtypes.split(","))
    options = Options(tuple(layer or ()), batch, _lengths(lengths), names, device, threads, repeats, seed)
    checkpoint = None if path is None else open_checkpoint(path, root)
    with _progress() as say:
        comparison = measure(checkpoint, options, say)
    _show(comparison, Sink(fmt, width, output, "convinspect compare"))


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
    from convinspect.report.compare import comparison_payload, comparison_tables, flat_table

    parts = (comparison.layers, comparison.claims, comparison.circumstances)
    suffix = "" if sink.output is None else sink.output.suffix.lower()
    if sink.output is not None and suffix in (".svg", ".html") and len(comparison.setting.lengths) > 1:
        _save_plot(comparison, sink.output)
    elif suffix == ".csv" or sink.fmt is Format.csv:
        sink.show(flat_table(comparison.layers), comparison_payload(*parts))
    else:
        sink.show(comparison_tables(*parts), comparison_payload(*parts))


def _save_plot(comparison: Comparison, output: Path) -> None:
    from convinspect.render.picture import save_text
    from convinspect.render.plot import plot
    from convinspect.report.compare import panels

    setting, device = comparison.setting, comparison.circumstances["device"]
    note = f"Conv1d and Linear, forward, batch {setting.batch}, {plural(setting.threads, 'thread')}, {device}"
    parts = list(plot(panels(comparison.layers), note))
    if output.suffix.lower() == ".html":
        parts = ['<!doctype html>\n<meta charset="utf-8">\n<title>convinspect compare</title>\n', *parts]
    save_text(output, parts)


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Show on stderr what is being measured, if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda what: None
        return
    from rich.console import Console

    with Console(stderr=True).status("measuring") as status:
        yield lambda what: status.update(f"measuring {what}")
