"""Pictures in pixels: what was drawn is there, and what hinders drawing is one error."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from convinspect.errors import CannotShow
from convinspect.render import raster
from convinspect.render.picture import save, save_steps
from convinspect.render.table import Block, Styled

images = pytest.importorskip("PIL.Image")

try:
    raster._faces()
except CannotShow as missing:
    pytest.skip(str(missing), allow_module_level=True)


def pixels(path: Path) -> Any:
    with images.open(path) as picture:
        return picture.convert("RGB")


def colours(picture: Any) -> set[tuple[int, int, int]]:
    return {colour for _, colour in picture.getcolors(1 << 24)}


def test_a_line_more_is_a_line_of_pixels_more_and_a_cell_a_cell(tmp_path: Path) -> None:
    sizes = []
    for number, lines in enumerate((("x" * 40,), ("x" * 40, "y"), ("x" * 41, "y"))):
        save(Block(lines), tmp_path / f"{number}.png", title="t")
        sizes.append(pixels(tmp_path / f"{number}.png").size)
    assert sizes[1] == (sizes[0][0], sizes[0][1] + raster._LINE)
    assert sizes[2] == (sizes[1][0] + raster._CELL, sizes[1][1])


@pytest.mark.parametrize("style", ["underline", "bold", "red on blue", "dim"])
def test_styles_are_seen(tmp_path: Path, style: str) -> None:
    for name, one in (("plain", ""), ("styled", style)):
        save(Block((Styled("word", one),)), tmp_path / f"{name}.png", title="t")
    plain, styled = (pixels(tmp_path / f"{name}.png") for name in ("plain", "styled"))
    assert plain.size == styled.size
    assert plain.tobytes() != styled.tobytes()


def test_rules_and_boxes_fill_their_cells(tmp_path: Path) -> None:
    """A full box is one rectangle of its colour; a rule is as wide as its cells."""
    save(Block((Styled("████", "#010203"), Styled("────", "#040506"))), tmp_path / "a.png", title="t")
    picture = pixels(tmp_path / "a.png")
    counted = {colour: number for number, colour in picture.getcolors(1 << 24)}
    assert counted[1, 2, 3] == 4 * raster._CELL * raster._LINE
    assert counted[4, 5, 6] == 4 * raster._CELL * 2


def test_a_gif_shows_each_step_and_one_alone(tmp_path: Path) -> None:
    save(Block(("only",)), tmp_path / "one.gif", title="t")
    save_steps([Block((f"step {n}",)) for n in range(3)], tmp_path / "three.gif", "t")
    found = []
    for name in ("one", "three"):
        with images.open(tmp_path / f"{name}.gif") as picture:
            found.append(getattr(picture, "n_frames", 1))
            stays = []
            for frame in range(found[-1]):
                picture.seek(frame)
                stays.append(picture.info["duration"])
    assert found == [1, 3]
    assert stays == [900, 900, 2700], "the last stays three times as long"


def test_a_font_without_a_bold_face_draws_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, bold = raster._faces()
    names = [(Path(plain.path).name, "gone.ttf")]  # type: ignore[arg-type]
    folders = [Path(plain.path).parent]  # type: ignore[arg-type]
    monkeypatch.setattr(raster, "_FACES", [("gone.ttf", "gone.ttf"), *names])
    monkeypatch.setattr(raster, "_folders", lambda: folders)
    alone = raster._faces()
    assert alone[0] is alone[1]
    assert alone[0].getname() == plain.getname()
    assert bold is not plain


def test_what_hinders_drawing_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    with pytest.raises(CannotShow, match="is too large"):
        save(Block(("x" * 2000,)), path, title="t")
    with monkeypatch.context() as patch:
        patch.setattr(raster, "_FACES", [("gone.ttf", "gone.ttf")])
        with pytest.raises(CannotShow, match="no font of one width"):
            save(Block(("x",)), path, title="t")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(CannotShow, match="need Pillow"):
        save(Block(("x",)), path, title="t")
    assert list(tmp_path.iterdir()) == []
