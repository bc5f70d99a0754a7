"""`error:`, `warning:` and `note:` are coloured on a terminal, and plain wherever else they go."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from support.on_terminal import on_terminal
from support.paths import FIXTURES
from support.program import run

STNKD = FIXTURES / "pointnet_stnkd.pt"
MISSING = ("-m", "convinspect", "shapes", "gone.pt")
LINE = "gone.pt: there is no such file"


def test_an_error_is_red_on_a_terminal() -> None:
    assert on_terminal(*MISSING) == f"\x1b[1;31merror:\x1b[0m {LINE}\r\n"
    assert on_terminal(*MISSING, piped="stdout") == f"\x1b[1;31merror:\x1b[0m {LINE}\r\n"


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"NO_COLOR": "1", "FORCE_COLOR": "1"}])
def test_who_wants_no_colour_gets_none(env: dict[str, str]) -> None:
    assert on_terminal(*MISSING, env=env) == f"error: {LINE}\r\n"


def test_what_is_piped_is_plain_unless_colour_is_forced() -> None:
    assert run(*MISSING[2:]).stderr == f"error: {LINE}\n"
    assert run(*MISSING[2:], env={"FORCE_COLOR": "1"}).stderr == f"\x1b[1;31merror:\x1b[0m {LINE}\n"


def test_a_command_line_that_is_wrong_is_red_too() -> None:
    assert on_terminal("-m", "convinspect", "shape").startswith("\x1b[1;31merror:\x1b[0m no such command 'shape'")


def test_a_warning_is_yellow_and_a_note_blue(tmp_path: Path) -> None:
    torch.save({"k.weight": torch.zeros(2, 3, 3), "k.bias": torch.zeros(2)}, tmp_path / "wide.pt")
    words: tuple[object, ...] = ("convert", tmp_path / "wide.pt", "--to", "linear", "--dry-run")
    shown = on_terminal("-m", "convinspect", *words, piped="stdout")
    assert shown.startswith("\x1b[1;33mwarning:\x1b[0m nothing can be converted")
    assert run(*words).stderr.startswith("warning: nothing can be converted")
    # Strides of its own that the new file does not keep.
    state = {"a.weight": torch.zeros(4, 4).as_strided((4, 4, 1), (4, 1, 7))}
    torch.save(state, tmp_path / "strides.pt")
    words = ("convert", tmp_path / "strides.pt", "-o", tmp_path / "new.pt", "--to", "linear")
    shown = on_terminal("-m", "convinspect", *words, "--force", piped="stdout")
    assert shown.startswith("\x1b[1;36mnote:\x1b[0m 1 tensor (a.weight) has strides")
