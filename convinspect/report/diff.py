"""What `diff` found between two checkpoints → its table, its verdict and its JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from convinspect.checkpoint import Checkpoint
from convinspect.diffing.checkpoints import Difference, DiffReport
from convinspect.diffing.fixes import planned_steps
from convinspect.keys.pairing import Prefix
from convinspect.layers.find import find_layers
from convinspect.layers.folding import fold_names
from convinspect.records import Tensor
from convinspect.render.cells import count, shape
from convinspect.render.style import BAD, GOOD, NAME, QUIET, WARN
from convinspect.render.table import Cell, Column, Styled, Table
from convinspect.report.commands import can_be_converted, is_main, like_command, step_commands
from convinspect.text import plural

_LISTED = 3
"""Reasons that are spelled out in the verdict before the rest is counted."""

_STYLES = {
    "rank differs": GOOD, "transposed": WARN, "shape differs": BAD, "dtype differs": WARN, "values differ": WARN,
    "only in A": BAD, "only in B": BAD, "not compared": WARN, "same": QUIET,
}  # fmt: skip


_MEANING = {"shape differs": "no reshaping mends it", "only in A": "unexpected there", "only in B": "missing here"}


def difference_table(a: Checkpoint, b: Checkpoint, report: DiffReport, rows: tuple[bool, bool]) -> Table:
    """What differs, what is only counted, and the verdict.

    Args:
        a: The first checkpoint.
        b: The second.
        report: What was found.
        rows: Whether to list tensors that are the same too, and whether repeated blocks are one row.
    """
    everything, folded = rows
    shown = [one for kind in report.counts for one in report.tensors if one.kind == kind]
    shown = [one for one in shown if everything or one.kind != "same"]
    names = [one.name for one in shown]
    folds = fold_names(names, [_signature(one, place, folded) for place, one in enumerate(shown)])
    members = [(name, [shown[place] for place in places]) for name, places in folds]
    columns = _columns(report)
    return Table(
        columns if members else (),
        [_row(name, ones, report) for name, ones in members],
        title=f"A: {_title(a)} · B: {_title(b)}",
        summary=(_counts(report), *_prefix_lines(report.prefixes), "", _verdict(report)),
        notes=tuple(_notes(report)),
        raw=[_raw(name, ones[0], report) for name, ones in members],
        # A table without rows is not drawn, and CSV has its header all the same.
        more=(*(() if members else (one.machine_name for one in columns)), "key_a", "key_b", "dtype_a", "dtype_b"),
    )


def _title(checkpoint: Checkpoint) -> str:
    root = checkpoint.root.path
    return checkpoint.path.name + (f" ({root})" if root else "")


def _signature(one: Difference, place: int, folded: bool) -> tuple[object, ...]:
    if not folded:
        return (place,)
    sides = tuple(None if it is None else (it.shape, it.dtype, it.layout) for it in (one.a, one.b))
    return (one.kind, sides, _note(one), one.deviation)


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
    # Of figures and notes the figures were asked for.
    return (*columns, Column("notes", priority=65, wrap=True, key="notes", min_width=14))


def _row(name: str, ones: Sequence[Difference], report: DiffReport) -> tuple[Cell, ...]:
    one = ones[0]
    named = name or "(root)"
    cells: list[Cell] = [Styled(one.kind, _STYLES[one.kind]), named, _side(one.a, one.b), _side(one.b, one.a, one.a)]
    if report.compared:
        cells += _deviation_cells(one)
    note = f"×{len(ones)}{', ' if _note(one) else ''}{_note(one)}" if len(ones) > 1 else _note(one)
    return (*cells, Styled(note, WARN if one.obstacle or one.unnoticed else ""))


def _side(tensor: Tensor | None, other: Tensor | None, told: Tensor | None = None) -> str:
    """Shape, and what of dtype and layout differs from the other; without the shape where it is `told` already."""
    if tensor is None:
        return "–"
    if other is None or (tensor.dtype, tensor.layout) == (other.dtype, other.layout):
        return shape(tensor.shape)
    words = [] if told is not None and told.shape == tensor.shape else [shape(tensor.shape)]
    return " ".join([*words, tensor.dtype, *([tensor.layout] if tensor.layout != other.layout else [])])


def _deviation_cells(one: Difference) -> list[Cell]:
    found = one.deviation
    if found is None or not found.count:
        return ["–", "–", "–"]
    figures = [
        Styled(f"{value:.2g}", BAD if value == float("inf") else "") for value in (found.absolute, found.relative)
    ]
    return [*figures, f"{count(found.count)} of {count(found.total)}"]


def _note(one: Difference) -> str:
    notes = [one.supplied] if one.supplied else [_MEANING[one.kind]] if one.kind in _MEANING else []
    if one.kind == "shape differs" and not one.obstacle:
        notes = ["PyTorch takes the one for the other"]
    if one.layer is not None:
        notes.append("converting mends its rank alone" if one.unnoticed else "converting mends it")
    elif one.unnoticed:
        notes.append("only its numbers show it")
    elif one.kind == "dtype differs":
        notes.append("PyTorch does not copy it" if one.obstacle else "cast when it is loaded")
    elif one.kind in ("rank differs", "transposed") and one.obstacle:
        notes.append(one.obstacle.partition("converted: ")[2] or "no conversion makes it")
    if one.unread:
        notes.append(_why_unread(one))
    if one.deviation is not None and one.deviation.nan:
        notes.append(f"{count(one.deviation.nan)} NaN on one side")
    if one.deviation is not None and not one.deviation.count:
        notes.append("its bytes differ")
    return ", ".join(notes)


def _why_unread(one: Difference) -> str:
    """What kept its numbers from being compared."""
    tensors = [it for it in (one.a, one.b) if it is not None]
    layouts = dict.fromkeys(it.layout for it in tensors if it.layout not in ("strided", "meta"))
    why = " and ".join(layouts) or ("its numbers are not in the file" if any(it.storage is None for it in tensors)
                                    else f"{tensors[0].dtype} has no plain numbers")  # fmt: skip
    return f"{why}: only its shape was compared"


def _raw(name: str, one: Difference, report: DiffReport) -> tuple[object, ...]:
    found = one.deviation
    values = (None, None, None) if found is None else (found.absolute, found.relative, found.count)
    sides = [None if it is None else it.shape for it in (one.a, one.b)]
    more = [None if it is None else getattr(it, value) for value in ("key", "dtype") for it in (one.a, one.b)]
    return (one.kind, name, *sides, *(values if report.compared else ()), _note(one), *more)


# ----------------------------------------------------------------------------------------------------- below the table


def _counts(report: DiffReport) -> Cell:
    pieces: list[Styled] = []
    for kind, number in reversed(list(report.counts.items())):
        if number or kind == "same":
            pieces += [Styled(" · ")] if pieces else []
            pieces.append(Styled(f"{count(number)} {kind}", "" if kind == "same" else _STYLES[kind]))
    return tuple(pieces)


def _prefix_lines(prefixes: Sequence[Prefix]) -> Iterable[Cell]:
    for one in prefixes:
        yield (Styled(prefix_text(one), WARN), Styled(": taken off to compare; load_state_dict takes none off"))


def prefix_text(one: Prefix, sides: tuple[str, str] = ("A", "B")) -> str:
    """Which side's keys carry what."""
    keys = plural(one.keys, "key")
    if one.a and one.b:
        return f'prefix "{one.a}" on {keys} of {sides[0]} where {sides[1]} has "{one.b}"'
    return f'prefix "{one.a or one.b}" on {keys} of {sides[0] if one.a else sides[1]}'


def _verdict(report: DiffReport) -> Cell:
    if report.verdict == "does not load":
        return obstacle_cell("A will still not load", report.obstacles)
    said = "A would load strictly as it is"
    if report.verdict == "loads after converting":
        said = f"A will load after {what_changes(len(report.converted), bool(report.rules))}"
    turned = sum(one.unnoticed for one in report.tensors)
    if turned:
        return (Styled(said, WARN), Styled(f", but compute something else: {_matrices(turned)} transposed"))
    end = "; its numbers differ" if any(one.deviation for one in report.tensors) else ""
    unread = sum(one.unread for one in report.tensors)
    if unread:
        end += f"; the numbers of {plural(unread, 'tensor')} were not compared"
    return (Styled(said, GOOD), Styled(f" where B does{end}", WARN if unread else ""))


def _matrices(number: int) -> str:
    return f"{count(number)} square {'matrices are' if number != 1 else 'matrix is'}"


def obstacle_cell(what: str, obstacles: Sequence[str]) -> Cell:
    """What will not be, and the first reasons."""
    more = f"; and {count(len(obstacles) - _LISTED)} more" if len(obstacles) > _LISTED else ""
    return (Styled(what, BAD), Styled(f": {'; '.join(obstacles[:_LISTED])}{more}"))


def what_changes(layers: int, renamed: bool) -> str:
    """ "converting 3 layers and renaming its keys", or what there is of it."""
    parts = [f"converting {plural(layers, 'layer')}"] if layers else []
    return " and ".join(parts + (["renaming its keys"] if renamed else []))


def typed_lines(a: Checkpoint, b: Checkpoint, report: DiffReport) -> list[str]:
    """What to type to mend all that can be, below a heading; [] when there is nothing."""
    return command_lines(commands(a, b, report), what_changes(len(report.converted), bool(report.rules)))


def command_lines(found: Sequence[str], what: str) -> list[str]:
    """Commands below a line that says what they do."""
    return ["", f"For {what}, type:", *(f"  {one}" for one in found)] if found else []


def commands(a: Checkpoint, b: Checkpoint, report: DiffReport) -> list[str]:
    """What to type to mend all that can be; [] when there is nothing or the file cannot be converted."""
    rules = report.rules or ()
    if not can_be_converted(a) or not (report.converted or rules):
        return []
    if is_main(b) or not report.converted:
        return [like_command(a, b, bool(report.converted), rules)]
    # --like takes the main root, and here another one is meant.
    mended = [one for one in report.tensors if one.layer is not None]
    wishes = {id(one.a): one.b.shape for one in mended if one.a is not None and one.b is not None}
    steps, _ = planned_steps(find_layers(a), wishes)
    return step_commands(a, steps, rules)


def _notes(report: DiffReport) -> Iterable[str]:
    if any(one.deviation is not None and one.deviation.count for one in report.tensors):
        yield "relative: |A−B| / max(|A|, |B|); NaN equals NaN, and 0 equals −0"
    if not report.compared and report.counts["same"]:
        yield "same: key, shape and dtype; --values compares the numbers too"


# ----------------------------------------------------------------------------------------------------------------- JSON


def difference_payload(a: Checkpoint, b: Checkpoint, report: DiffReport, everything: bool) -> dict[str, Any]:
    """The JSON of `diff A B`; `everything` lists what is the same too."""
    return {
        "a": {"path": str(a.path), "format": a.format, "root": a.root.path},
        "b": {"path": str(b.path), "format": b.format, "root": b.root.path},
        "same": report.same,
        "verdict": report.verdict,
        "obstacles": list(report.obstacles),
        "convert": list(report.converted),
        "rename": None if report.rules is None else list(report.rules),
        "commands": commands(a, b, report),
        "counts": dict(report.counts),
        "prefixes": [prefix_payload(one) for one in report.prefixes],
        "values": report.compared,
        "tensors": [_payload(one, report.compared) for one in report.tensors if everything or one.kind != "same"],
        "notes": list(_notes(report)),
    }


def prefix_payload(one: Prefix) -> dict[str, Any]:
    """A prefix that one side's keys have and the other's have not."""
    return {"a": one.a, "b": one.b, "keys": one.keys}


def _payload(one: Difference, compared: bool) -> dict[str, Any]:
    payload: dict[str, Any] = {
        "name": one.name,
        "difference": one.kind,
        "a": _tensor_payload(one.a),
        "b": _tensor_payload(one.b),
        "obstacle": one.obstacle or None,
        "layer": one.layer,
    }
    if compared:
        payload["unnoticed"] = one.unnoticed
        payload["compared"] = one.a is not None and one.b is not None and one.kind != "shape differs" and not one.unread
        found = one.deviation
        if found is not None:
            payload["values"] = {
                "max_abs_diff": found.absolute if found.count else None,
                "max_rel_diff": found.relative if found.count else None,
                "differing": found.count or None,
                "numel": found.total,
                "nan": found.nan if found.count else None,
            }
    return payload


def _tensor_payload(tensor: Tensor | None) -> dict[str, Any] | None:
    return None if tensor is None else {"key": tensor.key, "shape": list(tensor.shape), "dtype": tensor.dtype}
