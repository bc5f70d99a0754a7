"""The table, the verdict and the JSON of `diff A --error`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from convinspect.diffing.fixes import Answer, ErrorReport, Fix
from convinspect.layers.folding import fold_names
from convinspect.render.cells import count, safe, shape
from convinspect.render.style import BAD, GOOD, NAME, WARN
from convinspect.render.table import Cell, Column, Styled, Table
from convinspect.showing.causes import by_cause
from convinspect.showing.commands import can_be_converted, step_commands
from convinspect.showing.diff import BY_CAUSE, Listing, note_on_causes
from convinspect.showing.diff_payload import checkpoint_payload, missing_payload, prefix_payload
from convinspect.showing.flags import by_reader, flagged
from convinspect.showing.opened import opened_name
from convinspect.showing.pytorch_lines import by_hand_lines, lines_of
from convinspect.showing.verdict import command_lines, obstacle_cell, prefix_text, what_changes, with_missing
from convinspect.text import plural

_COLUMNS = (
    Column("error", priority=90, foldable=True, key="error"),
    Column("name", style=NAME, priority=100, elide=True, never_hidden=True, key="name", min_width=20),
    Column("in A", priority=98, key="shape_a", never_hidden=True),
    Column("wanted", priority=98, key="shape_model", never_hidden=True),
    Column("fixed by", priority=95, key="fix"),
    Column("notes", priority=92, wrap=True, key="notes", min_width=14, never_hidden=True),
)
_FIXES = {
    Fix.CONVERT: Styled("convert", GOOD),
    Fix.RENAME: Styled("rename", GOOD),
    Fix.PYTORCH: Styled("PyTorch", WARN),
    Fix.NONE: Styled("nothing", BAD),
    Fix.ALREADY: Styled("already", GOOD),
    Fix.OTHER_CHECKPOINT: Styled("not A", BAD),
    Fix.PASS_ITS_ROOT: Styled("passing its root", GOOD),
    Fix.WHICH: Styled("not clear which", WARN),
}


def error_table(report: ErrorReport, listing: Listing = BY_CAUSE) -> Table:
    """The verdict, and a row for each item of the error or, of many, for each cause.

    Args:
        report: What can be done about the error.
        listing: Which rows are shown.
    """
    answers = report.answers
    names = [answer.item.key for answer in answers]
    if listing.by_cause:
        rows = by_cause(names, [_cause(answer) for answer in answers])
    else:
        rows = fold_names(names, [_signature(answer, place, listing.folded) for place, answer in enumerate(answers)])
    members = [(name, [answers[place] for place in places]) for name, places in rows]
    counted = listing.by_cause and len(members) < len(answers)
    return Table(
        (*((Column("keys", "right", priority=97, key="keys"),) if counted else ()), *_COLUMNS),
        [_row(name, alike, counted) for name, alike in members],
        title=f"A: {opened_name(report.checkpoint)} · load_state_dict error",
        lead=(with_missing(_verdict(report), report.missing), *_prefixes(report)),
        notes=(*_notes(report), *([note_on_causes()] if counted else [])),
        raw=[() if counted else _raw(name, alike[0]) for name, alike in members],
    )


def _cause(answer: Answer) -> tuple[object, ...]:
    """What lines have in common that are in one row."""
    call = answer.call if answer.call.startswith(".permute") else bool(answer.call)
    reason = "" if answer.call or answer.fix == Fix.OTHER_CHECKPOINT else str(answer.reason)
    return (answer.item.trouble, answer.fix, call, reason)


def _signature(answer: Answer, place: int, folded: bool) -> tuple[object, ...]:
    """Answers with the same signature are folded into one row."""
    item = answer.item
    return (item.trouble, answer.fix, answer.reason, answer.shape, item.model) if folded else (place,)


def _row(name: str, alike: Sequence[Answer], counted: bool) -> tuple[Cell, ...]:
    first = alike[0]
    stored, wanted = ("–" if dims is None else shape(dims) for dims in (first.shape, first.item.model))
    if counted and len({(answer.shape, answer.item.model) for answer in alike}) > 1:
        stored, wanted = (text if text == "–" else f"{text}, …" for text in (stored, wanted))
    reason = "reshape" if len(alike) > 1 and first.call.startswith(".reshape") else flagged(first.reason)
    note = f"×{len(alike)}, {reason}" if len(alike) > 1 and not counted else reason
    return (
        *((count(len(alike)),) if counted else ()),
        first.item.trouble.value,
        name,
        stored,
        wanted,
        _fixed_by(first.fix),
        note,
    )


def _fixed_by(fix: Fix) -> Cell:
    return Styled(by_reader("convert --like", "convert(like=…)"), WARN) if fix is Fix.LIKE else _FIXES[fix]


def _raw(name: str, answer: Answer) -> tuple[object, ...]:
    item = answer.item
    return (item.trouble, name, answer.shape, item.model, answer.fix, flagged(answer.reason))


def _prefixes(report: ErrorReport) -> Iterable[Cell]:
    for prefix in report.prefixes:
        yield Styled(prefix_text(prefix, ("A", "the model")) + " → rename" * bool(report.rules), WARN)
    for prefix in report.extra:
        yield Styled(prefix_text(prefix, ("A", "the error")), WARN)


def _changes(report: ErrorReport) -> str:
    return what_changes(sum(step.count for step in report.steps), bool(report.rules))


def _verdict(report: ErrorReport) -> Cell:
    if all(answer.fix == Fix.OTHER_CHECKPOINT for answer in report.answers):
        return obstacle_cell("The error is about another checkpoint", report.obstacles)
    if report.obstacles and not report.mended_by_hand:
        return obstacle_cell("A will still not load", report.obstacles)
    if report.hidden:
        return (Styled("Whether A will load is not certain", WARN), Styled(f": {_why_hidden(report)}"))
    if report.same:
        return (Styled("A would load strictly without changes", GOOD), Styled(": it has none of these faults"))
    changes = _changes(report)
    if report.mended_by_hand:
        changes = f"{f'{changes} and ' * bool(changes)}the PyTorch below"
    if report.loads_by_hand:
        return Styled(f"A will load after {changes}", WARN)
    if report.root:
        after = f"After {changes}, pass" if changes else "Pass"
        weights = "".join(f'["{part}"]' for part in report.root.split("."))
        return (Styled(f"{after} its weights alone", GOOD), Styled(f": load_state_dict(checkpoint{weights})"))
    if report.unseen:
        gone = f"These faults are gone after {changes}" if changes else "A has none of these faults"
        return (Styled(gone, GOOD), Styled("; whether the shapes of these keys agree, the error does not tell"))
    return Styled(f"A will load after {changes}", GOOD)


def _why_hidden(report: ErrorReport) -> str:
    """Why no promise can be made."""
    unread = len(report.unread)
    if unread:
        return f"{plural(unread, 'line')} of the text {'was' if unread == 1 else 'were'} not understood"
    if report.stops:
        changes = _changes(report)
        then = (
            "A does not have this fault" if report.clear else f"after {changes} this fault is gone" if changes else ""
        )
        return f"{report.stops} stops at the first fault; {then or 'there may be others'}"
    if report.endless:
        return "the table ends without its notes, and rows may be missing; give the text down to its end"
    if report.headless:
        return "the text begins in the middle of the error; give it from its first line on"
    return "the text names several keys as one, or only their last part"


_UNREAD_SHOWN = 5
"""Lines that were not understood, of those that are shown."""


def _notes(report: ErrorReport) -> Iterable[str]:
    if report.checkpoint.unwritten:
        yield report.checkpoint.unwritten
    for line in report.unread[:_UNREAD_SHOWN]:
        yield f"not understood: {safe(line)}"
    more = len(report.unread) - _UNREAD_SHOWN
    if more > 0:
        yield f"not understood: {plural(more, 'more line')}"
    renamed = any(answer.fix == Fix.RENAME for answer in report.answers)
    if renamed or report.root:
        when = "after renaming" if renamed else "then"
        yield f"PyTorch compares shapes only of keys that agree: {when} it may find other mismatches"
    others = sum(answer.fix == Fix.OTHER_CHECKPOINT for answer in report.answers)
    if 0 < others < len(report.answers):
        are = "is" if others == 1 else "are"
        yield f"{plural(others, 'line')} {are} not about this file; is it the one that was loaded?"


def error_commands(report: ErrorReport) -> list[str]:
    """Commands that fix all that can be fixed."""
    checkpoint = report.checkpoint
    return step_commands(checkpoint, report.steps, report.rules or ()) if can_be_converted(checkpoint) else []


def error_typed(report: ErrorReport) -> list[str]:
    """The same as lines below a heading."""
    typed = error_commands(report)
    return [*command_lines(typed, _changes(report)), *error_pytorch(report, typed)]


def error_pytorch(report: ErrorReport, typed: Sequence[str]) -> list[str]:
    """The lines of PyTorch among them, below a heading; [] if there are none.

    Args:
        report: The answers.
        typed: Its `error_commands`, which come first.
    """
    return by_hand_lines(_pytorch(report), bool(typed))


def _pytorch(report: ErrorReport) -> list[str]:
    """Lines of PyTorch for what no conversion does."""
    renamed = bool(report.rules)
    return lines_of(
        (answer.item.key if renamed else answer.key, answer.call) for answer in report.answers if answer.call
    )


def error_payload(report: ErrorReport) -> dict[str, Any]:
    """The JSON of `diff A --error`."""
    return {
        "a": checkpoint_payload(report.checkpoint),
        "same": report.same,
        "verdict": report.verdict,
        "obstacles": list(map(flagged, report.obstacles)),
        "rename": None if report.rules is None else list(report.rules),
        "commands": error_commands(report),
        "pytorch": _pytorch(report),
        "loads_after_pytorch": report.loads_by_hand,
        "prefixes": [prefix_payload(prefix) for prefix in report.prefixes],
        "lines": [_payload(answer) for answer in report.answers],
        "not_understood": list(report.unread),
        "stops_at_first": report.stops or None,
        "begins_in_the_middle": report.headless,
        "ends_in_the_middle": report.endless,
        "numbers_missing": missing_payload(report.missing),
    }


def _payload(answer: Answer) -> dict[str, Any]:
    item = answer.item
    return {
        "error": item.trouble,
        "name": item.key,
        "shape_checkpoint": None if item.checkpoint is None else list(item.checkpoint),
        "shape_model": None if item.model is None else list(item.model),
        "shape_a": None if answer.shape is None else list(answer.shape),
        "fix": answer.fix,
        "reason": flagged(answer.reason),
        "layer": answer.layer if answer.fix == Fix.CONVERT else None,
    }
