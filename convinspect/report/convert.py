"""A plan of conversions → the table and the JSON of `convert`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from convinspect.checkpoint import Checkpoint
from convinspect.converting.plan import Conversion, Plan
from convinspect.converting.rename import Renaming
from convinspect.converting.training_state import Followers
from convinspect.records import Edit, Layer
from convinspect.render.cells import count, elide, shape
from convinspect.render.style import BAD, GOOD, NAME, QUIET, WARN
from convinspect.render.table import Cell, Column, Styled, Table
from convinspect.report.code_changes import advice
from convinspect.text import join_words, plural

_COLUMNS = (
    Column("layer", style=NAME, priority=100, elide=True, key="name"),
    Column("from", priority=60, key="from"),
    Column("to", priority=60, key="to"),
    Column("old shape", priority=80, style=QUIET, key="old_shape"),
    Column("new shape", priority=90, key="new_shape"),
    Column("notes", priority=95, wrap=True, key="notes", min_width=20),
)


@dataclass(frozen=True, slots=True)
class Done:
    """What a conversion does, or did.

    Attributes:
        checkpoint: The source.
        plan: What is converted and what is left.
        followers: What follows.
        renaming: What gets another name.
        fused: Layers that get their plain effective weight.
        anew: The root is saved anew, as a plain state_dict.
        dropped: Optimizer state is left out.
        apart: With `--like`: names that only the source has, and that only the other has.
        there: Layers that are of the wanted kind already.
    """

    checkpoint: Checkpoint
    plan: Plan
    followers: Followers
    renaming: Renaming
    fused: tuple[Layer, ...]
    anew: bool
    dropped: bool
    apart: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    there: int = 0

    @property
    def names(self) -> dict[str, str]:
        """Tensors' new names by stored key; {} where none is renamed."""
        return self.renaming.names(self.checkpoint) if self.renaming.edits else {}


def plan_table(done: Done, written: str | None) -> Table:
    """Every layer that changes, and every one that was meant and does not, with the reason.

    Args:
        done: What is done.
        written: Name of the file that was written; None for a plan only.
    """
    plan, source = done.plan, done.checkpoint.path.name
    names = _new_names(done.renaming)
    lines: list[tuple[tuple[Cell, ...], tuple[object, ...]]] = []
    for one in plan.conversions:
        new = names.pop(_module(one.layer.weight.key), None)
        more = () if new is None else (f"renamed {new}",)
        texts = (*one.assumed, *one.warnings, *more)
        name = one.layer.name or "(root)"
        raw = (name, one.layer.kind, one.to, one.old_shape, one.new_shape, "; ".join(texts))
        lines.append((_converted(one, more), raw))
    for left in plan.refusals:
        lines.append((_quiet(left.name or "(root)", Styled(left.reason, QUIET if left.done else BAD)),
                      (left.name or "(root)", "", "", "", "", left.reason)))  # fmt: skip
    if written is None:
        lines += [_follows(*one) for one in _following(done)]
    lines += [(_quiet(old, Styled(f"renamed {new}")), (old, "", "", "", "", f"renamed {new}"))
              for old, new in names.items()]  # fmt: skip
    width = _telling_width([str(raw[0]) for _, raw in lines])
    return Table(
        (replace(_COLUMNS[0], min_width=width), *_COLUMNS[1:]) if lines else (),
        [cells for cells, _ in lines],
        title=f"{source} → {written}" if written else f"{source}: plan, nothing was written",
        summary=(_summary(done, written is not None),),
        notes=tuple(_notes(done)),
        raw=[raw for _, raw in lines],
    )


def _following(done: Done) -> list[tuple[str, Edit, str]]:
    """What changes with the layers: name in the file, edit, and what it is."""
    where = {id(tensor): root.path for root in done.checkpoint.roots for tensor in root.tensors}
    found = [(edit, "copy") for edit in done.followers.copies]
    found += [(edit, "optimizer state") for edit in done.followers.optimizer]
    # Tensors of several roots that are one (`--root .`) have the whole path as their key.
    return [(f"{where.get(id(edit.tensor), '')}.{edit.tensor.key}".strip("."), edit, what) for edit, what in found]


def _follows(name: str, edit: Edit, what: str) -> tuple[tuple[Cell, ...], tuple[object, ...]]:
    old, new = edit.tensor.shape, edit.shape
    return (name, "", "", shape(old), shape(new), Styled(what, QUIET)), (name, "", "", old, new, what)


def _new_names(renaming: Renaming) -> dict[str, str]:
    """What is renamed, old name → new: whole modules where all that changes is theirs, else tensors."""
    found: dict[str, str] = {}
    for edit in renaming.edits:
        old, new = edit.tensor.key, edit.key or ""
        leaf = "." + old.rpartition(".")[2]
        if old.endswith(leaf) and new.endswith(leaf):
            found[old.removesuffix(leaf)] = new.removesuffix(leaf)
        else:
            found[old] = new
    return found


def _module(key: str) -> str:
    return key.rpartition(".")[0]


def _telling_width(names: Sequence[str]) -> int:
    """Cells that names need so that no two of them look alike when they are shortened."""
    longest = max(map(len, names), default=0)
    widths = range(_COLUMNS[0].min_width, longest, 4)
    return next((width for width in widths if len({elide(one, width) for one in names}) == len(set(names))), longest)


def _converted(one: Conversion, more: tuple[str, ...]) -> tuple[Cell, ...]:
    notes = [Styled("assumed", WARN)] if one.assumed else []
    notes += [Styled(warning, WARN) for warning in one.warnings] + [Styled(text) for text in more]
    parted = [piece for note in notes for piece in (Styled(", "), note)][1:]
    name = one.layer.name or "(root)"
    return (name, one.layer.kind, one.to, shape(one.old_shape), shape(one.new_shape), tuple(parted))


def _quiet(name: str, note: Styled) -> tuple[Cell, ...]:
    return (name, "", "", "", "", note)


def _summary(done: Done, written: bool) -> Cell:
    plan, followers = done.plan, done.followers
    number, renamed = len(plan.conversions), len(done.renaming.edits)
    extra = []
    if followers.copies:
        extra.append(f"{count(len(followers.copies))} cop{'y' if len(followers.copies) == 1 else 'ies'}")
    if followers.optimizer:
        extra.append(plural(len(followers.optimizer), "optimizer tensor"))
    refused = sum(not one.done for one in plan.refusals)
    already = len(plan.refusals) - refused
    parts: list[Styled] = []
    if number or plan.refusals:
        verb = "converted" if written else "to convert"
        parts.append(Styled(f"{plural(number, 'layer')} {verb}", GOOD if number else "bold"))
    if extra:
        parts.append(Styled(f" with {' and '.join(extra)}"))
    if renamed:
        verb = "renamed" if written else "to rename"
        parts.append(Styled(f"{' · ' * bool(parts)}{plural(renamed, 'tensor')} {verb}", GOOD))
    if done.fused:
        verb = "as plain weights" if written else "to fuse"
        parts.append(Styled(f"{' · ' * bool(parts)}{plural(len(done.fused), 'layer')} {verb}"))
    if already:
        parts.append(Styled(f" · {count(already)} already so"))
    if refused:
        parts.append(Styled(f" · {count(refused)} left", WARN))
    if done.anew and not parts:
        total = plural(len(done.checkpoint.root.tensors), "tensor")
        return f"{total} {'written' if written else 'to write'} as a plain state_dict, none reshaped"
    if not parts and not done.dropped:
        there = f"; {count(done.there)} {'is' if done.there == 1 else 'are'} so already" if done.there else ""
        return f"no layer is of a kind to convert, so nothing changes{there}"
    return tuple(parts)


def _notes(done: Done) -> list[str]:
    lines = []
    taken = [what for one in done.plan.conversions for what in one.assumed]
    if taken:
        lines.append(f"assumed: {join_words(taken)}, which a state_dict does not record")
    if len(done.checkpoint.roots) > 1:
        lines.append(f"root in use: {done.checkpoint.root.path or '.'}")
    roots = dict.fromkeys([*done.followers.roots, *(() if done.anew else done.renaming.roots)])
    if roots:
        lines.append(f"changed with them: {', '.join(one or '.' for one in roots)}")
    if done.followers.left:
        lines.append(
            f"left as they are: {', '.join(one or '.' for one in done.followers.left)} (such weights are there too)"
        )
    if done.followers.others:
        lines.append(f"of other models, and left: {', '.join(one or '.' for one in done.followers.others)}")
    for names, where in zip(done.apart, ("here alone", "there alone"), strict=True):
        if names:
            more = f" and {count(len(names) - 6)} more" if len(names) > 6 else ""
            lines.append(f"{where}: {', '.join(names[:6])}{more}")
    if done.dropped and not done.anew:
        lines.append("left out: all optimizer state; its param_groups stay, so that a resumed run starts it anew")
    return lines


def plan_payload(done: Done, output: str | None) -> dict[str, Any]:
    """The JSON of `convert`; "unchanged" counts tensors of all roots that stay as they are."""
    plan, followers = done.plan, done.followers
    tensors = sum(len(root.tensors) for root in done.checkpoint.roots)
    edits = [*plan.edits, *followers.copies, *followers.optimizer, *done.renaming.edits, *done.renaming.copies]
    return {
        "source": str(done.checkpoint.path),
        "output": output,
        "root": done.checkpoint.root.path,
        "converted": [
            {
                "name": one.layer.name,
                "from": one.layer.kind,
                "to": one.to,
                "old_shape": list(one.old_shape),
                "new_shape": list(one.new_shape),
                "assumed": list(one.assumed),
                "warnings": list(one.warnings),
            }
            for one in plan.conversions
        ],
        "followed": [
            {"name": name, "what": what, "old_shape": list(edit.tensor.shape), "new_shape": list(edit.shape)}
            for name, edit, what in _following(done)
        ],
        "refused": [{"name": one.name, "reason": one.reason} for one in plan.refusals if not one.done],
        "only_here": list(done.apart[0]),
        "only_there": list(done.apart[1]),
        "already": [one.name for one in plan.refusals if one.done],
        "renamed": [{"from": one.tensor.key, "to": one.key} for one in done.renaming.edits],
        "optimizer": {"tensors": len(followers.optimizer), "copies": len(followers.copies),
                      "roots": list(followers.roots), "left": [*followers.left, *followers.others],
                      "dropped": done.dropped},
        "model_code": advice(plan, done.names),
        "unchanged": tensors - len({id(edit.tensor) for edit in edits}),
    }  # fmt: skip
