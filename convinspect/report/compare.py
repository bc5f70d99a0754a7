"""Measurements of Conv1d and Linear → tables, claims, JSON and a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from convinspect.render.plot import Panel
from convinspect.render.style import BAD, GOOD, NAME, QUIET, WARN
from convinspect.render.table import Block, Cell, Column, Styled, Table
from convinspect.text import plural

if TYPE_CHECKING:
    from convinspect.comparing.claims import Claim
    from convinspect.comparing.measure import Measured, Time

_VERDICT_STYLES = {"holds": GOOD, "does not hold": BAD, "within noise": WARN, "not told": WARN}


def comparison_tables(
    found: Sequence[Measured], claims: Sequence[Claim], about: Mapping[str, Any]
) -> list[Table | Block]:
    """Time forward, time forward and backward, errors and gradients, then the claims."""
    return [
        _time_table("time, forward", found, backward=False),
        _time_table("time, forward and backward", found, backward=True),
        _error_table(found),
        _claims_block(claims, about),
    ]


def _first_columns(found: Sequence[Measured]) -> tuple[Column, ...]:
    columns = [Column("layer", style=NAME, priority=100, elide=True), Column("in → out", priority=60, style=QUIET)]
    if len({one.dtype for one in found}) > 1:
        columns.append(Column("dtype", priority=95, style=QUIET))
    if len({one.length for one in found}) > 1:
        columns.append(Column("length", "right", priority=95))
    return tuple(columns)


def _first_cells(one: Measured, columns: Sequence[Column]) -> list[Cell]:
    name = one.name if not one.alike else f"{one.name} (and {one.alike} alike)"
    cells: list[Cell] = [name, f"{one.sizes[0]} → {one.sizes[1]}"]
    titles = [column.title for column in columns]
    return cells + ([one.dtype] if "dtype" in titles else []) + ([f"{one.length:,}"] if "length" in titles else [])


def _time_table(title: str, found: Sequence[Measured], backward: bool) -> Table:
    first = _first_columns(found)
    columns = (
        *first,
        Column("Conv1d", "right", priority=90),
        Column("Linear", "right", priority=90),
        Column("Linear, .mT", "right", priority=80),
        Column("C ÷ L", "right", priority=85),
        Column("C ÷ L, .mT", "right", priority=75),
    )
    rows = []
    for one in found:
        times = one.backward if backward else one.forward
        conv = times["conv1d"]
        cells = [*_first_cells(one, first), *(_time(times[name]) for name in ("conv1d", "linear", "transposed"))]
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


def _ratio(one: Time, other: Time) -> Cell:
    ratio, noise = one.over(other)
    style = QUIET if abs(ratio - 1) <= noise else "bold"
    return Styled(f"{ratio:.2f}", style)


def _error_table(found: Sequence[Measured]) -> Table:
    first = _first_columns(found)
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
    for one in found:
        cells = _first_cells(one, first)
        for name in ("conv1d", "linear"):
            cells += [f"{max(e for e, _ in one.errors[name]):.1e}", f"{max(r for _, r in one.errors[name]):.1e}"]
        gradients = [one.gradients.get(name) for name in ("input", "weight", "bias")]
        rows.append((*cells, *("–" if pair is None else f"{pair[0]:.1e}" for pair in gradients)))
    return Table(columns, rows, title="errors against float64, and how far the gradients of the two are apart")


def _claims_block(claims: Sequence[Claim], about: Mapping[str, Any]) -> Block:
    lines: list[Cell] = []
    for claim in claims:
        said = "cannot be told" if claim.verdict == "not told" else f"{claim.verdict} here"
        lines.append((Styled(f"“{claim.text}”: "), Styled(said, _VERDICT_STYLES[claim.verdict])))
        lines += [f"  {figure}" for figure in claim.figures]
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


def flat_table(found: Sequence[Measured]) -> Table:
    """One row for each layer, dtype and length, every figure in seconds or plain numbers; for CSV."""
    keys = ["layer", "in", "out", "dtype", "length"]
    for when in ("forward", "backward"):
        keys += [f"{when}_{name}_{what}" for name in ("conv1d", "linear", "transposed") for what in ("s", "spread_s")]
    keys += [f"{name}_{what}_error" for name in ("conv1d", "linear") for what in ("max", "rms")]
    keys += [f"{name}_gradient_diff" for name in ("input", "weight", "bias")]
    raw = [_flat_row(one) for one in found]
    return Table(tuple(Column(key) for key in keys), [tuple(map(str, row)) for row in raw], raw=raw)


def _flat_row(one: Measured) -> list[object]:
    row: list[object] = [one.name, *one.sizes, one.dtype, one.length]
    for times in (one.forward, one.backward):
        row += [figure for time in times.values() for figure in (time.median, time.spread)]
    for name in ("conv1d", "linear"):
        row += [max(e for e, _ in one.errors[name]), max(r for _, r in one.errors[name])]
    return row + [one.gradients[name][0] if name in one.gradients else None for name in ("input", "weight", "bias")]


def comparison_payload(found: Sequence[Measured], claims: Sequence[Claim], about: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of `compare`; times in seconds."""
    return {
        "setting": dict(about),
        "layers": [
            {
                "name": one.name,
                "in_channels": one.sizes[0],
                "out_channels": one.sizes[1],
                "dtype": one.dtype,
                "length": one.length,
                "alike": one.alike,
                "forward": _times_payload(one.forward),
                "forward_backward": _times_payload(one.backward),
                "errors": {
                    name: {"max": max(e for e, _ in each), "rms": max(r for _, r in each)}
                    for name, each in one.errors.items()
                },
                "gradients": {
                    name: {"max_abs_diff": apart, "max_abs": most} for name, (apart, most) in one.gradients.items()
                },
            }
            for one in found
        ],
        "claims": [{"claim": one.text, "verdict": one.verdict, "figures": list(one.figures)} for one in claims],
    }


def panels(found: Sequence[Measured]) -> list[Panel]:
    """Time forward against length, a panel for each layer and dtype."""
    grouped: dict[str, list[Measured]] = {}
    for one in found:
        grouped.setdefault(f"{one.name} ({one.sizes[0]} → {one.sizes[1]}), {one.dtype}", []).append(one)
    names = {"conv1d": "Conv1d", "linear": "Linear", "transposed": "Linear and transposes"}
    return [
        Panel(
            title,
            {names[key]: sorted((float(one.length), one.forward[key].median) for one in group) for key in names},
        )
        for title, group in grouped.items()
    ]


def _times_payload(times: Mapping[str, Time]) -> dict[str, Any]:
    return {name: {"median": time.median, "spread": time.spread} for name, time in times.items()}
