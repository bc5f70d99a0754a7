"""Optimizers that treat (O, I, 1) and (O, I) differently, and what that means for a conversion.

Outputs do not depend on trailing dimensions of size 1, nor on a kernel being flat; what these optimizers do next does.
Each is recognised by keys of its param_groups, or by the names of its state. The keys are those that torch 2.13,
pytorch_optimizer 4.1 and transformers 5.24 write; `tests/oracle/test_resuming.py` resumes all of their optimizers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from convinspect.records import Edit, Root, Tensor


class Effect(Enum):
    """What an optimizer does differently with a weight of another number of dimensions."""

    STEPS = "steps differently"
    MAY_STEP = "may step differently"
    STATE = "keeps other state"
    MATRICES = "takes matrices alone"


class Family(NamedTuple):
    """Optimizers whose state or step depends on the number of dimensions.

    Attributes:
        name: What it is called.
        keys: Keys of its param_groups, all of which it has.
        effect: What it does differently.
        why: Why its state cannot be continued under the other shape; "" where it can.
        without: Keys that it does not have.
        alone: It has no other keys than `keys` and those that every optimizer may have.
        dims: It treats weights of so many dimensions and more differently than those of fewer; 0 for any difference.
        kernels: It treats a kernel of several positions differently than the matrix of the same numbers, and no other.
        state: Name of a state that it alone keeps, where its keys are those of others too; "" where they are not.
    """

    name: str
    keys: frozenset[str]
    effect: Effect
    why: str = ""
    without: frozenset[str] = frozenset()
    alone: bool = False
    dims: int = 3
    kernels: bool = False
    state: str = ""

    def made(self, root: Root) -> bool:
        """Whether an optimizer is of this family."""
        if not self.keys <= root.group_keys or self.without & root.group_keys:
            return False
        if self.state and not any(tensor.key.endswith(f".{self.state}") for tensor in root.tensors):
            return False
        return not self.alone or root.group_keys - _COMMON == self.keys

    def concerns(self, edit: Edit) -> bool:
        """Whether it treats a weight differently after a conversion."""
        before, after = len(edit.tensor.shape), len(edit.shape)
        if self.kernels:
            return any(size != 1 for size in (*edit.tensor.shape[2:], *edit.shape[2:]))
        return before != after if not self.dims else (before < self.dims) != (after < self.dims)


_COMMON = frozenset({
    "params", "lr", "foreach", "fused", "maximize", "capturable", "differentiable", "initial_lr", "max_lr", "min_lr",
    "max_momentum", "base_momentum", "swa_lr", "name", "param_names",
})  # fmt: skip

_PROJECTED = "it projects gradients of matrices alone, so that its state for the other shape is another"

FAMILIES = (
    Family("GaLore, Fira, APOLLO or Conda", frozenset({"update_proj_gap"}), Effect.STEPS, _PROJECTED),
    Family("GaLore, Fira, APOLLO or Conda", frozenset({"projection_type"}), Effect.STEPS, _PROJECTED),
    Family(
        "SPlus",
        frozenset({"max_dim", "ema_rate"}),
        Effect.STEPS,
        "it keeps matrices for weights of two dimensions alone, so that its state for the other shape is another",
    ),
    Family(
        "Amos",
        frozenset({"extra_l2", "beta"}),
        Effect.STEPS,
        "its steps are longer by √2 for weights of two dimensions, so that training would go on differently",
    ),
    # pytorch_optimizer's (`ns_coeffs`) takes a kernel as the matrix that it is.
    Family("Muon", frozenset({"ns_steps"}), Effect.MATRICES, without=frozenset({"ns_coeffs"})),
    Family("Muon", frozenset({"use_muon"}), Effect.MAY_STEP, without=frozenset({"ns_coeffs", "ns_steps"}), dims=0),
    Family(
        "SpectralSphere",
        frozenset({"momentum", "nesterov", "weight_decay", "weight_decouple", "step"}),
        Effect.MATRICES,
        alone=True,
    ),
    Family("Adafactor", frozenset({"beta2_decay", "d"}), Effect.STATE, dims=0),
    Family("Adafactor", frozenset({"scale_parameter", "relative_step"}), Effect.STATE, dims=0),
    # With `gc_conv_only`, which is in no file, it centralizes gradients of four dimensions and more alone.
    Family("Ranger", frozenset({"alpha", "k"}), Effect.MAY_STEP, dims=4),
    # Its default norm divides by the number of positions in a kernel.
    Family("SCION", frozenset({"norm_type", "norm_kwargs", "constraint"}), Effect.MAY_STEP, kernels=True),
    # It clips gradients by norms that are taken for each position of a kernel of one dimension.
    Family("Ranger21", frozenset({"betas", "fixed_decay"}), Effect.MAY_STEP, kernels=True, state="neg_grad_ma"),
)

_FACTORED = {"row_var", "col_var", "exp_avg_sq_row", "exp_avg_sq_col"}
"""Names of factored second moments: torch's Adafactor, and transformers'."""

_NUMBERED = re.compile(r"[A-Za-z][._]\d+(?:\.[A-Za-z]|$)")
"""State that has parts by number (`Q.0`, `GG.1`, `pre_cond_0`), which may be one for each dimension of the weight.
AggMo's parts are called by their momentum (`momentum_buffer.0.9`)."""


def families_of(root: Root, edits: Iterable[Edit]) -> list[Family]:
    """The families that an optimizer is of, of those that treat one of the edited weights differently."""
    every = list(edits)
    return [family for family in FAMILIES if family.made(root) and any(map(family.concerns, every))]


def obstacle(root: Root, edit: Edit) -> str | None:
    """Why an optimizer of this kind cannot continue its state with a converted weight, or None.

    Args:
        root: The optimizer.
        edit: The conversion of the weight.
    """
    for family in families_of(root, [edit]):
        what = f"the optimizer at {root.path!r} is {family.name} (by {' and '.join(sorted(family.keys))})"
        if family.why:
            return f"{what}: {family.why}"
        if family.effect is Effect.MATRICES and len(edit.shape) > 2:
            return f"{what}, which takes weights of two dimensions alone"
    return None


def state_obstacle(root: Root, states: Iterable[Tensor], edit: Edit) -> str | None:
    """Why an optimizer's state cannot be continued with a converted weight, by the state itself, or None.

    Args:
        root: The optimizer.
        states: Its state for this weight, all of it.
        edit: The conversion of the weight.
    """
    shape = edit.tensor.shape
    alike = 1 in shape[:2] or len(set(shape[:2])) == 1
    for tensor in states:
        leaf = tensor.key.rpartition(".")[2]
        if leaf in _FACTORED:
            return f"the optimizer at {root.path!r} keeps factored state ({leaf}), which depends on the weight's shape"
        if leaf.startswith("absmax") and (edit.transposed or edit.moved is not None):
            blocks = "scales of blocks of numbers in the order that they have now"
            return f"the optimizer at {root.path!r} keeps {tensor.key}, {blocks}, and {edit.tensor.key} gets another"
        if tensor.layout.startswith("sparse"):
            return f"the optimizer at {root.path!r} keeps {tensor.key} as {tensor.layout}, whose parts would not follow"
        # Of a square weight, or one with a size of 1, a part for one dimension can have the weight's own shape.
        if alike and _NUMBERED.search(tensor.key.rpartition("state.")[2].partition(".")[2]):
            parts = f"the optimizer at {root.path!r} keeps {tensor.key}, which may be a part for one dimension of"
            return f"{parts} {edit.tensor.key}, and these change"
    return None
