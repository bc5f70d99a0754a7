"""Keys whose value is no tensor, on one side or both: what `load_state_dict(strict=True)` makes of them.

PyTorch's `Module._load_from_state_dict` (torch/nn/modules/module.py) counts every key, hands `_extra_state` of any type
to the module, and refuses to copy what is no tensor into a parameter.
"""

from __future__ import annotations

from convinspect.checkpoint import Checkpoint
from convinspect.diffing.differences import Difference, Kind
from convinspect.keys.others import EXTRA_STATE, UNREAD, Other, Value
from convinspect.records import Tensor

_STRAY = "no module keeps such a key: B does not load strictly with it either"


_PACKED_AS = "_packed_params.dtype"


def is_extra_state(key: str) -> bool:
    """Whether a module's `set_extra_state` takes the value, so that PyTorch compares neither type nor shape."""
    return key.rpartition(".")[2] == EXTRA_STATE


def only_one(name: str, kind: Kind, other: Other) -> Difference:
    """The difference of a key that one side alone has, and whose value is no tensor."""
    if kind == Kind.ONLY_IN_A:
        return Difference(name, kind, None, None, "is not in B", other_a=other)
    if other.stray:
        return Difference(name, kind, None, None, supplied=_STRAY, other_b=other)
    return Difference(name, kind, None, None, "is not in A", other_b=other)


def both(name: str, a: Tensor | Other, b: Tensor | Other, values: bool, of_b: Checkpoint) -> Difference:
    """The difference of a key that both sides have, of which at least one value is no tensor.

    Args:
        name: What the two keys have in common.
        a: The first side's.
        b: The second side's.
        values: Compare values too, where they are plain.
        of_b: The second checkpoint.
    """
    sides = (a, b)
    tensor_a, tensor_b = (side if isinstance(side, Tensor) else None for side in sides)
    other_a, other_b = (side if isinstance(side, Other) else None for side in sides)
    kind, unread = Kind.NO_TENSOR, False
    if other_a is not None and other_b is not None and _may_be_alike(other_a, other_b):
        kind, unread = Kind.SAME, values and not (other_a.text and other_b.text)
        if values and other_a.value is Value.OBJECT:
            kind = Kind.NOT_COMPARED if unread else Kind.SAME if other_a.text == other_b.text else Kind.VALUES_DIFFER
        unread = unread and kind == Kind.NOT_COMPARED
    obstacle = "" if _is_number(other_a) and _reads_a_number(b, of_b) else _obstacle(a, b)
    return Difference(name, kind, tensor_a, tensor_b, obstacle, unread=unread, other_a=other_a, other_b=other_b)


def _is_number(other: Other | None) -> bool:
    return other is not None and other.what in ("int", "float", "bool")


def _reads_a_number(side: Tensor | Other, checkpoint: Checkpoint) -> bool:
    """Whether a quantized module calls `float` or `int` on the value, as on its output's scale and zero point
    (`_load_from_state_dict` in PyTorch's torch/ao/nn/quantized/modules/linear.py and conv.py).
    """
    front, _, leaf = side.key.rpartition("scale" if side.key.endswith("scale") else "zero_point")
    if leaf or not isinstance(side, Tensor):
        return False
    packed = (f"{front}_packed_params._packed_params.0", f"{front}weight")
    return any(one.layout == "quantized" for one in checkpoint.tensors.values() if one.key in packed)


def _may_be_alike(a: Other, b: Other) -> bool:
    """Whether nothing shows that the values are of different types."""
    objects = a.value is b.value is Value.OBJECT
    return a.what == b.what or (objects and UNREAD in (a.what, b.what))


def _obstacle(a: Tensor | Other, b: Tensor | Other) -> str:
    """Why `a` does not load where `b` does; "" where it does."""
    if is_extra_state(b.key):
        return ""
    values = tuple(side.value if isinstance(side, Other) else None for side in (a, b))
    if Value.NESTED in values:
        return f"is {_said(a)} in A and {_said(b)} in B, and PyTorch copies no nested tensor"
    if Value.UNINITIALIZED is values[1] and values[0] in (None, Value.UNINITIALIZED):
        # A lazy module takes whatever shape comes.
        return ""
    if values == (Value.OBJECT, Value.OBJECT) and isinstance(a, Other) and isinstance(b, Other):
        # A quantized Linear packs its weight as this says, and takes nothing else.
        odd = b.key.endswith(_PACKED_AS) and a.what != b.what
        return f"is {a.what} in A and {b.what} in B" if odd else ""
    return f"is {_said(a)} in A and {_said(b)} in B"


def _said(side: Tensor | Other) -> str:
    if isinstance(side, Tensor):
        return "a tensor"
    return {Value.UNINITIALIZED: "uninitialized", Value.NESTED: "a nested tensor"}.get(
        side.value, f"no tensor ({side.what})"
    )
