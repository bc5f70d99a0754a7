"""`explain --step`, `--animate` and moving pictures: which cells are shown, in which order, and where it stops."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from convinspect.explaining.example import built_in
from convinspect.render.cells import cell_width
from support.in_process import Ended, run_in_process
from support.program import without_wrote

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

Play = Callable[..., Ended]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Play:
    """A call on a terminal of 80 by 24 cells whose user presses `keys`, and where nobody waits."""
    monkeypatch.setenv("TERM", "xterm-256color")
    for name, size in (("COLUMNS", "80"), ("LINES", "24")):
        monkeypatch.setenv(name, size)
    monkeypatch.setattr("time.sleep", lambda seconds: None)

    def played(*words: Any, keys: str = "") -> Ended:
        for stream in ("stdin", "stdout"):
            monkeypatch.setattr(f"sys.{stream}.isatty", lambda: True, raising=False)
        typed = iter(keys)
        monkeypatch.setattr("typer.getchar", lambda: next(typed))
        return run_in_process(monkeypatch, capsys, "explain", *words)

    return played


def cells(ended: Ended) -> list[tuple[int, int]]:
    """Row and kernel of each step that was shown."""
    assert (ended.code, ended.err) == (0, "")
    return [(int(i), int(j)) for i, j in re.findall(r"f\[(\d+),(\d+)\] = ", _ESCAPES.sub("", ended.out))]


def test_each_key_shows_one_cell_more(play: Play) -> None:
    ended = play("--step", keys="  b2 q")
    assert cells(ended) == [(0, 0), (0, 1), (0, 2), (0, 1), (2, 0), (2, 1)]
    assert "q leaves" in ended.out


def test_a_step_holds_what_torch_computes(play: Play) -> None:
    made = built_in(4)
    expected = nn.functional.linear(torch.tensor(made.x), torch.tensor(made.w)[:, :, 0], torch.tensor(made.b))
    said = _ESCAPES.sub("", play("--step", "--row", "1", "--kernel", "4", keys="q").out)
    assert f"[{expected[1, 4].item():.2f}]" in said


def test_it_begins_where_it_is_told_to(play: Play) -> None:
    assert cells(play("--step", "--row", "3", "--kernel", "5", keys=" bq")) == [(3, 5), (3, 5), (3, 4)]
    ended = play("--step", "--row", "4", keys="q")
    assert ended.code == 2
    assert "there is no row 4" in ended.err


def _once(ended: Ended) -> list[tuple[int, int]]:
    """Rich draws the last step once more when it leaves it on the screen."""
    return list(dict.fromkeys(cells(ended)))


def test_an_animation_shows_all_and_ends(play: Play) -> None:
    every = [(i, j) for i in range(4) for j in range(6)]
    assert _once(play("--animate")) == every
    assert _once(play("--animate", "--row", "2")) == every[12:]


def test_an_animation_of_many_cells_ends_before_anyone_leaves(play: Play) -> None:
    shown = _once(play("--animate", "--rows", "50"))
    assert (len(shown), shown[-1]) == (100, (16, 3))


def patch_cells(ended: Ended) -> list[tuple[int, int]]:
    """Patch and kernel of each step that was shown."""
    assert (ended.code, ended.err) == (0, "")
    return [(int(i), int(j)) for i, j in re.findall(r"Y\[(\d+),(\d+)\] = ", _ESCAPES.sub("", ended.out))]


def test_patches_are_stepped_through_by_the_same_keys(play: Play) -> None:
    ended = play("--patches", "--step", keys="  b2 q")
    assert patch_cells(ended) == [(0, 0), (0, 1), (0, 2), (0, 1), (2, 0), (2, 1)]
    screen = _ESCAPES.sub("", ended.out)
    assert "q leaves" in screen
    assert screen.count("┏") == 2 * 6, "one window on each channel in each step"


def test_patches_are_played_and_end(play: Play) -> None:
    every = [(i, j) for i in range(4) for j in range(3)]
    assert list(dict.fromkeys(patch_cells(play("--patches", "--animate")))) == every
    assert list(dict.fromkeys(patch_cells(play("--patches", "--animate", "--as", "both", "--row", "3")))) == every[9:]


def test_a_step_of_a_large_layer_fits_the_terminal(play: Play, tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Conv1d(40, 30, 3)).state_dict(), tmp_path / "a.pt")
    ended = play(tmp_path / "a.pt", "0", "--step", "--rows", "30", keys="q")
    lines = _ESCAPES.sub("", ended.out).splitlines()
    assert len(lines) <= 24
    assert max(map(cell_width, lines)) <= 80


@pytest.mark.parametrize("how", ["--step", "--animate"])
def test_both_layouts_do_not_move(play: Play, how: str) -> None:
    ended = play(how, "--as", "both")
    assert ended.code == 2
    assert "both layouts do not fit one step" in ended.err


def test_piped_the_steps_are_the_usual_drawing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = run_in_process(monkeypatch, capsys, "explain")
    assert run_in_process(monkeypatch, capsys, "explain", "--step") == usual
    assert run_in_process(monkeypatch, capsys, "explain", "--animate") == usual


def test_a_moving_picture_has_a_frame_for_each_cell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    images = pytest.importorskip("PIL.Image")
    ended = run_in_process(monkeypatch, capsys, "explain", "--rows", "2", "-o", tmp_path / "x.gif")
    if "no font" in ended.err:
        pytest.skip(ended.err)
    assert (ended.code, without_wrote(ended.err)) == (0, "")
    with images.open(tmp_path / "x.gif") as picture:
        assert picture.n_frames == 12
        assert picture.info["loop"] == 0


@pytest.mark.parametrize("suffix", [".gif", ".png"])
def test_without_pillow_a_picture_ends_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, suffix: str
) -> None:
    for name in ("PIL", *(name for name in sys.modules if name.startswith("PIL."))):
        monkeypatch.setitem(sys.modules, name, None)
    ended = run_in_process(monkeypatch, capsys, "explain", "-o", tmp_path / f"x{suffix}")
    assert (ended.code, ended.out) == (2, "")
    assert (
        ended.err
        == "error: pictures in .png and .gif need Pillow; python -m pip install pillow, or end the name in .svg\n"
    )
    assert list(tmp_path.iterdir()) == []
