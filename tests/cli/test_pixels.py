"""PNG and GIF without Pillow: one line with the remedy, before a command does anything."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from support.in_process import run_in_process
from support.paths import STNKD

COMMANDS = {
    "shapes": (STNKD,),
    "weights": (STNKD, "conv1", "--heatmap"),
    "verify": (STNKD,),
    "diff": (STNKD, STNKD),
    "compare": (STNKD,),
    "explain": (),
    "check": (STNKD,),
}


@pytest.mark.parametrize("suffix", [".png", ".gif", ".PNG"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_picture_of_pixels_needs_pillow_before_any_work(
    command: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if command == "check" and suffix != ".png":
        pytest.skip("check makes no GIF, and says so")
    for module in ("PIL", "PIL.Image", "PIL.ImageDraw"):
        monkeypatch.setitem(sys.modules, module, None)
    read: list[object] = []
    monkeypatch.setattr("convinspect.checkpoint.read_contents", lambda *given, **more: read.append(given))
    ended = run_in_process(monkeypatch, capsys, command, *COMMANDS[command], "-o", tmp_path / f"x{suffix}")
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert "need Pillow" in ended.err
    assert "pip install pillow" in ended.err
    assert not read
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["shapes", "weights"])
def test_with_pillow_the_same_is_drawn(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = pytest.importorskip("PIL.Image")
    for suffix in (".png", ".gif"):
        ended = run_in_process(monkeypatch, capsys, command, *COMMANDS[command], "-o", tmp_path / f"x{suffix}")
        assert ended.code == 0, ended.err
        with images.open(tmp_path / f"x{suffix}") as picture:
            assert min(picture.size) > 100
