"""What can be done about a `load_state_dict` error → the table, the verdict and the JSON of `diff A --error`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from convinspect.checkpoint import Checkpoint
from convinspect.diffing.fixes import Answer, ErrorReport
from convinspect.diffing.load_error import Shape
from convinspect.layers.folding import fold_names
from convinspect.render.cells import count, shape
from convinspect.render.style import BAD, GOOD, NAME, WARN
from convinspect.render.table import Cell, Column, Styled, Table
from convinspect.report.commands import can_be_converted, step_commands
from convinspect.report.diff import command_lines, obstacle_cell, prefix_payload, prefix_text, what_changes

_COLUMNS = (
    Column("error", priority=90, foldable=True, key="error"),
    Column("name", style=NAME, priority=100, elide=True, key="name", min_width=20),
    Column("in A", priority=80, key="shape_a"),
    Column("wanted", priority=85, key="shape_model"),
    Column("mended by", priority=95, key="fix"),
    Column("notes", priority=92, wrap=True, key="notes", min_width=14),
)
_FIXES = {
    "convert": ("convert", GOOD), "rename": ("rename", GOOD), "like": ("convert --like", WARN),
    "none": ("nothing", BAD), "already": ("already", GOOD), "other checkpoint": ("not A", BAD),
    "pass its root": ("passing its root", GOOD),
}  # fmt: skip


def error_table(a: Checkpoint, report: ErrorReport, folded: bool) -> Table:
    """A row for each thing that the error says, then the verdict.

    Args:
        a: The checkpoint at hand.
        report: What can be done.
        folded: One row for repeated blocks.
    """
    answers = report.answers
    names = [one.complaint.key for one in answers]
    rows = fold_names(names, [_signature(one, place, folded) for place, one in enumerate(answers)])
    members = [(name, [answers[place] for place in places]) for name, places in rows]
    return Table(
        _COLUMNS,
        [_row(name, ones) for name, ones in members],
        title=f"A: {a.path.name} · load_state_dict error",
        summary=tuple(_summary(report)),
        notes=tuple(_notes(report)),
        raw=[_raw(name, ones[0]) for name, ones in members],
    )


def _signature(one: Answer, place: int, folded: bool) -> tuple[object, ...]:
    return (one.complaint.trouble, one.fix, one.reason, one.here, _wanted(one)) if folded else (place,)


def _wanted(one: Answer) -> Shape | None:
    return one.complaint.model


def _row(name: str, ones: Sequence[Answer]) -> tuple[Cell, ...]:
    one = ones[0]
    here, wanted = ("–" if it is None else shape(it) for it in (one.here, _wanted(one)))
    note = f"×{len(ones)}, {one.reason}" if len(ones) > 1 else one.reason
    return (one.complaint.trouble, name, here, wanted, Styled(*_FIXES[one.fix]), note)


def _raw(name: str, one: Answer) -> tuple[object, ...]:
    return (one.complaint.trouble, name, one.here, _wanted(one), one.fix, one.reason)


def _summary(report: ErrorReport) -> Iterable[Cell]:
    for one in report.prefixes:
        yield Styled(prefix_text(one, ("A", "the model")), WARN)
    for one in report.taken:
        yield Styled(prefix_text(one, ("A", "the error")), WARN)
    yield from ("",) if report.prefixes or report.taken else ()
    yield _verdict(report)


def _changes(report: ErrorReport) -> str:
    return what_changes(sum(step.count for step in report.steps), bool(report.rules))


def _verdict(report: ErrorReport) -> Cell:
    if all(one.fix == "other checkpoint" for one in report.answers):
        return obstacle_cell("The error is about another checkpoint", report.obstacles)
    if report.same:
        return (Styled("A would load strictly as it is", GOOD), Styled(": it has none of these faults"))
    if report.obstacles:
        return obstacle_cell("A will still not load", report.obstacles)
    changes = _changes(report)
    if not report.root:
        return Styled(f"A will load after {changes}", GOOD)
    after = f"After {changes}, pass" if changes else "Pass"
    weights = "".join(f'["{part}"]' for part in report.root.split("."))
    return (Styled(f"{after} its weights alone", GOOD), Styled(f": load_state_dict(checkpoint{weights})"))


def _notes(report: ErrorReport) -> Iterable[str]:
    renamed = any(one.fix == "rename" for one in report.answers)
    if renamed or report.root:
        when = "after renaming" if renamed else "then"
        yield f"PyTorch compares shapes only of keys that agree: {when} it may find other mismatches"
    others = sum(one.fix == "other checkpoint" for one in report.answers)
    if 0 < others < len(report.answers):
        yield f"{count(others)} lines are not about this file; is it the one that was loaded?"


def error_commands(a: Checkpoint, report: ErrorReport) -> list[str]:
    """What to type to mend all that can be."""
    return step_commands(a, report.steps, report.rules or ()) if can_be_converted(a) else []


def error_typed(a: Checkpoint, report: ErrorReport) -> list[str]:
    """The same as lines below a heading."""
    return command_lines(error_commands(a, report), _changes(report))


def error_payload(a: Checkpoint, report: ErrorReport) -> dict[str, Any]:
    """The JSON of `diff A --error`."""
    verdict = "loads" if report.same else "does not load" if report.obstacles else "loads after converting"
    return {
        "a": {"path": str(a.path), "format": a.format, "root": a.root.path},
        "same": report.same,
        "verdict": verdict,
        "obstacles": list(report.obstacles),
        "rename": None if report.rules is None else list(report.rules),
        "commands": error_commands(a, report),
        "prefixes": [prefix_payload(one) for one in report.prefixes],
        "lines": [_payload(one) for one in report.answers],
    }


def _payload(one: Answer) -> dict[str, Any]:
    said = one.complaint
    return {
        "error": said.trouble,
        "name": said.key,
        "shape_checkpoint": None if said.checkpoint is None else list(said.checkpoint),
        "shape_model": None if said.model is None else list(said.model),
        "shape_a": None if one.here is None else list(one.here),
        "fix": one.fix,
        "reason": one.reason,
        "layer": one.layer if one.fix == "convert" else None,
    }
