"""The HTML page's buttons and keys, pressed in a real browser; PNG and GIF, read back by Pillow."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from convinspect.explaining.example import built_in
from convinspect.render.picture import save, save_steps
from convinspect.showing.explain import cell_focus, frame
from support.browser import chromium
from support.in_process import run

if TYPE_CHECKING:
    from selenium.webdriver import Chrome


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def visible(browser: Chrome) -> list[str]:
    """What the page shows of its steps."""
    return [one.text for one in browser.find_elements("css selector", "pre") if one.is_displayed()]


def test_buttons_and_keys_step_through_the_page(browser: Chrome, tmp_path: Path) -> None:
    done = run("explain", "-o", tmp_path / "x.html")
    assert done.returncode == 0, done.stderr
    browser.get((tmp_path / "x.html").as_uri())
    place = browser.find_element("id", "place")
    following, back, play = (browser.find_element("id", name) for name in ("next", "back", "play"))
    assert place.text == "1 of 24"
    (first,) = visible(browser)
    assert "[0.10]" in first
    back.click()
    assert place.text == "1 of 24", "there is nothing before the first"
    following.click()
    (second,) = visible(browser)
    assert place.text == "2 of 24"
    assert "[1.50]" in second
    back.click()
    assert visible(browser) == [first]
    body: Any = browser.find_element("css selector", "body")
    body.send_keys("\ue014")  # the right arrow
    assert visible(browser) == [second]
    # More often than there are steps; these presses are the page's own, since those from outside take long.
    browser.execute_script("for (let i = 0; i < 30; i++) document.getElementById('next').click()")
    assert place.text == "24 of 24", "there is nothing after the last"
    (last,) = visible(browser)
    assert "[1.40]" in last
    assert "·\n" not in last.partition("f[4,6]")[0].replace("f, result", "")
    play.click()
    deadline = time.monotonic() + 20
    while place.text == "24 of 24" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert place.text != "24 of 24", "play goes on from the start"


COLOURS = """
    return [...arguments[0].querySelectorAll('.active')].filter(one => one.textContent.trim())
        .map(one => getComputedStyle(one).backgroundColor)
"""
CORNER = """
    const corner = [...arguments[0].querySelectorAll('.bold')].find(one => one.textContent.trim() === '┏')
    const {x, y} = corner.getBoundingClientRect()
    return [Math.round(x), Math.round(y)]
"""


def test_the_window_moves_over_the_image_from_step_to_step(browser: Chrome, tmp_path: Path) -> None:
    """As the browser shows it: what is marked moves, its colours are those of the channels, and its lines meet."""
    run("explain", "--patches", "-o", tmp_path / "x.html")
    browser.get((tmp_path / "x.html").as_uri())
    assert browser.find_element("id", "place").text == "1 of 12"
    seen = []
    for _ in range(4):
        (step,) = (one for one in browser.find_elements("css selector", "pre") if one.is_displayed())
        # All at once, since each question to the browser takes long.
        colours = set(browser.execute_script(COLOURS, step))
        assert colours >= {"rgb(255, 216, 77)", "rgb(142, 203, 255)"}
        seen.append(tuple(browser.execute_script(CORNER, step)))
        size, line = (float(step.value_of_css_property(name)[:-2]) for name in ("font-size", "line-height"))
        assert line / size < 1.2
        for _ in range(3):
            browser.find_element("id", "next").click()
    (left, top), (right, bottom) = seen[0], seen[3]
    assert (left < right, top < bottom) == (True, True)
    assert seen == [(left, top), (right, top), (left, bottom), (right, bottom)]


def test_the_page_asks_for_nothing(browser: Chrome, tmp_path: Path) -> None:
    run("explain", "-o", tmp_path / "x.html")
    browser.get((tmp_path / "x.html").as_uri())
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


def test_png_shows_the_marked_cell(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    made = built_in(4)
    block = frame(made, cell_focus(2, 3), False, 118, [], (2, 2))
    save(block, tmp_path / "x.png", "title", 118)
    with image.open(tmp_path / "x.png") as picture:
        assert picture.size == (118 * 17 + 80, len(block.lines) * 38 + 2 * 38 + 120)
        assert picture.getpixel((2, picture.size[1] - 2)) == (22, 24, 29)
        colors = {color for _, color in picture.getcolors(1 << 24)}
        assert (255, 216, 77) in colors, "the colour that marks what is active"


def test_gif_has_a_picture_per_step(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    made = built_in(2)
    steps = [frame(made, cell_focus(1, j), False, 118, [], (2, 2)) for j in (1, 2, 3)]
    save_steps(steps, tmp_path / "x.gif", "title")
    with image.open(tmp_path / "x.gif") as picture:
        assert picture.n_frames == 3
        seen = []
        for n in range(3):
            picture.seek(n)
            seen.append(picture.convert("RGB").tobytes())
            assert picture.info["duration"] == (2700 if n == 2 else 900)
    assert len(set(seen)) == 3


def test_pictures_of_pixels_say_what_they_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from convinspect.errors import CannotShow
    from convinspect.render import raster
    from convinspect.render.table import Block

    tall = Block(tuple("line" for _ in range(1000)))
    with pytest.raises(CannotShow, match="too large"):
        save(tall, tmp_path / "x.png")
    monkeypatch.setattr(raster, "_FACES", [("no such font.ttf", "no such font.ttf")])
    with pytest.raises(CannotShow, match="no font of one width"):
        save(Block(("line",)), tmp_path / "x.png")
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(CannotShow, match="need Pillow"):
        save(Block(("line",)), tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []
