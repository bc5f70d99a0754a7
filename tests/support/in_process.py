"""The commands in this process: as fast as the functions, and through `main`, which ends them as a user sees it."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from typing import Any, NamedTuple

import pytest
import typer

from convinspect.cli import commands
from convinspect.cli.commands import SUMMARIES
from convinspect.cli.main import main


class Ended(NamedTuple):
    """How a command ended."""

    code: object
    out: str
    err: str


def build_commands_once(patch: pytest.MonkeyPatch | None = None) -> None:
    """For processes that call `main` thousands of times: Typer builds a command from its function at each call.

    Args:
        patch: Undoes it later; None where the process is for that alone.
    """
    module = sys.modules["convinspect.cli.main"]
    set_in = (patch or pytest.MonkeyPatch()).setattr
    set_in(module, "app", typer.main.get_command(vars(module)["app"]))
    set_in(commands, "load", cache(commands.load))


def build_every_command() -> None:
    """For processes that are forked, so that no child builds one."""
    build_commands_once()
    for name in SUMMARIES:
        commands.load(name)


def call_main(*words: Any) -> Ended:
    """One call of the program in a process that makes many, none of which changes what the next one finds."""
    sys.argv = ["convinspect", *map(str, words)]
    out, err = io.StringIO(), io.StringIO()
    code: object = "no exit"
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    return Ended(code, out.getvalue(), err.getvalue())


def run_in_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: Any) -> Ended:
    """One call of the program."""
    monkeypatch.setattr("sys.argv", ["convinspect", *map(str, words)])
    monkeypatch.setattr("gc.disable", lambda: None)
    with pytest.raises(SystemExit) as ended:
        main()
    return Ended(ended.value.code, *capsys.readouterr())
