"""Three common claims about Conv1d and Linear, checked against the measurements on this machine."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from convinspect.comparing.measure import Measured
from convinspect.errors import Option, Wording
from convinspect.text import first_few, to_noise

Verdict = Literal["holds", "does not hold", "within noise", "not told"]
Cause = Literal["busy", "not finite", "float64"]
"""Why a claim is not told: the machine was busy, results are not finite, or there is only the reference itself."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim about the two, with the measurements.

    Attributes:
        text: The claim.
        verdict: Whether it holds on this machine.
        figures: Sentences with the measurements; some may be a `Wording` that names options.
        cause: Why it is not told; None where it is.
    """

    text: str
    verdict: Verdict
    figures: tuple[str, ...] = field(default_factory=tuple)
    cause: Cause | None = None


@dataclass(frozen=True, slots=True)
class _Words:
    """What the sentences call the two, and which results they tell of."""

    convolution: str
    conv: str
    linear: str
    other: str
    apart: str
    results: tuple[str, ...]


_POINTWISE = _Words("Conv1d", "Conv1d", "Linear", "counting its transposes", "their gradients differ", ())
_PATCHES = _Words(
    "the convolution",
    "Conv",
    "PatchLinear",
    "÷ Linear on flattened patches",
    "their outputs and gradients differ",
    ("output",),
)


def claims(layers: Sequence[Measured]) -> list[Claim]:
    """Three claims of a widely read tutorial on Conv1d, or the same of convolutions that cut patches, each with the
    figures of this run.
    """
    words = _PATCHES if any(layer.patch for layer in layers) else _POINTWISE
    return [_faster(layers, words), _more_precise(layers, words), _results_differ(layers, words)]


def _faster(layers: Sequence[Measured], words: _Words) -> Claim:
    conv, linear, other = layers[0].forward
    text = f"{words.linear} is faster than {words.convolution}"
    busy = [layer.name for layer in layers if not layer.settled]
    if busy:
        said = f"the timings of {first_few(list(dict.fromkeys(busy)))} vary by more than their median"
        return Claim(text, "not told", (said, "run it again when nothing else runs"), "busy")

    def span(name: str) -> str:
        forward = _span([layer.forward[conv].over(layer.forward[name]) for layer in layers])
        backward = _span([layer.backward[conv].over(layer.backward[name]) for layer in layers])
        return f"{forward} forward, {backward} with backward"

    ratios = [layer.forward[conv].over(layer.forward[linear]) for layer in layers]
    figures = (f"time of {words.conv} ÷ {words.linear}: {span(linear)}", f"{words.other}: {span(other)}")
    verdict = _verdict([(ratio - 1, noise) for ratio, noise in ratios])
    return Claim(text, verdict, figures)


def _verdict(excess: Sequence[tuple[float, float]]) -> Verdict:
    """The verdict, from how strongly each figure supports the claim and how large its noise is."""
    if all(value > noise for value, noise in excess):
        return "holds"
    return "does not hold" if any(value < -noise for value, noise in excess) else "within noise"


def _span(values: Sequence[tuple[float, float]]) -> str:
    """The least and the largest of ratios, with the digits that the noise of each leaves."""
    ordered = sorted(values)
    low, high = (to_noise(*ordered[place]) for place in (0, -1))
    return low if low == high else f"{low}–{high}"


def _more_precise(layers: Sequence[Measured], words: _Words) -> Claim:
    text, excess, ratios, noises = f"{words.convolution} is more precise than {words.linear}", [], [], []
    conv, linear = layers[0].errors
    layers = [layer for layer in layers if layer.dtype != "float64"]
    if not layers:
        remedy = Wording("float64 is what errors are measured against; give another ", Option("dtype", None))
        return Claim(text, "not told", (remedy,), "float64")
    errors = [error for layer in layers for pairs in layer.errors.values() for pair in pairs for error in pair]
    if not all(map(math.isfinite, errors)):
        return Claim(text, "not told", ("results are NaN or infinite, of which no error can be told",), "not finite")
    for layer in layers:
        of_seeds = [
            second[1] / first[1] if first[1] else (math.inf if second[1] else 1.0)
            for first, second in zip(layer.errors[conv], layer.errors[linear], strict=True)
        ]
        ratios.append(statistics.median(of_seeds))
        spread = max(of_seeds) - min(of_seeds) if math.isfinite(max(of_seeds)) else 0.0
        noises.append(max(spread, 0.01))
        excess.append((ratios[-1] - 1, noises[-1]))
    largest = [max(error for layer in layers for error, _ in layer.errors[name]) for name in (conv, linear)]
    figures = (
        f"RMS error against float64 of {words.linear} ÷ {words.conv}: {_span(list(zip(ratios, noises, strict=True)))}",
        f"largest errors: {words.conv} {largest[0]:.1e}, {words.linear} {largest[1]:.1e}",
    )
    return Claim(text, _verdict(excess), figures)


def _results_differ(layers: Sequence[Measured], words: _Words) -> Claim:
    agreements = [layer.exact[name] for layer in layers for name in layer.exact if name in (*words.results, *_SIGNS)]
    largest_share = max(agreement.share for agreement in agreements)
    names = (*words.results, *_SIGNS)
    what, ratio = ("gradients", "largest difference ÷ largest gradient")
    if words.results:
        what, ratio = ("results", "difference ÷ largest result")
    if largest_share <= 1 and any(agreement.undecided for agreement in agreements):
        said = f"{what} are NaN or infinite, of which no difference can be told"
        return Claim(words.apart, "not told", (said,), "not finite")
    differences = {name: max((_relative(pair) for pair in _pairs(layers, name)), default=0.0) for name in names}
    signs = {"output": "y"} | _SIGNS
    figures = (
        f"{ratio}: " + ", ".join(f"{signs[name]} {differences[name]:.1e}" for name in names),
        _share(largest_share),
    )
    same = not any(differences.values())
    verdict: Verdict = "holds" if largest_share > 1 else "does not hold" if same else "within noise"
    return Claim(words.apart, verdict, figures)


_SIGNS = {"input": "∂x", "weight": "∂W", "bias": "∂b"}


def _pairs(layers: Sequence[Measured], name: str) -> Iterable[tuple[float, float]]:
    if name == "output":
        return [layer.outputs for layer in layers]
    return [layer.gradients[name] for layer in layers if name in layer.gradients]


def _share(share: float) -> str:
    """How much of the bound for rounding the results in float64 are apart."""
    if share > 1:
        times = f"{share:.2g} times what" if math.isfinite(share) else "more than"
        return f"in float64 {times} rounding can do there: the two do not compute the same"
    return f"in float64 at most {100 * share:.2g} % of what rounding can do there"


def _relative(pair: tuple[float, float]) -> float:
    """A difference over the largest result; the difference itself where all are 0."""
    difference, largest = pair
    return difference / largest if largest else difference
