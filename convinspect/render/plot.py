"""Time against length as an SVG picture: both axes logarithmic, a panel for each layer and dtype."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from convinspect.render.style import PALETTE, TYPEFACE

_WIDE, _HIGH = 360, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 26, 30, 40
_LETTER = 6.7
"""Width of a letter, in pixels."""
# Told apart by their dashes, too.
_LINES = (("below-3", "none"), ("above-3", "7 3"), ("good", "2 3"))


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines over the same axes.

    Attributes:
        title: Above it.
        lines: By name, points (length, seconds), both positive.
    """

    title: str
    lines: Mapping[str, Sequence[tuple[float, float]]]


def plot(panels: Sequence[Panel], note: str) -> Iterator[str]:
    """The picture, as parts of an SVG document.

    Args:
        panels: Side by side, three in a row.
        note: A line below.
    """
    across = min(3, len(panels))
    down = math.ceil(len(panels) / across)
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    starts = [_LEFT + sum(len(name) * _LETTER + 60 for name in names[:n]) for n in range(len(names) + 1)]
    wide = round(max(across * _WIDE, starts[-1], _LEFT + len(note) * _LETTER + _RIGHT))
    high = down * _HIGH + 44
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}"'
        ' class="plot ink" font-size="11" role="img">\n'
    )
    yield f"<title>{escape(note)}</title>\n<style>\n{_sheet()}</style>\n"
    yield f'<rect width="{wide}" height="{high}" class="paper"/>\n'
    for number, panel in enumerate(panels):
        yield f'<g transform="translate({number % across * _WIDE} {number // across * _HIGH})">\n'
        yield from _panel(panel)
        yield "</g>\n"
    for number, (name, left) in enumerate(zip(names, starts, strict=False)):
        yield f'<path d="M{left:g} {high - 30}h22" {_line(number)}/>'
        yield f'<text x="{left + 28:g}" y="{high - 26}">{escape(name)}</text>\n'
    yield f'<text x="{_LEFT}" y="{high - 8}" class="quiet">{escape(note)}</text>\n</svg>\n'


def _sheet() -> str:
    """The colours by name, in both schemes: written out, as in `svg`."""
    names = ("paper", "ink", "quiet", "rule", *(name for name, _ in _LINES))
    light, dark = (
        " ".join(f".plot.{name}, .plot .{name} {{ fill: {PALETTE[name][which]}; }}" for name in names)
        + "".join(f" .plot .{name}-line {{ stroke: {PALETTE[name][which]}; }}" for name in names)
        for which in (0, 1)
    )
    font = f".plot {{ font-family: {TYPEFACE}; }}"
    return f"{font}\n{light}\n@media (prefers-color-scheme: dark) {{ {dark} }}\n"


def _line(number: int) -> str:
    name, dashes = _LINES[number % len(_LINES)]
    return f'fill="none" class="{name}-line" stroke-width="2" stroke-dasharray="{dashes}"'


def _panel(panel: Panel) -> Iterator[str]:
    points = [point for line in panel.lines.values() for point in line]
    lengths, times = [x for x, _ in points], [y for _, y in points]
    x_low, x_high = _decades(lengths)
    y_low, y_high = _decades(times)

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            _LEFT + (math.log10(x) - x_low) / (x_high - x_low) * (_WIDE - _LEFT - _RIGHT),
            _HIGH - _BOTTOM - (math.log10(y) - y_low) / (y_high - y_low) * (_HIGH - _TOP - _BOTTOM),
        )

    yield f'<text x="{_LEFT}" y="18" font-weight="bold">{escape(panel.title)}</text>\n'
    for decade in range(x_low, x_high + 1):
        x, bottom = place(10.0**decade, 10.0**y_low)
        yield f'<path d="M{x:.1f} {_TOP}V{bottom:.1f}" class="rule-line"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 14:.1f}" text-anchor="middle">{10**decade:,}</text>\n'
    for decade in range(y_low, y_high + 1):
        left, y = place(10.0**x_low, 10.0**decade)
        yield f'<path d="M{left:.1f} {y:.1f}H{_WIDE - _RIGHT}" class="rule-line"/>'
        yield f'<text x="{left - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{_seconds(decade)}</text>\n'
    yield f'<text x="{(_LEFT + _WIDE) / 2:.0f}" y="{_HIGH - 10}" text-anchor="middle">length</text>\n'
    for number, line in enumerate(panel.lines.values()):
        places = [place(x, y) for x, y in line]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        yield f'<path d="M{path}" {_line(number)}/>\n'
        yield (
            "".join(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" class="{_LINES[number % len(_LINES)][0]}"/>'
                for x, y in places
            )
            + "\n"
        )


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """The powers of ten below and above all values, which differ by at least one."""
    low, high = math.floor(math.log10(min(values)) + 1e-9), math.ceil(math.log10(max(values)) - 1e-9)
    return low, max(high, low + 1)


def _seconds(decade: int) -> str:
    unit, base = ("s", 0) if decade >= 0 else ("ms", -3) if decade >= -3 else ("µs", -6) if decade >= -6 else ("ns", -9)
    return f"{10 ** (decade - base):,} {unit}"
