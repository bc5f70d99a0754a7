"""Three common claims about Conv1d and Linear, checked against the measurements on this machine."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from convinspect.comparing.measure import Measured
from convinspect.errors import Option, Wording

Verdict = Literal["holds", "does not hold", "within noise", "not told"]


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim about the two, with the measurements.

    Attributes:
        text: The claim.
        verdict: Whether it holds on this machine.
        figures: Sentences with the measurements; some may be a `Wording` that names options.
    """

    text: str
    verdict: Verdict
    figures: tuple[str, ...] = field(default_factory=tuple)


def claims(layers: Sequence[Measured]) -> list[Claim]:
    """Three claims of a widely read tutorial on Conv1d, each with the figures of this run."""
    return [_faster(layers), _more_precise(layers), _gradients_differ(layers)]


def _faster(layers: Sequence[Measured]) -> Claim:
    def span(name: str) -> str:
        forward = _span(layer.forward["conv1d"].over(layer.forward[name])[0] for layer in layers)
        backward = _span(layer.backward["conv1d"].over(layer.backward[name])[0] for layer in layers)
        return f"{forward} forward, {backward} with backward"

    ratios = [layer.forward["conv1d"].over(layer.forward["linear"]) for layer in layers]
    figures = (
        f"time of Conv1d ÷ Linear: {span('linear')}",
        f"counting its transposes: {span('transposed')}",
    )
    return Claim("Linear is faster than Conv1d", _verdict([(ratio - 1, noise) for ratio, noise in ratios]), figures)


def _verdict(excess: Sequence[tuple[float, float]]) -> Verdict:
    """The verdict, from how strongly each figure supports the claim and how large its noise is."""
    if all(value > noise for value, noise in excess):
        return "holds"
    return "does not hold" if any(value < -noise for value, noise in excess) else "within noise"


def _span(values: Iterable[float]) -> str:
    ordered = sorted(values)
    low, high = f"{ordered[0]:.2f}", f"{ordered[-1]:.2f}"
    return low if low == high else f"{low}–{high}"


def _more_precise(layers: Sequence[Measured]) -> Claim:
    text, excess, ratios = "Conv1d is more precise than Linear", [], []
    layers = [layer for layer in layers if layer.dtype != "float64"]
    if not layers:
        remedy = Wording("float64 is what errors are measured against; give another ", Option("dtype", None))
        return Claim(text, "not told", (remedy,))
    errors = [error for layer in layers for pairs in layer.errors.values() for pair in pairs for error in pair]
    if not all(map(math.isfinite, errors)):
        return Claim(text, "not told", ("results are NaN or infinite, of which no error can be told",))
    for layer in layers:
        of_seeds = [
            linear[1] / conv[1] if conv[1] else (math.inf if linear[1] else 1.0)
            for conv, linear in zip(layer.errors["conv1d"], layer.errors["linear"], strict=True)
        ]
        ratios.append(statistics.median(of_seeds))
        spread = max(of_seeds) - min(of_seeds) if math.isfinite(max(of_seeds)) else 0.0
        excess.append((ratios[-1] - 1, max(spread, 0.01)))
    largest = [max(error for layer in layers for error, _ in layer.errors[name]) for name in ("conv1d", "linear")]
    figures = (
        f"RMS error against float64 of Linear ÷ Conv1d: {_span(ratios)}",
        f"largest errors: Conv1d {largest[0]:.1e}, Linear {largest[1]:.1e}",
    )
    return Claim(text, _verdict(excess), figures)


def _gradients_differ(layers: Sequence[Measured]) -> Claim:
    text = "their gradients differ"
    agreements = [agreement for layer in layers for agreement in layer.exact.values()]
    if any(agreement.undecided for agreement in agreements):
        return Claim(text, "not told", ("gradients are NaN or infinite, of which no difference can be told",))
    largest_share = max(agreement.share for agreement in agreements)
    differences = {
        name: max((_relative(layer.gradients[name]) for layer in layers if name in layer.gradients), default=0.0)
        for name in ("input", "weight", "bias")
    }
    signs = (("input", "∂x"), ("weight", "∂W"), ("bias", "∂b"))
    figures = (
        "largest difference ÷ largest gradient: "
        + ", ".join(f"{sign} {differences[name]:.1e}" for name, sign in signs),
        f"in float64 at most {100 * largest_share:.2g} % of what rounding can do there",
    )
    same = not any(differences.values())
    verdict: Verdict = "holds" if largest_share > 1 else "does not hold" if same else "within noise"
    return Claim(text, verdict, figures)


def _relative(pair: tuple[float, float]) -> float:
    """A difference over the largest gradient; the difference itself where all gradients are 0."""
    difference, largest = pair
    return difference / largest if largest else difference
