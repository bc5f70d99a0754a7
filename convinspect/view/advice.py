"""What a model's code must change so that it loads a converted checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

from convinspect.convert import Conversion, Plan
from convinspect.folding import fold
from convinspect.layers import CONVOLUTIONS
from convinspect.readings import TRANSFORMERS_CONV1D

_SPATIAL = {"Conv1d": ("L",), "Conv2d": ("H", "W"), "Conv3d": ("D", "H", "W")}


def advice(plan: Plan) -> list[str]:
    """The lines to edit for every layer of each kind of change, blocks that repeat as one, and what goes in."""
    kinds: dict[tuple[str, str, int], list[Conversion]] = {}
    for one in plan.conversions:
        kinds.setdefault((one.layer.kind, one.to, one.groups), []).append(one)
    lines = []
    for (old, new, _), alike in kinds.items():
        by_layer = {id(one.layer): one for one in alike}
        for block in fold([one.layer for one in alike]):
            one = by_layer[id(block.layers[0])]
            lines.append(f"{block.name or '(root)'}: {_call(old, one, one.groups)} → {_call(new, one, 1)}")
        if _input(old) != _input(new):
            lines.append(f"  takes {_input(old)} → takes {_input(new)}: {_turn(old, new)}")
    return lines


def advice_lines(plan: Plan) -> Sequence[str]:
    """`advice` under its heading, or nothing when nothing changed."""
    found = advice(plan)
    return ["", "In the model's code:", *(f"  {line}" for line in found)] if found else []


def _call(kind: str, one: Conversion, groups: int) -> str:
    # (out, in) of every kind but transformers' Conv1D, which keeps (in, out).
    wide_out, wide_in = one.new_shape[:2] if one.to != TRANSFORMERS_CONV1D else one.new_shape[::-1]
    if kind == TRANSFORMERS_CONV1D:
        return f"Conv1D(nf={wide_out}, nx={wide_in})"
    parts = [str(wide_in), str(wide_out)]
    parts += ["1"] * (kind in CONVOLUTIONS) + [f"groups={groups}"] * (groups > 1)
    parts += ["bias=False"] * (one.layer.bias is None)
    return f"nn.{kind}({', '.join(parts)})"


def _input(kind: str) -> str:
    return f"(N, C, {', '.join(_SPATIAL[kind])})" if kind in _SPATIAL else "(N, …, C)"


def _turn(old: str, new: str) -> str:
    """What must happen to the data before and after the layer, so that the code around it stays."""
    if new not in _SPATIAL:
        return "x.movedim(1, -1) before it, x.movedim(-1, 1) after it"
    if old not in _SPATIAL:
        return "x.movedim(-1, 1) before it, x.movedim(1, -1) after it"
    left, wanted = len(_SPATIAL[old]), len(_SPATIAL[new])
    if left < wanted:
        return f"x[..., {', '.join(['None'] * (wanted - left))}] before it, x.flatten({left + 1}) after it"
    merged = ", ".join(_SPATIAL[old][wanted - 1 :])
    return f"x.flatten({wanted + 1}) before it, x.unflatten({wanted + 1}, ({merged})) after it"
