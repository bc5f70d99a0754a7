"""`convinspect check`."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from convinspect.cli.complaints import say
from convinspect.cli.options import ForceOption, WidthOption, path_argument
from convinspect.cli.output import Sink, check_output, reading_progress
from convinspect.errors import CannotShow, named
from convinspect.render.format import Format

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convinspect.checking.findings import Report


_SUFFIXES = (".sarif", ".json", ".txt", ".md", ".html", ".svg", ".png")


class CheckFormat(str, Enum):
    """How findings are written."""

    table = "table"
    json = "json"
    sarif = "sarif"


def check(
    paths: Annotated[list[Path], path_argument("PATH", "Checkpoints of any kind: files or folders.")],
    values: Annotated[bool, typer.Option("--values", help="Read every number too: NaN and Inf are found.")] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Of an address fetch all, its numbers too, and compare every checksum.")
    ] = False,
    fmt: Annotated[
        CheckFormat, typer.Option("--format", help="How to write the result; --json is short for json.")
    ] = CheckFormat.table,
    width: WidthOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Write to this file: .sarif, .json, .txt, .md, .html, .svg or .png."
        ),
    ] = None,
    force: ForceOption = False,
) -> None:
    """Is this file whole, and what would loading it elsewhere call?

    Exit code 0: nothing found, 1: something found, 2: it could not be read.

    Every checksum, header, offset and length is compared with the others, which torch.load does not do. Every name that
    the pickles ask for is compared with what torch.load(weights_only=True) admits; the others are listed with their
    place. Of an address no numbers are fetched without --full. Nothing in the file is run. A name
    may be harmless or not: no list can call a file safe.

    [bold]Examples[/bold]

      convinspect check model.pt

      convinspect check model.pt --values

      convinspect check downloads/*.pt --format json

      convinspect check model.safetensors.index.json -o findings.sarif
    """
    from convinspect.checking.findings import worst
    from convinspect.checking.scan import check as check_path
    from convinspect.checking.scan import work_of

    if output is not None and output.suffix.lower() not in _SUFFIXES:
        raise CannotShow(f"check cannot be kept as {output.name}", f"end it in one of {', '.join(_SUFFIXES)}")
    check_output(output, Format.json if fmt is CheckFormat.json else Format.table, paths, force)
    if output is not None and fmt is CheckFormat.sarif and output.suffix.lower() not in (".sarif", ".json"):
        raise CannotShow(f"--format sarif and --output {output.name} disagree", "end it in .sarif")
    with reading_progress(sum(work_of(path, values, full) for path in paths), "checking") as advance:
        reports = [check_path(path, values, advance, full) for path in paths]
    _show(reports, fmt, width, output)
    _print_unreadable(reports)
    if worst(reports):
        raise typer.Exit(worst(reports))


def _show(reports: Sequence[Report], fmt: CheckFormat, width: int | None, output: Path | None) -> None:
    from convinspect.render.data import json_text
    from convinspect.showing.check import check_payload, check_tables, verdict_lines
    from convinspect.showing.sarif import sarif_payload

    if fmt is CheckFormat.sarif or (output is not None and output.suffix.lower() == ".sarif"):
        sink = Sink(Format.json, width, output, "")
        if output is not None:
            sink.keep(json_text(sarif_payload(reports)), verdict_lines(reports))
        else:
            sink.show(None, sarif_payload(reports))
        return
    tables = check_tables(reports, kept=output is not None)
    if tables or fmt is CheckFormat.json or output is not None:
        form = Format.json if fmt is CheckFormat.json else Format.table
        Sink(form, width, output, "convinspect check").show(tables, check_payload(reports), verdict_lines(reports))


def _print_unreadable(reports: Sequence[Report]) -> None:
    """Print what could not be read to stderr, one line each."""
    sys.stdout.flush()
    for finding in (finding for report in reports for finding in report.findings if finding.code == "unreadable"):
        record = f"{finding.place.record}: " if finding.place.record else ""
        remedy = f"; {finding.remedy}" if finding.remedy else ""
        say("error", f"{named(finding.path)}: {record}{finding.message}{remedy}")
