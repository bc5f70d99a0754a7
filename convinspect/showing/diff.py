"""The table, the verdict and the JSON of `diff A B`."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from convinspect.checkpoint import Checkpoint
from convinspect.converting.relations import How, Relation
from convinspect.diffing.differences import KINDS, Difference, DiffReport, Kind
from convinspect.diffing.missing_numbers import EMPTIED, EMPTIED_SHAPE
from convinspect.formats.sources import short_name
from convinspect.layers.folding import fold_names
from convinspect.records import Tensor
from convinspect.render.cells import count, shape
from convinspect.render.style import BAD, NAME, QUIET, WARN
from convinspect.render.table import Cell, Column, Styled, Table
from convinspect.showing.causes import beginnings, by_cause
from convinspect.showing.flags import by_reader, flagged
from convinspect.showing.opened import opened_name
from convinspect.showing.verdict import STYLES, counts_cell, prefix_lines, values_compare, verdict_cell
from convinspect.text import first_few, plural

if TYPE_CHECKING:
    pass

_MEANING = {
    Kind.ONLY_IN_A: "unexpected there",
    Kind.ONLY_IN_B: "missing here",
}

_MORE = ("key_a", "key_b", "dtype_a", "dtype_b")
"""What CSV and JSON rows have beside the columns."""


class Listing(NamedTuple):
    """Which rows are shown.

    Attributes:
        everything: What is the same too, each key by itself.
        folded: One row for repeated blocks.
        every_key: Each difference by itself, however many there are.
    """

    everything: bool = False
    folded: bool = False
    every_key: bool = False

    @property
    def by_cause(self) -> bool:
        """One row for each cause, where there are many keys."""
        return not (self.everything or self.folded or self.every_key)


BY_CAUSE = Listing()


def difference_table(report: DiffReport, listing: Listing = BY_CAUSE) -> Table:
    """The verdict, the tensors that differ, and counts of the others.

    Args:
        report: The comparison.
        listing: Which rows are shown.
    """
    order = {kind: place for place, kind in enumerate(KINDS)}
    same = Kind.SAME
    among = report.tensors if listing.everything else report.remarkable
    chosen = [each for each in among if listing.everything or each.kind is not same or each.maybe_turned]
    shown = sorted(chosen, key=lambda each: order[each.kind])
    names = [each.name for each in shown]
    if listing.by_cause:
        folds = by_cause(names, _causes(shown))
    else:
        folds = fold_names(names, [_signature(each, place, listing.folded) for place, each in enumerate(shown)])
    members = [(name, [shown[place] for place in places]) for name, places in folds]
    counted = listing.by_cause and len(members) < len(shown)
    columns = _columns(report, counted)
    return Table(
        columns if members else (),
        [_row(name, alike, report, counted) for name, alike in members],
        title=f"A: {_title(report.a)} · B: {_title(report.b)}",
        lead=(verdict_cell(report), *prefix_lines(report)),
        summary=(counts_cell(report),),
        notes=(*notes(report), *([note_on_causes()] if counted else [])),
        raw=[_raw(name, alike[0], report, counted) for name, alike in members],
        # A table without rows is not drawn, but CSV needs its header.
        more=(*(() if members else [column.machine_name for column in columns]), *_MORE),
    )


def note_on_causes() -> str:
    """That keys with one cause have one row."""
    return f"a row for each cause{by_reader('; --all lists every key')}"


def _causes(shown: Sequence[Difference]) -> list[Hashable]:
    """What keys have in common that are in one row."""
    alone = (Kind.ONLY_IN_A, Kind.ONLY_IN_B)
    where = {kind: beginnings(each.name for each in shown if each.kind == kind) for kind in alone}
    return [(_cause(each), where[each.kind][each.name] if each.kind in alone else "") for each in shown]


def _cause(difference: Difference) -> Hashable:
    relation, deviation = difference.relation, difference.deviation
    sides = (difference.a, difference.b)
    types = tuple(None if it is None else (it.dtype, it.layout) for it in sides)
    return (
        difference.kind,
        types if difference.kind == Kind.DTYPE_DIFFERS else (),
        None if relation is None else (relation.how, relation.orders, relation.proved),
        difference.layer is not None,
        bool(difference.obstacle),
        str(difference.refusal),
        difference.supplied.partition(" as ")[0].partition(" takes ")[0].partition(" from ")[0],
        (difference.unnoticed, difference.maybe_turned, difference.unread),
        tuple(None if it is None else it.what for it in (difference.other_a, difference.other_b)),
        deviation is not None and bool(deviation.nan),
    )


def _title(checkpoint: Checkpoint) -> str:
    root = checkpoint.root.path
    return opened_name(checkpoint) + (f" ({root})" if root else "")


def _signature(difference: Difference, place: int, folded: bool) -> tuple[object, ...]:
    """Differences with the same signature are folded into one row."""
    if not folded:
        return (place,)
    sides = tuple(None if it is None else (it.shape, it.dtype, it.layout) for it in (difference.a, difference.b))
    whats = tuple(None if it is None else it.what for it in (difference.other_a, difference.other_b))
    return (difference.kind, sides, whats, note_of(difference), difference.deviation)


def _columns(report: DiffReport, counted: bool) -> tuple[Column, ...]:
    columns = [
        *([Column("keys", "right", priority=98, key="keys")] if counted else []),
        Column("difference", priority=97, key="difference"),
        Column(
            "name",
            style=NAME,
            priority=100,
            elide=True,
            never_hidden=True,
            key="name",
            min_width=12 if report.compared else 20,
        ),
        Column("A", priority=99, key="shape_a", never_hidden=True),
        Column("B", priority=99, key="shape_b", never_hidden=True),
    ]
    if report.compared:
        columns += [
            Column("max |A−B|", "right", priority=90, key="max_abs_diff"),
            Column("relative", "right", priority=85, key="max_rel_diff"),
            Column("numbers", "right", priority=60, style=QUIET, key="differing"),
        ]
    # A user who compares numbers wants the differences most, so they outrank the notes.
    return (*columns, Column("notes", priority=65, wrap=True, key="notes", min_width=14, never_hidden=True))


def _row(name: str, alike: Sequence[Difference], report: DiffReport, counted: bool) -> tuple[Cell, ...]:
    first = max(alike, key=_distance) if report.compared else alike[0]
    a, b = first.a, first.b
    sides = [other.what if other is not None else None for other in (first.other_a, first.other_b)]
    shown = [sides[0] or _side(a, b), sides[1] or _side(b, a, a)]
    if counted and len({each.a and each.a.shape for each in alike} | {each.b and each.b.shape for each in alike}) > 2:
        shown = [text if text == "–" else f"{text}, …" for text in shown]
    cells: list[Cell] = [count(len(alike))] if counted else []
    cells += [Styled(first.kind.value, STYLES[first.kind]), name or "(root)", *shown]
    if report.compared:
        cells += _deviation_cells(first)
    note = note_of(first) if len(alike) == 1 else _common_note(first)
    if len(alike) > 1 and not counted:
        note = f"×{len(alike)}, {note}" if note else f"×{len(alike)}"
    return (*cells, Styled(note, WARN if first.obstacle or first.unnoticed or first.maybe_turned else ""))


def _distance(difference: Difference) -> float:
    return -1.0 if difference.deviation is None else difference.deviation.absolute


def _common_note(difference: Difference) -> str:
    """The note without what is true of this one alone."""
    reshape = difference.call if difference.call.startswith(".reshape") else ""
    return note_of(difference).replace(reshape, "reshape") if reshape else note_of(difference)


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


def note_of(difference: Difference) -> str:
    """What is to be said of a difference, beyond its kind and shapes; "" for nothing."""
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
    foreign = [flagged(difference.refusal)] if difference.refusal else []
    if difference.kind == Kind.PERMUTED and relation is not None:
        return [*foreign, *_of_orders(relation, difference)]
    if difference.kind != Kind.SHAPE_DIFFERS:
        return []
    if a is not None and a.shape == EMPTIED_SHAPE:
        return [EMPTIED]
    if difference.b is not None and difference.b.shape == EMPTIED_SHAPE:
        return ["B's has no numbers, as DeepSpeed's ZeRO-3 saves what was not gathered"]
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


def _raw(name: str, difference: Difference, report: DiffReport, counted: bool) -> tuple[object, ...]:
    if counted:
        # Forms for machines list every key.
        return ()
    deviation, sides = difference.deviation, (difference.a, difference.b)
    values = (None, None, None) if deviation is None else (deviation.absolute, deviation.relative, deviation.count)
    shapes = [None if tensor is None else tensor.shape for tensor in sides]
    more = [None if tensor is None else getattr(tensor, field) for field in ("key", "dtype") for tensor in sides]
    return (difference.kind, name, *shapes, *(values if report.compared else ()), note_of(difference), *more)


def notes(report: DiffReport) -> Iterable[str]:
    if any(each.deviation is not None and each.deviation.count for each in report.remarkable):
        yield "relative: |A−B| / max(|A|, |B|); NaN equals NaN, and 0 equals −0"
    if not report.compared and report.counts[Kind.SAME]:
        yield f"same: key, shape and dtype; {values_compare()}"
    yield from dict.fromkeys(
        f"{short_name(one.path)}: {one.unwritten}" for one in (report.a, report.b) if one.unwritten
    )
    stray = [
        each.name for each in report.remarkable if each.other_a is not None and each.other_a.stray and each.other_b
    ]
    if stray:
        keys = first_few(stray)
        yield f"{keys}: no module keeps such a key, so load_state_dict(strict=True) takes neither file as it is"
