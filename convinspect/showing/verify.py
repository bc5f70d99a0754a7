"""The table, the summary and the JSON of `verify`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convinspect.render.style import BAD, GOOD, NAME, QUIET, WARN
from convinspect.render.table import Cell, Column, Styled, Table
from convinspect.showing.flags import by_reader, flagged
from convinspect.text import first_few, plural, with_article
from convinspect.verifying.causes import Cause, Why
from convinspect.verifying.findings import Report
from convinspect.verifying.layers import LayerCheck

if TYPE_CHECKING:
    from convinspect.arrays.error_bound import Agreement, Rounding
    from convinspect.verifying.model import ModelCheck

_MOST_NAMES = 4
"""Names that are given before the rest is counted."""

SENTENCES = {
    Why.DTYPE_NARROWED: "its dtype was narrowed from {before} to {after}",
    Why.DTYPE_CHANGED: "its dtype was changed from {before} to {after}",
    Why.TYPE_CHANGED: "{before} became {after}",
    Why.QUANTIZER: "its quantizer ({before}) became ({after})",
    Why.QUANTIZER_PARTS: "its quantizer's scales or zero points differ",
    Why.SPARSE_PARTS: "the indices or values of the {layout} tensor differ",
    Why.WRAPPED_PARTS: "the tensors within {subclass} differ",
    Why.WRAPPED_SHAPE: "its shape {before} became {after}, and the tensors within {subclass} kept theirs ({inner}), so"
    " that no model takes it",
    Why.STORED_BYTES: "its stored bytes differ",
    Why.NOT_COMPARED: "its shape changed, and its numbers could not be compared",
    Why.SHAPE: "its shape {before} became {after}",
    Why.RESHAPED: "the same numbers in another shape, {before} before and {after} now, and no shape tells whether the"
    " model uses them alike",
    Why.NO_RESHAPE: "its shape {before} became {after}, which no reshaping explains",
    Why.TRANSPOSED: "it is transposed",
    Why.TRANSPOSED_SHAPE: "it is transposed: {expected} is wanted, and {actual} is there",
    Why.TRANSPOSED_ALONE: "it is transposed, and no other layer is that would show it is meant",
    Why.TURNED_UNSURE: "its rows and columns are exchanged, which nothing in the files shows to be meant",
    Why.TRANSPOSED_UNSURE: "its rows and columns are exchanged: right if it is a transposed convolution, which no shape"
    " tells here",
    Why.LEFT_IN_OUT: "it is transposed: still (in, out) as before, while the other layers are (out, in) now",
    Why.LEFT_OUT_IN: "it is transposed: still (out, in) as before, while the other layers are (in, out) now",
    Why.ROWS_MIXED: "its numbers are as before under the turned shape {after}, so rows are mixed up",
    Why.BYTES: "its bytes differ where none of its numbers do",
    Why.ONE_NUMBER: "1 of {total:,} numbers differs, at {where}: {before} became {after}",
    Why.NUMBERS: "{count:,} of {total:,} numbers differ, first at {where}: {before} became {after}",
    Why.OTHER_TENSOR: "it holds the numbers of {owner}",
    Why.RELATED: "{relation}; {count:,} of {total:,} numbers differ",
    Why.ROW_ORDER: "its rows are in another order",
    Why.FACTOR: "it is multiplied by {factor:.6g}",
    Why.NOT_FOLLOWED: "it did not follow its weight: still {shape}",
    Why.OTHER_ORDER: "its patches are flattened in another order than its weight's",
    Why.CHANGED_ALONE: "it was reshaped from {before} to {after}, unlike its weight",
    Why.TIE_SPLIT: "it is {shape}, and {other}, which is the same weight, is {other_shape}",
    Why.GONE: "it is not there any more",
    Why.MUST_KEEP_SHAPE: "{kind} must keep its shape, which became {shape}",
    Why.NORM_FUSED: "its {norm} was made plain, in other numbers than float64 gives, rounded once",
    Why.GROUPS_ONE_NUMBER: "weight: its groups were written out, and 1 of {total:,} numbers differs, at {where}",
    Why.GROUPS_NUMBERS: "weight: its groups were written out, and {count:,} of {total:,} numbers differ, first at"
    " {where}",
    Why.IGNORED: "its {setting}={before} is ignored",
    Why.NO_PATCHES: "its {setting}={value} with a kernel of {kernel} cuts no patches, so no Linear computes it",
    Why.SETTING: "its {setting}={before} became {after}",
    Why.LAYER_TENSOR: "{leaf}: {cause}",
    Why.BIAS_DROPPED: "its bias was dropped",
    Why.TENSOR_DROPPED: "its {leaf} is missing",
    Why.BIAS_ADDED: "it has a bias that was not there",
    Why.TENSOR_ADDED: "it has a {leaf} that was not there",
    Why.CHANNELS: "it takes {after} channels, and took {before}",
    Why.RESULT_SHAPES: "it gives results of shapes {before} and {after}",
    Why.RESULTS: "its {what} differ by {difference:.3g}, where rounding explains {bound:.3g}",
    Why.PREFIXES: "{prefixes}, and load_state_dict takes none off",
    Why.PREFIX_LOST: "{keys:,} lost the prefix {before!r}",
    Why.PREFIX_ADDED: "{keys:,} begin with {after!r} now",
    Why.PREFIX_REPLACED: "{keys:,} begin with {after!r} instead of {before!r}",
    Why.METADATA: "the file's metadata differs in {keys}",
    Why.OBJECT: "an object beside the tensors differs: {what}",
    Why.OF_LAYER: "layer {name}: {cause}",
    Why.OF_NAME: "{name}: {cause}",
    Why.MISSING: "{name} is missing",
    Why.UNEXPECTED: "{name} was not there before",
    Why.MODEL: "{problem}",
}


def sentence(cause: Cause | None) -> str:
    """The sentence for a cause; "" for none."""
    if cause is None:
        return ""
    facts = {name: _fact(value) for name, value in cause.facts.items()}
    if cause.why is Why.MUST_KEEP_SHAPE:
        facts["kind"] = with_article(str(facts["kind"]))
    return SENTENCES[cause.why].format(**facts)


def _fact(value: object) -> object:
    """A fact as it appears in a sentence; a cause becomes its own sentence."""
    if isinstance(value, Cause):
        return sentence(value)
    if isinstance(value, tuple) and value and isinstance(value[0], Cause):
        return ", ".join(sentence(cause) for cause in value)
    return value


def names_of(report: Report) -> tuple[str, str]:
    """The names of the two sides for a title."""
    before, after = Path(report.before), Path(report.after)
    return before.name, "converted in memory" if before == after else after.name


def verdict(report: Report) -> str:
    """The first problem, with its name; "" if there is none."""
    return sentence(report.cause)


_NOT_VERIFIED = "not verified: its numbers were not compared"
_WAY_OUT = "compare files that hold all of their numbers as plain tensors"

_COLUMNS = (
    Column("layer", style=NAME, priority=100, elide=True, never_hidden=True, key="name"),
    Column("before", priority=60, style=QUIET, foldable=True, key="before"),
    Column("after", priority=60, foldable=True, key="after"),
    Column("bits", priority=90, key="weights_equal"),
    Column("outputs differ by", "right", priority=80, key="max_abs_diff"),
    Column("of bound", "right", priority=75, key="share"),
    Column("rounding", "right", priority=50, style=QUIET, key="rounding"),
    Column("result", priority=95, wrap=True, key="cause", min_width=24, never_hidden=True),
)


def verdict_table(report: Report, names: tuple[str, str], on_screen: bool = False) -> Table:
    """Every layer that was converted or differs, then other differences, then the verdict.

    Args:
        report: The verification's report.
        names: The names of the two sides.
        on_screen: The verdict comes first.
    """
    verdicts = verdict_lines(report)
    return Table(
        _COLUMNS if report.layers else (),
        [_row(check) for check in report.layers],
        title=f"{names[0]} → {names[1]}",
        lead=verdicts if on_screen else (),
        summary=(*_difference_lines(report), *_model_lines(report), *(() if on_screen else verdicts)),
        notes=tuple(_notes(report)),
        raw=[_raw(check) for check in report.layers],
    )


def _row(check: LayerCheck) -> tuple[Cell, ...]:
    bits = Styled("equal", GOOD) if check.weights_equal else Styled("differ", BAD)
    if not (check.cause or check.compared):
        bits, result = Styled("–", WARN), Styled(_NOT_VERIFIED, BAD)
    elif check.cause:
        result = Styled(sentence(check.cause), BAD)
    elif check.unsure:
        result = Styled(f"not verified: {sentence(check.unsure)}", BAD)
    else:
        result = Styled(check.note or "same", WARN if check.note else GOOD)
    outputs = check.outputs
    difference, share = ("–", "–") if outputs is None else (_figure(outputs.difference), _share(outputs))
    rounding = _figure(check.rounding.difference) if check.rounding is not None else "–"
    kind = check.before_shown or check.before
    return (check.name or "(root)", kind, check.after, bits, difference, share, rounding, result)


def _figure(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}"


def _share(outputs: Agreement) -> str:
    if outputs.share > 1:
        return "beyond"
    return (
        "0 %" if outputs.share == 0 else "<1 %" if outputs.share < 0.01 else f"{outputs.share:.0%}".replace("%", " %")
    )


def _raw(check: LayerCheck) -> tuple[object, ...]:
    outputs, rounding = check.outputs, check.rounding
    return (
        check.name, check.before, check.after, check.weights_equal, None if outputs is None else outputs.difference,
        None if outputs is None else outputs.share, None if rounding is None else rounding.difference,
        sentence(check.cause or check.unsure),
    )  # fmt: skip


def _difference_lines(report: Report) -> Iterable[Cell]:
    inside = {check.name for check in report.layers}
    changed = [
        f"{name}: {sentence(cause)}"
        for name, cause in report.changed.items()
        if name not in inside and name.rpartition(".")[0] not in inside
    ]
    for what, names in (("missing", report.missing), ("unexpected", report.unexpected), ("changed", changed)):
        if names:
            yield (Styled(f"{what}: ", BAD), Styled(first_few(names, _MOST_NAMES)))


def _model_lines(report: Report) -> Iterable[Cell]:
    if report.model is None:
        return
    worst = sorted(report.model.outputs.items(), key=lambda item: -item[1][0] / (item[1][1] or 1))
    for place, (difference, bound) in worst[:_MOST_NAMES]:
        style = GOOD if difference <= bound else BAD
        explained = f" apart, rounding explains {_figure(bound)}"
        yield (Styled(f"model {place}: "), Styled(_figure(difference), style), Styled(explained))
    if len(worst) > _MOST_NAMES:
        yield f"and {plural(len(worst) - _MOST_NAMES, 'more output')}, each closer"
    equal = sum(report.model.plain.values())
    if equal:
        are = "is" if equal == 1 else "are"
        yield f"model: {plural(equal, 'output')} of whole numbers, text and the like {are} equal"


def verdict_lines(report: Report) -> tuple[Cell, ...]:
    """The verdict, and what it rests on."""
    return tuple(_verdict_lines(report))


def _verdict_lines(report: Report) -> Iterable[Cell]:
    if not report.equal:
        yield (Styled(report.verdict, BAD), Styled(f" · {verdict(report)}"))
        return
    open_ends = report.unread or report.reshaped or (report.model is not None and report.model.unread)
    equal = Styled("equal as far as it was compared", WARN) if open_ends else Styled("equal", GOOD)
    yield (equal, Styled(f" · strength: {report.strength}"))
    layers = f"{plural(len(report.layers), 'layer')} converted: " if report.layers else ""
    proved = {
        "bits": f"every number{' that was compared' * bool(report.unread)} is the same",
        "layer": "the same numbers and the same outputs",
        "model": "the same numbers, and the whole model gives the same outputs",
    }[report.strength]
    yield f"{layers}{proved} · {plural(report.unchanged, 'tensor')} unchanged"


def _notes(report: Report) -> Iterable[str]:
    yield from _output_notes(report)
    unsure = {check.unsure.why for check in report.layers if check.unsure}
    turned = {Why.TURNED_UNSURE, Why.TRANSPOSED_UNSURE}
    if turned & unsure:
        yield f"rows and columns: {_layer_says()} that a layer was to be transposed"
    if unsure - turned:
        yield f"another shape: {_layer_says()} that a layer was to get it"
    if report.reshaped and not (report.model is not None and not report.model.cause):
        shapes = [f"{name} {cause.facts['before']} → {cause.facts['after']}" for name, cause in report.reshaped.items()]
        proved = "proved are the numbers and their order, not that a model wants these shapes or uses them alike"
        yield f"another shape: {first_few(shapes, _MOST_NAMES)}; {proved}"
    if report.unproved:
        yield f"not verified: {first_few(report.unproved, _MOST_NAMES)}; {_WAY_OUT}"
    if report.unread:
        names = first_few(report.unread, _MOST_NAMES)
        known = "no more than shape and dtype is known to be equal"
        yield f"not compared: {names} (numbers that are not in the file or have no reading); {known}"
    undecided = sum(check.outputs.undecided for check in report.layers if check.outputs is not None)
    if undecided:
        are = "is" if undecided == 1 else "are"
        what = f"{plural(undecided, 'output')} {are} Inf or NaN, or too large for a bound"
        yield f"{what}; there only the bits were compared"
    assumed = dict.fromkeys(what for check in report.layers for what in check.assumed)
    if assumed:
        end = "" if report.strength == "model" else "; others would not be seen at this strength"
        yield f"assumed: {', '.join(assumed)}, which a state_dict does not record{end}"
    yield from map(flagged, report.notes)
    yield from _model_notes(report.model)


def _layer_says() -> str:
    return by_reader("--layer NAME says", "layer=NAME says")


def _output_notes(report: Report) -> Iterable[str]:
    """The meaning of the output columns, and how much gradients differ."""
    if any(check.outputs is not None for check in report.layers):
        yield "outputs: in float64; bound: 2·γₙ(|x||W|ᵀ + |b|), the most that rounding can do there"
    roundings = [check.rounding for check in report.layers if check.rounding is not None]
    if roundings:
        yield _rounding_line(roundings)
    gradients = [gradient for check in report.layers for gradient in check.gradients.values()]
    if gradients:
        worst = max(gradients, key=lambda gradient: gradient.share)
        yield (
            f"gradients: of input, weight and bias, at most {_figure(worst.difference)} apart,"
            f" {_share(worst)} of the bound"
        )


def _model_notes(model: ModelCheck | None) -> Iterable[str]:
    if model is None:
        return
    if model.unread:
        kinds = [f"{place} ({with_article(kind)})" for place, kind in model.unread.items()]
        yield f"model: not compared, for want of a way to: {first_few(kinds, _MOST_NAMES)}"
    yield from (f"model: {note}" for note in model.notes)


def _rounding_line(roundings: Sequence[Rounding]) -> str:
    names = ", ".join(dict.fromkeys(rounding.dtype for rounding in roundings))
    before = max(rounding.before_max for rounding in roundings), max(rounding.before_rms for rounding in roundings)
    after = max(rounding.after_max for rounding in roundings), max(rounding.after_rms for rounding in roundings)
    return (
        f"rounding: difference in {names}, not a fault; from float64 it is {_figure(before[0])} before and"
        f" {_figure(after[0])} after (RMS {_figure(before[1])}, {_figure(after[1])})"
    )


def verdict_payload(report: Report) -> dict[str, Any]:
    """The JSON of `verify`."""
    payload: dict[str, Any] = {
        "before": report.before,
        "after": report.after,
        "ok": report.equal,
        "verdict": report.verdict,
        "strength": report.strength,
        "cause": verdict(report),
        "layers": [_check_payload(check) for check in report.layers],
        "missing": list(report.missing),
        "unexpected": list(report.unexpected),
        "changed": [{"name": name, "cause": sentence(cause)} for name, cause in report.changed.items()],
        "unchanged": report.unchanged,
        "not_compared": [*report.unread, *report.unproved],
        "not_verified": list(report.unproved),
        "reshaped": [
            {"name": name, "before": _dims(cause, "before"), "after": _dims(cause, "after")}
            for name, cause in report.reshaped.items()
        ],
        "notes": list(map(flagged, report.notes)),
    }
    if report.model is not None:
        payload["model"] = {
            "outputs": [
                {"name": place, "max_abs_diff": difference, "bound": bound, "ok": difference <= bound}
                for place, (difference, bound) in report.model.outputs.items()
            ],
            "plain": [{"name": place, "ok": ok} for place, ok in report.model.plain.items()],
            "not_compared": [{"name": place, "kind": kind} for place, kind in report.model.unread.items()],
            "cause": report.model.cause,
            "notes": list(report.model.notes),
        }
    return payload


def _dims(cause: Cause, side: str) -> list[int]:
    shape = cause.facts[side]
    return list(shape) if isinstance(shape, tuple) else []


def _check_payload(check: LayerCheck) -> dict[str, Any]:
    outputs = check.outputs
    payload: dict[str, Any] = {
        "name": check.name,
        "before": check.before,
        "after": check.after,
        "weights_equal": check.weights_equal,
        "max_abs_diff": None if outputs is None else outputs.difference,
        "bound": None if outputs is None else outputs.bound,
        "share": None if outputs is None else outputs.share,
        "ok": check.ok,
        "compared": check.compared,
        "cause": sentence(check.cause or check.unsure),
        "assumed": list(check.assumed),
        "note": check.note,
    }
    if check.gradients:
        payload["gradients"] = {
            name: {"max_abs_diff": gradient.difference, "bound": gradient.bound, "ok": gradient.ok}
            for name, gradient in check.gradients.items()
        }
    rounding = check.rounding
    if rounding is not None:
        payload["rounding"] = {
            "dtype": rounding.dtype,
            "max_abs_diff": rounding.difference,
            "before": {"max": rounding.before_max, "rms": rounding.before_rms},
            "after": {"max": rounding.after_max, "rms": rounding.after_rms},
        }
    return payload
