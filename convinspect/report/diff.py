"""The table, the verdict and the JSON of `diff A B`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from convinspect.checkpoint import Checkpoint
from convinspect.converting.relations import PURE, How, Relation, relate_tensors
from convinspect.diffing.differences import EMPTIED, EMPTIED_SHAPE, KINDS, Difference, DiffReport, Kind, Square, Verdict
from convinspect.diffing.steps import planned_steps
from convinspect.keys.pairing import Prefix
from convinspect.layers.find import find_layers
from convinspect.layers.folding import fold_names
from convinspect.records import Tensor
from convinspect.render.cells import count, shape
from convinspect.render.style import BAD, GOOD, NAME, QUIET, WARN
from convinspect.render.table import Cell, Column, Styled, Table
from convinspect.report.commands import can_be_converted, like_command, step_commands, used_by_like
from convinspect.report.flags import flagged
from convinspect.report.pytorch_lines import by_hand_lines, difference_lines
from convinspect.text import first_few, plural

if TYPE_CHECKING:
    pass

_LISTED = 3
"""Reasons that are spelled out in the verdict before the rest is counted."""

_STYLES = {
    Kind.RANK_DIFFERS: GOOD, Kind.TRANSPOSED: WARN, Kind.RESHAPED: WARN, Kind.PERMUTED: WARN, Kind.SHAPE_DIFFERS: BAD,
    Kind.DTYPE_DIFFERS: WARN, Kind.VALUES_DIFFER: WARN, Kind.ONLY_IN_A: BAD, Kind.ONLY_IN_B: BAD, Kind.NO_TENSOR: WARN,
    Kind.NOT_COMPARED: WARN, Kind.SAME: QUIET,
}  # fmt: skip

_MEANING = {
    Kind.ONLY_IN_A: "unexpected there",
    Kind.ONLY_IN_B: "missing here",
}

_MORE = ("key_a", "key_b", "dtype_a", "dtype_b")
"""What CSV and JSON rows have beside the columns."""


def difference_table(report: DiffReport, everything: bool = False, folded: bool = False) -> Table:
    """The tensors that differ, counts of the others, and the verdict.

    Args:
        report: The comparison.
        everything: Also list tensors that are the same.
        folded: One row for repeated blocks.
    """
    shown = [each for kind in KINDS for each in report.tensors if each.kind == kind]
    shown = [each for each in shown if everything or each.kind != Kind.SAME or each.maybe_turned]
    names = [each.name for each in shown]
    folds = fold_names(names, [_signature(each, place, folded) for place, each in enumerate(shown)])
    members = [(name, [shown[place] for place in places]) for name, places in folds]
    columns = _columns(report)
    return Table(
        columns if members else (),
        [_row(name, alike, report) for name, alike in members],
        title=f"A: {_title(report.a)} · B: {_title(report.b)}",
        summary=(_counts(report), *_prefix_lines(report.prefixes), "", _verdict(report)),
        notes=tuple(notes(report)),
        raw=[_raw(name, alike[0], report) for name, alike in members],
        # A table without rows is not drawn, but CSV needs its header.
        more=(*(() if members else [column.machine_name for column in columns]), *_MORE),
    )


def _title(checkpoint: Checkpoint) -> str:
    root = checkpoint.root.path
    return checkpoint.path.name + (f" ({root})" if root else "")


def _signature(difference: Difference, place: int, folded: bool) -> tuple[object, ...]:
    """Differences with the same signature are folded into one row."""
    if not folded:
        return (place,)
    sides = tuple(None if it is None else (it.shape, it.dtype, it.layout) for it in (difference.a, difference.b))
    whats = tuple(None if it is None else it.what for it in (difference.other_a, difference.other_b))
    return (difference.kind, sides, whats, _note(difference), difference.deviation)


def _columns(report: DiffReport) -> tuple[Column, ...]:
    columns = [
        Column("difference", priority=98, key="difference"),
        Column("name", style=NAME, priority=100, elide=True, key="name", min_width=12 if report.compared else 20),
        Column("A", priority=95, key="shape_a"),
        Column("B", priority=95, key="shape_b"),
    ]
    if report.compared:
        columns += [
            Column("max |A−B|", "right", priority=90, key="max_abs_diff"),
            Column("relative", "right", priority=85, key="max_rel_diff"),
            Column("numbers", "right", priority=60, style=QUIET, key="differing"),
        ]
    # A user who compares numbers wants the differences most, so they outrank the notes.
    return (*columns, Column("notes", priority=65, wrap=True, key="notes", min_width=14))


def _row(name: str, alike: Sequence[Difference], report: DiffReport) -> tuple[Cell, ...]:
    first = alike[0]
    a, b = first.a, first.b
    sides = [other.what if other is not None else None for other in (first.other_a, first.other_b)]
    shown = [sides[0] or _side(a, b), sides[1] or _side(b, a, a)]
    cells: list[Cell] = [Styled(first.kind.value, _STYLES[first.kind]), name or "(root)", *shown]
    if report.compared:
        cells += _deviation_cells(first)
    note = _note(first)
    if len(alike) > 1:
        note = f"×{len(alike)}, {note}" if note else f"×{len(alike)}"
    return (*cells, Styled(note, WARN if first.obstacle or first.unnoticed or first.maybe_turned else ""))


def _side(tensor: Tensor | None, other: Tensor | None, shown: Tensor | None = None) -> str:
    """Shape, and dtype and layout if they differ from the other side; without the shape if `shown` has the same."""
    if tensor is None:
        return "–"
    if other is None or (tensor.dtype, tensor.layout) == (other.dtype, other.layout):
        return shape(tensor.shape)
    words = [] if shown is not None and shown.shape == tensor.shape else [shape(tensor.shape)]
    return " ".join([*words, tensor.dtype, *([tensor.layout] if tensor.layout != other.layout else [])])


def _deviation_cells(difference: Difference) -> list[Cell]:
    deviation = difference.deviation
    if deviation is None or not deviation.count:
        return ["–", "–", "–"]
    figures = [
        Styled(f"{value:.2g}", BAD if value == float("inf") else "")
        for value in (deviation.absolute, deviation.relative)
    ]
    return [*figures, f"{count(deviation.count)} of {count(deviation.total)}"]


def _note(difference: Difference) -> str:
    kind, deviation = difference.kind, difference.deviation
    notes = [difference.supplied] if difference.supplied else [_MEANING[kind]] if kind in _MEANING else []
    notes += _of_shapes(difference)
    if difference.layer is not None:
        notes.append("converting fixes its rank alone" if difference.unnoticed else "converting fixes it")
    elif difference.unnoticed:
        notes.append("only its numbers show it")
    elif difference.maybe_turned:
        notes.append("square: it may be transposed as others are")
    elif kind == Kind.DTYPE_DIFFERS:
        notes.append("PyTorch does not copy it" if difference.obstacle else "cast when it is loaded")
    elif kind == Kind.NO_TENSOR:
        notes.append("PyTorch does not copy it" if difference.obstacle else "PyTorch takes the one for the other")
    elif kind in (Kind.RANK_DIFFERS, Kind.RESHAPED) and difference.refusal:
        notes.append(flagged(difference.refusal))
    elif kind in (Kind.RANK_DIFFERS, Kind.TRANSPOSED, Kind.RESHAPED) and difference.obstacle:
        notes.append(f"in PyTorch: {difference.call}" if difference.call else "no conversion makes it")
    if difference.unread:
        notes.append(_why_unread(difference))
    if deviation is not None and deviation.nan:
        notes.append(f"{count(deviation.nan)} NaN on one side")
    if deviation is not None and not deviation.count:
        notes.append("its bytes differ")
    return ", ".join(notes)


def _of_shapes(difference: Difference) -> list[str]:
    """What is to be said of the relation of two shapes that differ otherwise than in rank."""
    relation, a = difference.relation, difference.a
    if difference.kind == Kind.RESHAPED and not difference.obstacle and difference.layer is None:
        return ["PyTorch takes the one for the other"]
    if difference.kind == Kind.PERMUTED and relation is not None:
        return _of_orders(relation, difference)
    if difference.kind != Kind.SHAPE_DIFFERS:
        return []
    if a is not None and a.shape == EMPTIED_SHAPE:
        return [EMPTIED]
    return [shapes_said(relation)]


def shapes_said(relation: Relation | None) -> str:
    """Why no reshaping and no order of axes makes one shape of another, in a few words."""
    if relation is not None and relation.how in (How.PACK, How.UNPACK):
        return "float4 numbers, two to a byte on one side alone"
    if relation is not None and relation.how is How.SAME_COUNT:
        return "as many numbers, but no order of axes makes it"
    return "no reshaping fixes it"


def _of_orders(relation: Relation, difference: Difference) -> list[str]:
    """Which order of axes it is, and how sure that is."""
    said = f"permute{relation.orders[0]}"
    if relation.proved:
        return [f"{said}: its numbers prove it"]
    if difference.deviation is not None:
        return [f"{said} by its shape; its numbers are others"]
    others = len(relation.orders) - 1
    if others:
        return [f"{said} or {'more' if relation.more else plural(others, 'other order')}: sizes are equal"]
    return [said]


def _why_unread(difference: Difference) -> str:
    """Why its numbers could not be compared."""
    if difference.other_a is not None:
        return f"{difference.other_a.what}: only its type was compared"
    tensors = [tensor for tensor in (difference.a, difference.b) if tensor is not None]
    layouts = dict.fromkeys(tensor.layout for tensor in tensors if tensor.layout not in ("strided", "meta"))
    why = " and ".join(layouts)
    if not why and any(tensor.storage is None for tensor in tensors):
        why = "its numbers are not in the file"
    return f"{why or f'{tensors[0].dtype} has no plain numbers'}: only its shape was compared"


def _raw(name: str, difference: Difference, report: DiffReport) -> tuple[object, ...]:
    deviation, sides = difference.deviation, (difference.a, difference.b)
    values = (None, None, None) if deviation is None else (deviation.absolute, deviation.relative, deviation.count)
    shapes = [None if tensor is None else tensor.shape for tensor in sides]
    more = [None if tensor is None else getattr(tensor, field) for field in ("key", "dtype") for tensor in sides]
    return (difference.kind, name, *shapes, *(values if report.compared else ()), _note(difference), *more)


# ----------------------------------------------------------------------------------------------------- below the table


def _counts(report: DiffReport) -> Cell:
    pieces: list[Styled] = []
    counts = report.counts
    for kind in reversed(KINDS):
        number = counts[kind]
        if number or kind == Kind.SAME:
            pieces += [Styled(" · ")] if pieces else []
            pieces.append(Styled(f"{count(number)} {kind}", "" if kind == Kind.SAME else _STYLES[kind]))
    return tuple(pieces)


def _prefix_lines(prefixes: Sequence[Prefix]) -> Iterable[Cell]:
    for prefix in prefixes:
        yield (Styled(prefix_text(prefix), WARN), Styled(": taken off to compare; load_state_dict takes none off"))


def prefix_text(prefix: Prefix, sides: tuple[str, str] = ("A", "B")) -> str:
    """Which side's keys have which prefix."""
    keys = plural(prefix.keys, "key")
    if prefix.a and prefix.b:
        return f'prefix "{prefix.a}" on {keys} of {sides[0]} where {sides[1]} has "{prefix.b}"'
    return f'prefix "{prefix.a or prefix.b}" on {keys} of {sides[0] if prefix.a else sides[1]}'


def _verdict(report: DiffReport) -> Cell:
    if report.loads_by_hand:
        changes = what_changes(len(report.converted), bool(report.rules))
        after = f"{changes} and the PyTorch below" if changes else "the PyTorch below"
        doubtful = sum(each.relation is not None and each.relation.ambiguous for each in report.by_hand)
        more = f"; of {plural(doubtful, 'tensor')} the order of axes is the likeliest of several" if doubtful else ""
        return (Styled(f"A will load after {after}", WARN), Styled(more))
    if report.verdict == Verdict.DOES_NOT_LOAD:
        return obstacle_cell("A will still not load", report.obstacles)
    said = "A would load strictly without changes"
    if report.verdict == Verdict.LOADS_AFTER_CONVERTING:
        said = f"A will load after {what_changes(len(report.converted), bool(report.rules))}"
    permuted = sum(each.unnoticed and each.kind == Kind.PERMUTED for each in report.tensors)
    if permuted:
        tensors = f"the axes of {plural(permuted, 'tensor')} are in another order"
        return (Styled(said, WARN), Styled(f", but compute something else: {tensors}"))
    transposed = sum(difference.unnoticed for difference in report.tensors)
    if transposed:
        return (Styled(said, WARN), Styled(f", but compute something else: {_matrices(transposed)} transposed"))
    if report.maybe_turned:
        more = "" if report.compared else "; --values compares the numbers"
        doubt = f", and may compute something else: {_may_be(len(report.maybe_turned))} transposed as others are{more}"
        return (Styled(said, WARN), Styled(doubt))
    end = "; its numbers differ" if any(difference.deviation for difference in report.tensors) else ""
    unread = sum(difference.unread for difference in report.tensors)
    if unread:
        end += f"; the numbers of {plural(unread, 'tensor')} were not compared"
    return (Styled(said, GOOD), Styled(f" where B does{end}", WARN if unread else ""))


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
    """What will not work, and the first reasons."""
    more = f"; and {count(len(obstacles) - _LISTED)} more" if len(obstacles) > _LISTED else ""
    return (Styled(what, BAD), Styled(f": {'; '.join(map(flagged, obstacles[:_LISTED]))}{more}"))


def what_changes(layers: int, renamed: bool) -> str:
    """ "converting 3 layers and renaming its keys", or the part of it that applies."""
    parts = [f"converting {plural(layers, 'layer')}"] if layers else []
    return " and ".join(parts + (["renaming its keys"] if renamed else []))


def typed_lines(report: DiffReport) -> list[str]:
    """Commands that fix all that can be fixed, below a heading; [] if there are none."""
    typed = commands(report)
    lines = command_lines(typed, what_changes(len(report.converted), bool(report.rules)))
    return [*lines, *by_hand_lines(pytorch_lines(report), bool(typed))]


def command_lines(lines: Sequence[str], what: str) -> list[str]:
    """Commands below a line that says what they do."""
    return ["", f"For {what}, type:", *(f"  {line}" for line in lines)] if lines else []


def commands(report: DiffReport) -> list[str]:
    """Commands that fix all that can be fixed; [] if there are none or the file cannot be converted."""
    a, b, rules = report.a, report.b, report.rules or ()
    if not can_be_converted(a) or not (report.converted or rules):
        return []
    turned = any(each.square == Square.TURNED for each in report.tensors)
    left = [_module_of(each) for each in report.tensors if _flattened_wrongly(each)]
    if used_by_like(a, b) or not report.converted:
        kept = [_module_of(each) for each in report.tensors if each.square == Square.AS_IT_IS] if turned else []
        return [like_command(a, b, bool(report.converted), rules, turned, dict.fromkeys((*kept, *left)))]
    if turned:
        # Only --like turns a square matrix beside others.
        return []
    # --like uses the main root, or that of A's name, and here another root was chosen.
    fixed = [difference for difference in report.tensors if difference.layer is not None]
    shapes = {id(each.a): each.b.shape for each in fixed if each.a is not None and each.b is not None}
    steps, _ = planned_steps(find_layers(a), shapes)
    return step_commands(a, steps, rules)


def pytorch_lines(report: DiffReport) -> list[str]:
    """Lines of PyTorch on the state_dict `sd` that mend what no conversion does."""
    return difference_lines(report, bool(report.rules) and bool(commands(report)))


def notes(report: DiffReport) -> Iterable[str]:
    if any(each.deviation is not None and each.deviation.count for each in report.tensors):
        yield "relative: |A−B| / max(|A|, |B|); NaN equals NaN, and 0 equals −0"
    if not report.compared and report.counts[Kind.SAME]:
        yield "same: key, shape and dtype; --values compares the numbers too"
    stray = [each.name for each in report.tensors if each.other_a is not None and each.other_a.stray and each.other_b]
    if stray:
        keys = first_few(stray)
        yield f"{keys}: no module keeps such a key, so load_state_dict(strict=True) takes neither file as it is"
