"""`convinspect diff`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from convinspect.cli.options import (
    FormatOption,
    OutputOption,
    RootOption,
    Sink,
    WidthOption,
    check_output,
    naming,
    opened_alike,
    reading_progress,
    whole,
)
from convinspect.errors import CannotShow, NotThere
from convinspect.view.format import Format
from convinspect.view.text import safe

if TYPE_CHECKING:
    from convinspect.checkpoint import Checkpoint

_MOST_TEXT = 64 << 20
"""Characters of an error that are read; a log of more is no error."""


def diff(
    path: Annotated[Path, typer.Argument(metavar="A", readable=False, help="The checkpoint that is to be loaded.")],
    other: Annotated[
        Path | None, typer.Argument(metavar="[B]", readable=False, help="One that loads where A should.")
    ] = None,
    error: Annotated[
        Path | None,
        typer.Option(
            "--error", metavar="FILE|-", help="Instead of B: the text of load_state_dict's error; - is standard input."
        ),
    ] = None,
    values: Annotated[
        bool, typer.Option("--values", help="Compare the numbers too: largest absolute and relative difference.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", "-a", help="List what is the same too.")] = False,
    fold: Annotated[bool, typer.Option("--fold", help="One row for repeated blocks, as encoder.{0–11}.conv.")] = False,
    root: RootOption = None,
    fmt: FormatOption = Format.table,
    width: WidthOption = None,
    output: OutputOption = None,
) -> None:
    """Say why a checkpoint will not load where another does, and whether converting helps. Exit code 0: same, 1: not.

    Keys are paired after wrappers' prefixes (module., _orig_mod.) and a root that only one side carries are taken off;
    what was taken off is told, since load_state_dict takes nothing off. What differs in rank only is the same numbers,
    and the command that converts it is given. Only headers are read; --values reads the numbers, one tensor at a time.

    Without B, --error takes the text of PyTorch's error, with whatever stands around it, and answers it line by line.

    [bold]Examples[/bold]

      convinspect diff old.pt model_that_loads.pt

      convinspect diff before.safetensors after.safetensors --values

      convinspect diff model.pt --error - < error.txt

      convinspect diff model.pt --error error.txt --format json
    """
    from convinspect.checkpoint import open_checkpoint

    if (other is None) == (error is None):
        raise CannotShow(
            "there is nothing to compare it with"
            if other is None
            else "B and --error say both what to compare it with",
            "give a second checkpoint or --error",
            path,
        )
    check_output(output, fmt, path)
    a = whole(open_checkpoint(path, root))
    sink = Sink(fmt, width, output, f"convinspect diff {path.name}")
    if other is None:
        same = _answered(a, _text(error), fold, sink)
    else:
        check_output(output, fmt, other)
        same = _compared(a, whole(opened_alike(other, root)), values, (everything, fold), sink)
    if not same:
        raise typer.Exit(1)


def _compared(a: Checkpoint, b: Checkpoint, values: bool, rows: tuple[bool, bool], sink: Sink) -> bool:
    """Show how two checkpoints differ; whether they are the same."""
    from convinspect.diff import diff as compare
    from convinspect.view.differences import difference_payload, difference_table, typed_lines

    total = sum(tensor.nbytes for one in (a, b) for tensor in one.tensors.values()) if values else 0
    with naming(a.path), reading_progress(total, "comparing") as advance:
        report = compare(a, b, values, advance)
    typed, below = _placed(typed_lines(a, b, report), sink)
    sink.show(difference_table(a, b, report, rows, typed), difference_payload(a, b, report, rows[0]))
    _print(below)
    return report.same


def _answered(a: Checkpoint, text: str, fold: bool, sink: Sink) -> bool:
    """Show what can be done about an error; whether nothing need be."""
    from convinspect.load_errors import answer_error, read_error
    from convinspect.view.answers import error_payload, error_table, error_typed

    report = answer_error(a, read_error(text))
    typed, below = _placed(error_typed(a, report), sink)
    sink.show(error_table(a, report, fold, typed), error_payload(a, report))
    _print(below)
    return report.same


def _placed(lines: list[str], sink: Sink) -> tuple[list[str], list[str]]:
    """Lines to type, as a part of the table or, on a terminal that would break them to its width, printed below it."""
    return ([], lines) if sink.fmt is Format.table and sink.output is None else (lines, [])


def _print(lines: list[str]) -> None:
    for line in lines:
        print(safe(line))


def _text(source: Path | None) -> str:
    """The error's text.

    Raises:
        NotThere: There is no such file.
    """
    if source is None or str(source) == "-":
        if sys.stdin.isatty():
            print("paste the error, then press Ctrl-D on a line of its own:", file=sys.stderr)
        return sys.stdin.buffer.read(_MOST_TEXT).decode("utf-8", "replace")
    try:
        with source.open("rb") as file:
            return file.read(_MOST_TEXT).decode("utf-8", "replace")
    except OSError as error:
        raise NotThere(
            f"it cannot be read: {error.strerror}", "give a text file, or - for standard input", source
        ) from None
