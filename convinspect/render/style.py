"""How everything that the program shows looks: the one typeface, the one palette, and the styles by name.

Four things ask here, and have no colours of their own:

* tables and blocks, by style names: `HEAD`, `NAME`, `QUIET`, … , in Rich's spelling;
* terminals, by `sgr` and `paint`, which write a style for 16, 256 or all colours (`Depth`);
* HTML, by `css`: the palette as CSS variables, in the reader's colour scheme; and `tables_css`, how a table looks;
* SVG and PNG, by `look`, which names a style's colours, and `colour_of`, which gives a name's colour in both schemes.

No Rich, nothing to load: the listing imports this.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

HEAD = "bold"
"""Column titles and table titles."""
NAME = "cyan"
"""What a row is about: the one accent colour."""
QUIET = "dim"
"""Secondary columns, rules and footnotes."""
GOOD = "green"
"""What the program is for: pointwise."""
WARN = "yellow"
"""What the reader should check: assumed, ambiguous."""
BAD = "bold red"
"""What is wrong: missing bytes, a difference."""
NOT_FINITE = "bold reverse magenta"
"""NaN and infinity: neither red nor blue, which mean positive and negative."""

TYPEFACE = (
    "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', 'Noto Sans Mono CJK SC', "
    "'PingFang SC', 'Microsoft YaHei', monospace"
)
"""The one `font-family` of every SVG and HTML: what the reader's system has, nothing is fetched."""


class Colour(NamedTuple):
    """A colour of the palette, for light and for dark backgrounds."""

    light: str
    dark: str


PALETTE = {
    "paper": Colour("#ffffff", "#16181d"),
    "panel": Colour("#f4f6f8", "#1f232a"),
    "rule": Colour("#d0d7de", "#3a404a"),
    "edge": Colour("#6e7781", "#8b93a0"),
    "ink": Colour("#1f2328", "#d6dae2"),
    "quiet": Colour("#59636e", "#9aa3b0"),
    "name": Colour("#006273", "#64c3d7"),
    "good": Colour("#116b35", "#82c37d"),
    "warn": Colour("#7d5300", "#e1b95f"),
    "bad": Colour("#b3202c", "#f9818a"),
    "strange": Colour("#8a1f9e", "#d78ee6"),
    "active": Colour("#ffd84d", "#ffd84d"),
    "on-active": Colour("#000000", "#000000"),
    "below-1": Colour("#4d6b8f", "#8aa5c4"),
    "below-2": Colour("#3a64a0", "#7fadea"),
    "below-3": Colour("#235bb0", "#72adff"),
    "below-4": Colour("#0550ae", "#8fc1ff"),
    "above-1": Colour("#8b5555", "#c49a9a"),
    "above-2": Colour("#a14040", "#e08f8f"),
    "above-3": Colour("#b02a2a", "#f58282"),
    "above-4": Colour("#ad0000", "#ff8f85"),
}
"""The palette. Text in any of these is readable (WCAG AA, 4.5 : 1) on `paper` and on `panel`, in both schemes.

`paper` is the page, `panel` what lies on it (a bar, a row under the pointer). `rule` parts things and says nothing;
`edge` frames what one can press (3 : 1). `ink` is text, `quiet` secondary text, `name` what a row is about, and links;
`good`, `warn` and `bad` are verdicts, `strange` is NaN and infinity. `on-active` on `active` marks what is being
explained. `below-…` and `above-…` are numbers below and above zero, stronger towards the largest. The cells of heatmaps
have a scale of their own: `cell`.
"""

STEPS = 16
"""Shades of a heatmap's cells on either side of zero."""


class _Scale(NamedTuple):
    """Colours from zero to the largest magnitude, evenly spaced, and the shades between are mixed of their neighbours.

    The two sides are as light as each other at each step, and their lightness only rises (dark) or falls (light).
    """

    below: tuple[str, ...]
    above: tuple[str, ...]


_LIGHT = _Scale(
    ("#f0f0f1", "#a8ceff", "#4c99f8", "#0961bb", "#003266"),
    ("#f0f0f1", "#fdb6ac", "#ea6b5e", "#b71a18", "#650103"),
)
_DARK = _Scale(
    ("#2c2e30", "#174a92", "#0a72da", "#52a9fe", "#c1e3fc"),
    ("#2c2e30", "#862721", "#cc3529", "#fb784f", "#ffd6a8"),
)
# Of the 6 × 6 × 6 cube, by hand: the colour nearest to each shade is grey, or the same for several, or not in order.
_INDEXED_BELOW = (234, 18, 19, 25, 27, 33, 75, 117, 189)
_INDEXED_ABOVE = (234, 52, 88, 124, 160, 203, 209, 216, 223)


def cell(step: int) -> Colour:
    """The colour of a heatmap's cell.

    Args:
        step: From `-STEPS` (the most negative) over 0 to `STEPS`.
    """
    return Colour(_mixed(_LIGHT, step), _mixed(_DARK, step))


def cell_index(step: int) -> int:
    """The same for a terminal of 256 colours: its number, on dark and on light backgrounds."""
    ramp = _INDEXED_BELOW if step < 0 else _INDEXED_ABOVE
    return ramp[-(-abs(step) * (len(ramp) - 1) // STEPS)]


def _mixed(scale: _Scale, step: int) -> str:
    stops = scale.below if step < 0 else scale.above
    i, part = divmod(abs(step) * (len(stops) - 1), STEPS)
    if not part:
        return stops[i]
    pairs = zip(_rgb(stops[i]), _rgb(stops[i + 1]), strict=True)
    return "#{:02x}{:02x}{:02x}".format(*(round(a + (b - a) * part / STEPS) for a, b in pairs))


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def css(scope: str = ":root", cells: bool = True) -> str:
    """The palette as CSS variables: `--paper`, `--ink`, …, and `--font`, the typeface.

    Their colours are those of the reader's scheme, or of a notebook (JupyterLab, VS Code, Colab) that says otherwise.

    A heatmap's cells are `--cell-16n` (most negative) to `--cell-1n`, `--cell-0`, `--cell-1` to `--cell-16`.

    Args:
        scope: CSS selector of what has these variables.
        cells: Whether there is a heatmap, whose colours are most of the text.
    """
    light, dark = _variables(0, cells), _variables(1, cells)
    return (
        f"{scope} {{ --font: {TYPEFACE}; color-scheme: light dark; }}\n{scope} {{ {light} }}\n"
        f"@media (prefers-color-scheme: dark) {{ {scope} {{ {dark} }} }}\n"
        f"{_hosts(_LIGHT_HOSTS, scope)} {{ color-scheme: light; {light} }}\n"
        f"{_hosts(_DARK_HOSTS, scope)} {{ color-scheme: dark; {dark} }}\n"
    )


# What a page says of itself: our own (data-theme), JupyterLab, VS Code, Colab and Sphinx.
_LIGHT_HOSTS = ("[data-theme=light]", "[data-jp-theme-light=true]", ".vscode-light", "[theme=light]")
_DARK_HOSTS = ("[data-theme=dark]", "[data-jp-theme-light=false]", ".vscode-dark", "[theme=dark]")


def _hosts(hosts: Iterable[str], scope: str) -> str:
    """Selectors of the scope under any of these, or which is one of these."""
    if scope == ":root":
        return ", ".join(f":root{host}" for host in hosts)
    return ", ".join(f"{host} {scope}" for host in hosts)


def cell_name(step: int) -> str:
    """The name of a cell's colour: "cell-3", below zero "cell-3n"."""
    return f"cell-{abs(step)}{'n' if step < 0 else ''}"


def _variables(which: int, cells: bool) -> str:
    steps = range(-STEPS, STEPS + 1) if cells else ()
    colours = {**PALETTE, **{cell_name(step): cell(step) for step in steps}}
    return " ".join(f"--{name}: {colour[which]};" for name, colour in colours.items())


_TABLES = """\
@ { font: 14px/1.45 var(--font); color: var(--ink); background: var(--paper); }
@ table { border-collapse: collapse; margin: .6em 0; font: inherit; color: inherit; }
@ th, @ td { padding: .15em .8em; text-align: left; vertical-align: top; white-space: pre; border: 0; max-width: none; }
@ th { font-weight: bold; border-bottom: 1px solid var(--rule); background: var(--panel); }
@ tbody tr, @ tbody tr:nth-child(n) { background: none; }
@ tbody tr:nth-child(n):hover { background: var(--panel); }
@ .right { text-align: right; }
@ pre { font: inherit; color: inherit; background: none; margin: .6em 0; padding: 0; border: 0; white-space: pre-wrap; }
@ .drawn { white-space: pre; overflow-x: auto; }
@ .tight { line-height: 1.16; }
@ .wide { overflow-x: auto; }
@ summary { cursor: pointer; color: var(--name); }
@ .two { display: inline-block; width: 2ch; text-align: center; }
@ .bold { font-weight: bold; }
@ .italic { font-style: italic; }
@ .underline { text-decoration: underline; }
"""


def tables_css(scope: str) -> str:
    """How tables and text look below a selector that has `css`'s variables; `.name`, `.quiet`, … are colours."""
    classes = "".join(f"{scope} .{name} {{ color: var(--{name}); }}\n" for name in _INKS)
    return _TABLES.replace("@", scope) + classes


# The palette's colours of text.
_INKS = tuple(n for n in PALETTE if n not in ("paper", "panel", "rule", "edge", "active", "on-active", "ink"))

_ATTRIBUTES = {"bold": "1", "dim": "2", "italic": "3", "underline": "4", "reverse": "7"}
_COLOURS = {name: i for i, name in enumerate(("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"))}
_GREY = 0.15
"""Saturation below which a colour has no hue to keep."""


class Depth(IntEnum):
    """How many colours a terminal has."""

    BASIC = 16
    INDEXED = 256
    TRUE = 1 << 24


@lru_cache(maxsize=4096)
def sgr(style: str, depth: Depth = Depth.TRUE) -> str:
    """The escape sequence that turns a style on, "" for no style.

    Args:
        style: Words in Rich's spelling: attributes, one of the eight colours (also "bright_…"), "color(N)", "#rrggbb",
            "cell(STEP)" (a cell of a heatmap), and "on" before a background.
        depth: What the terminal has; other colours become the nearest of those.

    Raises:
        ValueError: A word is none of these.
    """
    codes: list[str] = []
    base = 30
    for word in style.split():
        if word == "on":
            base = 40
        elif word in _ATTRIBUTES:
            codes.append(_ATTRIBUTES[word])
        else:
            codes.append(_colour(word, base, depth))
            base = 30
    return f"\x1b[{';'.join(codes)}m" if codes else ""


def _colour(word: str, base: int, depth: Depth) -> str:
    plain = word.removeprefix("bright_")
    if plain in _COLOURS:
        return str(base + _COLOURS[plain] + (60 if plain != word else 0))
    step = step_of(word)
    if step is not None and depth is Depth.INDEXED:
        return f"{base + 8};5;{cell_index(step)}"
    number = int(word[6:-1]) if word.startswith("color(") and word.endswith(")") else None
    if number is not None and depth is not Depth.BASIC:
        return f"{base + 8};5;{number}"
    if step is not None:
        red, green, blue = _rgb(cell(step).dark)
    elif number is not None:
        red, green, blue = _cube(number)
    elif word.startswith("#") and len(word) == 7:
        red, green, blue = _rgb(word)
    else:
        raise ValueError(f"unknown style: {word!r}")
    if depth is Depth.TRUE:
        return f"{base + 8};2;{red};{green};{blue}"
    if depth is Depth.INDEXED:
        return f"{base + 8};5;{_indexed(red, green, blue)}"
    number = _basic(red, green, blue, 0.6 if base == 30 else 0.5)
    # Of the eight, terminals show red and blue too dark to read on black; the bright ones are read on white, too.
    return str(base + number + (60 if base == 30 and number in (1, 4) else 0))


def step_of(word: str) -> int | None:
    """The step of a word such as "cell(-3)"; None for other words."""
    return int(word[5:-1]) if word.startswith("cell(") and word.endswith(")") else None


def _indexed(red: int, green: int, blue: int) -> int:
    """The 256-colour terminals' number for a colour, of their 6 × 6 × 6 cube and their greys, as Rich chooses it.

    What has a hue keeps it: the nearest colour of all is often grey, and red and blue say plus and minus.
    """
    high, low = max(red, green, blue), min(red, green, blue)
    if (high - low) < _GREY * min(high + low, 510 - high - low) or high == low:
        step = round((high + low) / 510 * 25)
        return {0: 16, 25: 231}.get(step, 231 + step)
    levels = [round(part / 95 if part < 95 else 1 + (part - 95) / 40) for part in (red, green, blue)]
    return 16 + 36 * levels[0] + 6 * levels[1] + levels[2]


def _cube(number: int) -> tuple[int, int, int]:
    """A colour of the 256 by its number, 16 or more."""
    if number >= 232:
        grey = 8 + 10 * (number - 232)
        return grey, grey, grey
    red, green, blue = (0 if level == 0 else 55 + 40 * level for level in (
        (number - 16) // 36, (number - 16) // 6 % 6, (number - 16) % 6
    ))  # fmt: skip
    return red, green, blue


def _basic(red: int, green: int, blue: int, share: float) -> int:
    """The colour of the eight with the same hue: 0 is black, 7 white.

    The lower the share from which a part counts, the lighter the colour: black text stands on it.
    """
    high, low = max(red, green, blue), min(red, green, blue)
    if high - low < _GREY * 255:
        return 7 if high > 127 else 0
    enough = low + share * (high - low)
    return (red > enough) | (green > enough) << 1 | (blue > enough) << 2


def paint(text: str, style: str, depth: Depth = Depth.TRUE) -> str:
    """`text` between the style's escape sequence and a reset; unchanged when either is empty."""
    code = sgr(style, depth) if text else ""
    return f"{code}{text}\x1b[0m" if code else text


class Look(NamedTuple):
    """A style for pictures and pages.

    Attributes:
        ink: Name of the text's colour in the palette, or of a cell ("cell-3n"), or "#rrggbb".
        paper: The same of what lies behind it; "" for the page itself.
        bold: Whether it is.
        italic: Whether it is.
        underline: Whether it is.
    """

    ink: str = "ink"
    paper: str = ""
    bold: bool = False
    italic: bool = False
    underline: bool = False


_INK_OF = {
    "red": "bad", "green": "good", "yellow": "warn", "blue": "below-3", "magenta": "strange", "cyan": "name",
    "black": "ink", "white": "ink",
    "color(67)": "below-1", "color(68)": "below-2", "color(69)": "below-3", "color(33)": "below-4",
    "color(138)": "above-1", "color(167)": "above-2", "color(203)": "above-3", "color(196)": "above-4",
}  # fmt: skip


@lru_cache(maxsize=4096)
def look(style: str) -> Look:
    """What a style, in Rich's spelling, looks like in a picture or on a page."""
    words = style.split()
    ink, paper, behind = "", "", False
    for word in words:
        if word == "on":
            behind = True
        elif word not in _ATTRIBUTES:
            step = step_of(word)
            name = cell_name(step) if step is not None else _INK_OF.get(word.removeprefix("bright_"), word)
            ink, paper, behind = (ink, name, False) if behind else (name, paper, False)
    if not ink:
        ink = "quiet" if "dim" in words else "ink"
    if "reverse" in words:
        ink, paper = paper or "paper", ink
    return Look(ink, paper, "bold" in words, "italic" in words, "underline" in words)


def colour_of(name: str) -> Colour:
    """The colour that `Look` names."""
    if name in PALETTE:
        return PALETTE[name]
    if name.startswith("cell-"):
        return cell(-int(name[5:-1]) if name.endswith("n") else int(name[5:]))
    return Colour(name, name)
