"""The palette: readable in both schemes, and heatmaps' scale one scale wherever it is shown."""

from __future__ import annotations

import itertools

import pytest

from convinspect.render import style
from convinspect.render.style import PALETTE, STEPS, Colour, Depth, cell, cell_index, css, look, sgr, tables_css

READABLE = 4.5
"""WCAG 2.2, 1.4.3 (AA)."""
PRESSABLE = 3.0
"""WCAG 2.2, 1.4.11."""


def parts(colour: str) -> tuple[float, float, float]:
    """Linear red, green and blue."""
    shares = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares)
    return red, green, blue


def luminance(colour: str) -> float:
    red, green, blue = parts(colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: str, second: str) -> float:
    """https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio"""
    dark, light = sorted((luminance(first), luminance(second)))
    return (light + 0.05) / (dark + 0.05)


def lightness(colour: str) -> float:
    """CIE L*, 0 to 100."""
    y = luminance(colour)
    return 116 * (y ** (1 / 3) if y > 216 / 24389 else (24389 / 27 * y + 16) / 116) - 16


def indexed(number: int) -> str:
    """xterm's 256 colours."""
    if number >= 232:
        return "#" + f"{8 + 10 * (number - 232):02x}" * 3
    levels = (0, 95, 135, 175, 215, 255)
    return "#" + "".join(f"{levels[(number - 16) // n % 6]:02x}" for n in (36, 6, 1))


def unreadable(palette: dict[str, Colour]) -> list[tuple[str, str, int]]:
    backgrounds = ("paper", "panel")
    texts = [name for name in palette if name not in (*backgrounds, "rule", "edge", "active", "on-active")]
    pairs = [(text, behind, READABLE) for text in texts for behind in backgrounds]
    pairs += [("edge", behind, PRESSABLE) for behind in backgrounds] + [("on-active", "active", READABLE)]
    # A highlighted NaN is the page's colour on its own.
    pairs += [("paper", "strange", READABLE)]
    return [
        (text, behind, scheme)
        for text, behind, least in pairs
        for scheme in (0, 1)
        if contrast(palette[text][scheme], palette[behind][scheme]) < least
    ]


def test_every_text_is_readable_in_both_schemes() -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    assert not unreadable(PALETTE)


def test_a_faint_text_would_be_found() -> None:
    assert unreadable({**PALETTE, "quiet": Colour("#8c959f", "#9aa3b0")}) == [
        ("quiet", "paper", 0),
        ("quiet", "panel", 0),
    ]
    assert unreadable({**PALETTE, "edge": Colour("#6e7781", "#3a404a")})


def faults(below: list[str], above: list[str], apart: float) -> list[str]:
    """Where a scale, from zero outwards, is not one: not in order of lightness, two steps alike, or lopsided."""
    found = []
    for name, side in (("below", below), ("above", above)):
        light = [lightness(colour) for colour in side]
        differences = [b - a for a, b in itertools.pairwise(light)]
        if not (all(d > 0 for d in differences) or all(d < 0 for d in differences)):
            found.append(f"{name}: {[round(value) for value in light]}")
    for step, (minus, plus) in enumerate(zip(below, above, strict=True)):
        if abs(lightness(minus) - lightness(plus)) > apart:
            found.append(f"step {step}: {lightness(minus):.0f} below, {lightness(plus):.0f} above")
    return found


def test_the_scale_of_heatmaps_is_symmetric_and_in_order() -> None:
    for scheme in (0, 1):
        below, above = ([cell(sign * step)[scheme] for step in range(STEPS + 1)] for sign in (-1, 1))
        # Zero is the same from both sides, and greyer than all others.
        below[0] = above[0]
        assert not faults(below, above, 4)
        for minus, plus in zip(below[1:], above[1:], strict=True):
            assert int(minus[5:], 16) > int(minus[1:3], 16), "blue"
            assert int(plus[1:3], 16) > int(plus[5:], 16), "red"


def test_it_stays_one_scale_in_256_colours() -> None:
    numbers = [[cell_index(sign * step) for step in range(STEPS + 1)] for sign in (-1, 1)]
    assert numbers[0][0] == numbers[1][0]
    distinct = [list(dict.fromkeys(side)) for side in numbers]
    assert [len(side) for side in distinct] == [9, 9]
    # Each shade stands for as many steps on either side, and never comes back.
    assert all(side == sorted(side, key=order.index) for side, order in zip(numbers, distinct, strict=True))
    assert [distinct[0].index(n) for n in numbers[0]] == [distinct[1].index(n) for n in numbers[1]]
    below, above = ([indexed(n) for n in side] for side in distinct)
    assert not faults(below, above, 8)
    # What Rich takes for the same colours is not one: this is what the test is for.
    taken = [[sgr(cell(sign * step).dark, Depth.INDEXED) for step in range(STEPS + 1)] for sign in (-1, 1)]
    nearest = [[indexed(int(code[7:-1])) for code in dict.fromkeys(side)] for side in taken]
    assert len(nearest[0]) != len(nearest[1]) or faults(nearest[0], nearest[1], 8)


def test_lopsided_scales_would_be_found() -> None:
    assert faults(["#000000", "#0000ff", "#0000af"], ["#000000", "#870000", "#d70000"], 6)
    assert faults(["#000000", "#8080ff"], ["#000000", "#300000"], 6)


def test_styles_in_16_colours() -> None:
    marked = [sgr(f"bold #000000 on {paper}", Depth.BASIC) for paper in ("#ffd84d", "#8ecbff", "#a6e3a1", "#f5b5d6")]
    assert marked == [f"\x1b[1;30;{number}m" for number in (43, 46, 42, 45)]
    assert [sgr(f"color({n})", Depth.BASIC) for n in (67, 33, 138, 196)] == [
        "\x1b[94m",
        "\x1b[94m",
        "\x1b[91m",
        "\x1b[91m",
    ]
    assert sgr("cell(-9)", Depth.BASIC) == "\x1b[94m"
    assert sgr("cell(-16)", Depth.INDEXED) == "\x1b[38;5;189m"
    assert sgr("cell(0)", Depth.TRUE) == "\x1b[38;2;44;46;48m"


def test_looks_name_colours_of_the_palette() -> None:
    assert look("bold red") == style.Look("bad", "", bold=True)
    assert look("dim") == style.Look("quiet")
    assert look(style.NOT_FINITE) == style.Look("paper", "strange", bold=True)
    assert look("bold #000000 on #ffd84d") == style.Look("#000000", "#ffd84d", bold=True)
    assert look("cell(-3) on cell(4)") == style.Look("cell-3n", "cell-4")
    assert style.colour_of("cell-3n") == cell(-3)
    every = [style.HEAD, style.NAME, style.QUIET, style.GOOD, style.WARN, style.BAD, style.NOT_FINITE]
    assert all(look(one).ink in PALETTE for one in every)


def test_css_follows_the_reader() -> None:
    auto = css()
    assert "prefers-color-scheme: dark" in auto
    assert "--paper: #ffffff" in auto
    assert "--paper: #16181d" in auto
    assert "--cell-16n:" in auto
    assert "--cell-0:" in auto
    assert "--cell-16:" in auto
    used = {part.partition(")")[0] for part in tables_css(".x").split("var(--")[1:]}
    assert used <= {*PALETTE, "font"}
