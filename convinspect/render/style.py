"""The styles of the program by name, and their escape sequences, without Rich."""

from __future__ import annotations

from functools import lru_cache

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

_ATTRIBUTES = {"bold": "1", "dim": "2", "italic": "3", "underline": "4", "reverse": "7"}
_COLOURS = {name: i for i, name in enumerate(("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"))}
_GREY = 0.15
"""Saturation below which a colour has no hue to keep."""


@lru_cache(maxsize=4096)
def sgr(style: str, truecolor: bool = True) -> str:
    """The escape sequence that turns a style on, "" for no style.

    Args:
        style: Words in Rich's spelling: attributes, one of the eight colours (also "bright_…"), "color(N)"
            or "#rrggbb", and "on" before a background.
        truecolor: Write "#rrggbb" itself; False picks the nearest of the 256 indexed colours.

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
            codes.append(_colour(word, base, truecolor))
            base = 30
    return f"\x1b[{';'.join(codes)}m" if codes else ""


def _colour(word: str, base: int, truecolor: bool) -> str:
    plain = word.removeprefix("bright_")
    if plain in _COLOURS:
        return str(base + _COLOURS[plain] + (60 if plain != word else 0))
    if word.startswith("color(") and word.endswith(")"):
        return f"{base + 8};5;{int(word[6:-1])}"
    if word.startswith("#") and len(word) == 7:
        red, green, blue = (int(word[i : i + 2], 16) for i in (1, 3, 5))
        if truecolor:
            return f"{base + 8};2;{red};{green};{blue}"
        return f"{base + 8};5;{_indexed(red, green, blue)}"
    raise ValueError(f"unknown style: {word!r}")


def _indexed(red: int, green: int, blue: int) -> int:
    """The 256-colour terminals' number for a colour, of their 6 × 6 × 6 cube and their greys, as Rich chooses it.

    What has a hue keeps it: the nearest colour of all is often grey, and a heatmap's red and blue say plus and minus.
    """
    high, low = max(red, green, blue), min(red, green, blue)
    if (high - low) < _GREY * min(high + low, 510 - high - low) or high == low:
        step = round((high + low) / 510 * 25)
        return {0: 16, 25: 231}.get(step, 231 + step)
    levels = [round(part / 95 if part < 95 else 1 + (part - 95) / 40) for part in (red, green, blue)]
    return 16 + 36 * levels[0] + 6 * levels[1] + levels[2]


def paint(text: str, style: str, truecolor: bool = True) -> str:
    """`text` between the style's escape sequence and a reset; unchanged when either is empty."""
    code = sgr(style, truecolor) if text else ""
    return f"{code}{text}\x1b[0m" if code else text
