"""Makes the picture of docs/browse.md from a real session: `python docs/browse_picture.py`. It needs Textual."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from rich.segment import Segment

from convinspect.browsing.app import Browser
from convinspect.browsing.model import open_model
from convinspect.render.picture import save
from convinspect.render.table import Block, Styled

ROOT = Path(__file__).resolve().parent.parent
SIZE = (112, 26)
_NAMES = {"bright_black": "dim", "color(8)": "dim", "default": ""}


def screen_of(browser: Browser) -> Block:
    """What is on the screen, in the program's own styles."""
    strips = browser.screen._compositor.render_strips()
    return Block(tuple(tuple(_styled(segment) for segment in strip if segment.text) for strip in strips))


def _styled(segment: Segment) -> Styled:
    style = segment.style
    if style is None:
        return Styled(segment.text)
    color = style.color.name if style.color is not None else ""
    words = [word for word in ("bold", "dim", "reverse") if getattr(style, word)]
    return Styled(segment.text, " ".join([*words, _NAMES.get(color, color)]).strip())


async def session(path: Path, *keys: str) -> Block:
    """A file in the explorer after some keys."""
    browser = Browser(open_model(path))
    async with browser.run_test(size=SIZE) as pilot:
        await pilot.press(*keys)
        await pilot.pause(0.5)
        return screen_of(browser)


def make(folder: Path) -> Path:
    """Write the picture."""
    path = folder.resolve() / "browse.svg"
    # The command on the screen names the file as it was opened.
    os.chdir(ROOT / "fixtures")
    shown = asyncio.run(session(Path("pointnet_stnkd_module.pt"), "down", "down"))
    save(shown, path, "convinspect browse pointnet_stnkd_module.pt", SIZE[0])
    return path


if __name__ == "__main__":
    print(make(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images").name)
