"""`convinspect weights`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from convinspect.cli.complaints import say
from convinspect.cli.completion import complete_layers
from convinspect.cli.listing import LimitOption, Sort, SortOption, first, say_how_many_more
from convinspect.cli.options import (
    ForceOption,
    FormatOption,
    OutputOption,
    PathArgument,
    RootOption,
    WidthOption,
    layer_option,
    naming,
)
from convinspect.cli.output import Sink, check_output, end_with_problems, reading_progress
from convinspect.errors import CannotShow, ConvInspectError, NotThere
from convinspect.formats.sources import short_name
from convinspect.render.format import Format

if TYPE_CHECKING:
    from convinspect.arrays.stats import Stats
    from convinspect.checkpoint import Checkpoint
    from convinspect.records import Layer

_FEW = 4
"""If no layer is named, up to this many are shown as matrices; of more, the statistics are shown."""


def weights(
    path: PathArgument,
    layers: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="LAYER", help="Names or globs; all convolutions and Linear if none.", autocompletion=complete_layers
        ),
    ] = None,
    layer: Annotated[list[str] | None, layer_option("; the same as LAYER")] = None,
    kernel: Annotated[
        int | None, typer.Option("--kernel", "-k", metavar="J", help="Only this kernel, of output channel J, from 0.")
    ] = None,
    rows: Annotated[
        str | None, typer.Option("--rows", metavar="A:B", help="Only these output channels, from 0: 0:6, 3 or -4:.")
    ] = None,
    columns: Annotated[str | None, typer.Option("--cols", metavar="A:B", help="Only these input channels.")] = None,
    precision: Annotated[
        int | None, typer.Option("--precision", "-p", min=1, max=17, metavar="N", help="Significant digits.")
    ] = None,
    heatmap: Annotated[bool, typer.Option("--heatmap", help="Draw each matrix in coloured cells.")] = False,
    stats: Annotated[bool, typer.Option("--stats", help="Min, max, mean, std, … and a histogram per layer.")] = False,
    sort: SortOption = None,
    limit: LimitOption = None,
    root: RootOption = None,
    fmt: FormatOption = Format.table,
    width: WidthOption = None,
    output: OutputOption = None,
    force: ForceOption = False,
) -> None:
    """Show the kernels themselves: a matrix of output × input channels.

    Only the bytes of the layers shown are read. Weight-normed, spectral-normed and pruned layers show the
    kernel that a forward pass would use. CSV and JSON hold every number in full precision.

    Without LAYER, all convolutions and Linear are shown, as by shapes: of up to four their numbers, of more, and with
    --stats, their statistics, in JSON and CSV too. '*' names every layer, norms and embeddings too.

    [bold]Examples[/bold]

      convinspect weights model.pt conv1

      convinspect weights model.pt conv1 --rows 0:6 --cols 0:3 --precision 6

      convinspect weights model.pt 'encoder.*' --stats

      convinspect weights model.pt --stats --sort params --limit 10

      convinspect weights model.safetensors conv1 --heatmap --output conv1.svg
    """
    from convinspect.checkpoint import open_checkpoint

    check_output(output, fmt, [path], force)
    part = {"--kernel": kernel, "--rows": rows, "--cols": columns, "--heatmap": heatmap or None}
    given = _check_part(part, stats)
    checkpoint = open_checkpoint(path, root)
    named = [*(layers or ()), *(layer or ())]
    sink = Sink(fmt, width, output, f"convinspect weights {short_name(path)}")
    with naming(path):
        found, lacking, left = _choose(checkpoint, named)
        chosen, beyond = _first(checkpoint, found, sort, limit)
        lacking = (*lacking, *beyond.notes)
        # Named layers are shown with their numbers; without names, many layers are shown as an overview.
        if stats or (not named and not given and len(found) > _FEW):
            hint = () if stats else ("name a layer to see its numbers: convinspect weights FILE LAYER",)
            _show_stats(checkpoint, chosen, (*lacking, *left, *hint), sink, beyond.counted)
        else:
            _show_kernels(
                checkpoint, chosen, (kernel, rows, columns), precision, heatmap, sink, (lacking, left), beyond.counted
            )
    say_how_many_more(sink, beyond.rows, limit)
    end_with_problems(checkpoint)


class _Beyond(NamedTuple):
    """The layers that `--limit` leaves out.

    Attributes:
        rows: How many; 0 without a limit.
        notes: A line that says so, if there are any.
        counted: How many, for JSON; nothing without a limit.
    """

    rows: int
    notes: tuple[str, ...]
    counted: dict[str, int]


def _first(
    checkpoint: Checkpoint, found: list[Layer], sort: Sort | None, limit: int | None
) -> tuple[list[Layer], _Beyond]:
    """The layers to show, in order, and what is left out of them."""
    from convinspect.layers.order import sort_layers
    from convinspect.showing.footnotes import note_on_more

    chosen, beyond = first(sort_layers(checkpoint, found, None if sort is None else sort.value), limit)
    if limit is None:
        return list(chosen), _Beyond(0, (), {})
    notes = (note_on_more(len(beyond), limit),) if beyond else ()
    return list(chosen), _Beyond(len(beyond), notes, {"not_shown": len(beyond)})


def _check_part(part: Mapping[str, object], stats: bool) -> bool:
    """Whether any of these options is given, which choose the numbers to show.

    Raises:
        CannotShow: One is given together with `--stats`.
    """
    given = [option for option, value in part.items() if value is not None]
    if stats and given:
        raise CannotShow(f"{given[0]} chooses among numbers, of which --stats shows none", "leave one of them out")
    return bool(given)


class _Chosen(NamedTuple):
    """The layers to show.

    Attributes:
        layers: In the order of the file.
        lacking: Lines on numbers that are not in the file.
        left: A line on what is not shown, where nobody named a layer.
    """

    layers: list[Layer]
    lacking: tuple[str, ...]
    left: tuple[str, ...] = ()


def _choose(checkpoint: Checkpoint, named: list[str]) -> _Chosen:
    """The named layers, else all convolutions and Linear."""
    from convinspect.arrays.quantized import is_quantized
    from convinspect.kinds import QUANTIZED
    from convinspect.layers.find import find_layers
    from convinspect.layers.numberless import GATHER, emptied_line, is_emptied, lines_on_numbers
    from convinspect.layers.select import select
    from convinspect.showing.footnotes import note_on_left_out

    every = find_layers(checkpoint)
    if named:
        chosen = select(every, named)
        return _Chosen(chosen, lines_on_numbers(checkpoint, chosen))
    whole = [one for one in select(every) if one.kind not in QUANTIZED or is_quantized(one.weight)]
    chosen = [one for one in whole if not is_emptied(one)]
    emptied = "" if chosen else emptied_line(every)
    if emptied:
        raise CannotShow(emptied, GATHER)
    if not chosen and any(layer.kind in QUANTIZED for layer in every):
        raise CannotShow("its convolutions and Linear are quantized", "convinspect shapes FILE shows them")
    if not chosen:
        raise NotThere("it has no convolution and no Linear", "convinspect shapes FILE --all shows what it has")
    left = tuple(note_on_left_out(every, whole, "; '*' names every layer"))
    return _Chosen(chosen, lines_on_numbers(checkpoint, every), left)


def _show_kernels(
    checkpoint: Checkpoint,
    chosen: list[Layer],
    wanted: tuple[int | None, str | None, str | None],
    precision: int | None,
    heatmap: bool,
    sink: Sink,
    lines: tuple[tuple[str, ...], tuple[str, ...]],
    counted: Mapping[str, int],
) -> None:
    from dataclasses import replace

    from convinspect.arrays import kernels
    from convinspect.render.matrix import machine_table
    from convinspect.render.table import Block
    from convinspect.showing import weights as view

    lacking, left = lines
    # On a screen they stand once, below all.
    beside, below = (lacking, ()) if sink.for_machines else ((), (*lacking, *left))
    choice = kernels.Choice(*wanted)
    things: list[object] = []
    payloads: list[object] = []
    failed: list[ConvInspectError] = []
    for layer in chosen:
        try:
            if kernels.is_kernel(layer):
                kernel = kernels.load_kernel(layer)
                kernel = replace(kernel, notes=(*kernel.notes, *beside))
                matrices, notes = list(kernels.matrices(kernel, choice)), kernel.notes
                payloads.append(view.kernel_payload(kernel, choice))
            else:
                matrices, notes = list(kernels.other_tensors(layer, choice)), beside
                payloads.append(view.tensors_payload(layer, matrices))
        except ConvInspectError as error:
            failed.append(error)
            continue
        sliced = choice != kernels.Choice()
        # As with rows and columns: a requested slice is shown whole if no screen limits it.
        all_taps = sink.for_machines or (sliced and sink.space.width is None)
        for matrix in matrices if all_taps else view.elided(matrices):
            if isinstance(matrix, Block):
                things.append(matrix)
                continue
            shown = view.matrix_view(layer, matrix, notes if matrix is matrices[-1] else (), precision)
            if heatmap and not sink.for_machines:
                things.append(view.shown_heatmap(matrix, shown, sink.space, sink.color, sink.pictured))
            elif sink.for_machines:
                several = len(matrices) > 1 or len(chosen) > 1
                things.append(machine_table(view.labelled(shown, layer, matrix) if several else shown))
            else:
                things.append(view.shown_matrix(shown, sink.space, sink.color, sliced))
    if things:
        things += [Block((), notes=below)] if below else []
        sink.show(things, {"path": str(checkpoint.path), "root": checkpoint.root.path, "layers": payloads, **counted})
    _report(checkpoint, failed)


def _report(checkpoint: Checkpoint, failed: list[ConvInspectError]) -> None:
    """Report layers that could not be shown, one line each; the last is raised."""
    from convinspect.showing.flags import as_flag

    for error in failed[:-1]:
        say("error", error.at(checkpoint.path).line(as_flag))
    if failed:
        raise failed[-1]


def _show_stats(
    checkpoint: Checkpoint, chosen: list[Layer], lines: tuple[str, ...], sink: Sink, counted: Mapping[str, int]
) -> None:
    from convinspect.arrays import stats
    from convinspect.showing import weights as view

    shown: list[tuple[Layer, Stats]] = []
    failed: list[ConvInspectError] = []
    with reading_progress(sum(layer.weight.nbytes for layer in chosen), "reading") as advance:
        for layer, result in zip(chosen, stats.of_layers(chosen), strict=True):
            if isinstance(result, ConvInspectError):
                failed.append(result)
            else:
                shown.append((layer, result))
            advance(layer.weight.nbytes)
    if shown:
        notes = view.assumed_dims([layer for layer, _ in shown])
        payload = {**view.stats_payload(checkpoint, shown), **counted}
        sink.show(view.stats_table(checkpoint, shown, (*notes, *lines)), payload)
    _report(checkpoint, failed)
