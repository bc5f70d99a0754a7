"""Save results to a file: a picture (SVG, HTML, PNG, GIF), text, or data, by the suffix."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

from convinspect.errors import CannotShow
from convinspect.render.cells import cell_width, safe
from convinspect.render.data import csv_text, json_text, table_payload
from convinspect.render.drawing import Drawing, drawing
from convinspect.render.emit import as_shown, markdown_blocks, only_tables, text_lines
from convinspect.render.html import html_page
from convinspect.render.plain_table import ColorSupport
from convinspect.render.svg import DOTS, svg
from convinspect.render.table import Block, Table, plain

_LOOSE_WIDTH = 100


class _Picture(NamedTuple):
    """What is to be kept."""

    thing: object
    title: str
    width: int | None
    payload: object


_Writer: TypeAlias = Callable[[_Picture], Iterator[str] | bytes]


def save(
    thing: object,
    path: Path,
    title: str = "",
    width: int | None = None,
    payload: object = None,
) -> None:
    """Save a result to a file, atomically: an existing file is replaced only once the new one is complete.

    Args:
        thing: A Table, a Block, or a sequence of these.
        path: Its suffix decides: `.svg`, `.html`, `.png`, `.gif`, `.md`, `.txt`, `.csv` or `.json`.
        title: Of the window (SVG) or page (HTML).
        width: In cells; None for what the tables need.
        payload: What `.json` holds; the table's rows when None.

    Raises:
        CannotShow: The suffix is another, the thing has no such form, or the file cannot be written.
    """
    check_suffix(path)
    writer = _WRITERS[path.suffix.lower()]
    _replace(path, writer(_Picture(thing, title, width, payload)))


def save_text(path: Path, parts: Iterable[str]) -> None:
    """Save text to a file, atomically.

    Raises:
        CannotShow: The file cannot be written.
    """
    _replace(path, iter(parts))


def save_steps(steps: Sequence[Block], path: Path, title: str, width: int | None = None) -> None:
    """Save drawings as an animated GIF, atomically.

    Args:
        steps: One after another.
        path: Where to.
        title: Above them.
        width: In cells; None for what the widest needs.

    Raises:
        CannotShow: There is no Pillow or no font, the picture would be too large, or cannot be written.
    """
    from convinspect.render.raster import gif

    drawn = [drawing([step], width) for step in steps]
    widest = max(_titled(one, title, width).columns for one in drawn)
    _replace(path, gif([one._replace(columns=widest) for one in drawn], safe(title), 0.9))


def check_suffix(path: Path) -> None:
    """Check that a result can be written to a file of this name, before it is worked out.

    Raises:
        CannotShow: The suffix is another, or needs what is not installed.
    """
    if path.suffix.lower() not in _WRITERS:
        raise CannotShow(
            f"cannot tell a format from the name {safe(path.name)!r}",
            f"end it in {', '.join(list(_WRITERS)[:-1])} or {list(_WRITERS)[-1]}",
        )
    if path.suffix.lower() in (".png", ".gif"):
        from convinspect.render.raster import check_pillow

        check_pillow()


def _drawing(picture: _Picture) -> Drawing:
    return _titled(drawing(as_shown(picture.thing), picture.width), picture.title, picture.width)


def _titled(drawn: Drawing, title: str, width: int | None) -> Drawing:
    """At least as wide as the title bar needs, so that a narrow drawing does not cut the title."""
    if width is not None:
        return drawn
    return drawn._replace(columns=max(drawn.columns, min(cell_width(safe(title)) + DOTS, _LOOSE_WIDTH)))


def _svg(picture: _Picture) -> Iterator[str]:
    return svg(_drawing(picture), safe(picture.title))


def _png(picture: _Picture) -> bytes:
    from convinspect.render.raster import png

    return png(_drawing(picture), safe(picture.title))


def _gif(picture: _Picture) -> bytes:
    from convinspect.render.raster import gif

    return gif([_drawing(picture)], safe(picture.title), 1.0)


def _html(picture: _Picture) -> Iterator[str]:
    return html_page(as_shown(picture.thing), safe(picture.title), picture.width)


def _txt(picture: _Picture) -> Iterator[str]:
    lines = text_lines(as_shown(picture.thing), picture.width, ColorSupport())
    return (f"{line}\n" for line in lines)


def _md(picture: _Picture) -> Iterator[str]:
    return markdown_blocks(as_shown(picture.thing))


def _csv(picture: _Picture) -> Iterator[str]:
    try:
        return csv_text(only_tables(as_shown(picture.thing)))
    except TypeError as error:
        raise CannotShow("a picture has no rows for a CSV file", "end the name in .svg or .html") from error


def _json(picture: _Picture) -> Iterator[str]:
    if picture.payload is not None:
        return json_text(picture.payload)
    tables = [
        table_payload(part) if isinstance(part, Table) else {"lines": list(map(plain, part.lines))}
        for part in as_shown(picture.thing)
    ]
    return json_text(tables[0] if len(tables) == 1 else tables)


_WRITERS: dict[str, _Writer] = {
    ".svg": _svg, ".html": _html, ".png": _png, ".gif": _gif, ".md": _md, ".txt": _txt, ".csv": _csv, ".json": _json,
}  # fmt: skip


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
