"""The commands in this process: as fast as the functions, and through `main`, which ends them as a user sees it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
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


@cache
def _built() -> tuple[Any, Any]:
    """The program's commands, each built once."""
    return typer.main.get_command(vars(sys.modules["convinspect.cli.main"])["app"]), cache(commands.load)


def run(
    *arguments: object, folder: Path | None = None, stdin: str | bytes | None = None
) -> subprocess.CompletedProcess[str]:
    """As `support.program.run`, in this process: for tests of what a command does, not of how a process ends.

    Where PyTorch is needed, as for anything that is saved as a plain state_dict, a process of its own takes seconds.

    Args:
        arguments: As on the command line.
        folder: Where it is called; the current one when None.
        stdin: What it can read; nothing when None.
    """
    words = [os.fsdecode(word) if isinstance(word, Path) else str(word) for word in arguments]
    given = stdin.encode() if isinstance(stdin, str) else stdin or b""
    with pytest.MonkeyPatch.context() as patch:
        group, load = _built()
        patch.setattr(sys.modules["convinspect.cli.main"], "app", group)
        patch.setattr(commands, "load", load)
        patch.setattr(sys, "argv", ["convinspect", *words])
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given), "utf-8"))
        output = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
        errors = io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace", write_through=True)
        patch.setattr(sys, "stdout", output)
        patch.setattr(sys, "stderr", errors)
        if folder is not None:
            patch.chdir(folder)
        try:
            main()
        except SystemExit as ended:
            # Not kept as pytest does, which would keep all that the program had in memory.
            code = ended.code
        else:
            pytest.fail("it did not exit")
    return subprocess.CompletedProcess(
        words, code if isinstance(code, int) else int(code is not None), _text(output), _text(errors)
    )


def command(folder: Path, *arguments: object, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """One call of the program in that folder."""
    return run(*arguments, folder=folder, stdin=stdin)


def _text(stream: io.TextIOWrapper) -> str:
    stream.seek(0)
    return stream.read()


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
