"""`convinspect report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convinspect.cli.options import ForceOption, PathArgument, RootOption, path_argument
from convinspect.cli.output import check_output, end_with_problems, reading_progress, wrote
from convinspect.errors import CannotShow
from convinspect.formats.sources import short_name
from convinspect.render.cells import safe
from convinspect.render.format import Format


def report(
    path: PathArgument,
    other: Annotated[Path | None, path_argument("B", "A second checkpoint, shown beside it.")] = None,
    values: Annotated[
        bool | None,
        typer.Option(
            "--values/--no-values",
            help="Read every number too; by default of files, and not of addresses.",
            show_default=False,
        ),
    ] = None,
    root: RootOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Write to this file; by default MODEL.report.html in this folder."
        ),
    ] = None,
    force: ForceOption = False,
) -> None:
    """Draw a model as one HTML page: its layers, module tree and kernels, and what could be converted.

    The page is a single file that opens without a network. Its table can be sorted and filtered; a row opens to the
    kernel's heatmap, histogram, norms and dead channels, and to the commands that convert the layer. With two
    checkpoints it shows how they differ, side by side.

    Numbers are read in blocks. Of an address only the headers are, unless --values is given.

    [bold]Examples[/bold]

      convinspect report model.pt

      convinspect report model.safetensors -o model.html --no-values

      convinspect report before.pt after.pt -o change.html
    """
    from convinspect import api
    from convinspect.checkpoint import open_alike, open_checkpoint, open_whole

    target = output or _default(path, other)
    if target.suffix.lower() not in (".html", ".htm"):
        raise CannotShow("a report is an HTML page", "end its name in .html", target)
    check_output(target, Format.table, (path, other), force)
    a = open_checkpoint(path, root) if other is None else open_whole(path, root)
    b = None if other is None else open_alike(other, root)
    nbytes = sum(each.totals().nbytes for each in (a, b) if each is not None)
    with reading_progress(0 if values is False else nbytes, "reading") as advance:
        page = api.report(a, b, values=values, progress=advance)
    page.save(target, force=force)
    if page.verdict:
        print(safe(page.verdict))
    wrote(target)
    end_with_problems(a)


def _default(path: Path, other: Path | None) -> Path:
    """Where the page goes: into the folder one is in, under the model's name."""
    names = [short_name(each).rstrip("/\\").replace("!", "_").replace("/", "_") for each in (path, other) if each]
    stems = [Path(name).stem if Path(name).suffix else name for name in names]
    return Path(f"{'_'.join(stems) or 'model'}.report.html")
