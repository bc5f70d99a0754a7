"""Tables, claims, JSON and the plot of `compare`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from convinspect.render.plot import Panel
from convinspect.render.style import BAD, GOOD, NAME, QUIET, WARN
from convinspect.render.table import Block, Cell, Column, Styled, Table
from convinspect.report.flags import flagged
from convinspect.text import plural

if TYPE_CHECKING:
    from convinspect.comparing.claims import Claim
    from convinspect.comparing.measure import Measured, Time

_VERDICT_STYLES = {"holds": GOOD, "does not hold": BAD, "within noise": WARN, "not told": WARN}


def comparison_tables(
    layers: Sequence[Measured], claims: Sequence[Claim], about: Mapping[str, Any]
) -> list[Table | Block]:
    """Time forward, time forward and backward, errors and gradients, then the claims."""
    return [
        _time_table("time, forward", layers, backward=False),
        _time_table("time, forward and backward", layers, backward=True),
        _error_table(layers),
        _claims_block(claims, about),
    ]


def _first_columns(layers: Sequence[Measured]) -> tuple[Column, ...]:
    columns = [Column("layer", style=NAME, priority=100, elide=True), Column("in → out", priority=60, style=QUIET)]
    if len({layer.dtype for layer in layers}) > 1:
        columns.append(Column("dtype", priority=95, style=QUIET))
    if len({layer.length for layer in layers}) > 1:
        columns.append(Column("length", "right", priority=95))
    return tuple(columns)


def _first_cells(layer: Measured, columns: Sequence[Column]) -> list[Cell]:
    name = layer.name if not layer.alike else f"{layer.name} (and {layer.alike} alike)"
    cells: list[Cell] = [name, f"{layer.sizes[0]} → {layer.sizes[1]}"]
    titles = [column.title for column in columns]
    return cells + ([layer.dtype] if "dtype" in titles else []) + ([f"{layer.length:,}"] if "length" in titles else [])


def _time_table(title: str, layers: Sequence[Measured], backward: bool) -> Table:
    first = _first_columns(layers)
    columns = (
        *first,
        Column("Conv1d", "right", priority=90),
        Column("Linear", "right", priority=90),
        Column("Linear, .mT", "right", priority=80),
        Column("C ÷ L", "right", priority=85),
        Column("C ÷ L, .mT", "right", priority=75),
    )
    rows = []
    for layer in layers:
        times = layer.backward if backward else layer.forward
        conv = times["conv1d"]
        cells = [*_first_cells(layer, first), *(_time(times[name]) for name in ("conv1d", "linear", "transposed"))]
        rows.append((*cells, _ratio(conv, times["linear"]), _ratio(conv, times["transposed"])))
    note = "C ÷ L: Conv1d's time ÷ Linear's; .mT: with the transposes around it that (N, C, L) needs"
    return Table(columns, rows, title=title, notes=() if backward else (note,))


def _time(time: Time) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if time.median >= factor or unit == "µs":
            return f"{_three(time.median / factor)} ±{_short(time.spread / factor)} {unit}"
    raise AssertionError


def _three(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def _ratio(time: Time, reference: Time) -> Cell:
    ratio, noise = time.over(reference)
    style = QUIET if abs(ratio - 1) <= noise else "bold"
    return Styled(f"{ratio:.2f}", style)


def _error_table(layers: Sequence[Measured]) -> Table:
    first = _first_columns(layers)
    columns = (
        *first,
        Column("Conv1d max", "right", priority=90),
        Column("RMS", "right", priority=85),
        Column("Linear max", "right", priority=90),
        Column("RMS", "right", priority=85),
        Column("∂x apart", "right", priority=80),
        Column("∂W apart", "right", priority=80),
        Column("∂b apart", "right", priority=80),
    )
    rows = []
    for layer in layers:
        cells = _first_cells(layer, first)
        for name in ("conv1d", "linear"):
            cells += [f"{max(e for e, _ in layer.errors[name]):.1e}", f"{max(r for _, r in layer.errors[name]):.1e}"]
        gradients = [layer.gradients.get(name) for name in ("input", "weight", "bias")]
        rows.append((*cells, *("–" if pair is None else f"{pair[0]:.1e}" for pair in gradients)))
    return Table(columns, rows, title="errors against float64, and how far the gradients of the two are apart")


def _claims_block(claims: Sequence[Claim], about: Mapping[str, Any]) -> Block:
    lines: list[Cell] = []
    for claim in claims:
        said = "cannot be told" if claim.verdict == "not told" else f"{claim.verdict} here"
        lines.append((Styled(f"“{claim.text}”: "), Styled(said, _VERDICT_STYLES[claim.verdict])))
        lines += [f"  {flagged(figure)}" for figure in claim.figures]
    return Block(tuple(lines), title="what is said of the two", notes=_about_lines(about))


def _about_lines(about: Mapping[str, Any]) -> tuple[Cell, ...]:
    libraries = ", ".join(f"{name} {'on' if about[name] else 'off'}" for name in ("oneDNN", "MKL"))
    libraries = f"cuDNN {about['cuDNN']}" if about["cuDNN"] else libraries
    threads = plural(about["threads"], "thread")
    lengths = ", ".join(map(str, about["lengths"]))
    busy = [Styled(f"other work was running (load {about['load']:.1f}), so times of several threads say little", WARN)]
    busy = busy if about["busy"] else []
    return (
        f"measured on {about['device']}, {threads}, torch {about['torch']}, {libraries}, TF32 off",
        f"batch {about['batch']}, length {lengths}, {', '.join(about['dtypes'])}",
        *busy,
        f"median of {about['repeats']} timings ± half the distance of their quartiles",
        "another device, dtype, size or library gives other figures",
    )


def flat_table(layers: Sequence[Measured]) -> Table:
    """One row for each layer, dtype and length, every figure in seconds or plain numbers; for CSV."""
    keys = ["layer", "in", "out", "dtype", "length"]
    for when in ("forward", "backward"):
        keys += [f"{when}_{name}_{what}" for name in ("conv1d", "linear", "transposed") for what in ("s", "spread_s")]
    keys += [f"{name}_{what}_error" for name in ("conv1d", "linear") for what in ("max", "rms")]
    keys += [f"{name}_gradient_diff" for name in ("input", "weight", "bias")]
    raw = [_flat_row(layer) for layer in layers]
    return Table(tuple(Column(key) for key in keys), [tuple(map(str, row)) for row in raw], raw=raw)


def _flat_row(layer: Measured) -> list[object]:
    row: list[object] = [layer.name, *layer.sizes, layer.dtype, layer.length]
    for times in (layer.forward, layer.backward):
        row += [figure for time in times.values() for figure in (time.median, time.spread)]
    for name in ("conv1d", "linear"):
        row += [max(e for e, _ in layer.errors[name]), max(r for _, r in layer.errors[name])]
    return row + [layer.gradients[name][0] if name in layer.gradients else None for name in ("input", "weight", "bias")]


def comparison_payload(layers: Sequence[Measured], claims: Sequence[Claim], about: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of `compare`; times in seconds."""
    return {
        "setting": dict(about),
        "layers": [
            {
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
            }
            for layer in layers
        ],
        "claims": [
            {"claim": claim.text, "verdict": claim.verdict, "figures": list(map(flagged, claim.figures))}
            for claim in claims
        ],
    }


def panels(layers: Sequence[Measured]) -> list[Panel]:
    """Time forward against length, a panel for each layer and dtype."""
    grouped: dict[str, list[Measured]] = {}
    for layer in layers:
        grouped.setdefault(f"{layer.name} ({layer.sizes[0]} → {layer.sizes[1]}), {layer.dtype}", []).append(layer)
    names = {"conv1d": "Conv1d", "linear": "Linear", "transposed": "Linear and transposes"}
    return [
        Panel(
            title,
            {names[key]: sorted((float(layer.length), layer.forward[key].median) for layer in group) for key in names},
        )
        for title, group in grouped.items()
    ]


def _times_payload(times: Mapping[str, Time]) -> dict[str, Any]:
    return {name: {"median": time.median, "spread": time.spread} for name, time in times.items()}
