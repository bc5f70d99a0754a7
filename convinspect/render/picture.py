"""Save results to a file: a picture (SVG, HTML, PNG, GIF), text, or data, by the suffix."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from convinspect.errors import CannotShow
from convinspect.render.cells import cell_width, safe
from convinspect.render.data import csv_text, json_text, table_payload
from convinspect.render.emit import Shown, as_shown, markdown_blocks, only_tables, text_lines
from convinspect.render.fitting import fit
from convinspect.render.plain_table import ColorSupport, block_cells
from convinspect.render.svg import DOTS, FONTS, svg
from convinspect.render.table import Block, Table, plain

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.segment import Segment
    from rich.terminal_theme import TerminalTheme

_LEAST_WIDTH = 40
_LOOSE_WIDTH = 100

_HTML = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>@TITLE@</title>
<style>
{stylesheet}
body {{ color: {foreground}; background-color: {background}; margin: 2em; }}
pre {{ font-family: @FONTS@; font-size: 14px; line-height: 1.4; overflow-x: auto; }}
code {{ font-family: inherit; }}
</style>
</head>
<body>
<pre><code>{code}</code></pre>
</body>
</html>
""".replace("@FONTS@", FONTS)


class _Picture(NamedTuple):
    """What is to be kept."""

    thing: object
    title: str
    width: int | None
    light: bool
    payload: object


_Writer: TypeAlias = Callable[[_Picture], Iterator[str] | bytes]


def save(
    thing: object,
    path: Path,
    title: str = "",
    width: int | None = None,
    light: bool = False,
    payload: object = None,
) -> None:
    """Save a result to a file, atomically: an existing file is replaced only once the new one is complete.

    Args:
        thing: A Table, a Block, a sequence of these, or (for `.svg`, `.html`, `.txt`) any Rich renderable.
        path: Its suffix decides: `.svg`, `.html`, `.png`, `.gif`, `.md`, `.txt`, `.csv` or `.json`.
        title: Of the window (SVG) or page (HTML).
        width: In cells; None for what the tables need.
        light: Dark text on white instead of light on dark (SVG, HTML).
        payload: What `.json` holds; the table's rows when None.

    Raises:
        CannotShow: The suffix is another, the thing has no such form, or the file cannot be written.
    """
    writer = _WRITERS.get(path.suffix.lower())
    if writer is None:
        raise CannotShow(
            f"cannot tell a format from the name {safe(path.name)!r}",
            f"end it in {', '.join(list(_WRITERS)[:-1])} or {list(_WRITERS)[-1]}",
        )
    _replace(path, writer(_Picture(thing, title, width, light, payload)))


def save_text(path: Path, parts: Iterable[str]) -> None:
    """Save text to a file, atomically.

    Raises:
        CannotShow: The file cannot be written.
    """
    _replace(path, iter(parts))


def save_steps(steps: Sequence[Block], path: Path, title: str, width: int | None = None, light: bool = False) -> None:
    """Save drawings as an animated GIF, atomically.

    Args:
        steps: One after another.
        path: Where to.
        title: Above them.
        width: In cells; None for what the widest needs.
        light: Dark text on white.

    Raises:
        CannotShow: There is no Pillow or no font, the picture would be too large, or cannot be written.
    """
    from convinspect.render.raster import gif

    pictures = [_Picture(step, title, width, light, None) for step in steps]
    widest = max(_with_title(picture, _canvas(picture)[0].width) for picture in pictures)
    drawn = [_lines(_Picture(step, title, widest, light, None))[1] for step in steps]
    _replace(path, gif(drawn, widest, safe(title), _theme(light), 0.9))


def _lines(picture: _Picture) -> tuple[int, list[list[Segment]]]:
    """The width in cells, and the lines to draw."""
    from rich.console import Group

    console, parts = _canvas(picture)
    return _with_title(picture, console.width), console.render_lines(Group(*_spaced(parts)), pad=False)


def _with_title(picture: _Picture, width: int) -> int:
    """The width, at least that of the title bar, so that a narrow drawing does not cut the title."""
    if picture.width is not None:
        return width
    return max(width, min(cell_width(safe(picture.title)) + DOTS, _LOOSE_WIDTH))


def _svg(picture: _Picture) -> Iterator[str]:
    width, lines = _lines(picture)
    return svg(lines, width, safe(picture.title), _theme(picture.light))


def _png(picture: _Picture) -> bytes:
    from convinspect.render.raster import png

    width, lines = _lines(picture)
    return png(lines, width, safe(picture.title), _theme(picture.light))


def _gif(picture: _Picture) -> bytes:
    from convinspect.render.raster import gif

    width, lines = _lines(picture)
    return gif([lines], width, safe(picture.title), _theme(picture.light), 1.0)


def _html(picture: _Picture) -> Iterator[str]:
    from html import escape

    title = escape(safe(picture.title)).replace("{", "{{").replace("}", "}}")
    form = _HTML.replace("@TITLE@", title)
    yield _drawn(picture).export_html(theme=_theme(picture.light), code_format=form)


def _txt(picture: _Picture) -> Iterator[str]:
    if _is_shown(picture.thing):
        lines = text_lines(as_shown(picture.thing), picture.width, ColorSupport())
        yield from (f"{line}\n" for line in lines)
    else:
        yield _drawn(picture).export_text()


def _md(picture: _Picture) -> Iterator[str]:
    return markdown_blocks(_data(picture.thing))


def _csv(picture: _Picture) -> Iterator[str]:
    try:
        return csv_text(only_tables(_data(picture.thing)))
    except TypeError as error:
        raise CannotShow("a picture has no rows for a CSV file", "end the name in .svg or .html") from error


def _json(picture: _Picture) -> Iterator[str]:
    if picture.payload is not None:
        return json_text(picture.payload)
    tables = [
        table_payload(part) if isinstance(part, Table) else {"lines": list(map(plain, part.lines))}
        for part in _data(picture.thing)
    ]
    return json_text(tables[0] if len(tables) == 1 else tables)


_WRITERS: dict[str, _Writer] = {
    ".svg": _svg, ".html": _html, ".png": _png, ".gif": _gif, ".md": _md, ".txt": _txt, ".csv": _csv, ".json": _json,
}  # fmt: skip


def _is_shown(thing: object) -> bool:
    try:
        as_shown(thing)
    except TypeError:
        return False
    return True


def _data(thing: object) -> list[Shown]:
    if not _is_shown(thing):
        raise CannotShow("this picture has no rows", "end the name in .svg, .html or .txt")
    return as_shown(thing)


def _drawn(picture: _Picture) -> Console:
    """A console that has recorded the picture."""
    console, parts = _canvas(picture)
    for part in _spaced(parts):
        console.print(part)
    return console


def _spaced(parts: list[RenderableType]) -> list[RenderableType]:
    """With a blank line between two."""
    return [line for part in parts for line in ("", part)][1:]


def _canvas(picture: _Picture) -> tuple[Console, list[RenderableType]]:
    """What to draw, and a console that is wide enough for it."""
    from rich.console import Console

    from convinspect.render import rich_table

    parts: list[RenderableType] = []
    width = _LEAST_WIDTH if picture.width is None else picture.width
    if _is_shown(picture.thing):
        for shown in as_shown(picture.thing):
            if isinstance(shown, Table):
                fitted = fit(shown, picture.width)
                parts.append(rich_table.render(fitted))
                width = max(width, rich_table.needed(fitted), _widest_line(fitted, picture.width))
            else:
                parts.append(rich_table.render_block(shown))
                width = max(width, *(cell_width(plain(line)) for line in block_cells(shown)))
    else:
        things: Sequence[object] = picture.thing if isinstance(picture.thing, (list, tuple)) else [picture.thing]
        parts += things  # type: ignore[arg-type]
        width = picture.width or _LOOSE_WIDTH
    console = Console(
        file=io.StringIO(),
        record=True,
        width=width,
        force_terminal=True,
        color_system="truecolor",
        no_color=False,
        legacy_windows=False,
        markup=False,
        emoji=False,
        highlight=False,
    )
    return console, parts


def _widest_line(table: Table, width: int | None) -> int:
    """Cells of the widest line above or below the columns, where these were not wrapped."""
    if width is not None:
        return 0
    return max(map(cell_width, (table.title, *map(plain, (*table.lead, *table.summary, *table.notes)))))


def _theme(light: bool) -> TerminalTheme:
    """Colours of the sixteen that a terminal would choose for itself."""
    from rich.terminal_theme import TerminalTheme

    if light:
        return TerminalTheme(
            (255, 255, 255),
            (36, 41, 47),
            [(36, 41, 47), (192, 28, 40), (17, 122, 55), (138, 92, 0),
             (9, 88, 200), (130, 60, 175), (0, 110, 135), (110, 119, 129)],
            [(87, 96, 106), (207, 34, 46), (26, 127, 55), (154, 103, 0),
             (33, 110, 220), (150, 80, 195), (20, 130, 150), (140, 149, 159)],
        )  # fmt: skip
    return TerminalTheme(
        (22, 24, 29),
        (208, 212, 220),
        [(60, 64, 72), (240, 100, 110), (130, 195, 125), (225, 185, 95),
         (100, 160, 245), (200, 135, 225), (100, 195, 215), (208, 212, 220)],
        [(100, 106, 118), (255, 125, 130), (155, 215, 150), (240, 205, 120),
         (130, 180, 255), (215, 160, 240), (130, 215, 230), (255, 255, 255)],
    )  # fmt: skip


def _replace(path: Path, parts: Iterator[str] | bytes) -> None:
    """Writes beside `path`, then takes its place; through a symbolic link, the place of what it points to."""
    content = [parts] if isinstance(parts, bytes) else (part.encode("utf-8", "backslashreplace") for part in parts)
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as out:
            out.writelines(content)
        os.replace(temporary, target)
    except OSError as error:
        raise CannotShow(f"cannot be written: {error.strerror or error}", "choose another --output", path) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
