"""What `diff A B` comes to: the verdict, the counts, and what to type."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from convinspect.converting.relations import PURE, relate_tensors
from convinspect.diffing.differences import KINDS, Difference, DiffReport, Kind, Square, Verdict
from convinspect.diffing.missing_numbers import Lack, Missing
from convinspect.diffing.steps import planned_steps
from convinspect.errors import Option, Wording
from convinspect.keys.pairing import Prefix
from convinspect.layers.find import find_layers
from convinspect.render.cells import count
from convinspect.render.style import BAD, GOOD, QUIET, WARN
from convinspect.render.table import Cell, Styled
from convinspect.showing.commands import can_be_converted, like_command, step_commands, used_by_like
from convinspect.showing.flags import flagged
from convinspect.showing.pytorch_lines import by_hand_lines, difference_lines
from convinspect.text import plural

_LISTED = 3
"""Reasons that are spelled out in the verdict; of more the first is, and the rest is counted."""

STYLES = {
    Kind.RANK_DIFFERS: GOOD, Kind.TRANSPOSED: WARN, Kind.RESHAPED: WARN, Kind.PERMUTED: WARN, Kind.SHAPE_DIFFERS: BAD,
    Kind.DTYPE_DIFFERS: WARN, Kind.VALUES_DIFFER: WARN, Kind.ONLY_IN_A: BAD, Kind.ONLY_IN_B: BAD, Kind.NO_TENSOR: WARN,
    Kind.NOT_COMPARED: WARN, Kind.SAME: QUIET,
}  # fmt: skip


def counts_cell(report: DiffReport) -> Cell:
    pieces: list[Styled] = []
    counts = report.counts
    for kind in reversed(KINDS):
        number = counts[kind]
        if number or kind == Kind.SAME:
            pieces += [Styled(" · ")] if pieces else []
            pieces.append(
                Styled(f"{count(number)} {_counted(kind, number)}", "" if kind == Kind.SAME else STYLES[kind])
            )
    return tuple(pieces)


_COUNTED = {
    Kind.RANK_DIFFERS: ("rank differs", "ranks differ"),
    Kind.SHAPE_DIFFERS: ("shape differs", "shapes differ"),
    Kind.DTYPE_DIFFERS: ("dtype differs", "dtypes differ"),
    Kind.PERMUTED: ("with axes permuted", "with axes permuted"),
    Kind.VALUES_DIFFER: ("with other values", "with other values"),
    Kind.NO_TENSOR: ("is no tensor", "are no tensors"),
}
"""What is counted of one tensor, and of several, where it is not the kind's own words."""


def _counted(kind: Kind, number: int) -> str:
    return _COUNTED.get(kind, (kind, kind))[number != 1]


def prefix_lines(report: DiffReport) -> Iterable[Cell]:
    """A line for each difference in what precedes the names."""
    for prefix in report.prefixes:
        fix = " → rename" if report.rules else ": no few rules rename them"
        yield Styled(prefix_text(prefix) + fix, WARN)


def prefix_text(prefix: Prefix, sides: tuple[str, str] = ("A", "B")) -> str:
    """Which side's keys have which prefix."""
    keys = plural(prefix.keys, "key")
    if prefix.a and prefix.b:
        what = "prefix" if prefix.a.endswith((".", "*")) else "name"
        return f'{keys}: {what} "{prefix.a}" in {sides[0]} where {sides[1]} has "{prefix.b}"'
    return f'{keys}: prefix "{prefix.a or prefix.b}" in {sides[0] if prefix.a else sides[1]} only'


def verdict_cell(report: DiffReport) -> Cell:
    return with_missing(_verdict_cell(report), report.missing)


def with_missing(verdict: Cell, missing: Missing | None) -> Cell:
    """The verdict with what numbers are not there, though their absence prevents no loading."""
    if missing is None:
        return verdict
    said, *more = (
        (verdict,) if isinstance(verdict, Styled) else (Styled(verdict),) if isinstance(verdict, str) else verdict
    )
    lack = _LACKS[missing.lack].format(plural(missing.tensors, "tensor"))
    return (said if said.style == BAD else Styled(said.text, WARN), *more, Styled(f"; {lack}", WARN))


_LACKS = {
    Lack.UNWRITTEN: "its numbers are missing, it seems: {} would be zeros",
    Lack.META: "of {} it has no numbers, only shapes (meta)",
    Lack.EMPTIED: "of {} it has no numbers, as ZeRO-3 saves what was not gathered",
}


def _verdict_cell(report: DiffReport) -> Cell:
    if report.loads_by_hand:
        changes = what_changes(len(report.converted), bool(report.rules))
        after = f"{changes} and the PyTorch below" if changes else "the PyTorch below"
        doubtful = sum(each.relation is not None and each.relation.ambiguous for each in report.by_hand)
        more = f"; of {plural(doubtful, 'tensor')} the order of axes is the likeliest of several" if doubtful else ""
        return (Styled(f"A will load after {after}", WARN), Styled(more + _otherwise(report)))
    if report.verdict == Verdict.DOES_NOT_LOAD:
        return obstacle_cell("A will still not load", report.obstacles)
    said = "A would load strictly without changes"
    if report.verdict == Verdict.LOADS_AFTER_CONVERTING:
        said = f"A will load after {what_changes(len(report.converted), bool(report.rules))}"
    if otherwise := _otherwise(report):
        return (Styled(said, WARN), Styled(otherwise))
    if report.maybe_turned:
        more = "" if report.compared else f"; {values_compare()}"
        doubt = f", and may compute something else: {_may_be(len(report.maybe_turned))} transposed as others are{more}"
        return (Styled(said, WARN), Styled(doubt))
    end = "; its numbers differ" if any(difference.deviation for difference in report.remarkable) else ""
    unread = sum(difference.unread for difference in report.remarkable)
    if unread:
        end += f"; the numbers of {plural(unread, 'tensor')} were not compared"
    return (Styled(said, GOOD), Styled(f", wherever B loads{end}", WARN if unread else ""))


def values_compare() -> str:
    """What compares the numbers too."""
    return flagged(Wording(Option("values"), " compares the numbers too"))


def _otherwise(report: DiffReport) -> str:
    """That it loads and computes something else, as its numbers show and no shape does; "" where nothing shows it."""
    permuted = sum(each.unnoticed and each.kind == Kind.PERMUTED for each in report.remarkable)
    if permuted:
        return f", but compute something else: the axes of {plural(permuted, 'tensor')} are in another order"
    transposed = sum(difference.unnoticed for difference in report.remarkable)
    return f", but compute something else: {_matrices(transposed)} transposed" if transposed else ""


def _module_of(difference: Difference) -> str:
    return difference.name.rpartition(".")[0] or "."


def _flattened_wrongly(difference: Difference) -> bool:
    """Whether `convert` would flatten a tensor whose numbers show another order of axes."""
    a, b, relation = difference.a, difference.b, difference.relation
    proved = difference.kind == Kind.PERMUTED and relation is not None and relation.proved
    return proved and a is not None and b is not None and relate_tensors(a, b).how in PURE


def _matrices(number: int) -> str:
    return f"{count(number)} square {'matrices are' if number != 1 else 'matrix is'}"


def _may_be(number: int) -> str:
    return f"{count(number)} square {'matrices' if number != 1 else 'matrix'} may be"


def obstacle_cell(what: str, obstacles: Sequence[str]) -> Cell:
    """What will not work, and why: the reasons, or of many the first."""
    if len(obstacles) > _LISTED:
        first, more = flagged(obstacles[0]), count(len(obstacles) - 1)
        return (Styled(what, BAD), Styled(f": {first}; and {more} more reasons"))
    return (Styled(what, BAD), Styled(f": {'; '.join(map(flagged, obstacles))}"))


def what_changes(layers: int, renamed: bool) -> str:
    """ "converting 3 layers and renaming its keys", or the part of it that applies."""
    parts = [f"converting {plural(layers, 'layer')}"] if layers else []
    return " and ".join(parts + (["renaming its keys"] if renamed else []))


def typed_lines(report: DiffReport) -> list[str]:
    """Commands that fix all that can be fixed, below a heading; [] if there are none."""
    typed = commands(report)
    lines = command_lines(typed, what_changes(len(report.converted), bool(report.rules)))
    return [*lines, *by_hand(report, typed)]


def by_hand(report: DiffReport, typed: Sequence[str]) -> list[str]:
    """Lines of PyTorch for what no conversion fixes, below a heading; [] if there are none.

    Args:
        report: The comparison.
        typed: Its `commands`, which come first.
    """
    return by_hand_lines(pytorch_lines(report, typed), bool(typed))


def command_lines(lines: Sequence[str], what: str) -> list[str]:
    """Commands below a line that says what they do."""
    return ["", f"For {what}, type:", *(f"  {line}" for line in lines)] if lines else []


def commands(report: DiffReport) -> list[str]:
    """Commands that fix all that can be fixed; [] if there are none or the file cannot be converted."""
    a, b, rules = report.a, report.b, report.rules or ()
    if not can_be_converted(a) or not (report.converted or rules):
        return []
    turned = any(each.square == Square.TURNED for each in report.remarkable)
    left = [_module_of(each) for each in report.remarkable if _flattened_wrongly(each)]
    if used_by_like(a, b) or not report.converted:
        kept = [_module_of(each) for each in report.remarkable if each.square == Square.AS_IT_IS] if turned else []
        return [like_command(a, b, bool(report.converted), rules, turned, dict.fromkeys((*kept, *left)))]
    if turned:
        # Only --like turns a square matrix beside others.
        return []
    # --like uses the main root, or that of A's name, and here another root was chosen.
    fixed = [difference for difference in report.remarkable if difference.layer is not None]
    shapes = {id(each.a): each.b.shape for each in fixed if each.a is not None and each.b is not None}
    steps, refusals = planned_steps(find_layers(a), shapes)
    # Commands that do a part would not keep what the verdict says.
    return [] if refusals else step_commands(a, steps, rules)


def pytorch_lines(report: DiffReport, typed: Sequence[str] | None = None) -> list[str]:
    """Lines of PyTorch on the state_dict `sd` that mend what no conversion does.

    Args:
        report: The comparison.
        typed: Its `commands`, where the caller has them: they come first.
    """
    return difference_lines(report, bool(report.rules) and bool(commands(report) if typed is None else typed))
