"""Tables, claims, JSON and the plot of `compare`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from convinspect.render.plot import Panel
from convinspect.render.style import BAD, GOOD, NAME, QUIET, WARN
from convinspect.render.table import Block, Cell, Column, Styled, Table
from convinspect.showing.flags import flagged
from convinspect.text import join_words, plural, to_noise

if TYPE_CHECKING:
    from convinspect.comparing.claims import Cause, Claim
    from convinspect.comparing.compare import Comparison
    from convinspect.comparing.measure import Measured, NotRun, Time

_CANNOT_TELL: dict[Cause | None, str] = {
    "busy": "cannot tell: the machine was busy", "not finite": "cannot be told", "float64": "cannot be told",
}  # fmt: skip
_VERDICT_STYLES = {"holds": GOOD, "does not hold": BAD, "within noise": WARN, "not told": WARN}


class _Titles(NamedTuple):
    """What the tables call the three ways, and the ratios of the first to the others."""

    ways: tuple[str, str, str]
    ratios: tuple[str, str]
    note: str
    drawn: tuple[str, str, str]


_POINTWISE = _Titles(
    ("Conv1d", "Linear", "Linear, .mT"),
    ("C ÷ L", "C ÷ L, .mT"),
    "C ÷ L: Conv1d's time ÷ Linear's; .mT: with the transposes around it that (N, C, L) needs",
    ("Conv1d", "Linear", "Linear and transposes"),
)
_PATCHES = _Titles(
    ("Conv", "PatchLinear", "Linear"),
    ("C ÷ P", "C ÷ L"),
    "C ÷ P: the convolution's time ÷ PatchLinear's, which cuts the patches and gives the convolution's layout; "
    "Linear: on patches that are flattened already",
    ("convolution", "PatchLinear", "Linear on flattened patches"),
)


def _titles(layers: Sequence[Measured]) -> _Titles:
    return _PATCHES if any(layer.patch for layer in layers) else _POINTWISE


def comparison_tables(comparison: Comparison) -> list[Table | Block]:
    """Time forward, time forward and backward, errors, how far results are apart, then the claims."""
    layers = comparison.layers
    return [
        _time_table("time, forward", layers, backward=False),
        _time_table("time, forward and backward", layers, backward=True),
        _error_table(layers),
        _apart_table(layers),
        _claims_block(comparison),
    ]


def _first_columns(layers: Sequence[Measured]) -> tuple[Column, ...]:
    columns = [
        Column("layer", style=NAME, priority=100, elide=True, never_hidden=True),
        Column("in → out", priority=60, style=QUIET),
    ]
    if any(layer.patch for layer in layers):
        columns.append(Column("patch", priority=55, style=QUIET))
    if len({layer.dtype for layer in layers}) > 1:
        columns.append(Column("dtype", priority=95, style=QUIET))
    if any(len({other.length for other in layers if other.name == layer.name}) > 1 for layer in layers):
        columns.append(Column("length", "right", priority=95))
    return tuple(columns)


def _first_cells(layer: Measured, columns: Sequence[Column]) -> list[Cell]:
    name = layer.name if not layer.alike else f"{layer.name} (and {layer.alike} alike)"
    cells: list[Cell] = [name, f"{layer.sizes[0]} → {layer.sizes[1]}"]
    more = {"patch": "×".join(map(str, layer.patch)), "dtype": layer.dtype, "length": f"{layer.length:,}"}
    return cells + [more[column.title] for column in columns if column.title in more]


def _time_table(title: str, layers: Sequence[Measured], backward: bool) -> Table:
    first, titles = _first_columns(layers), _titles(layers)
    priorities = (90, 90, 80)
    columns = (
        *first,
        *(Column(way, "right", priority=n) for way, n in zip(titles.ways, priorities, strict=True)),
        *(Column(ratio, "right", priority=n) for ratio, n in zip(titles.ratios, (85, 75), strict=True)),
    )
    rows = []
    for layer in layers:
        conv, *others = (layer.backward if backward else layer.forward).values()
        times = [_time(time) for time in (conv, *others)]
        rows.append((*_first_cells(layer, first), *times, *(_ratio(conv, other) for other in others)))
    return Table(columns, rows, title=title, notes=() if backward else (titles.note,))


def _time(time: Time) -> Cell:
    for unit, factor in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if time.median >= factor or unit == "µs":
            median, spread = time.median / factor, time.spread / factor
            text = f"{to_noise(median, spread)} ±{to_noise(spread, spread)} {unit}"
            return text if time.settled else Styled(text, WARN)
    raise AssertionError


def _ratio(time: Time, reference: Time) -> Cell:
    if not (time.settled and reference.settled):
        return Styled("busy", WARN)
    ratio, noise = time.over(reference)
    style = QUIET if abs(ratio - 1) <= noise else "bold"
    return Styled(to_noise(ratio, noise), style)


def _error_table(layers: Sequence[Measured]) -> Table:
    first = _first_columns(layers)
    conv, linear, _ = _titles(layers).ways
    columns = (
        *first,
        Column(f"{conv} max", "right", priority=90),
        Column("RMS", "right", priority=85),
        Column(f"{linear} max", "right", priority=90),
        Column("RMS", "right", priority=85),
    )
    rows = []
    for layer in layers:
        cells = _first_cells(layer, first)
        for errors in layer.errors.values():
            cells += [f"{max(e for e, _ in errors):.1e}", f"{max(r for _, r in errors):.1e}"]
        rows.append(tuple(cells))
    return Table(columns, rows, title="errors against float64")


def _apart_table(layers: Sequence[Measured]) -> Table:
    first = _first_columns(layers)
    columns = (*first, *(Column(f"{sign} apart", "right", priority=80) for sign in ("y", "∂x", "∂W", "∂b")))
    rows = []
    for layer in layers:
        pairs = [layer.outputs, *(layer.gradients.get(name) for name in ("input", "weight", "bias"))]
        rows.append((*_first_cells(layer, first), *("–" if pair is None else f"{pair[0]:.1e}" for pair in pairs)))
    return Table(columns, rows, title="how far the outputs and the gradients of the two are apart at most")


def verdict_lines(comparison: Comparison) -> tuple[Cell, ...]:
    """Each claim, and whether it holds here."""
    return tuple(
        (
            Styled(f"“{claim.text}”: "),
            Styled(_CANNOT_TELL.get(claim.cause, f"{claim.verdict} here"), _VERDICT_STYLES[claim.verdict]),
        )
        for claim in comparison.claims
    )


def _claims_block(comparison: Comparison) -> Block:
    lines: list[Cell] = []
    for claim, verdict in zip(comparison.claims, verdict_lines(comparison), strict=True):
        lines.append(verdict)
        lines += [f"  {flagged(figure)}" for figure in claim.figures]
    return Block(tuple(lines), title="what is said of the two", notes=_about_lines(comparison), flows=True)


def _about_lines(comparison: Comparison) -> tuple[Cell, ...]:
    about = comparison.circumstances
    busy = [Styled(f"other work was running (load {about['load']:.1f}), so times of several threads say little", WARN)]
    return (
        _measured_on(about),
        *_what_was_run(comparison),
        *(Styled(line, WARN) for line in _not_run(comparison.left)),
        *(busy if about["busy"] else []),
        f"median of {about['repeats']} timings ± half the distance of their quartiles",
        "another device, dtype, size or library gives other figures",
    )


def _measured_on(about: Mapping[str, Any]) -> str:
    libraries = ", ".join(f"{name} {'on' if about[name] else 'off'}" for name in ("oneDNN", "MKL"))
    libraries = f"cuDNN {about['cuDNN']}" if about["cuDNN"] else libraries
    threads = plural(about["threads"], "thread")
    return f"measured on {about['device']}, {threads}, torch {about['torch']}, {libraries}, TF32 off"


def _what_was_run(comparison: Comparison) -> list[str]:
    about = comparison.circumstances
    dtypes = ", ".join(about["dtypes"])
    if not any(layer.patch for layer in comparison.layers):
        return [f"batch {about['batch']}, length {', '.join(map(str, about['lengths']))}, {dtypes}"]
    lines = []
    for layer in comparison.layers:
        patches = f"{plural(layer.shape[0] * layer.length, 'patch').replace('patchs', 'patches')}"
        numbers = plural(layer.sizes[0] * math.prod(layer.patch), "number")
        kind = f"Conv{len(layer.patch)}d"
        lines.append(f"{layer.name}: {kind} on {layer.shape}, {patches} of {numbers}")
    assumed = [f"{name}: its stride is assumed to be its kernel size" for name in comparison.assumed]
    return [*dict.fromkeys(lines), *assumed, dtypes]


def _not_run(left: Sequence[NotRun]) -> Iterator[str]:
    """A line for each reason why PyTorch did not run something."""
    for dtype, reason in dict.fromkeys((one.dtype, one.reason) for one in left):
        names = join_words(one.name for one in left if (one.dtype, one.reason) == (dtype, reason))
        yield f"not measured: {names} in {dtype}, which PyTorch cannot run there ({reason})"


def what_is_drawn(comparison: Comparison) -> str:
    """The sentence under a plot."""
    setting, about = comparison.setting, comparison.circumstances
    conv, linear, _ = _titles(comparison.layers).drawn
    batch = f"batch {setting.batch}, " if setting.batch else ""
    busy = "" if all(layer.settled for layer in comparison.layers) else "; the machine was busy"
    return f"{conv} and {linear}, forward, {batch}{plural(setting.threads, 'thread')}, {about['device']}{busy}"


def flat_table(layers: Sequence[Measured]) -> Table:
    """One row for each layer, dtype and length, every figure in seconds or plain numbers; for CSV."""
    with_patches = any(layer.patch for layer in layers)
    keys = ["layer", "in", "out", "dtype", "length"]
    for when in ("forward", "backward"):
        keys += [f"{when}_{name}_{what}" for name in layers[0].forward for what in ("s", "spread_s")]
    keys += [f"{name}_{what}_error" for name in layers[0].errors for what in ("max", "rms")]
    keys += [f"{name}_gradient_diff" for name in ("input", "weight", "bias")]
    keys += ["output_diff", *(["patch", "input_shape"] if with_patches else [])]
    raw = [_flat_row(layer, with_patches) for layer in layers]
    return Table(tuple(Column(key) for key in keys), [tuple(map(str, row)) for row in raw], raw=raw)


def _flat_row(layer: Measured, with_patches: bool) -> list[object]:
    row: list[object] = [layer.name, *layer.sizes, layer.dtype, layer.length]
    for times in (layer.forward, layer.backward):
        row += [figure for time in times.values() for figure in (time.median, time.spread)]
    for errors in layer.errors.values():
        row += [max(e for e, _ in errors), max(r for _, r in errors)]
    row += [layer.gradients[name][0] if name in layer.gradients else None for name in ("input", "weight", "bias")]
    shapes = ["x".join(map(str, sizes)) for sizes in (layer.patch, layer.shape)]
    return [*row, layer.outputs[0], *(shapes if with_patches else [])]


def comparison_payload(comparison: Comparison) -> dict[str, Any]:
    """The JSON of `compare`; times in seconds."""
    return {
        "setting": dict(comparison.circumstances),
        "layers": [_layer_payload(layer) for layer in comparison.layers],
        "claims": [_claim_payload(claim) for claim in comparison.claims],
        "differs": comparison.differs,
        "not_run": [one._asdict() for one in comparison.left],
        "stride_assumed": list(comparison.assumed),
    }


def _layer_payload(layer: Measured) -> dict[str, Any]:
    apart, most = layer.outputs
    return {
        "name": layer.name,
        "in_channels": layer.sizes[0],
        "out_channels": layer.sizes[1],
        "dtype": layer.dtype,
        "length": layer.length,
        "alike": layer.alike,
        "forward": _times_payload(layer.forward),
        "forward_backward": _times_payload(layer.backward),
        "errors": {
            name: {"max": max(e for e, _ in each), "rms": max(r for _, r in each)}
            for name, each in layer.errors.items()
        },
        "gradients": {
            name: {"max_abs_diff": apart, "max_abs": most} for name, (apart, most) in layer.gradients.items()
        },
        "output": {"max_abs_diff": apart, "max_abs": most},
        "share_of_bound": {name: agreement.share for name, agreement in layer.exact.items()},
        "patch": list(layer.patch) or None,
        "input_shape": list(layer.shape),
    }


def _claim_payload(claim: Claim) -> dict[str, Any]:
    figures = list(map(flagged, claim.figures))
    return {"claim": claim.text, "verdict": claim.verdict, "figures": figures, "cause": claim.cause}


def panels(layers: Sequence[Measured]) -> list[Panel]:
    """Time forward against length, a panel for each layer and dtype."""
    grouped: dict[str, list[Measured]] = {}
    for layer in layers:
        grouped.setdefault(f"{layer.name} ({layer.sizes[0]} → {layer.sizes[1]}), {layer.dtype}", []).append(layer)
    names = dict(zip(layers[0].forward, _titles(layers).drawn, strict=True))
    return [
        Panel(
            title,
            {names[key]: sorted((float(layer.length), layer.forward[key].median) for layer in group) for key in names},
        )
        for title, group in grouped.items()
    ]


def _times_payload(times: Mapping[str, Time]) -> dict[str, Any]:
    return {
        name: {"median": time.median, "spread": time.spread, "settled": time.settled} for name, time in times.items()
    }
