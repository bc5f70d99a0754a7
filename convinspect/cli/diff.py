"""`convinspect diff`."""

from __future__ import annotations

import sys
from dataclasses import replace
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
from convinspect.render.cells import safe
from convinspect.render.format import Format

if TYPE_CHECKING:
    from convinspect.checkpoint import Checkpoint
    from convinspect.render.table import Table

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
    if values and error is not None:
        raise CannotShow("--values compares two checkpoints, and --error stands for one", "drop one of them", path)
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
    from convinspect.diffing.checkpoints import diff as compare
    from convinspect.report.diff import difference_payload, difference_table, typed_lines

    total = sum(tensor.nbytes for one in (a, b) for tensor in one.tensors.values()) if values else 0
    with naming(a.path), reading_progress(total, "comparing") as advance:
        report = compare(a, b, values, advance)
    payload = difference_payload(a, b, report, rows[0])
    _show(difference_table(a, b, report, rows), payload, typed_lines(a, b, report), sink)
    return report.same


def _answered(a: Checkpoint, text: str, fold: bool, sink: Sink) -> bool:
    """Show what can be done about an error; whether nothing need be."""
    from convinspect.diffing.fixes import suggest_fixes
    from convinspect.diffing.load_error import read_error
    from convinspect.report.load_error import error_payload, error_table, error_typed

    report = suggest_fixes(a, read_error(text))
    _show(error_table(a, report, fold), error_payload(a, report), error_typed(a, report), sink)
    return report.same


def _show(table: Table, payload: object, typed: list[str], sink: Sink) -> None:
    """The result, and what to type: below it where a terminal would break the lines to its width, as a block that is
    copied as it is in Markdown, and else as the table's last lines.
    """
    from convinspect.render.table import Block

    if sink.output is None and sink.fmt is Format.table:
        sink.show(table, payload)
        for line in typed:
            print(safe(line))
    elif typed and ".md" in (f".{sink.fmt.value}", sink.output and sink.output.suffix.lower()):
        sink.show([table, Block(tuple(typed[1:]))], payload)
    else:
        sink.show(replace(table, summary=(*table.summary, *typed)), payload)


def _text(source: Path | None) -> str:
    """The error's text.

    Raises:
        NotThere: There is no such file.
    """
    if source is None or str(source) == "-":
        if sys.stdin.isatty():
            print("paste the error, then press Ctrl-D on a line of its own:", file=sys.stderr)
        return _decoded(sys.stdin.buffer.read(_MOST_TEXT))
    try:
        with source.open("rb") as file:
            return _decoded(file.read(_MOST_TEXT))
    except OSError as error:
        raise NotThere(
            f"it cannot be read: {error.strerror}", "give a text file, or - for standard input", source
        ) from None


def _decoded(text: bytes) -> str:
    """UTF-8, or UTF-16 where a mark at its beginning says so, as PowerShell writes what it redirects."""
    return text.decode("utf-16" if text[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", "replace")
