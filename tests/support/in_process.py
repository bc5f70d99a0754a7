"""The commands in this process: as fast as the functions, and through `main`, which ends them as a user sees it."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from convinspect.cli.main import main


class Ended(NamedTuple):
    """How a command ended."""

    code: object
    out: str
    err: str


def called(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: Any) -> Ended:
    """One call of the program."""
    monkeypatch.setattr("sys.argv", ["convinspect", *map(str, words)])
    monkeypatch.setattr("gc.disable", lambda: None)
    with pytest.raises(SystemExit) as ended:
        main()
    return Ended(ended.value.code, *capsys.readouterr())
