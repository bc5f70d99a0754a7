"""A plan of conversions → the table, the JSON and the advice of `convert`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from convinspect.checkpoint import Checkpoint
from convinspect.convert import Conversion, Plan
from convinspect.layers import CONVOLUTIONS
from convinspect.readings import TRANSFORMERS_CONV1D
from convinspect.training import Followers
from convinspect.view.style import BAD, GOOD, NAME, QUIET, WARN
from convinspect.view.table import Cell, Column, Styled, Table
from convinspect.view.text import count, shape

_COLUMNS = (
    Column("layer", style=NAME, priority=100, elide=True, key="name"),
    Column("from", priority=60, key="from"),
    Column("to", priority=60, key="to"),
    Column("old shape", priority=80, style=QUIET, key="old_shape"),
    Column("new shape", priority=90, key="new_shape"),
    Column("notes", priority=95, wrap=True, key="notes", min_width=20),
)


def plan_table(checkpoint: Checkpoint, plan: Plan, followers: Followers, written: str | None) -> Table:
    """Every layer that changes, and every one that was meant and does not, with the reason.

    Args:
        checkpoint: The source.
        plan: What is done.
        followers: What follows.
        written: Name of the file that was written; None for a plan only.
    """
    rows = [_converted(one) for one in plan.conversions]
    rows += [_left(one.name, one.reason, one.done) for one in plan.refusals]
    raw: list[tuple[object, ...]] = [
        (one.layer.name, one.layer.kind, one.to, one.old_shape, one.new_shape, "; ".join((*one.assumed, *one.warnings)))
        for one in plan.conversions
    ]
    raw += [(one.name, "", "", "", "", one.reason) for one in plan.refusals]
    return Table(
        _COLUMNS,
        rows,
        title=f"{checkpoint.path.name} → {written}"
        if written
        else f"{checkpoint.path.name}: plan, nothing was written",
        summary=(_summary(plan, followers, written is not None),),
        notes=tuple(_notes(plan, followers)),
        raw=raw,
    )


def _converted(one: Conversion) -> tuple[Cell, ...]:
    notes: list[Styled] = []
    if one.assumed:
        notes.append(Styled("assumed", WARN))
    for warning in one.warnings:
        notes += [Styled(", "), Styled(warning, WARN)] if notes else [Styled(warning, WARN)]
    return (one.layer.name, one.layer.kind, one.to, shape(one.old_shape), shape(one.new_shape), tuple(notes))


def _left(name: str, reason: str, done: bool) -> tuple[Cell, ...]:
    return (name, "", "", "", "", Styled(reason, QUIET if done else BAD))


def _summary(plan: Plan, followers: Followers, written: bool) -> Cell:
    number = len(plan.conversions)
    verb = "converted" if written else "to convert"
    extra = []
    if followers.copies:
        extra.append(f"{count(len(followers.copies))} copies")
    if followers.optimizer:
        extra.append(f"{count(len(followers.optimizer))} optimizer tensors")
    refused = sum(not one.done for one in plan.refusals)
    done = len(plan.refusals) - refused
    if not number and not plan.refusals:
        return "no layer is of a kind to convert, so nothing changes"
    parts = [Styled(f"{count(number)} layer{'s' * (number != 1)} {verb}", GOOD if number else "bold")]
    if extra:
        parts.append(Styled(f" with {' and '.join(extra)}"))
    if done:
        parts.append(Styled(f" · {count(done)} already so"))
    if refused:
        parts.append(Styled(f" · {count(refused)} left", WARN))
    return tuple(parts)


def _notes(plan: Plan, followers: Followers) -> list[str]:
    lines = []
    if any(one.assumed for one in plan.conversions):
        lines.append("assumed: stride 1, padding 0 and groups 1, which a state_dict does not record")
    if followers.roots:
        lines.append(f"changed with them: {', '.join(followers.roots)}")
    return lines


def advice(plan: Plan) -> list[str]:
    """What the model's code must change to load the new file: one example of each kind of change."""
    lines = []
    seen: set[tuple[str, str]] = set()
    for one in plan.conversions:
        pair = (one.layer.kind, one.to)
        if pair in seen:
            continue
        seen.add(pair)
        alike = sum((other.layer.kind, other.to) == pair for other in plan.conversions) - 1
        more = f"  (and {count(alike)} more)" if alike else ""
        lines.append(f"{one.layer.name}: {_call(pair[0], one)} → {_call(pair[1], one)}{more}")
        if _input(pair[0]) != _input(pair[1]):
            lines.append(f"  takes {_input(pair[0])} → takes {_input(pair[1])}{_turn(*pair)}")
    return lines


def _call(kind: str, one: Conversion) -> str:
    wide_out, wide_in = one.new_shape[:2]
    if kind == TRANSFORMERS_CONV1D:
        return f"Conv1D(nf={wide_out}, nx={wide_in})"
    bias = "" if one.layer.bias is not None else ", bias=False"
    return f"nn.{kind}({wide_in}, {wide_out}{', 1' if kind in CONVOLUTIONS else ''}{bias})"


def _input(kind: str) -> str:
    return {"Conv1d": "(N, C, L)", "Conv2d": "(N, C, H, W)", "Conv3d": "(N, C, D, H, W)"}.get(kind, "(N, …, C)")


def _turn(old: str, new: str) -> str:
    """Where the channels must go when a layer changes between convolution and Linear."""
    if old in CONVOLUTIONS and new not in CONVOLUTIONS:
        return ": x.movedim(1, -1) before it, x.movedim(-1, 1) after it"
    if new in CONVOLUTIONS and old not in CONVOLUTIONS:
        return ": x.movedim(-1, 1) before it, x.movedim(1, -1) after it"
    return ""


def plan_payload(
    checkpoint: Checkpoint, plan: Plan, followers: Followers, output: str | None, tensors: int
) -> dict[str, Any]:
    """The JSON of `convert`; "unchanged" counts tensors of all roots that stay as they are."""
    changed = len(plan.edits) + len(followers.copies) + len(followers.optimizer)
    return {
        "source": str(checkpoint.path),
        "output": output,
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
        "refused": [{"name": one.name, "reason": one.reason} for one in plan.refusals if not one.done],
        "already": [one.name for one in plan.refusals if one.done],
        "optimizer": {"tensors": len(followers.optimizer), "copies": len(followers.copies),
                      "roots": list(followers.roots)},
        "unchanged": tensors - changed,
    }  # fmt: skip


def advice_lines(plan: Plan) -> Sequence[str]:
    """`advice` under its heading, or nothing when nothing changed."""
    found = advice(plan)
    return ["", "In the model's code:", *(f"  {line}" for line in found)] if found else []
