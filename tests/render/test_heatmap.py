"""Heatmaps as pictures: each cell is where it belongs, in its colour, whatever the scheme; as signs; their legends."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from convinspect.render import heatmap as module
from convinspect.render.emit import color_depth, encodable
from convinspect.render.heatmap import Names, heatmap
from convinspect.render.picture import save
from convinspect.render.style import STEPS, Depth, cell_name
from convinspect.render.table import Block, Grid, pieces, plain

SVG = "{http://www.w3.org/2000/svg}"


def names(shape: tuple[int, int]) -> Names:
    return Names([f"out {i}" for i in range(shape[0])], [f"in {i}" for i in range(shape[1])])


def pictured(values: Any, titled: bool = False) -> Block:
    array = np.asarray(values)
    return heatmap(array, 100, 48, title="w", names=names(array.shape) if titled else None, pictured=True)


def steps_of(block: Block) -> list[list[int | None]]:
    assert isinstance(block.grid, Grid)
    return [list(row) for row in block.grid.steps]


def legend(block: Block) -> str:
    return "\n".join(map(plain, (*block.lines, *block.notes)))


def test_a_step_is_the_share_of_the_largest_magnitude() -> None:
    block = pictured([[-2.0, -1.0, 0.0], [0.5, 2.0, np.nan]])
    assert steps_of(block) == [[-STEPS, -STEPS // 2, 0], [STEPS // 4, STEPS, None]]
    assert "min -2, max 2" in legend(block)
    assert "not finite (NaN, Inf): 1" in legend(block)
    assert "clipped" not in legend(block)
    # The same numbers, negated, have the negated colours.
    opposite = steps_of(pictured([[2.0, 1.0, 0.0], [-0.5, -2.0, np.inf]]))
    assert opposite == [[None if s is None else -s for s in row] for row in steps_of(block)]


def test_few_outliers_do_not_grey_out_the_others_and_are_counted() -> None:
    values = np.tile([-0.5, 0.5], (50, 10))
    assert "clipped" not in legend(pictured(values))
    values[0, 0], values[1, 1], values[2, 2] = 1000, -300, 400
    block = pictured(values)
    steps = steps_of(block)
    assert (steps[0][0], steps[1][1], steps[3][0]) == (STEPS, -STEPS, -STEPS)
    assert "the scale ends at ±0.5" in legend(block)
    assert "clipped: 1 below, 2 above" in legend(block)
    assert "min -300, max 1000" in legend(block)
    # A tail as random numbers have it is no outlier.
    assert "clipped" not in legend(pictured(np.random.default_rng(0).standard_normal((256, 256))))


@pytest.mark.parametrize("width", [None, 40])
@pytest.mark.parametrize("color", [True, False])
def test_where_cells_are_means_the_legend_has_the_values_extremes_too(width: int | None, color: bool) -> None:
    values = np.tile(np.array([-1.0, 1.0, 0.5, 0.5], dtype=np.float32), (600, 300))
    values[3, 7], values[599, 1199] = 5, -3
    values[0, 0], values[1, 600] = np.nan, np.inf
    block = heatmap(values, width or 600, 40, color)
    said = " ".join(legend(block).split())
    assert "min -3, max 5; means from " in said
    low, high = (float(number) for number in re.findall(r"means from (\S+) to ([\d.]+)", said)[0])
    assert -3 < low <= high < 5
    assert "each cell is the mean" in said
    # Given means, they are not called values.
    assert "min" not in legend(heatmap(values[:4, :4], averaged=True))


def drawn_cells(path: Path) -> tuple[dict[tuple[int, int], str], dict[tuple[int, int], str]]:
    """Which colour an SVG has at each cell, and which title, read from its paths."""
    colours: dict[tuple[int, int], str] = {}
    titles: dict[tuple[int, int], str] = {}
    root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
    for group in root.iter(f"{SVG}g"):
        for one in group.findall(f"{SVG}path"):
            data, name = one.get("d") or "", one.get("class") or group.get("class") or ""
            square = re.fullmatch(r"M(\d+) (\d+)h1v1h-1z", data)
            if square:
                place = int(square[1]), int(square[2])
                colours[place], titles[place] = name, one.findtext(f"{SVG}title") or ""
            elif name.startswith("cell-") or name == "strange":
                at = row = 0
                for kind, first, second, run in re.findall(r"([Mm])(\d+) (\d+)(?:\.5)?h(\d+)", data):
                    at, row = (int(first), int(second)) if kind == "M" else (at + int(first), row)
                    for column in range(at, at + int(run)):
                        assert (column, row) not in colours, "a cell is drawn twice"
                        colours[column, row] = name
                    at += int(run)
    return colours, titles


@pytest.mark.parametrize("titled", [False, True])
def test_each_cell_is_drawn_where_it_belongs(titled: bool, tmp_path: Path) -> None:
    values = np.round(np.random.default_rng(1).standard_normal((13, 29)) * 2) / 2
    values[3, 4], values[12, 28] = np.nan, np.inf
    block = pictured(values, titled)
    save(block, tmp_path / "x.svg", "t")
    colours, titles = drawn_cells(tmp_path / "x.svg")
    largest = np.abs(values[np.isfinite(values)]).max()
    for (row, column), value in np.ndenumerate(values):
        expected = cell_name(round(value / largest * STEPS)) if np.isfinite(value) else "strange"
        assert colours[column, row] == expected, (row, column)
        if titled:
            assert titles[column, row] == f"out {row}, in {column}: {value:.4g}"
    assert len(colours) == values.size
    assert bool(titles) == titled


def test_the_svg_has_no_half_blocks_and_both_schemes(tmp_path: Path) -> None:
    block = pictured(np.eye(4) - 0.5)
    save(block, tmp_path / "x.svg", "t")
    text = (tmp_path / "x.svg").read_text(encoding="utf-8")
    assert "▀" not in text
    assert "█" not in text
    assert "prefers-color-scheme: dark" in text
    save(block, tmp_path / "x.html", "t")
    page = (tmp_path / "x.html").read_text(encoding="utf-8")
    assert "▀" not in page
    assert "█" not in page
    assert page.count("<path") == 2
    assert "var(--cell-16n)" in page


def test_a_large_kernel_is_a_small_file_and_a_larger_one_says_that_it_is_means(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    save(pictured(rng.standard_normal((256, 512)), titled=True), tmp_path / "x.svg", "t")
    assert (tmp_path / "x.svg").stat().st_size < 900_000
    assert "<title>out" not in (tmp_path / "x.svg").read_text(encoding="utf-8")
    for shape in ((2048, 512), (100, 3000), (3000, 3)):
        block = pictured(np.ones(shape), titled=True)
        assert f"{shape[0]} × {shape[1]} values; each cell is the mean of about" in legend(block)
        rows = steps_of(block)
        assert max(len(rows), len(rows[0])) <= module.MOST_ACROSS
        assert len(rows) * len(rows[0]) <= module.MOST_CELLS
    assert "mean" not in legend(pictured(np.ones((256, 512))))


def test_16_colours_show_signs() -> None:
    values = [[-1.0, -0.2, 0.0], [0.05, 0.3, 1.0], [np.nan, 0.9, -0.9]]
    block = heatmap(values, 80, 24, depth=Depth.BASIC)
    lines = list(map(plain, block.lines))
    assert lines[:3] == ["----··", "··++++", "??++--"]
    assert not any("cell(" in piece.style or "▀" in piece.text for line in block.lines for piece in pieces(line))
    styles = {piece.text: piece.style for piece in pieces(block.lines[0])}
    assert "bold" in next(piece.style for piece in pieces(block.lines[0]))
    assert styles["··"] == "dim"
    text = "\n".join(lines[4:])
    for mark in ("- from -0.1", "+ from 0.1", "bold from 0.4", "· near 0", "? not finite (NaN, Inf): 1"):
        assert mark in text
    for width in (40, 60, 80):
        narrow = heatmap(np.random.default_rng(0).standard_normal((20, 200)), width, 24, depth=Depth.BASIC)
        assert max(len(plain(line)) for line in (*narrow.lines, *narrow.notes)) <= width


def test_titles_of_cells_are_escaped(tmp_path: Path) -> None:
    block = heatmap([[1.0]], names=Names(["<b>&\x1b"], ["in"]), pictured=True)
    save(block, tmp_path / "x.svg", "t")
    _, titles = drawn_cells(tmp_path / "x.svg")
    assert titles == {(0, 0): "<b>&\\x1b, in: 1"}


def test_pixels_have_the_same_cells(tmp_path: Path) -> None:
    images = pytest.importorskip("PIL.Image")
    block = pictured([[-1.0, 0.0], [1.0, np.nan]])
    save(block, tmp_path / "x.png", "t")
    from convinspect.render.style import PALETTE, cell

    with images.open(tmp_path / "x.png") as picture:
        # Title and blank line above, 40 pixels to the left, 48 of each cell.
        seen = [picture.getpixel((40 + x * 48 + 24, 80 + 2 * 38 + y * 48 + 6)) for y in (0, 1) for x in (0, 1)]
    expected = [cell(-STEPS).dark, cell(0).dark, cell(STEPS).dark, PALETTE["strange"].dark]
    assert ["#{:02x}{:02x}{:02x}".format(*colour) for colour in seen] == expected


def test_what_a_terminal_says_of_its_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {
        ("xterm", ""): Depth.BASIC, ("linux", ""): Depth.BASIC, ("xterm-16color", ""): Depth.BASIC,
        ("xterm-256color", ""): Depth.INDEXED, ("", ""): Depth.INDEXED, ("tmux-256color", ""): Depth.INDEXED,
        ("xterm-256color", "truecolor"): Depth.TRUE, ("xterm", "24bit"): Depth.TRUE, ("xterm-direct", ""): Depth.TRUE,
    }  # fmt: skip
    for (term, colorterm), depth in said.items():
        monkeypatch.setenv("TERM", term)
        monkeypatch.setenv("COLORTERM", colorterm)
        assert color_depth() is depth, (term, colorterm)


def test_signs_stay_apart_where_the_encoding_is_ascii() -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    block = heatmap([[-1.0, 0.0, 1.0]], 80, 24, depth=Depth.BASIC)
    shown = "".join(encodable(plain(line), out) for line in block.lines[:1])
    assert shown == "--..++"
    bare = heatmap([[-1.0, -0.5, -0.2, 0.0, 0.2, 0.5, 1.0]], 14, 24, color=False)
    assert encodable(plain(bare.lines[0]), out) == "%%==--  ++**##"
