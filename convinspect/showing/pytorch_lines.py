"""Lines of PyTorch that give entries of a state_dict the shapes that no conversion gives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from convinspect.converting.relations import by_hand
from convinspect.diffing.differences import DiffReport

_SPELLED_OUT = 3
"""Of more reshapes to different shapes, the model is asked for these."""


def lines_of(calls: Iterable[tuple[str, str]]) -> list[str]:
    """A line for each call, of all keys that have it.

    Args:
        calls: Keys of the state_dict `sd`, and PyTorch's call on the tensor.
    """
    keys: dict[str, list[str]] = {}
    for key, call in calls:
        keys.setdefault(call, []).append(key)
    reshapes = [call for call in keys if call.startswith(".reshape")]
    if len(reshapes) > _SPELLED_OUT:
        keys[".reshape(model.state_dict()[k].shape)"] = [key for call in reshapes for key in keys.pop(call)]
    return [_line(names, call) for call, names in keys.items()]


def _line(keys: Sequence[str], call: str) -> str:
    if len(keys) == 1 and "[k]" not in call:
        return by_hand(keys[0], call)
    return f"for k in {tuple(keys)!r}: sd[k] = sd[k]{call}"


def difference_lines(report: DiffReport, renamed: bool) -> list[str]:
    """The lines for what `diff` found.

    Args:
        report: The comparison.
        renamed: A command gives the keys B's names first.
    """
    sides = ((each.b if renamed else each.a, each.call) for each in report.by_hand)
    return lines_of((side.key, call) for side, call in sides if side is not None)


def by_hand_lines(lines: Sequence[str], after_commands: bool) -> list[str]:
    """The lines below a heading; [] if there are none."""
    when = "Then, in PyTorch" if after_commands else "In PyTorch"
    return ["", f"{when}, on the state_dict `sd`:", *(f"  {line}" for line in lines)] if lines else []
