"""`convinspect diff`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from convinspect.cli.options import (
    FoldOption,
    ForceOption,
    FormatOption,
    OutputOption,
    RootOption,
    WidthOption,
    path_argument,
)
from convinspect.cli.output import Sink, check_output, reading_progress
from convinspect.formats.sources import short_name
from convinspect.render.cells import safe
from convinspect.render.format import Format

if TYPE_CHECKING:
    from convinspect.diffing.differences import DiffReport
    from convinspect.diffing.fixes import ErrorReport
    from convinspect.render.table import Table


def diff(
    path: Annotated[Path, path_argument("A", "The checkpoint that is to be loaded.")],
    other: Annotated[Path | None, path_argument("B", "One that loads where A should.")] = None,
    error: Annotated[
        Path | None,
        typer.Option(
            "--error", metavar="FILE|-", help="Instead of B: the text of a loader's error; - is standard input."
        ),
    ] = None,
    values: Annotated[
        bool, typer.Option("--values", help="Read every number too: largest absolute and relative difference.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", "-a", help="List everything: every key, and what is the same too.")
    ] = False,
    fold: FoldOption = False,
    root: RootOption = None,
    fmt: FormatOption = Format.table,
    width: WidthOption = None,
    output: OutputOption = None,
    force: ForceOption = False,
) -> None:
    """Say why a checkpoint will not load where another does, and whether converting helps.

    Keys are paired after wrappers' prefixes (module., _orig_mod.) and a root that only one side has are removed; what
    was removed is reported, since load_state_dict removes nothing. What differs in rank only is the same numbers, and
    the command that converts it is given. Of many keys, there is
    a row for each cause. Only headers are read; --values reads the numbers, one tensor at a time.

    Without B, --error takes the text of an error (PyTorch's, transformers', …), with any text around it, broken by a
    console or not, and answers it line by line.

    Exit code 0: the same, 1: not.

    [bold]Examples[/bold]

      convinspect diff old.pt model_that_loads.pt

      convinspect diff before.safetensors after.safetensors --values

      convinspect diff model.pt --error - < error.txt

      convinspect diff model.pt --error error.txt --format json
    """
    from convinspect import api
    from convinspect.checkpoint import open_alike, open_whole
    from convinspect.diffing.options import check_options

    check_options(path, other, error, values)
    check_output(output, fmt, [path, other], force)
    a = open_whole(path, root)
    sink = Sink(fmt, width, output, f"convinspect diff {short_name(path)}")
    if other is None:
        same = _show_answers(api.diff(a, error=_error(error)), everything, fold, sink)
    else:
        b = open_alike(other, root)
        total = sum(tensor.nbytes for side in (a, b) for tensor in side.values()) if values else 0
        with reading_progress(total, "comparing") as advance:
            report = api.diff(a, b, values=values, progress=advance)
        same = _show_differences(report, everything, fold, sink)
    if not same:
        raise typer.Exit(1)


def _show_differences(report: DiffReport, everything: bool, fold: bool, sink: Sink) -> bool:
    """Show how two checkpoints differ; return whether they are the same."""
    from convinspect.showing.diff import Listing, difference_table
    from convinspect.showing.diff_payload import difference_payload
    from convinspect.showing.verdict import typed_lines

    listing = Listing(everything, fold, sink.for_machines)
    table = difference_table(report, listing)
    _show(table, lambda: difference_payload(report, everything), lambda: typed_lines(report), sink)
    return report.same


def _show_answers(report: ErrorReport, everything: bool, fold: bool, sink: Sink) -> bool:
    """Show what can be done about an error; return whether nothing needs to be."""
    from convinspect.showing.diff import Listing
    from convinspect.showing.load_error import error_payload, error_table, error_typed

    listing = Listing(everything, fold, sink.for_machines)
    _show(error_table(report, listing), lambda: error_payload(report), lambda: error_typed(report), sink)
    return report.same


def _show(table: Table, make: Callable[[], object], typed_by: Callable[[], list[str]], sink: Sink) -> None:
    """Show the result and the commands to type, which a payload has among its values.

    Printed text has the commands below the table, where they are not wrapped; Markdown has them as a block of code, and
    all other forms as the table's last lines.
    """
    from convinspect.render.table import Block

    payload, typed = (make(), []) if sink.wants_payload else (None, typed_by())
    if sink.output is None and sink.fmt is Format.table:
        sink.show(table, payload)
        for line in typed:
            print(safe(line))
    elif typed and ".md" in (f".{sink.fmt.value}", sink.output and sink.output.suffix.lower()):
        sink.show([table, Block(tuple(typed[1:]))], payload, table.lead[:1])
    else:
        sink.show(table._replace(summary=(*table.summary, *typed)), payload, table.lead[:1])


def _error(source: Path | None) -> str | Path:
    """The error's text if it comes from standard input, else the file with it."""
    from convinspect.diffing.load_error import decoded_error

    if source is not None and str(source) != "-":
        return source
    if sys.stdin.isatty():
        print("paste the error, then press Ctrl-D on a line of its own:", file=sys.stderr)
    return decoded_error(sys.stdin.buffer)
