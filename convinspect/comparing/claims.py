"""Three things that are said of Conv1d and Linear, held against what `compare` measured on this machine."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from convinspect.comparing.measure import Measured

Verdict = Literal["holds", "does not hold", "within noise", "not told"]


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that is said of the two, with what was measured.

    Attributes:
        text: What is said.
        verdict: On this machine.
        figures: Sentences.
    """

    text: str
    verdict: Verdict
    figures: tuple[str, ...] = field(default_factory=tuple)


def claims(found: Sequence[Measured]) -> list[Claim]:
    """Three claims of a widely read tutorial on Conv1d, each with the figures of this run."""
    return [_faster(found), _more_precise(found), _gradients_differ(found)]


def _faster(found: Sequence[Measured]) -> Claim:
    def span(name: str) -> str:
        forward = _span(one.forward["conv1d"].over(one.forward[name])[0] for one in found)
        backward = _span(one.backward["conv1d"].over(one.backward[name])[0] for one in found)
        return f"{forward} forward, {backward} with backward"

    ratios = [one.forward["conv1d"].over(one.forward["linear"]) for one in found]
    figures = (
        f"time of Conv1d ÷ Linear: {span('linear')}",
        f"counting its transposes: {span('transposed')}",
    )
    return Claim("Linear is faster than Conv1d", _verdict([(ratio - 1, noise) for ratio, noise in ratios]), figures)


def _verdict(excess: Sequence[tuple[float, float]]) -> Verdict:
    """From how far each figure speaks for the claim, and how far noise may carry it."""
    if all(value > noise for value, noise in excess):
        return "holds"
    return "does not hold" if any(value < -noise for value, noise in excess) else "within noise"


def _span(values: Iterable[float]) -> str:
    listed = sorted(values)
    low, high = f"{listed[0]:.2f}", f"{listed[-1]:.2f}"
    return low if low == high else f"{low}–{high}"


def _more_precise(found: Sequence[Measured]) -> Claim:
    text, excess, ratios = "Conv1d is more precise than Linear", [], []
    found = [one for one in found if one.dtype != "float64"]
    if not found:
        return Claim(text, "not told", ("float64 is what errors are measured against; give another --dtype",))
    if not all(
        math.isfinite(error) for one in found for each in one.errors.values() for pair in each for error in pair
    ):
        return Claim(text, "not told", ("results are NaN or infinite, of which no error can be told",))
    for one in found:
        each = [
            linear[1] / conv[1] if conv[1] else (math.inf if linear[1] else 1.0)
            for conv, linear in zip(one.errors["conv1d"], one.errors["linear"], strict=True)
        ]
        ratios.append(statistics.median(each))
        spread = max(each) - min(each) if math.isfinite(max(each)) else 0.0
        excess.append((ratios[-1] - 1, max(spread, 0.01)))
    largest = [max(error for one in found for error, _ in one.errors[name]) for name in ("conv1d", "linear")]
    figures = (
        f"RMS error against float64 of Linear ÷ Conv1d: {_span(ratios)}",
        f"largest errors: Conv1d {largest[0]:.1e}, Linear {largest[1]:.1e}",
    )
    return Claim(text, _verdict(excess), figures)


def _gradients_differ(found: Sequence[Measured]) -> Claim:
    text = "their gradients differ"
    if any(one.undecided for measured in found for one in measured.exact.values()):
        return Claim(text, "not told", ("gradients are NaN or infinite, of which no difference can be told",))
    shares = [one.share for measured in found for one in measured.exact.values()]
    apart = {
        name: max((_relative(one.gradients[name]) for one in found if name in one.gradients), default=0.0)
        for name in ("input", "weight", "bias")
    }
    told = ", ".join(f"{sign} {apart[name]:.1e}" for name, sign in (("input", "∂x"), ("weight", "∂W"), ("bias", "∂b")))
    figures = (
        f"largest difference ÷ largest gradient: {told}",
        f"in float64 at most {100 * max(shares):.2g} % of what rounding can do there",
    )
    same = not any(apart.values())
    verdict: Verdict = "holds" if max(shares) > 1 else "does not hold" if same else "within noise"
    return Claim(text, verdict, figures)


def _relative(pair: tuple[float, float]) -> float:
    return pair[0] / pair[1] if pair[1] else pair[0]
