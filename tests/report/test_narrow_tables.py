"""What narrow terminals may not hide: shapes, notes such as "pointwise" and "patch", what an error was, the verdict."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
import torch
import typer
from torch import nn

import convinspect
from convinspect.cli.main import app
from support.paths import STNKD

WIDTHS = [24, 30, 50, 60, 80, 120]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    model = nn.ModuleDict({"patch_embed": nn.Conv2d(3, 32, 4, 4), "up": nn.Conv1d(6, 5, 1), "wide": nn.Conv1d(6, 5, 3)})
    torch.save(model.state_dict(), tmp_path / "a.pt")
    return tmp_path / "a.pt"


def shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int, command: str, *words: object
) -> str:
    """What a terminal of so many columns shows."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(width))
    with suppress(typer.Exit):
        app([command, *map(str, words)], prog_name="convinspect", standalone_mode=False)
    return capsys.readouterr().out


@pytest.mark.parametrize("width", WIDTHS)
def test_shapes_and_notes_are_there_at_any_width(
    file: Path, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = shown(monkeypatch, capsys, width, "shapes", file).partition("conv and linear")[0]
    assert all(shape in table for shape in ("(32, 3, 4, 4)", "(5, 6, 1)", "(5, 6, 3)"))
    assert "pointwise" in table
    assert "patch," in table
    plan = shown(monkeypatch, capsys, width, "convert", file, "--to", "linear", "-n")
    assert plan.index("1 layer to convert") < plan.index("(5, 6, 1)") < plan.index("(5, 6)")
    assert "its kernel" in plan


@pytest.mark.parametrize("width", WIDTHS)
def test_a_plan_has_both_shapes_of_a_large_layer_at_any_width(
    tmp_path: Path, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = nn.ModuleDict({"pw": nn.Conv1d(65536, 131072, 1, bias=False, device="meta"), "wide": nn.Conv1d(6, 5, 3)})
    torch.save(model.state_dict(), tmp_path / "a.pt")
    plan = shown(monkeypatch, capsys, width, "convert", tmp_path / "a.pt", "--to", "linear", "-n")
    table = plan.partition("In the model")[0]
    assert table.index("(131072, 65536, 1)") < table.index("(131072, 65536)")
    assert "assumed" in table
    if width < 60:
        # What is left has no shapes to show, so the reason has the line to itself.
        assert "\n  its kernel size" in table


@pytest.mark.parametrize("width", WIDTHS)
def test_what_the_error_was_is_there_at_any_width(
    tmp_path: Path, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "Error(s) in loading state_dict for M:\n\tsize mismatch for conv1.weight: copying a param with shape "
    text += "torch.Size([16, 8, 1]) from checkpoint, the shape in current model is torch.Size([16, 8])."
    (tmp_path / "e.txt").write_text(text, encoding="utf-8")
    report = shown(monkeypatch, capsys, width, "diff", STNKD, "--error", tmp_path / "e.txt")
    assert "size mismatch" in report.partition("\n\nA ")[2].replace("\n", " ")


@pytest.mark.parametrize("width", WIDTHS)
def test_the_verdict_of_verify_comes_first_on_a_terminal(
    tmp_path: Path, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    convinspect.convert(STNKD, tmp_path / "b.pt", to="linear")
    report = shown(monkeypatch, capsys, width, "verify", STNKD, tmp_path / "b.pt")
    assert report.index("equal") < report.index("conv1")
    assert report.count("strength:") == 1
