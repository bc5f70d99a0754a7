"""Planes cut into boxes: lines meet, in text and in pictures."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from convinspect.render.boxes import Group, Row, Window, boxed, ruled
from convinspect.render.emit import emit
from convinspect.render.format import Format
from convinspect.render.marks import Mark, strokes
from convinspect.render.panels import LEFT_OUT
from convinspect.render.picture import save
from convinspect.render.style import Look
from convinspect.render.table import Block, Styled, plain

LOOK = Look()


def plane(window: Window | None) -> str:
    groups = [[0, 1], [2]], [[0], [1, LEFT_OUT]]
    lines = boxed(
        "a plane", groups, lambda i, j: Styled("…" if j == LEFT_OUT else f"{10 * i + 10 + j}"), window, "both"
    )
    return "\n".join(plain(line).rstrip() for line in lines)


def test_a_plane_is_cut_by_lines() -> None:
    assert plane(None).splitlines() == [
        "a plane",
        "    0    1 …",
        " ┌────┬──────┐",
        "0│ 10 │ 11 … │",
        "1│ 20 │ 21 … │",
        " ├────┼──────┤",
        "2│ 30 │ 31 … │",
        " └────┴──────┘",
    ]


def test_a_window_is_framed_over_the_lines() -> None:
    assert plane(Window((0, 1), "bold")).splitlines()[2:] == [
        " ┌────┏━━━━━━┓",
        "0│ 10 ┃ 11 … ┃",
        "1│ 20 ┃ 21 … ┃",
        " ├────┗━━━━━━┛",
        "2│ 30 │ 31 … │",
        " └────┴──────┘",
    ]
    assert plane(Window((1, 0), "bold")).splitlines()[5:] == [" ┏━━━━┓──────┤", "2┃ 30 ┃ 31 … │", " ┗━━━━┛──────┘"]


def test_rows_are_ruled_between_groups() -> None:
    groups = [Group("first", ("a", "b")), Group("", ("c",))]
    lines = ruled(["title"], groups, [Row("row 1", (("1.0", "2.0"), ("3.0",)), ("", "bold"))], 6, 3)
    assert [plain(line).rstrip() for line in lines] == [
        "title",
        "        first",
        "          a   b     c",
        "row 1 │ 1.0 2.0 │ 3.0",
    ]


@pytest.mark.parametrize(
    ("text", "arms"), [("│", "ud"), ("┌", "rd"), ("┼", "urdl"), ("┛", "ul"), ("━━", "lr"), ("┃", "ud")]
)
def test_arms_reach_the_edges_of_their_cell(text: str, arms: str) -> None:
    """Whatever the font: neighbours meet."""
    mark = Mark("line", text, 0, len(text), LOOK)
    reached = set()
    for x, y, wide, high in strokes(mark, 10, 19, 40, 59, 1):
        assert 10 <= x < x + wide <= 19
        assert 40 <= y < y + high <= 59
        reached |= {
            name
            for name, meets in (("l", x == 10), ("r", x + wide == 19), ("u", y == 40), ("d", y + high == 59))
            if meets
        }
    assert reached == set(arms)


BLOCK = Block(tuple(plane(Window((0, 1), "bold")).splitlines()))


def test_in_pictures_lines_are_drawn_and_numbers_are_text(tmp_path: Path) -> None:
    save(BLOCK, tmp_path / "x.svg", "title")
    page = (tmp_path / "x.svg").read_text(encoding="utf-8")
    words = "".join(re.findall(r"<text[^>]*>([^<]*)</text>", page))
    assert not set(words) & set("─│┌┬┐├┼┤└┴┘━┃┏┓┗┛")
    assert "30" in words
    # Lines that become thinner than a pixel are still drawn.
    assert "crispEdges" not in page


def test_png_has_lines_without_gaps(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    save(BLOCK, tmp_path / "x.png", "title")
    with image.open(tmp_path / "x.png") as picture:
        pixels = picture.convert("L")
        column = 40 + 17 + 17 // 2
        dark = [pixels.getpixel((column, y)) > 60 for y in range(80 + 2 * 38 + 22, 80 + 7 * 38 + 18)]
        assert all(dark)


def test_where_there_are_no_such_letters_others_stand_for_them() -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    emit(BLOCK, Format.table, out)
    out.flush()
    text = out.buffer.getvalue().decode("ascii")
    assert "0| 10 | 11 ~ |" in text
    assert " +----+======+" in text
