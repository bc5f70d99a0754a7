"""Optimizers that treat (O, I, 1) and (O, I) differently, and what that means for a conversion.

Outputs do not depend on trailing dimensions of size 1; what these optimizers do next does. Each is recognised
by keys of its param_groups or by the names of its state.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from convinspect.records import Edit, Root, Tensor


class Family(NamedTuple):
    """Optimizers whose state or step depends on the number of dimensions.

    Attributes:
        name: What it is called.
        keys: Keys of its param_groups, all of which it has.
        why: Why its state cannot be continued under the other shape.
    """

    name: str
    keys: frozenset[str]
    why: str


_PROJECTED = "it projects gradients of matrices alone, so that its state for the other shape is another"

FAMILIES = (
    Family("GaLore, Fira, APOLLO or Conda", frozenset({"update_proj_gap"}), _PROJECTED),
    Family("GaLore, Fira, APOLLO or Conda", frozenset({"projection_type"}), _PROJECTED),
    Family(
        "SPlus",
        frozenset({"max_dim", "ema_rate"}),
        "it keeps matrices for weights of two dimensions alone, so that its state for the other shape is another",
    ),
    Family(
        "Amos",
        frozenset({"extra_l2", "beta"}),
        "its state is reduced over dimensions that the other shape has in other places",
    ),
)

_MUON = "ns_steps"
_FACTORED = {"row_var", "col_var", "exp_avg_sq_row", "exp_avg_sq_col"}
"""Names of factored second moments: torch's Adafactor, and transformers'."""


def obstacle(root: Root, states: Iterable[Tensor], edit: Edit) -> str | None:
    """Why an optimizer's state cannot be continued with a converted weight, or None.

    Args:
        root: The optimizer.
        states: Its state for this weight, all of it.
        edit: The conversion of the weight.
    """
    family = next((family for family in FAMILIES if family.keys <= root.group_keys), None)
    if family is not None:
        return f"the optimizer at {root.path!r} is {family.name} (by {' and '.join(sorted(family.keys))}): {family.why}"
    if _MUON in root.group_keys and len(edit.shape) > 2:
        return f"the optimizer at {root.path!r} is Muon (by {_MUON}), which takes weights of two dimensions alone"
    for tensor in states:
        leaf = tensor.key.rpartition(".")[2]
        if leaf in _FACTORED:
            return f"the optimizer at {root.path!r} keeps factored state ({leaf}), which depends on the weight's shape"
        if tensor.layout.startswith("sparse"):
            return f"the optimizer at {root.path!r} keeps {tensor.key} as {tensor.layout}, whose parts would not follow"
    return None


def notes_of(root: Root, edits: Sequence[Edit]) -> tuple[str, ...]:
    """What a user should know of an optimizer that goes on with converted weights, one line each."""
    if _MUON in root.group_keys and edits:
        return (
            f"the optimizer at {root.path!r} is Muon (by {_MUON}), which may step differently on a Linear's weight"
            " than on a convolution's",
        )
    return ()
