"""Time against length as an SVG picture: both axes logarithmic, a panel for each layer and dtype."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

_WIDE, _HIGH = 360, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 26, 30, 40
_COLORS = ("#2f6fb3", "#c2571a", "#5a8f3c")


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
    wide, high = across * _WIDE, down * _HIGH + 44
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}"'
        ' font-family="sans-serif" font-size="11" fill="#333">\n'
    )
    yield f'<rect width="{wide}" height="{high}" fill="#fff"/>\n'
    for number, panel in enumerate(panels):
        yield f'<g transform="translate({number % across * _WIDE} {number // across * _HIGH})">\n'
        yield from _panel(panel)
        yield "</g>\n"
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    for number, name in enumerate(names):
        left = _LEFT + number * 150
        yield f'<path d="M{left} {high - 30}h22" stroke="{_color(number)}" stroke-width="2.5"/>'
        yield f'<text x="{left + 28}" y="{high - 26}">{escape(name)}</text>\n'
    yield f'<text x="{_LEFT}" y="{high - 8}" fill="#777">{escape(note)}</text>\n</svg>\n'


def _color(number: int) -> str:
    return _COLORS[number % len(_COLORS)]


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
        yield f'<path d="M{x:.1f} {_TOP}V{bottom:.1f}" stroke="#ddd"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 14:.1f}" text-anchor="middle">{10**decade:,}</text>\n'
    for decade in range(y_low, y_high + 1):
        left, y = place(10.0**x_low, 10.0**decade)
        yield f'<path d="M{left:.1f} {y:.1f}H{_WIDE - _RIGHT}" stroke="#ddd"/>'
        yield f'<text x="{left - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{_seconds(decade)}</text>\n'
    yield f'<text x="{(_LEFT + _WIDE) / 2:.0f}" y="{_HIGH - 10}" text-anchor="middle">length</text>\n'
    for number, line in enumerate(panel.lines.values()):
        places = [place(x, y) for x, y in line]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        yield f'<path d="M{path}" fill="none" stroke="{_color(number)}" stroke-width="2"/>\n'
        yield "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{_color(number)}"/>' for x, y in places) + "\n"


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """The powers of ten below and above all values, which differ by at least one."""
    low, high = math.floor(math.log10(min(values)) + 1e-9), math.ceil(math.log10(max(values)) - 1e-9)
    return low, max(high, low + 1)


def _seconds(decade: int) -> str:
    unit, base = ("s", 0) if decade >= 0 else ("ms", -3) if decade >= -3 else ("µs", -6) if decade >= -6 else ("ns", -9)
    return f"{10 ** (decade - base):,} {unit}"
