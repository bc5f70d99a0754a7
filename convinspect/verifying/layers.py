"""One layer before and after → whether it is the same layer, and the first thing that is wrong if it is not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from convinspect.converting.plan import assumed
from convinspect.errors import BrokenFile, CannotShow
from convinspect.keys.wrappers import join_key
from convinspect.kinds import CONVOLUTIONS, KINDS, TRANSFORMERS_CONV1D
from convinspect.layers.by_shape import is_magnitude
from convinspect.records import Layer
from convinspect.text import with_article
from convinspect.verifying.tensors import Pairs

if TYPE_CHECKING:
    import torch

    from convinspect.arrays.error_bound import Agreement, Form, Rounding

_BIASES = ("bias", "bias_orig")


@dataclass(frozen=True, slots=True)
class LayerCheck:
    """One layer that was converted, or that differs.

    Attributes:
        name: The layer.
        before: Its kind before.
        after: Its kind after; "" when it is not there.
        weights_equal: All its tensors hold the same bits.
        cause: The first thing that is wrong; "" when all is well.
        outputs: Both run on the same numbers; None where that was not or could not be done.
        gradients: Of "input", "weight" and "bias"; empty when not asked for.
        rounding: Both in the file's own dtype, for information.
        assumed: What had to be taken for granted, since the file does not record it.
        note: Why its outputs could not be compared, or "".
    """

    name: str
    before: str
    after: str
    weights_equal: bool
    cause: str = ""
    outputs: Agreement | None = None
    gradients: Mapping[str, Agreement] = field(default_factory=dict)
    rounding: Rounding | None = None
    assumed: tuple[str, ...] = ()
    note: str = ""

    @property
    def ok(self) -> bool:
        """Nothing speaks against it."""
        return not self.cause


@dataclass(frozen=True, slots=True)
class Inputs:
    """Random inputs of one layer: (batch, length) of each, and the seed.

    Several examples of one position and one example of several, by default: together they cost half of what several
    of several do, since a convolution in float64 packs its kernel anew for every example of more than one position.
    """

    sizes: tuple[tuple[int, int], ...] = ((2, 1), (1, 2))
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """How layers are to be run.

    Attributes:
        names: Layers or globs to report on; () for all that were converted or differ.
        inputs: Sizes, seed and device of the random inputs; None to compare bits alone.
        gradients: Also compare ∂x, ∂W and ∂b.
        dtype: In which rounding is told; "" for the file's own.
        renamed: Tensors have other names in the file before than they are compared under.
    """

    names: tuple[str, ...] = ()
    inputs: Inputs | None = None
    gradients: bool = False
    dtype: str = ""
    renamed: bool = False


def keys_of(layer: Layer) -> dict[str, str]:
    """The layer's tensors by the last part of their name → their whole name."""
    return {leaf: join_key(layer.name, leaf) for leaf in layer.tensors}


def check_layer(layer: Layer, other: Layer | None, pairs: Pairs) -> tuple[LayerCheck, frozenset[str]]:
    """What the stored bits say of one layer.

    Args:
        layer: Before.
        other: The layer of that name after, or None.
        pairs: What became of all tensors.

    Returns:
        The check, and the names of tensors that `pairs` calls changed, missing or unexpected although nothing is
        wrong with them (fused norms, groups written out).
    """
    keys = keys_of(layer)
    taken = assumed(layer)
    check = LayerCheck(layer.name, layer.kind, "", False, assumed=taken)
    if other is None:
        return replace(check, cause="it is not there any more"), frozenset()
    check = replace(check, after=_kind_after(layer, other, pairs))
    may_change = layer.kind in KINDS or is_magnitude(layer.name)
    if any(name in pairs.converted for name in keys.values()) and not may_change:
        return replace(
            check, cause=f"{with_article(layer.kind)} must keep its shape, which became {other.weight.shape}"
        ), frozenset()
    excused = _excused(layer, other, pairs)
    if taken and _groups_written_out(layer, other) > 1:
        check = replace(check, assumed=taken[:2])
    wrong = [name for name in keys.values() if name in pairs.changed and name not in excused]
    lost = [name for name in keys.values() if name in pairs.missing and name not in excused]
    added = [join_key(layer.name, leaf) for leaf in other.tensors]
    added = [name for name in added if name in pairs.unexpected and name not in excused]
    if layer.norm and other.norm is None and join_key(layer.name, "weight") in added:
        norm = {"pruned": "pruning", "parametrized": "parametrization"}.get(layer.norm, layer.norm.replace("_", " "))
        cause = f"its {norm} was made plain, in other numbers than float64 gives, rounded once"
        return replace(check, cause=cause), excused
    cause = (
        _moved(layer, other, bool(excused))
        or _groups(layer, other, wrong)
        or _named(layer, pairs.changed, wrong)
        or _bias(lost, added)
    )
    return replace(check, weights_equal=not (wrong or lost or added), cause=cause), excused


def _kind_after(layer: Layer, other: Layer, pairs: Pairs) -> str:
    """The kind after; where shapes alone leave it open, what a conversion gives."""
    if other.kind in KINDS:
        turned = layer.kind == TRANSFORMERS_CONV1D and other.kind == TRANSFORMERS_CONV1D
        # A square one that was turned still looks like what it was beside others that were not.
        return "Linear" if turned and join_key(layer.name, "weight") in pairs.converted else other.kind
    return "Linear" if layer.kind in KINDS and len(other.weight.shape) == 2 else other.kind


def _excused(layer: Layer, other: Layer, pairs: Pairs) -> frozenset[str]:
    """Tensors that look wrong and are right: a norm's parts and the plain weight they make, groups written out."""
    plain = join_key(layer.name, "weight")
    if layer.norm and other.norm is None and plain in pairs.unexpected and _same_effective(layer, other):
        parts = [name for leaf, name in keys_of(layer).items() if leaf not in _BIASES and name in pairs.missing]
        return frozenset((*parts, plain, *_fused_bias(layer, other)))
    if plain in pairs.changed and _is_expanded(layer, other):
        return frozenset((plain,))
    return frozenset()


def _groups_written_out(layer: Layer, other: Layer) -> int:
    """How many groups a pointwise kernel (O, I/groups, 1, …) has that became (O, I); 1 where it did not."""
    shapes = layer.weight.shape, other.weight.shape
    if not layer.pointwise or layer.norm or len(shapes[1]) != 2 or shapes[0][0] != shapes[1][0] or not shapes[0][1]:
        return 1
    groups, rest = divmod(shapes[1][1], shapes[0][1])
    fits = not rest and groups and layer.groups in (None, groups) and not shapes[0][0] % groups
    return groups if fits else 1


def _fused_bias(layer: Layer, other: Layer) -> list[str]:
    """A pruned bias's parts and the plain bias that they make, when that holds their product's bits."""
    if "bias_mask" not in layer.tensors or other.bias is None:
        return []
    from convinspect.arrays.effective import effective_bias
    from convinspect.arrays.read import read_tensor

    made = effective_bias(layer)
    if made is None or made.tobytes() != read_tensor(other.bias).tobytes():
        return []
    return [join_key(layer.name, leaf) for leaf in ("bias", "bias_orig", "bias_mask")]


def _same_effective(layer: Layer, other: Layer) -> bool:
    """Whether a plain weight holds the bits that a norm's parts make, computed in float64 and rounded once."""
    from convinspect.arrays.effective import effective_weight
    from convinspect.arrays.read import read_tensor

    made, there = effective_weight(layer), read_tensor(other.weight)
    if made.size != there.size or made.dtype != there.dtype or made.shape[:2] != there.shape[:2]:
        return False
    return bool(made.reshape(-1).tobytes() == there.reshape(-1).tobytes())


def _is_expanded(layer: Layer, other: Layer) -> bool:
    """Whether a grouped kernel (O, I/groups, 1, …) became its block-diagonal (O, I)."""
    made = _written_out(layer, other)
    return made is not None and bool(made[0].tobytes() == made[1].tobytes())


def _groups(layer: Layer, other: Layer, wrong: list[str]) -> str:
    """Which numbers of groups that were written out differ from the block-diagonal, where most do not; "" otherwise."""
    made = _written_out(layer, other) if join_key(layer.name, "weight") in wrong else None
    if made is None:
        return ""
    import numpy as np

    size = made[0].dtype.itemsize
    places = np.flatnonzero((made[0].view(np.uint8) != made[1].view(np.uint8)).reshape(-1, size).any(axis=1))
    if not 0 < len(places) < made[0].size / 8:
        return ""
    where = list(map(int, np.unravel_index(places[0], made[0].shape)))
    found = f"1 of {made[0].size:,} numbers differs, at" if len(places) == 1 else (
        f"{len(places):,} of {made[0].size:,} numbers differ, first at")  # fmt: skip
    return f"weight: its groups were written out, and {found} {where}"


def _written_out(layer: Layer, other: Layer) -> tuple[Any, Any] | None:
    """The block-diagonal (O, I) of a grouped kernel (O, I/groups, 1, …) and what is there; None where it fits none."""
    import numpy as np

    from convinspect.arrays.read import read_tensor

    shapes, groups = (layer.weight.shape, other.weight.shape), _groups_written_out(layer, other)
    if groups < 2:
        return None
    small, large = (
        read_tensor(one.weight).reshape(shape[:2]) for one, shape in zip((layer, other), shapes, strict=True)
    )
    wanted = np.zeros_like(large)
    rows, columns = shapes[0][0] // groups, shapes[0][1]
    for group in range(groups):
        block = slice(group * rows, (group + 1) * rows)
        wanted[block, group * columns : (group + 1) * columns] = small[block]
    return wanted, np.ascontiguousarray(large)


def _moved(layer: Layer, other: Layer, expanded: bool) -> str:
    """Stride, padding or groups that one of the two has and the other has not, where both are known."""
    if layer.kind not in KINDS or other.kind not in KINDS:
        return ""
    for what, usual in (("stride", 1), ("padding", 0), ("groups", 1)):
        one, there = _known(layer, what, usual), _known(other, what, usual)
        if one is None or there is None or one == there or (what == "groups" and expanded):
            continue
        return f"its {what}={one} is ignored" if there == usual else f"its {what}={one} became {there}"
    return ""


def _known(layer: Layer, what: str, usual: int) -> Any:
    """Stride, padding or groups: one number where all dimensions agree; None where the file does not say."""
    value = getattr(layer, what)
    if value is None:
        return None if layer.kind in CONVOLUTIONS else usual
    if isinstance(value, str):
        # "same" and "valid" pad nothing at kernel size 1.
        return usual if layer.pointwise else value
    return value if not isinstance(value, tuple) or len(set(value)) > 1 else value[0]


def _named(layer: Layer, changed: Mapping[str, str], wrong: list[str]) -> str:
    """The cause of the first tensor that differs, weights before the rest."""
    keys = keys_of(layer)
    for leaf, name in sorted(keys.items(), key=lambda item: item[0] in _BIASES):
        if name in wrong:
            return f"{leaf or 'it'}: {changed[name]}"
    return ""


def _bias(lost: list[str], added: list[str]) -> str:
    for name in lost:
        leaf = name.rpartition(".")[2]
        return "its bias was dropped" if leaf in _BIASES else f"its {leaf} is missing"
    for name in added:
        leaf = name.rpartition(".")[2]
        return "it has a bias that was not there" if leaf in _BIASES else f"it has a {leaf} that was not there"
    return ""


# --------------------------------------------------------------------------------------------------- outputs


def run(check: LayerCheck, layer: Layer, other: Layer | None, wish: VerifyOptions) -> LayerCheck:
    """The check with both layers' outputs, and gradients when asked for.

    Raises:
        ConvInspectError: Bytes are missing or damaged.
    """
    if wish.inputs is None or other is None or layer.kind not in KINDS or check.after not in KINDS:
        return check
    if not (layer.weight.numel and other.weight.numel):
        return check if check.cause else replace(check, note="same, and empty")
    if layer.kind in CONVOLUTIONS and not layer.pointwise:
        return check if check.cause else replace(check, note="same bits; only pointwise layers are run")
    if layer.weight.dtype.startswith("complex"):
        return check if check.cause else replace(check, note="same bits; complex layers are not run")
    import torch

    from convinspect.arrays import error_bound as outputs
    from convinspect.arrays.to_torch import torch_dtype

    forms = _forms(layer, other, check.after)
    try:
        weights, biases = _numbers(layer, other, check, forms, wish.inputs.device)
    except CannotShow as error:
        return replace(check, note=f"its outputs cannot be compared: {error.problem}")
    for matrix, bias, kind in zip(weights, biases, (layer.kind, check.after), strict=True):
        rows = matrix.shape[1] if kind == TRANSFORMERS_CONV1D else matrix.shape[0]
        if bias is not None and bias.numel() != rows:
            return check if check.cause else replace(check, note=f"same bits; its bias has {bias.numel()} numbers for"
                                                                 f" {rows} outputs, so it cannot be run")  # fmt: skip
    channels = _channels(forms[0], weights[0])
    if _channels(forms[1], weights[1]) != channels:
        takes = f"it takes {_channels(forms[1], weights[1])} channels, and took {channels}"
        return check if check.cause else replace(check, cause=takes)
    own = torch_dtype(wish.dtype or layer.weight.dtype)
    xs = outputs.inputs_for(channels, own, wish.inputs)
    try:
        with torch.no_grad():
            found, exact = outputs.compare_outputs(forms, weights, biases, xs)
            rounding = None if check.cause else outputs.rounding(forms, weights, biases, xs[-1], exact, own)
            check = replace(check, outputs=found, rounding=rounding)
        if wish.gradients:
            check = replace(check, gradients=outputs.compare_gradients(forms, weights, biases, xs))
    except outputs.OtherShape as error:
        return check if check.cause else replace(check, cause=f"it gives {error}")
    return check if check.cause else replace(check, cause=_beyond(check))


def _beyond(check: LayerCheck) -> str:
    found = {"outputs": check.outputs, **{f"gradients of {name}": one for name, one in check.gradients.items()}}
    for what, one in found.items():
        if one is not None and not one.ok:
            return f"its {what} differ by {one.difference:.3g}, where rounding explains {one.bound:.3g}"
    return ""


def _forms(layer: Layer, other: Layer, kind_after: str) -> tuple[Form, Form]:
    """How both are to be run."""
    if any(one.stride is not None and one.kind not in CONVOLUTIONS for one in (layer, other)):
        # A PointwiseLinear does to positions what the convolution does, which was compared; the weights remain.
        layer, other = (one._replace(stride=None, padding=None) for one in (layer, other))
    if layer.groups is None:
        layer = layer._replace(groups=_groups_written_out(layer, other))
    return _form(layer, layer.kind), _form(other, kind_after)


def _form(layer: Layer, kind: str) -> Form:
    from convinspect.arrays.error_bound import Form

    if kind not in CONVOLUTIONS:
        return Form(kind)
    dims = int(kind[4])
    padding = (0,) * dims if layer.padding is None or isinstance(layer.padding, str) else layer.padding
    return Form(kind, layer.stride or (1,) * dims, padding, layer.groups or 1)


def _channels(form: Form, weight: torch.Tensor) -> int:
    """Input channels."""
    return weight.shape[0] if form.kind == TRANSFORMERS_CONV1D else weight.shape[1] * form.groups


def _numbers(
    layer: Layer, other: Layer, check: LayerCheck, forms: tuple[Form, Form], device: str
) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor | None, torch.Tensor | None]]:
    """Weights as stored and biases, before and after; those after are not read again where their bits are equal."""
    weight, bias = _on_device(layer, device)
    if check.weights_equal and layer.norm == other.norm and layer.weight.numel == other.weight.numel:
        matrix = weight.mT if forms[0].kind == TRANSFORMERS_CONV1D else weight
        matrix = matrix.reshape(matrix.shape[:2]) if weight.dim() > 2 else matrix
        after = matrix.mT if forms[1].kind == TRANSFORMERS_CONV1D else matrix.reshape(other.weight.shape)
        return (weight, after), (bias, bias)
    there, its_bias = _on_device(other, device)
    return (weight, there), (bias, its_bias)


def _on_device(layer: Layer, device: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    from convinspect.arrays.to_torch import weight_and_bias

    weight, bias = weight_and_bias(layer)
    if weight.dim() < 2:
        raise BrokenFile(f"layer {layer.name}: its weight has {weight.dim()} dimensions")
    return weight.to(device), None if bias is None else bias.to(device)
