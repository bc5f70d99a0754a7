"""Drawn lines as pixels, with Pillow (extra `images`): PNG, and GIF for steps."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from convinspect.errors import CannotShow
from convinspect.render.cells import cell_width, elide
from convinspect.render.marks import BOXES, Mark, Rgb, marks, strokes
from convinspect.render.svg import DOTS

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont
    from rich.segment import Segment
    from rich.terminal_theme import TerminalTheme

    Lines = Sequence[Iterable[Segment]]

# Pixels; twice what a page shows, so that screens of high density show it sharp.
_FONT_SIZE = 28
_CELL = 17
_LINE = 38
_MARGIN = 40
_BAR = 80
_MOST_PIXELS = 16_384
"""Of either side; many programs show no larger picture."""

# Monospace fonts with the characters used here, and their bold faces: of Linux, macOS and Windows.
_FACES = [
    ("DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf"),
    ("Menlo.ttc", "Menlo.ttc"),
    ("consola.ttf", "consolab.ttf"),
    ("NotoSansMono-Regular.ttf", "NotoSansMono-Bold.ttf"),
    ("LiberationMono-Regular.ttf", "LiberationMono-Bold.ttf"),
]


def png(lines: Lines, columns: int, title: str, theme: TerminalTheme) -> bytes:
    """A PNG of lines of Rich segments.

    Args:
        lines: From top to bottom, without line ends.
        columns: Width in cells.
        title: In the bar at the top.
        theme: Colours for foreground, background and the sixteen named ones.

    Raises:
        CannotShow: Pillow or a font of one width is missing, or the picture would be too large.
    """
    out = io.BytesIO()
    next(_drawn([lines], columns, title, theme)).save(out, "PNG", optimize=True)
    return out.getvalue()


def gif(steps: Sequence[Lines], columns: int, title: str, theme: TerminalTheme, seconds: float) -> bytes:
    """A GIF that shows one step after another in a loop; the last one stays three times as long.

    Args:
        steps: Each as for `png`.
        columns: Width in cells.
        title: In the bar at the top.
        theme: As for `png`.
        seconds: That each step stays.

    Raises:
        CannotShow: As for `png`.
    """
    # Half the size, and one set of colours for all steps, or the edges of letters would flicker.
    small = (image.reduce(2) for image in _drawn(steps, columns, title, theme))
    first = next(small).quantize(64)
    # Not before the first step is drawn, which is what reports that Pillow is missing.
    from PIL.Image import Dither

    others = [image.quantize(palette=first, dither=Dither.NONE) for image in small]
    stays = [int(seconds * 1000)] * len(others) + [int(seconds * 3000)]
    out = io.BytesIO()
    first.save(out, "GIF", save_all=True, append_images=others, duration=stays, loop=0, optimize=True)
    return out.getvalue()


def _drawn(steps: Sequence[Lines], columns: int, title: str, theme: TerminalTheme) -> Iterator[Image]:
    try:
        from PIL import Image, ImageDraw
    except ImportError:
        raise CannotShow(
            "pictures in .png and .gif need Pillow", "pip install pillow, or end the name in .svg"
        ) from None
    faces = _faces()
    size = columns * _CELL + 2 * _MARGIN, max(map(len, steps)) * _LINE + _BAR + _MARGIN
    if max(size) > _MOST_PIXELS:
        raise CannotShow(f"a picture of {size[0]:,} × {size[1]:,} pixels is too large", "end the name in .svg or .html")
    ink, paper = theme.foreground_color, theme.background_color
    for lines in steps:
        image = Image.new("RGB", size, paper)
        draw = ImageDraw.Draw(image)
        dim = _between(ink, paper)
        for x in (48, 84, 120):
            draw.ellipse((x - 10, 30, x + 10, 50), fill=_between(dim, paper))
        words = elide(title, max(columns - DOTS, 8))
        left = (size[0] - cell_width(words) * _CELL) // 2
        _text(draw, words, (left, 22), dim, faces[0])
        for n, line in enumerate(lines):
            for mark in marks(line, theme):
                _mark(draw, mark, _BAR + n * _LINE, faces)
        yield image


def _between(first: Rgb, second: Rgb) -> Rgb:
    return (first[0] + second[0]) // 2, (first[1] + second[1]) // 2, (first[2] + second[2]) // 2


def _mark(draw: ImageDraw, mark: Mark, top: int, faces: tuple[FreeTypeFont, FreeTypeFont]) -> None:
    pen, left = mark.pen, _MARGIN + mark.column * _CELL
    right = left + mark.cells * _CELL
    if pen.paper:
        draw.rectangle((left, top, right - 1, top + _LINE - 1), fill=pen.paper)
    if mark.kind == "rule":
        draw.rectangle((left, top + _LINE // 2, right - 1, top + _LINE // 2 + 1), fill=pen.ink)
    elif mark.kind == "box":
        start, end = BOXES[mark.text[0]]
        draw.rectangle((left, top + round(start * _LINE), right - 1, top + round(end * _LINE) - 1), fill=pen.ink)
    elif mark.kind == "line":
        for x, y, wide, high in strokes(mark, left, right, top, top + _LINE, 2):
            draw.rectangle((x, y, x + wide - 1, y + high - 1), fill=pen.ink)
    elif mark.kind == "text":
        _text(draw, mark.text, (left, top), pen.ink, faces[pen.bold])
        if pen.underline:
            draw.rectangle((left, top + _LINE - 5, right - 1, top + _LINE - 4), fill=pen.ink)


def _text(draw: ImageDraw, text: str, place: tuple[int, int], ink: Rgb, face: FreeTypeFont) -> None:
    """Each character in its own cell, so that columns meet whatever the font's own width is."""
    left, top = place
    for character in text:
        draw.text((left, top + 29), character, fill=ink, font=face, anchor="ls")
        left += cell_width(character) * _CELL


def _faces() -> tuple[FreeTypeFont, FreeTypeFont]:
    """A monospace font and its bold face.

    Raises:
        CannotShow: None was found.
    """
    from PIL import ImageFont

    for folder in (Path(), *_folders()):
        for names in _FACES:
            try:
                plain = ImageFont.truetype(str(folder / names[0]), _FONT_SIZE)
            except OSError:
                continue
            try:
                bold = ImageFont.truetype(str(folder / names[1]), _FONT_SIZE, index=int(names[0] == names[1]))
            except OSError:
                bold = plain
            return plain, bold
    raise CannotShow(
        "no font of one width was found to draw with", "install DejaVu Sans Mono, or end the name in .svg or .html"
    )


def _folders() -> list[Path]:
    """Folders where common libraries install DejaVu Sans Mono."""
    from importlib.util import find_spec

    matplotlib = find_spec("matplotlib")
    return (
        []
        if matplotlib is None or matplotlib.origin is None
        else [Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf"]
    )
