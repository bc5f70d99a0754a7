"""One layer before and after → whether its stored bits are the same layer's, and the first thing that is wrong.

What its outputs say is in `layer_outputs`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from convinspect.converting.patches import patch_assumptions
from convinspect.converting.plan import assumed
from convinspect.keys.wrappers import join_key
from convinspect.kinds import CONV_TRANSPOSES, CONVOLUTIONS, KINDS, TRANSFORMERS_CONV1D, may_change, shown_kind
from convinspect.layers.lora import follows_a_layer
from convinspect.records import Layer
from convinspect.verifying.causes import Cause, Why, because
from convinspect.verifying.tensors import Pairs

if TYPE_CHECKING:
    from convinspect.arrays.error_bound import Agreement, Rounding

_BIASES = ("bias", "bias_orig")
_FUSED = {"pruned": "pruning", "parametrized": "parametrization"}
"""What a norm is called once its parts became a plain weight; of others, their own name."""


@dataclass(frozen=True, slots=True)
class LayerCheck:
    """One layer that was converted, or that differs.

    Attributes:
        name: The layer.
        before: Its kind before.
        after: Its kind after; "" when it is not in the file.
        weights_equal: All its tensors hold the same bits.
        cause: The first thing that is wrong; None when all is well.
        outputs: Both run on the same numbers; None where that was not or could not be done.
        gradients: Of "input", "weight" and "bias"; empty when not asked for.
        rounding: Both in the file's own dtype, for information.
        assumed: What had to be taken for granted, since the file does not record it.
        note: Why its outputs could not be compared, or "".
        compared: False where it was converted and numbers of it could not be compared: it is not verified then.
        unsure: Why it is not verified though its numbers are the same; None otherwise.
        before_shown: What people are shown as the kind before.
        last: It multiplies patches, whose channels are last in the Linear's weight.
        reshaped: Its tensors that have the same numbers in the same order and another shape, which no conversion of a
            layer gives: what a model does with them is not known. By name, with the shapes as a cause.
    """

    name: str
    before: str
    after: str
    weights_equal: bool
    cause: Cause | None = None
    outputs: Agreement | None = None
    gradients: Mapping[str, Agreement] = field(default_factory=dict)
    rounding: Rounding | None = None
    assumed: tuple[str, ...] = ()
    note: str = ""
    compared: bool = True
    unsure: Cause | None = None
    before_shown: str = ""
    last: bool = False
    reshaped: Mapping[str, Cause] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Its numbers were compared, and no difference was found."""
        return self.cause is None and self.compared and self.unsure is None

    def with_cause(self, cause: Cause | None) -> LayerCheck:
        """The check with a cause, unless it has one already."""
        return self if self.cause is not None or cause is None else replace(self, cause=cause)

    def with_note(self, note: str) -> LayerCheck:
        """The check with a note, unless it already has a cause, which matters more."""
        return self if self.cause is not None else replace(self, note=note)


def keys_of(layer: Layer) -> dict[str, str]:
    """Full tensor names by the last part of the name."""
    # A parameter that belongs to no known layer is a layer of its own, whose only tensor has the layer's name.
    return {leaf: join_key(layer.name, leaf) if leaf else layer.name for leaf in layer.tensors}


def check_layer(before: Layer, after: Layer | None, pairs: Pairs) -> tuple[LayerCheck, frozenset[str]]:
    """What the stored bits say of one layer.

    Args:
        before: The layer before.
        after: The layer with the same name after, or None.
        pairs: What became of all tensors.

    Returns:
        The check, and the names of tensors that `pairs` lists as changed, missing or unexpected although the change
        is correct (fused norms, expanded groups).
    """
    last = join_key(before.name, "weight") in pairs.last
    of_patches = None if after is None else patch_assumptions(before, after, last)
    assumptions = assumed(before) if of_patches is None else of_patches
    shown = shown_kind(before.kind, before.tags)
    check = LayerCheck(before.name, before.kind, "", False, assumed=assumptions, before_shown=shown, last=last)
    if after is None:
        return check.with_cause(because(Why.GONE)), frozenset()
    known = of_patches is not None and any(one.patch and one.evidence == "module" for one in (before, after))
    alone = {} if known else _reshaped_alone(before, after, pairs)
    check = replace(check, after=_kind_after(before, after, pairs), reshaped=alone)
    reshaped = [name for name in keys_of(before).values() if name in pairs.converted or name in pairs.unproved]
    if (reshaped or alone) and not _may_change_shape(before):
        if before.evidence == "module" or any(name in pairs.unproved for name in reshaped):
            kept = because(Why.MUST_KEEP_SHAPE, kind=before.kind, shape=after.weight.shape)
            return check.with_cause(kept), frozenset()
        check = replace(check, after=before.kind, assumed=())
    if alone and follows_a_layer(before.name):
        # What belongs to a layer gets the shapes that adapters give it, and these are none.
        return check.with_cause(next(iter(alone.values()))), frozenset()
    excused = _excused(before, after, pairs)
    if before.norm and excused:
        check = replace(check, assumed=(*assumptions, *_assumed_dim(before)))
    if assumptions and groups_written_out(before, after) > 1:
        # The expanded kernel shows how many groups there were.
        check = replace(check, assumed=assumptions[:2])
    wrong = _within(keys_of(before).values(), pairs.changed, excused)
    lost = _within(keys_of(before).values(), pairs.missing, excused)
    added = _within(keys_of(after).values(), pairs.unexpected, excused)
    if before.norm and after.norm is None and join_key(before.name, "weight") in added:
        norm = _FUSED.get(before.norm, before.norm.replace("_", " "))
        return check.with_cause(because(Why.NORM_FUSED, norm=norm)), excused
    cause = (
        _setting_cause(before, after, bool(excused))
        or _groups_cause(before, after, wrong)
        or _tensor_cause(before, pairs.changed, wrong)
        or _bias_cause(lost, added)
    )
    unread = reshaped and any(name in pairs.unread or name in pairs.unproved for name in keys_of(before).values())
    compared = not unread
    equal = compared and not (wrong or lost or added)
    check = replace(check, weights_equal=equal, cause=cause, compared=compared)
    return check.with_note("same, the channels of each patch last" if last else ""), excused


def _reshaped_alone(before: Layer, after: Layer, pairs: Pairs) -> Mapping[str, Cause]:
    """The layer's tensors of which no more is known than that a reshape makes the one of the other."""
    found = {name: pairs.reshaped[name] for name in keys_of(before).values() if name in pairs.reshaped}
    if not _may_change_shape(before):
        shapes = {name: (tensor.shape, after.tensors.get(leaf)) for leaf, name in keys_of(before).items()
                  if name in pairs.converted and (tensor := before.tensors[leaf])}  # fmt: skip
        found |= {
            name: because(Why.RESHAPED, before=shape, after=other.shape)
            for name, (shape, other) in shapes.items()
            if other is not None
        }
    return found


_OF_ONE_RANK = frozenset({"Embedding", "LSTM", "GRU", "RNN"})


def unsure_of_shape(before: Layer, check: LayerCheck) -> Cause | None:
    """Why a layer is not verified that was only reshaped; None where all shapes are a model's own business.

    A kernel in another shape is another layer, and an embedding has one number of dimensions. Of a norm's vector or a
    parameter by itself the model's code alone says what shape it has.
    """
    if not check.reshaped:
        return None
    if check.before in _OF_ONE_RANK:
        shape = next(iter(check.reshaped.values())).facts["after"]
        return because(Why.MUST_KEEP_SHAPE, kind=check.before, shape=shape)
    # A vector as (8, 1) reads as a layer of one channel.
    vector = max(before.weight.shape, default=1) == before.weight.numel and before.evidence != "module"
    is_layer = check.before in KINDS and not (vector and check.after not in KINDS)
    return next(iter(check.reshaped.values())) if is_layer else None


def _may_change_shape(layer: Layer) -> bool:
    return may_change(layer.kind, layer.pointwise) or follows_a_layer(layer.name)


def _within(names: Iterable[str], differing: Mapping[str, object], excused: frozenset[str]) -> list[str]:
    return [name for name in names if name in differing and name not in excused]


def _kind_after(before: Layer, after: Layer, pairs: Pairs) -> str:
    """The kind after; where the shapes fit several kinds, the one that a conversion gives."""
    if may_change(after.kind, after.pointwise):
        transposed = before.kind == TRANSFORMERS_CONV1D and after.kind == TRANSFORMERS_CONV1D
        # A transposed square weight still reads as Conv1D (transformers) beside layers that were not transposed.
        return "Linear" if transposed and join_key(before.name, "weight") in pairs.converted else after.kind
    return "Linear" if may_change(before.kind, before.pointwise) and len(after.weight.shape) == 2 else after.kind


# ------------------------------------------------------------------------------------------ correct changes


def _excused(before: Layer, after: Layer, pairs: Pairs) -> frozenset[str]:
    """Tensors whose change is correct: a norm's parts replaced by the plain weight they give, or expanded groups."""
    weight = join_key(before.name, "weight")
    if before.norm and after.norm is None and weight in pairs.unexpected and _same_effective(before, after):
        parts = [name for leaf, name in keys_of(before).items() if leaf not in _BIASES and name in pairs.missing]
        return frozenset((*parts, weight, *_fused_bias(before, after)))
    if weight in pairs.changed and _is_expanded(before, after):
        return frozenset((weight,))
    return frozenset()


def groups_written_out(before: Layer, after: Layer) -> int:
    """Number of groups of a kernel (O, I/groups, 1, …) that was expanded to (O, I); 1 if it was not."""
    narrow, wide = before.weight.shape, after.weight.shape
    if not before.pointwise or before.norm or len(wide) != 2 or narrow[0] != wide[0] or not narrow[1]:
        return 1
    groups, rest = divmod(wide[1], narrow[1])
    fits = not rest and groups and before.groups in (None, groups) and not narrow[0] % groups
    return groups if fits else 1


def _fused_bias(before: Layer, after: Layer) -> list[str]:
    """Names of a pruned bias's parts and of the plain bias, if that holds the bits of their product."""
    if "bias_mask" not in before.tensors or after.bias is None:
        return []
    from convinspect.arrays.effective import effective_bias
    from convinspect.arrays.read import read_tensor

    product = effective_bias(before)
    if product is None or product.tobytes() != read_tensor(after.bias).tobytes():
        return []
    return [join_key(before.name, leaf) for leaf in ("bias", "bias_orig", "bias_mask")]


def _same_effective(before: Layer, after: Layer) -> bool:
    """Whether a plain weight has the bits of the norm's product, computed in float64 and rounded once."""
    from convinspect.arrays.effective import effective_weight
    from convinspect.arrays.read import read_tensor

    product, weight = effective_weight(before), read_tensor(after.weight)
    if product.size != weight.size or product.dtype != weight.dtype or product.shape[:2] != weight.shape[:2]:
        return False
    return bool(product.reshape(-1).tobytes() == weight.reshape(-1).tobytes())


def _assumed_dim(before: Layer) -> tuple[str, ...]:
    """The dimension of its spectral norm, where neither the file nor the numbers tell it."""
    from convinspect.arrays.effective import assumed_dim

    dim = assumed_dim(before)
    return () if dim is None else (f"spectral norm's dim {dim}",)


def _is_expanded(before: Layer, after: Layer) -> bool:
    """Whether a grouped kernel (O, I/groups, 1, …) was expanded to its block-diagonal (O, I)."""
    matrices = _written_out(before, after)
    return matrices is not None and bool(matrices[0].tobytes() == matrices[1].tobytes())


def _written_out(before: Layer, after: Layer) -> tuple[Any, Any] | None:
    """The expected block-diagonal (O, I) of a grouped kernel (O, I/groups, 1, …), and the matrix after; None if
    that has another shape.
    """
    import numpy as np

    from convinspect.arrays.read import read_tensor

    groups = groups_written_out(before, after)
    if groups < 2:
        return None
    rows, columns = before.weight.shape[0] // groups, before.weight.shape[1]
    kernel = read_tensor(before.weight).reshape(before.weight.shape[:2])
    matrix = read_tensor(after.weight).reshape(after.weight.shape)
    expected = np.zeros_like(matrix)
    for group in range(groups):
        block = slice(group * rows, (group + 1) * rows)
        expected[block, group * columns : (group + 1) * columns] = kernel[block]
    return expected, np.ascontiguousarray(matrix)


# ---------------------------------------------------------------------------------------------- what is wrong


def _groups_cause(before: Layer, after: Layer, wrong: list[str]) -> Cause | None:
    """The cause for expanded groups in which a few numbers differ from the block-diagonal."""
    matrices = _written_out(before, after) if join_key(before.name, "weight") in wrong else None
    if matrices is None:
        return None
    import numpy as np

    expected, actual = matrices
    unequal = (expected.view(np.uint8) != actual.view(np.uint8)).reshape(-1, expected.dtype.itemsize).any(axis=1)
    places = np.flatnonzero(unequal)
    if not 0 < len(places) < expected.size / 8:
        return None
    where = list(map(int, np.unravel_index(places[0], expected.shape)))
    if len(places) == 1:
        return because(Why.GROUPS_ONE_NUMBER, total=expected.size, where=where)
    return because(Why.GROUPS_NUMBERS, count=len(places), total=expected.size, where=where)


def _setting_cause(before: Layer, after: Layer, expanded: bool) -> Cause | None:
    """The cause for the first of stride, padding and groups that differs, where both are known."""
    for layer, other in ((before, after), (after, before)):
        if layer.kind in CONV_TRANSPOSES and not layer.pointwise and other.kind != layer.kind:
            return because(Why.MUST_KEEP_SHAPE, kind=layer.kind, shape=other.weight.shape)
    if not all(may_change(layer.kind, layer.pointwise) for layer in (before, after)):
        return None
    if patch_assumptions(before, after) is not None:
        return _patch_cause(before if len(after.weight.shape) == 2 else after)
    for setting, usual in (("stride", 1), ("padding", 0), ("groups", 1)):
        old, new = _known(before, setting, usual), _known(after, setting, usual)
        if old is None or new is None or old == new or (setting == "groups" and expanded):
            continue
        if new == usual:
            return because(Why.IGNORED, setting=setting, before=old)
        return because(Why.SETTING, setting=setting, before=old, after=new)
    return None


def _patch_cause(conv: Layer) -> Cause | None:
    """The cause where a convolution is recorded to be none over patches, so that no Linear computes it."""
    kernel = conv.kernel_size
    # Along a dimension of one position there is nothing to dilate.
    gaps = tuple(1 if size == 1 else step for size, step in zip(kernel, conv.dilation or kernel, strict=True))
    settings = (
        ("stride", conv.stride, kernel),
        ("padding", conv.padding, (0,) * len(kernel)),
        ("dilation", conv.dilation and gaps, (1,) * len(kernel)),
        ("groups", conv.groups, 1),
    )
    for setting, value, wanted in settings:
        if value not in (None, wanted, "valid"):
            return because(Why.NO_PATCHES, setting=setting, value=value, kernel=conv.kernel_size)
    return None


def _known(layer: Layer, setting: str, usual: int) -> Any:
    """Stride, padding or groups: one number if all dimensions agree; None if the file does not record it."""
    value = getattr(layer, setting)
    if value is None:
        return None if layer.kind in (*CONVOLUTIONS, *CONV_TRANSPOSES) else usual
    if isinstance(value, str):
        # "same" and "valid" pad nothing at kernel size 1.
        return usual if layer.pointwise else value
    return value if not isinstance(value, tuple) or len(set(value)) > 1 else value[0]


def _tensor_cause(layer: Layer, changed: Mapping[str, Cause], wrong: list[str]) -> Cause | None:
    """The cause of the first tensor that differs, biases last."""
    for leaf, name in sorted(keys_of(layer).items(), key=lambda item: item[0] in _BIASES):
        if name in wrong:
            return because(Why.LAYER_TENSOR, leaf=leaf or "it", cause=changed[name])
    return None


def _bias_cause(lost: list[str], added: list[str]) -> Cause | None:
    for name in lost:
        leaf = name.rpartition(".")[2]
        return because(Why.BIAS_DROPPED) if leaf in _BIASES else because(Why.TENSOR_DROPPED, leaf=leaf)
    for name in added:
        leaf = name.rpartition(".")[2]
        return because(Why.BIAS_ADDED) if leaf in _BIASES else because(Why.TENSOR_ADDED, leaf=leaf)
    return None
