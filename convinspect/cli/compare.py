"""`convinspect compare`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from convinspect.cli.completion import complete_layers
from convinspect.cli.options import FormatOption, OutputOption, RootOption, WidthOption, naming
from convinspect.cli.output import Sink
from convinspect.errors import CannotConvert, CannotShow
from convinspect.render.format import Format
from convinspect.text import dimension, plural

if TYPE_CHECKING:
    from convinspect.comparing.measure import Measured, Setting, Subject
    from convinspect.records import Layer


def compare(
    path: Annotated[
        Path | None,
        typer.Argument(metavar="[MODEL]", readable=False, help="A checkpoint; without it, PointNet's three layers."),
    ] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(
            "--layer",
            "-l",
            metavar="GLOB",
            help="Default: all pointwise Conv1d.",
            autocompletion=complete_layers,
        ),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, max=2**31 - 1, metavar="N", help="Batch size.")] = 8,
    lengths: Annotated[
        str, typer.Option("--length", "--lengths", metavar="L,…", help="Length, or several for a sweep: 1,20,1000.")
    ] = "1024",
    dtypes: Annotated[
        str, typer.Option("--dtype", "--dtypes", metavar="NAME,…", help="dtype, or several: float32,bfloat16.")
    ] = "float32",
    device: Annotated[str, typer.Option("--device", metavar="NAME", help="Where to run, such as cuda.")] = "cpu",
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, max=1024, metavar="N", help="Threads; by default PyTorch's own choice."),
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", min=3, metavar="N", help="Timings of each.")] = 7,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, metavar="N", help="Of the random inputs.")] = 0,
    root: RootOption = None,
    fmt: FormatOption = Format.table,
    width: WidthOption = None,
    output: OutputOption = None,
) -> None:
    """Measure Conv1d of kernel size 1 against Linear on this machine: speed, precision, gradients.

    The same weights are run both ways: forward, forward and backward, with and without the transposes that Linear needs
    for (N, C, L); errors are against float64. At the end three things that are often said of the two are held against
    the figures. With several lengths, -o plot.svg draws time against length.

    [bold]Examples[/bold]

      convinspect compare

      convinspect compare model.pt --layer 'encoder.*' --batch 1 --length 4096

      convinspect compare --lengths 1,20,1000 --dtypes float32,bfloat16 -o plot.svg
    """
    from convinspect.arrays.devices import load_average
    from convinspect.comparing.claims import claims
    from convinspect.comparing.measure import compare as measure
    from convinspect.comparing.measure import described
    from convinspect.report.compare import comparison_payload, comparison_tables, flat_table

    setting = _setting(batch, lengths, dtypes, device, (threads, repeats, seed))
    load = load_average()
    subjects = _subjects(path, root, layer or [], seed)
    try:
        with _saying() as say:
            found = measure(subjects, setting, say)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise CannotShow(f"PyTorch cannot run it ({reason})", "try another --dtype, --device or size") from None
    told, about = claims(found), described(setting, load)
    sink = Sink(fmt, width, output, "convinspect compare")
    if output is not None and output.suffix.lower() in (".svg", ".html") and len(setting.lengths) > 1:
        _save_plot(found, about["device"], setting, output)
        return
    for_csv = fmt is Format.csv or (output is not None and output.suffix.lower() == ".csv")
    thing = flat_table(found) if for_csv else comparison_tables(found, told, about)
    sink.show(thing, comparison_payload(found, told, about))


def _setting(batch: int, lengths: str, dtypes: str, device: str, rest: tuple[int | None, int, int]) -> Setting:
    """What to measure, once each wish is seen to be possible.

    Raises:
        CannotShow: A length, dtype or device is none.
    """
    import torch

    from convinspect.arrays.devices import check_device, check_dtype, check_dtype_on
    from convinspect.comparing.measure import Setting

    sizes = [size for size in map(dimension, lengths.split(",")) if size]
    if len(sizes) != lengths.count(",") + 1:
        raise CannotShow(f"--length {lengths[:40]!r} is no length", "write it as 1024, or 1,20,1000")
    names = [name.strip() for name in dtypes.split(",")]
    for name in names:
        check_dtype(name)
    check_device(device)
    for name in names:
        # An 8-bit dtype can be held and not computed in, which its product will say.
        if getattr(torch, name).itemsize > 1:
            check_dtype_on(device, name, "", "give another --dtype")
    threads = rest[0] or torch.get_num_threads()
    distinct = tuple(dict.fromkeys(sizes))
    return Setting(batch, distinct, tuple(dict.fromkeys(names)), device, threads, rest[1], rest[2])


def _subjects(path: Path | None, root: str | None, names: list[str], seed: int) -> list[Subject]:
    """PointNet's layers, or a file's; of layers of the same sizes the first stands for all.

    Raises:
        CannotConvert: None of the file's layers is a pointwise Conv1d or a Linear.
    """
    from convinspect.comparing.measure import pointnet

    if path is None:
        if names:
            raise CannotConvert("--layer chooses layers of a file, and none is given")
        return pointnet(seed)
    from convinspect.checkpoint import open_checkpoint
    from convinspect.layers.find import find_layers
    from convinspect.layers.select import select

    with naming(path):
        checkpoint = open_checkpoint(path, root)
        chosen = select(find_layers(checkpoint), names, pointwise=not names)
        return _distinct(chosen)


def _distinct(layers: list[Layer]) -> list[Subject]:
    from convinspect.arrays.to_torch import weight_and_bias
    from convinspect.comparing.measure import Subject
    from convinspect.dtypes import COMPLEX
    from convinspect.kinds import TRANSFORMERS_CONV1D

    alike: dict[tuple[object, ...], list[Layer]] = {}
    for layer in layers:
        shape = layer.weight.shape
        plain = layer.kind in ("Conv1d", "Linear", TRANSFORMERS_CONV1D) and (layer.groups or 1) == 1
        plain = plain and layer.weight.dtype not in COMPLEX
        if plain and all(size == 1 for size in shape[2:]):
            alike.setdefault((shape, layer.bias is None), []).append(layer)
    if not alike:
        raise CannotConvert(
            "none of these layers is a pointwise Conv1d or a Linear of real numbers", "choose others with --layer"
        )
    found = []
    for first, *others in alike.values():
        stored, bias = weight_and_bias(first)
        weight = stored.float()
        matrix = weight.T.contiguous() if first.kind == TRANSFORMERS_CONV1D else weight.flatten(1)
        kept = None if bias is None else bias.float()
        found.append(Subject(first.name or "(root)", matrix, kept, len(others)))
    return found


def _save_plot(found: list[Measured], device: str, setting: Setting, output: Path) -> None:
    from convinspect.render.picture import save_text
    from convinspect.render.plot import plot
    from convinspect.report.compare import panels

    note = f"Conv1d and Linear, forward, batch {setting.batch}, {plural(setting.threads, 'thread')}, {device}"
    parts = list(plot(panels(found), note))
    if output.suffix.lower() == ".html":
        parts = ['<!doctype html>\n<meta charset="utf-8">\n<title>convinspect compare</title>\n', *parts]
    save_text(output, parts)


@contextmanager
def _saying() -> Iterator[Callable[[str], None]]:
    """What is being measured, on stderr, where that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda what: None
        return
    from rich.console import Console

    with Console(stderr=True).status("measuring") as status:
        yield lambda what: status.update(f"measuring {what}")
