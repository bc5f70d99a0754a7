"""`convinspect recover`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convinspect.render.cells import safe
from convinspect.text import plural


def recover(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", readable=False, help="The file or folder that convert --in-place changed.")
    ],
) -> None:
    """Undo a convert --in-place that was interrupted: the file is as it was before.

    While a file is changed in place, the bytes that are written over lie in a journal beside it, called
    .NAME.convinspect-undo, or for a folder .convinspect-undo in it. If the edit is killed, or the power fails, the
    journal stays, and no command reads the file until its old bytes are restored. This may be interrupted and repeated,
    too.

    [bold]Examples[/bold]

      convinspect recover model.safetensors
    """
    from convinspect.writing.in_place.recover import recover as undo

    done = undo(path)
    for file in done.files:
        print(safe(f"{file}: as it was before the edit"))
    print(f"{plural(done.nbytes, 'byte')} restored; the journal is removed.")
