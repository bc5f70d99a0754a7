"""Drawings as pixels, with Pillow (extra `images`): PNG, and GIF for steps."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from convinspect.errors import CannotShow, installing
from convinspect.render.cells import cell_width, elide
from convinspect.render.drawing import Drawing
from convinspect.render.grids import name_of, size_of
from convinspect.render.marks import BOXES, Mark, marks, strokes
from convinspect.render.style import colour_of
from convinspect.render.svg import DOTS
from convinspect.render.table import Grid

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont


# Pixels; twice what a page shows, so that screens of high density show it sharp.
_FONT_SIZE = 28
_CELL = 17
_LINE = 38
_MARGIN = 40
_BAR = 80
_CROSSED = 8
"""Side from which on a cell has room for a cross."""
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

_WIDE_FACES = [
    "NotoSansMonoCJKsc-Regular.otf", "NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf",
    "SourceHanSansSC-Regular.otf", "wqy-zenhei.ttc", "wqy-microhei.ttc",
    "DroidSansFallbackFull.ttf", "PingFang.ttc", "STHeiti Light.ttc", "msyh.ttc", "simhei.ttf",
]  # fmt: skip
"""Fonts with Chinese characters."""


def check_pillow() -> None:
    """Check that pixels can be drawn, before there is anything to draw.

    Raises:
        CannotShow: There is no Pillow.
    """
    try:
        import PIL.ImageDraw  # noqa: F401
    except ImportError:
        raise CannotShow(
            "pictures in .png and .gif need Pillow", f"{installing('pillow')}, or end the name in .svg"
        ) from None


def png(drawn: Drawing, title: str) -> bytes:
    """A PNG of a drawing.

    Args:
        drawn: What to draw.
        title: In the bar at the top.

    Raises:
        CannotShow: Pillow or a font of one width is missing, or the picture would be too large.
    """
    out = io.BytesIO()
    image = next(_drawn([drawn], title))
    # Of a large one it takes seconds, to save a tenth.
    image.save(out, "PNG", optimize=image.width * image.height < 2_000_000)
    return out.getvalue()


def gif(steps: Sequence[Drawing], title: str, seconds: float) -> bytes:
    """A GIF that shows one step after another in a loop; the last one stays three times as long.

    Args:
        steps: Each as for `png`.
        title: In the bar at the top.
        seconds: That each step stays.

    Raises:
        CannotShow: As for `png`.
    """
    # Half the size, and one set of colours for all steps, or the edges of letters would flicker.
    small = (image.reduce(2) for image in _drawn(steps, title))
    first = next(small).quantize(64)
    # Not before the first step is drawn, which is what reports that Pillow is missing.
    from PIL.Image import Dither

    others = [image.quantize(palette=first, dither=Dither.NONE) for image in small]
    stays = [int(seconds * 1000)] * len(others) + [int(seconds * 3000)]
    out = io.BytesIO()
    first.save(out, "GIF", save_all=True, append_images=others, duration=stays, loop=0, optimize=True)
    return out.getvalue()


def _size(drawn: Drawing) -> tuple[int, int]:
    """Width and height in pixels, without margins."""
    wide, high = drawn.columns * _CELL, 0
    for part in drawn.parts:
        if isinstance(part, Grid):
            rows, columns, side = _grid_size(part, drawn)
            wide, high = max(wide, columns * side), high + rows * side
        else:
            high += _LINE
    return wide, high


def _grid_size(grid: Grid, drawn: Drawing) -> tuple[int, int, int]:
    """Rows, columns, and pixels of a cell: twice what an SVG has."""
    rows, columns, side = size_of(grid, drawn.columns * _CELL / 2)
    return rows, columns, 2 * side


def _drawn(steps: Sequence[Drawing], title: str) -> Iterator[Image]:
    check_pillow()
    from PIL import Image, ImageDraw

    faces = _faces()
    sizes = [_size(step) for step in steps]
    size = max(wide for wide, _ in sizes) + 2 * _MARGIN, max(high for _, high in sizes) + _BAR + _MARGIN
    if max(size) > _MOST_PIXELS:
        raise CannotShow(f"a picture of {size[0]:,} × {size[1]:,} pixels is too large", "end the name in .svg or .html")
    for step in steps:
        image = Image.new("RGB", size, _colour("paper"))
        draw = ImageDraw.Draw(image)
        for x in (48, 84, 120):
            draw.ellipse((x - 10, 30, x + 10, 50), fill=_colour("rule"))
        words = elide(title, max(step.columns - DOTS, 8))
        left = (size[0] - cell_width(words) * _CELL) // 2
        _text(draw, words, (left, 22), _colour("quiet"), faces[0])
        top = _BAR
        for part in step.parts:
            if isinstance(part, Grid):
                rows, _, side = _grid_size(part, step)
                _grid(image, draw, part, top, side)
                top += rows * side
                continue
            for mark in marks(part):
                _mark(draw, mark, top, faces)
            top += _LINE
        yield image


def _grid(image: Image, draw: ImageDraw, grid: Grid, top: int, side: int) -> None:
    from PIL.Image import Resampling

    rows, columns = len(grid.steps), len(grid.steps[0])
    colours = {step: _rgb(_colour(name_of(step))) for row in grid.steps for step in set(row)}
    small = image.resize((columns, rows))
    small.putdata([colours[step] for row in grid.steps for step in row])
    image.paste(small.resize((columns * side, rows * side), Resampling.NEAREST), (_MARGIN, top))
    if None not in colours or side < _CROSSED:
        return
    for y, row in enumerate(grid.steps):
        for x in (x for x, step in enumerate(row) if step is None):
            left, upper = _MARGIN + x * side, top + y * side
            right, lower = left + side - 1, upper + side - 1
            for line in ((left, upper, right, lower), (left, lower, right, upper)):
                draw.line(line, fill=_colour("paper"), width=max(side // 8, 1))


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _colour(name: str) -> str:
    # Pixels have the colours of one scheme: the dark one.
    return colour_of(name)[1]


def _mark(draw: ImageDraw, mark: Mark, top: int, faces: tuple[FreeTypeFont, FreeTypeFont]) -> None:
    look, left = mark.look, _MARGIN + mark.column * _CELL
    ink = _colour(look.ink)
    right = left + mark.cells * _CELL
    if look.paper:
        draw.rectangle((left, top, right - 1, top + _LINE - 1), fill=_colour(look.paper))
    if mark.kind == "rule":
        draw.rectangle((left, top + _LINE // 2, right - 1, top + _LINE // 2 + 1), fill=ink)
    elif mark.kind == "box":
        start, end = BOXES[mark.text[0]]
        draw.rectangle((left, top + round(start * _LINE), right - 1, top + round(end * _LINE) - 1), fill=ink)
    elif mark.kind == "line":
        for x, y, wide, high in strokes(mark, left, right, top, top + _LINE, 2):
            draw.rectangle((x, y, x + wide - 1, y + high - 1), fill=ink)
    elif mark.kind == "text":
        _text(draw, mark.text, (left, top), ink, faces[look.bold])
        if look.underline:
            draw.rectangle((left, top + _LINE - 5, right - 1, top + _LINE - 4), fill=ink)


def _text(draw: ImageDraw, text: str, place: tuple[int, int], ink: str, face: FreeTypeFont) -> None:
    """Each character in its own cell, so that columns meet whatever the font's own width is."""
    left, top = place
    for character in text:
        cells = cell_width(character)
        shown = face if cells < 2 else _wide_face() or face
        draw.text((left, top + 29), character, fill=ink, font=shown, anchor="ls")
        left += cells * _CELL


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


def check_wide_face() -> None:
    """Check that Chinese can be drawn in pixels, before there is anything to draw.

    Raises:
        CannotShow: There is no Pillow, or no font with its characters.
    """
    check_pillow()
    if _wide_face() is None:
        raise CannotShow(
            "no font with Chinese characters was found to draw with", "install Noto Sans CJK, or end the name in .svg"
        )


@cache
def _wide_face() -> FreeTypeFont | None:
    """A font whose characters take two cells, or None."""
    from PIL import ImageFont

    for name in _WIDE_FACES:
        with suppress(OSError):
            # Such letters are as high as wide: at the others' size they would touch.
            return ImageFont.truetype(name, round(_FONT_SIZE * 0.92))
    return None


def _folders() -> list[Path]:
    """Folders where common libraries install DejaVu Sans Mono."""
    from importlib.util import find_spec

    matplotlib = find_spec("matplotlib")
    return (
        []
        if matplotlib is None or matplotlib.origin is None
        else [Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf"]
    )
