"""The explorer, with keys and the mouse, on a terminal that Textual plays."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import torch

pytest.importorskip("textual")

from textual.events import Key
from textual.pilot import Pilot
from textual.widgets import Input

from convinspect.browsing.app import Browser
from convinspect.browsing.bars import Bar, Keys
from convinspect.browsing.dialogs import Choice, Help
from convinspect.browsing.kernel_screen import KernelScreen
from convinspect.browsing.model import open_model
from convinspect.browsing.sheet import SheetView
from convinspect.browsing.views import Page
from support.hostile import cut
from support.paths import FIXTURES

Steps = Callable[[Browser, Pilot[None]], Awaitable[None]]

STNKD = FIXTURES / "pointnet_stnkd.pt"
HOSTILE = "[red]a[/red].\x1b[31mb.\u202ec\n[@click=app.quit]d"
"""A name with markup of Rich and of Textual, a terminal's escape, a bidirectional override and a line end."""


def browse(path: Path, steps: Steps, size: tuple[int, int] = (80, 24), root: str | None = None) -> None:
    """Open a file, and take some steps on its screen."""

    async def session() -> None:
        browser = Browser(open_model(path, root))
        async with browser.run_test(size=size) as pilot:
            await pilot.pause()
            await steps(browser, pilot)

    asyncio.run(session())


def screen_text(browser: Browser) -> str:
    """What is on the whole screen, line by line."""
    return "\n".join("".join(segment.text for segment in strip) for strip in browser.screen._compositor.render_strips())


def status(browser: Browser) -> str:
    return browser.screen.query_one("#status", Bar).text


async def read(browser: Browser, pilot: Pilot[None]) -> KernelScreen:
    """Wait until the numbers of the screen on top are there, or until it says why not."""
    screen = browser.screen
    assert isinstance(screen, KernelScreen)
    for _ in range(200):
        await pilot.pause(0.01)
        if screen.numbers is not None or status(browser).startswith("error"):
            return screen
    raise AssertionError(f"nothing was read: {status(browser)!r}")


def saved(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    torch.save(tensors, path)
    return path


# ------------------------------------------------------------------------------------------------- tree and facts


def test_the_first_screen_shows_layers_shapes_sums_and_keys() -> None:
    async def steps(browser: Browser, pilot: Pilot[None]) -> None:
        text = screen_text(browser)
        for part in ("pointnet_stnkd.pt", "3 pointwise", "3,900 parameters", "conv1", "(16, 8, 1)", "q quit", "? help"):
            assert part in text
        assert browser.current is not None
        assert browser.current.name == "conv1"
        for _ in range(100):
            # What it could become is worked out beside the screen, later on a busy machine.
            await pilot.pause(0.05)
            if "Linear (16, 8)" in browser.pane.text:
                break
        assert "Linear (16, 8)" in browser.pane.text
        await pilot.press("down", "down", "down")
        assert browser.pane.text.startswith("fc1")
        assert "40 → 24" in browser.pane.text

    browse(STNKD, steps)


def test_modules_open_and_close_by_key_and_by_mouse(tmp_path: Path) -> None:
    names = [f"enc.{n}.{part}.weight" for n in range(30) for part in ("fc", "out")]
    path = saved(tmp_path / "m.pt", {name: torch.zeros(2, 2) for name in names})

    async def steps(browser: Browser, pilot: Pilot[None]) -> None:
        assert len(browser.outline.rows) == 31
        await pilot.press("left")
        assert [row.node.path for row in browser.outline.rows] == ["enc"]
        assert "60: Linear ×60" in browser.pane.text
        await pilot.press("right", "right", "right")
        assert [row.node.path for row in browser.outline.rows][:3] == ["enc", "enc.0", "enc.0.fc"]
        await pilot.press("right", "left", "left")
        assert browser.row is not None
        assert browser.row.node.path == "enc.0"
        assert not browser.row.is_open
        await pilot.click("#tree", offset=(4, 3))
        assert browser.row.node.path == "enc.2"
        await pilot.click("#tree", offset=(4, 3))
        assert browser.row.is_open
        await pilot.press("end")
        assert browser.row.node.path == "enc.29"
        assert "29" in screen_text(browser)

    browse(path, steps)


def test_a_chain_of_modules_is_one_row_that_is_opened_searched_and_chosen_as_one(tmp_path: Path) -> None:
    state = {f"model.layers.{n}.{part}.weight": torch.zeros(2, 2) for n in range(3) for part in ("att.proj", "mlp")}
    path = saved(tmp_path / "m.pt", state | {"head.out.conv.weight": torch.zeros(4, 2, 1)})

    async def steps(browser: Browser, pilot: Pilot[None]) -> None:
        names = [line.replace("▾", " ").split()[0] for line in screen_text(browser).split("\n")[1:4]]
        assert names == ["model.layers", "0", "att.proj"]
        assert [row.node.path for row in browser.outline.rows[-2:]] == ["model.layers.2.mlp", "head.out.conv"]
        await pilot.press("left")
        assert browser.pane.text.startswith("model.layers")
        assert "6: Linear ×6" in browser.pane.text
        assert len(browser.outline.rows) == 2
        await pilot.press("slash", *"s.2.att", "enter")
        assert [row.node.name for row in browser.outline.rows] == ["model.layers", "2", "att.proj"]
        assert browser.current is not None
        assert browser.current.name == "model.layers.2.att.proj"
        await pilot.press("c")
        assert "--layer model.layers.2.att.proj" in browser.clipboard
        await pilot.press("escape")
        assert browser.current.name == "model.layers.2.att.proj"
        await pilot.press("left")
        assert browser.row is not None
        assert browser.row.node.path == "model.layers.2"
        await pilot.press("p")
        assert [row.node.path for row in browser.outline.rows] == ["head.out.conv"]
        assert browser.current.name == "head.out.conv"
        await pilot.press("enter")
        screen = await read(browser, pilot)
        assert screen.query_one("#head", Bar).text.startswith("head.out.conv")

    browse(path, steps)


def test_a_chain_of_modules_has_the_room_of_the_kind_that_it_lacks(tmp_path: Path) -> None:
    names = [f"decoder.transformer_blocks.{n}.{part}.weight" for n in range(2) for part in ("fc", "out")]
    path = saved(tmp_path / "m.pt", {name: torch.zeros(2, 2) for name in names})

    async def steps(browser: Browser, pilot: Pilot[None]) -> None:
        first, second, third = screen_text(browser).split("\n")[1:4]
        assert first.startswith("▾ decoder.transformer_blocks ")
        assert first.index("4 tensors") == second.index("2 tensors") == third.index("(2, 2)")

    browse(path, steps)


def test_ties_notes_and_what_stays_are_told(tmp_path: Path) -> None:
    table = torch.zeros(9, 4)
    path = saved(tmp_path / "m.pt", {"embed.weight": table, "lm_head.weight": table, "bn.running_mean": torch.zeros(4)})

    async def steps(browser: Browser, pilot: Pilot[None]) -> None:
        await pilot.press("down")
        await pilot.pause(0.3)
        assert browser.current is not None
        assert browser.current.name == "lm_head"
        assert "tied to   embed.weight" in browser.pane.text

    browse(path, steps)


# ------------------------------------------------------------------------------------------------- finding


def test_a_search_narrows_the_tree_while_it_is_typed() -> None:
    async def steps(browser: Browser, pilot: Pilot[None]) -> None:
        await pilot.press("slash", "f", "c")
        assert [row.node.path for row in browser.outline.rows] == ["fc1", "fc2", "fc3"]
        await pilot.press("2")
        assert [row.node.path for row in browser.outline.rows] == ["fc2"]
        await pilot.press("enter")
        assert status(browser) == "“fc2”: 1 of 11 layers; esc shows all"
        assert browser.current is not None
        assert browser.current.name == "fc2"
        await pilot.press("escape")
        assert len(browser.outline.rows) == 11
        assert browser.current.name == "fc2"
        await pilot.press("slash", *"zzz", "escape")
        assert len(browser.outline.rows) == 11
        await pilot.press("slash", *"zzz", "enter")
        assert "0 of 11" in status(browser)
        await pilot.press("down", "c", "space", "enter", "left")
        assert browser.row is None
        await pilot.press("escape")

    browse(STNKD, steps)


def test_layers_of_one_kind_are_chosen_from_a_list_with_counts() -> None:
    async def steps(browser: Browser, pilot: Pilot[None]) -> None:
        await pilot.press("f")
        assert isinstance(browser.screen, Choice)
        assert "pointwise · 3" in screen_text(browser)
        assert "BatchNorm1d · 5" in screen_text(browser)
        await pilot.press("end", "enter")
        assert [row.node.path for row in browser.outline.rows] == [f"bn{n}" for n in range(1, 6)]
        await pilot.press("p")
        assert [row.node.path for row in browser.outline.rows] == ["conv1", "conv2", "conv3"]
        await pilot.press("p")
        assert len(browser.outline.rows) == 11

    browse(FIXTURES / "pointnet_stnkd_module.pt", steps)


def test_what_is_typed_before_the_search_is_open_is_typed_into_it() -> None:
    async def steps(browser: Browser, pilot: Pilot[None]) -> None:
        # As a terminal sends what was pasted, or typed while the program was busy: "c" and "q" are no commands here.
        for key, character in (("slash", "/"), ("c", "c"), ("o", "o"), ("n", "n"), ("q", "q")):
            browser.post_message(Key(key, character))
        await pilot.pause()
        await pilot.pause()
        assert browser.query_one("#search", Input).value == "conq"
        assert browser.shown_layers() == []
        await pilot.press("backspace", "enter")
        assert [layer.name for layer in browser.shown_layers()] == ["conv1", "conv2", "conv3"]

    browse(STNKD, steps)


def test_a_search_and_a_kind_hold_together(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pt", {"a.conv.weight": torch.zeros(2, 2, 1), "b.conv.weight": torch.zeros(2, 2, 3)})

    async def steps(browser: Browser, pilot: Pilot[None]) -> None:
        await pilot.press("p", "slash", "b", "enter")
        assert browser.outline.rows == []
        await pilot.press("p")
        assert [row.node.path for row in browser.outline.rows] == ["b.conv"]

    browse(path, steps)


# ------------------------------------------------------------------------------------------------- numbers


def test_numbers_are_drawn_and_listed_and_layers_follow_each_other() -> None:
    weights = torch.load(STNKD, weights_only=True)

    async def steps(browser: Browser, pilot: Pilot[None]) -> None:
        await pilot.press("enter")
        screen = await read(browser, pilot)
        assert "16 rows × 8 columns" in status(browser)
        largest = weights["conv1.weight"].abs().max().item()
        assert f"{largest:.4g}" in screen_text(browser)
        assert f"mean {weights['conv1.weight'].mean().item():.4g}" in screen.query_one("#stats", Page).text
        await pilot.press("v")
        await pilot.pause()
        assert f"{weights['conv1.weight'][0, 0, 0].item():.4f}" in screen_text(browser)
        assert "out 15" in screen_text(browser)
        await pilot.press("n")
        await read(browser, pilot)
        assert screen.query_one("#head", Bar).text.startswith("conv2")
        await pilot.press("p", "p")
        assert "no further layer" in status(browser)
        await pilot.press("n", "n", "escape")
        assert browser.current is not None
        assert browser.current.name == "conv3"

    browse(STNKD, steps)


def test_taps_of_a_kernel_follow_each_other_and_the_table_scrolls(tmp_path: Path) -> None:
    weight = torch.randn(50, 60, 3)
    path = saved(tmp_path / "m.pt", {"c.weight": weight, "d.weight": torch.ones(3, 4)})

    async def steps(browser: Browser, pilot: Pilot[None]) -> None:
        await pilot.press("enter", "enter")
        await pilot.press("down", "enter")
        screen = await read(browser, pilot)
        assert "tap 0 of 3" in status(browser)
        assert "each cell is the mean of about" in screen.query_one("#sheet", SheetView).text
        await pilot.press("right_square_bracket", "v")
        assert "tap 1 of 3" in status(browser)
        await pilot.press("end")
        await pilot.pause()
        sheet = screen.query_one("#sheet", SheetView)
        assert "out 49" in sheet.text
        assert "in 0" in sheet.text
        assert "in 59" not in sheet.text
        sheet.scroll_to(sheet.max_scroll_x, 0, animate=False)
        await pilot.pause()
        assert "in 59" in sheet.text
        assert "out 0" in sheet.text

    browse(path, steps)


def test_moving_on_gives_up_what_is_being_read(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    from convinspect.browsing import numbers

    given_up: list[str] = []
    started = threading.Event()
    original = numbers.read_numbers

    def slow(checkpoint: object, layer: object, stopped: Callable[[], bool]) -> object:
        if layer.name == "conv1":  # type: ignore[attr-defined]
            started.set()
            for _ in range(1000):
                if stopped():
                    given_up.append("conv1")
                    raise numbers.Stopped
                threading.Event().wait(0.002)
        return original(checkpoint, layer, stopped)  # type: ignore[arg-type]

    monkeypatch.setattr(numbers, "read_numbers", slow)

    async def steps(browser: Browser, pilot: Pilot[None]) -> None:
        await pilot.press("enter")
        await pilot.pause()
        assert started.wait(2)
        await pilot.press("n")
        screen = await read(browser, pilot)
        assert screen.query_one("#head", Bar).text.startswith("conv2")
        assert "24 rows × 16 columns" in status(browser)
        await pilot.pause(0.05)
        assert given_up == ["conv1"]

    browse(STNKD, steps)


# ------------------------------------------------------------------------------------------------- doing


def test_the_command_that_is_copied_converts_this_layer(tmp_path: Path) -> None:
    import shlex

    from support.program import run

    path = saved(tmp_path / "a model.pt", {"conv.weight": torch.randn(4, 3, 1), "fc.weight": torch.randn(5, 4)})

    async def steps(browser: Browser, pilot: Pilot[None]) -> None:
        await pilot.press("c")
        command = shlex.split(browser.clipboard)
        assert command[:2] == ["convinspect", "convert"]
        assert browser.clipboard in status(browser)
        assert browser.clipboard.split(" ", 2)[0] in screen_text(browser)
        assert run(*command[1:], fresh=True).returncode == 0

    browse(path, steps)
    made = torch.load(tmp_path / "a model_converted.pt", weights_only=True)
    assert made["conv.weight"].shape == (4, 3)
    assert made["fc.weight"].shape == (5, 4)


def test_where_nothing_can_be_converted_the_reason_is_told() -> None:
    async def steps(browser: Browser, pilot: Pilot[None]) -> None:
        await pilot.press("end", "c")
        assert browser.clipboard == ""
        assert "stays BatchNorm1d" in status(browser)

    browse(FIXTURES / "pointnet_stnkd_module.pt", steps)


def test_reasons_name_options_as_they_are_typed(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pt", {"dw.weight": torch.zeros(8, 1, 1), "dw.bias": torch.zeros(8)})

    async def steps(browser: Browser, pilot: Pilot[None]) -> None:
        await pilot.press("c")
        await pilot.pause(0.2)
        told = status(browser) + browser.pane.text
        assert "layer=" not in told
        assert "groups=" not in told

    browse(path, steps)


def test_another_root_is_chosen_by_key() -> None:
    async def steps(browser: Browser, pilot: Pilot[None]) -> None:
        assert "r chooses another" in status(browser)
        await pilot.press("r")
        assert isinstance(browser.screen, Choice)
        assert "optimizer_states.0 · optimizer · 8 tensors" in screen_text(browser)
        await pilot.press("end", "enter")
        await pilot.pause()
        assert browser.model.checkpoint.root.role == "optimizer"
        assert "optimizer_states.0" in screen_text(browser)
        await pilot.press("r", "home", "enter")
        await pilot.pause()
        assert browser.model.checkpoint.root.role == "model"

    browse(FIXTURES / "lightning.ckpt", steps, size=(100, 30))


def test_keys_in_the_last_line_can_be_clicked() -> None:
    async def steps(browser: Browser, pilot: Pilot[None]) -> None:
        line = screen_text(browser).split("\n")[-1]
        await pilot.click("#keys", offset=(line.index("? help") + 3, 0))
        assert isinstance(browser.screen, Help)

    browse(STNKD, steps)


def test_help_names_every_key_that_does_something() -> None:
    async def steps(browser: Browser, pilot: Pilot[None]) -> None:
        await pilot.press("question_mark")
        assert isinstance(browser.screen, Help)
        text = browser.screen.query_one("#help", Page).text
        for binding in (*Browser.BINDINGS, *KernelScreen.BINDINGS):
            key = binding.key if not isinstance(binding, tuple) else binding[0]
            shown = {"slash": "/", "question_mark": "?", "escape": "esc", "right,l": "→", "left,h": "←",
                     "left_square_bracket": "[", "right_square_bracket": "]"}.get(key, key)  # fmt: skip
            assert shown in text or key == "slash,f,r,space", key
        await pilot.press("escape")
        assert not isinstance(browser.screen, Help)

    browse(STNKD, steps)


# ------------------------------------------------------------------------------------------------- sizes and colours


@pytest.mark.parametrize("size", [(40, 20), (40, 10), (80, 24), (120, 40), (20, 6)])
def test_every_size_shows_names_and_keys_and_can_be_changed(size: tuple[int, int]) -> None:
    async def steps(browser: Browser, pilot: Pilot[None]) -> None:
        await pilot.press("c", "enter")
        await read(browser, pilot)
        await pilot.press("v", "v", "escape")
        text = screen_text(browser)
        assert "conv1" in text
        keys = [key.key for key in browser.query_one("#keys", Keys).shown]
        assert keys[:2] == ["/", "⏎"]
        assert size[0] < 40 or {"c", "?", "q"} <= set(keys)
        assert all(len(line) <= size[0] for line in text.split("\n"))
        await pilot.resize_terminal(130, 30)
        await pilot.pause(0.05)
        assert browser.screen.has_class("-wide")
        assert browser.pane.region.x > browser.rows.region.x
        await pilot.resize_terminal(40, 20)
        await pilot.pause(0.05)
        assert browser.pane.region.y > browser.rows.region.y
        assert "conv1" in screen_text(browser)

    browse(STNKD, steps, size)


def test_without_colours_signs_draw_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    async def steps(browser: Browser, pilot: Pilot[None]) -> None:
        await pilot.press("enter")
        screen = await read(browser, pilot)
        assert "≡" in screen.query_one("#sheet", SheetView).text
        assert "▀" not in screen_text(browser)

    browse(STNKD, steps)


# ------------------------------------------------------------------------------------------------- what goes wrong


def test_hostile_names_are_text_everywhere(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pt", {f"{HOSTILE}.conv.weight": torch.zeros(2, 2, 1), "[b].weight": torch.zeros(2, 2)})

    async def steps(browser: Browser, pilot: Pilot[None]) -> None:
        texts = [screen_text(browser)]
        for keys in (["end"], ["up", "up"], ["c"], ["slash", "[", "r", "e", "d"], ["enter"], ["down", "enter"]):
            await pilot.press(*keys)
            await pilot.pause(0.15)
            texts.append(screen_text(browser))
        shown = "\n".join(texts)
        assert "\x1b" not in shown
        assert "\u202e" not in shown
        assert "[red]a[/red]" in shown
        assert "\\x1b[31mb" in shown
        assert "[@click=app.quit]d" in shown

    browse(path, steps, size=(120, 30))


def test_a_file_that_changes_or_goes_away_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    path.write_bytes(STNKD.read_bytes())

    async def steps(browser: Browser, pilot: Pilot[None]) -> None:
        path.write_bytes(path.read_bytes() + b"more")
        await pilot.press("enter")
        await read(browser, pilot)
        assert "changed" in status(browser)
        os.unlink(path)
        await pilot.press("n")
        await pilot.pause(0.1)
        await read(browser, pilot)
        assert status(browser).startswith("error: ")
        assert "Traceback" not in screen_text(browser)
        await pilot.press("escape")
        assert browser.current is not None

    browse(path, steps)


def test_a_cut_file_shows_what_is_left_and_says_so(tmp_path: Path) -> None:
    path = cut(STNKD, tmp_path, minus=9000)

    async def steps(browser: Browser, pilot: Pilot[None]) -> None:
        assert status(browser).startswith("error: ")
        await pilot.press("end", "enter")
        await pilot.pause(0.1)
        assert browser.screen is not None

    browse(path, steps)


def test_shapes_without_numbers_say_so(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pt", {"fc.weight": torch.zeros(3, 3, device="meta")})

    async def steps(browser: Browser, pilot: Pilot[None]) -> None:
        await pilot.press("enter")
        await read(browser, pilot)
        assert "only the shape" in status(browser)

    browse(path, steps)


def test_an_error_of_ours_ends_it_and_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: Browser) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Browser, "action_help", wrong)

    async def steps(browser: Browser, pilot: Pilot[None]) -> None:
        await pilot.press("question_mark")

    with pytest.raises(ZeroDivisionError):
        browse(STNKD, steps)


def test_of_a_file_elsewhere_numbers_are_fetched_when_they_are_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    from safetensors.torch import save_file

    from convinspect.remote.addresses import path_of
    from support.servers import serving

    save_file({f"fc{n}.weight": torch.randn(300, 400) for n in range(4)}, str(tmp_path / "m.safetensors"))
    with serving(tmp_path) as server:

        async def steps(browser: Browser, pilot: Pilot[None]) -> None:
            server.forget()
            await pilot.press("down", "slash", "f", "c", "enter", "f", "escape", "escape", "home", "down", "c")
            await pilot.pause(0.2)
            assert server.asked == []
            await pilot.press("enter")
            screen = await read(browser, pilot)
            assert screen.numbers is not None
            assert 480_000 <= server.sent < 700_000

        path = path_of(f"{server.address}/m.safetensors")
        assert isinstance(path, Path)
        browse(path, steps)
