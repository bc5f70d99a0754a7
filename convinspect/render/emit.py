"""Write a command's result in the requested format."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, TextIO, TypeAlias

from convinspect.render.format import Format
from convinspect.render.plain_table import ColorSupport, block_lines, lines
from convinspect.render.style import Depth
from convinspect.render.table import Block, Table, plain

_LINES_AT_ONCE = 500

# For terminals and files whose encoding has no line drawing.
_PLAIN_GLYPHS = str.maketrans(
    {"─": "-", "…": "~", "→": ">", "×": "x", "·": ".", "–": "-", "—": "-", "⋯": "~", "⋮": ":", "▸": ">", "━": "=",
     "≡": "%", "│": "|", "┃": "|", **dict.fromkeys("┌┬┐├┼┤└┴┘┏┓┗┛", "+")}
)  # fmt: skip

Shown: TypeAlias = Table | Block
"""What can be shown directly."""


class TerminalSize(NamedTuple):
    """The available width and height in cells; None if there is no limit (a pipe or a file)."""

    width: int | None
    height: int | None


def terminal_size(out: TextIO, width: int | None = None) -> TerminalSize:
    """The size of `out`: its terminal's size, or no limit if it is not a terminal.

    Args:
        out: Where the result will go.
        width: The user's `--width`, which overrides the terminal's.
    """
    if not out.isatty():
        return TerminalSize(width, None)
    terminal = shutil.get_terminal_size()
    return TerminalSize(width or terminal.columns, terminal.lines)


def wants_color(out: TextIO) -> bool:
    """Whether to write escape sequences: not with NO_COLOR, always with FORCE_COLOR, else on a terminal that is not
    "dumb". (no-color.org, force-color.org: any value but "" counts.)
    """
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return out.isatty() and os.environ.get("TERM") != "dumb"


def color_depth() -> Depth:
    """How many colours the terminal has, as it says itself in COLORTERM and TERM; 256 where it says neither.

    Windows' terminals set no TERM, and show all colours since 2016.
    """
    if os.environ.get("COLORTERM", "").lower() in ("truecolor", "24bit"):
        return Depth.TRUE
    term = os.environ.get("TERM", "").lower()
    if term.endswith("-direct"):
        return Depth.TRUE
    if term in _BASIC_TERMINALS or term.endswith("-16color"):
        return Depth.BASIC
    return Depth.INDEXED


_BASIC_TERMINALS = {"xterm", "xterm-color", "linux", "screen", "tmux", "rxvt", "vt100", "vt220", "ansi", "cygwin"}
"""Terminals whose entry in terminfo has 8 or 16 colours, or none; those with 256 say so in their name."""


def _ink(out: TextIO, color: bool | None) -> ColorSupport:
    wanted = wants_color(out) if color is None else color
    return ColorSupport(wanted, color_depth())


def emit(
    thing: object,
    fmt: Format,
    out: TextIO,
    width: int | None = None,
    color: bool | None = None,
) -> None:
    """Writes a result.

    Args:
        thing: For `Format.json` the payload (dicts, lists, plain values; a Table will do); otherwise a Table,
            a Block or a sequence of these.
        fmt: The format.
        out: Where to, usually `sys.stdout`.
        width: `--width`, in cells. None: the terminal's, or what the table needs without a terminal.
        color: Whether to write escape sequences; None decides by `wants_color`.

    Raises:
        TypeError: `thing` cannot be written in this format (a bug of the caller).
        OSError: `out` cannot be written to, BrokenPipeError among them.
    """
    # What a terminal does not need is imported when it is asked for.
    if fmt is Format.json:
        from convinspect.render.data import json_text, table_payload

        payload = table_payload(thing) if isinstance(thing, Table) else thing
        _write(json_text(payload), out)
        return
    shown = as_shown(thing)
    if fmt is Format.table:
        drawn = text_lines(shown, terminal_size(out, width).width, _ink(out, color))
        _write((f"{line}\n" for line in drawn), out)
    elif fmt is Format.csv:
        from convinspect.render.data import csv_text

        _write(csv_text(only_tables(shown)), out)
    else:
        _write(markdown_blocks(shown), out)


def as_shown(thing: object) -> list[Shown]:
    """`thing` as a list of what can be shown."""
    if isinstance(thing, (Table, Block)):
        # They are tuples too.
        return [thing]
    things: Sequence[object] = thing if isinstance(thing, (list, tuple)) else [thing]
    shown = [part for part in things if isinstance(part, (Table, Block))]
    if len(shown) != len(things):
        raise TypeError(f"neither a Table nor a Block: {type(thing).__name__}")
    return shown


def only_tables(shown: Sequence[Shown]) -> list[Table]:
    """The tables in `shown`; a TypeError if it contains anything else."""
    tables = [part for part in shown if isinstance(part, Table)]
    if len(tables) != len(shown):
        raise TypeError("a Block has no columns")
    return tables


def markdown_blocks(shown: Sequence[Shown]) -> Iterator[str]:
    """Markdown of tables, and of blocks as preformatted text."""
    from convinspect.render.data import markdown, markdown_text

    for i, part in enumerate(shown):
        if i:
            yield "\n"
        if isinstance(part, Table):
            yield from markdown_text([part])
            continue
        if part.title:
            yield f"**{markdown(part.title)}**\n\n"
        yield "```text\n"
        yield from (f"{line}\n" for line in block_lines(Block(part.lines)))
        yield "```\n"
        for note in part.notes:
            yield f"\n{markdown(plain(note))}\n"


def text_lines(shown: Sequence[Shown], width: int | None, support: ColorSupport) -> Iterator[str]:
    """Tables and blocks as lines of text without line ends, a blank line between two of them."""
    for i, part in enumerate(shown):
        if i:
            yield ""
        if isinstance(part, Table):
            yield from lines(part, width, support.color, support.depth)
        else:
            yield from block_lines(part, support.color, support.depth, width)


def _is_unicode(out: TextIO) -> bool:
    return (getattr(out, "encoding", None) or "utf-8").lower().replace("_", "-").startswith("utf")


def _write(parts: Iterable[str], out: TextIO) -> None:
    """Write many small parts as few large ones, with characters that the encoding of `out` has."""
    parts = iter(parts)
    while chunk := "".join(islice(parts, _LINES_AT_ONCE)):
        out.write(encodable(chunk, out))


def encodable(text: str, out: TextIO) -> str:
    """`text` in characters that the encoding of `out` has."""
    if _is_unicode(out):
        return text
    return text.translate(_PLAIN_GLYPHS).encode(out.encoding, "backslashreplace").decode(out.encoding)
