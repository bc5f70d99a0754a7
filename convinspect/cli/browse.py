"""`convinspect browse`."""

from __future__ import annotations

import os
import sys

from convinspect.cli.options import PathArgument, RootOption
from convinspect.errors import CannotShow


def browse(path: PathArgument, root: RootOption = None) -> None:
    """Explore a saved model in the terminal: its modules, shapes, numbers, and what could be converted.

    Nothing in the file is run, and numbers are read only where they are asked for. The keys stand in the last line; ?
    explains them all. It needs textual: python -m pip install textual.

    [bold]Examples[/bold]

      convinspect browse model.pt

      convinspect browse model.ckpt --root ema
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("TERM") == "dumb":
        raise CannotShow("browse needs a terminal", "convinspect shapes FILE lists the layers anywhere")
    from convinspect.browsing.app import Browser
    from convinspect.browsing.model import open_model

    browser = Browser(open_model(path, root))
    browser.run()
    if browser.failure is not None:
        raise browser.failure
