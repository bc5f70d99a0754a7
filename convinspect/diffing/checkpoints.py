"""Two checkpoints → where they differ, and whether A would load where B does, unchanged or converted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from convinspect.checkpoint import Checkpoint
from convinspect.converting.like import other_layout, plan_like, square_turned
from convinspect.converting.plan import Plan
from convinspect.converting.reshape import out_in
from convinspect.diffing import others
from convinspect.diffing.differences import Difference, DiffReport, Kind, Square
from convinspect.diffing.supplied import Side, what_pytorch_supplies
from convinspect.errors import CannotShow, Wording
from convinspect.keys.others import Other
from convinspect.keys.pairing import pair_keys
from convinspect.layers.find import find_layers
from convinspect.layers.lora import as_vector, follows_a_layer
from convinspect.layouts import in_torch_order, is_turned
from convinspect.records import Layer, Tensor

if TYPE_CHECKING:
    from convinspect.arrays.distance import Deviation


def diff(
    a: Checkpoint, b: Checkpoint, values: bool = False, progress: Callable[[int], None] = lambda done: None
) -> DiffReport:
    """Compare the roots in use of two checkpoints.

    Args:
        a: The checkpoint that is to be loaded.
        b: A checkpoint that loads.
        values: Compare numbers too, one tensor at a time.
        progress: Called with the number of bytes that were compared, of both sides.

    Raises:
        ConvInspectError: With `values`: bytes of one of the files are missing or damaged.
    """
    sides: tuple[list[Side], list[Side]] = (_values(a), _values(b))
    keys = ([side.key for side in sides[0]], [side.key for side in sides[1]])
    pairing = pair_keys(keys, ([*a.tensors, *a.others], [*b.tensors, *b.others]))
    partners = {i: (name, sides[1][j]) for name, i, j in pairing.pairs}
    only_a = {place: name for name, place in pairing.only_a}
    conversion = _conversion(a, b, _both_tensors((sides[0][i], partner) for i, (_, partner) in partners.items()))
    supplied = what_pytorch_supplies(a, pairing, sides)
    differences: list[Difference] = []
    for place, tensor in enumerate(sides[0]):
        if place in only_a:
            differences.append(_unpaired(only_a[place], Kind.ONLY_IN_A, tensor, supplied))
            continue
        name, partner = partners[place]
        if isinstance(tensor, Other) or isinstance(partner, Other):
            differences.append(others.both(name, tensor, partner, values))
            continue
        seen = conversion.seen.get(id(tensor), tensor), conversion.seen.get(id(partner), partner)
        difference = Difference(name, _kind(*seen, id(tensor) in conversion.turned), tensor, partner)
        if values:
            difference = _with_values(difference, *seen)
            progress(tensor.nbytes + partner.nbytes)
        layer, refusal = conversion.layers.get(id(tensor)), conversion.refusals.get(id(tensor), "")
        if (square := conversion.squares.get(id(tensor))) is not None:
            difference, layer = _square(difference, square, layer, values)
        if (why := conversion.foreign.get(id(tensor))) is not None:
            obstacle = f"is {tensor.shape} in A and {partner.shape} in B: {why}"
            differences.append(replace(difference, kind=Kind.SHAPE_DIFFERS, obstacle=obstacle))
            continue
        differences.append(loading_effect(difference, layer, refusal))
    differences += [_unpaired(name, Kind.ONLY_IN_B, sides[1][place], supplied) for name, place in pairing.only_b]
    return DiffReport(tuple(differences), pairing.prefixes, pairing.rules, values, a=a, b=b)


def _values(checkpoint: Checkpoint) -> list[Side]:
    return [*checkpoint.tensors.values(), *checkpoint.others.values()]


def _both_tensors(pairs: Iterable[tuple[Side, Side]]) -> list[tuple[Tensor, Tensor]]:
    return [(a, b) for a, b in pairs if isinstance(a, Tensor) and isinstance(b, Tensor)]


class _Conversion(NamedTuple):
    """What `convert` with `like=B` would do to A; keys are the ids of A's tensors.

    Attributes:
        turned: Square weights that are stored transposed in B.
        layers: Names of the layers that would be converted.
        refusals: Why layers would be left unchanged.
        seen: Convolutions' weights of both in other libraries' layouts, in PyTorch's order of axes.
        foreign: Of A's weights whose layout is not B's, how they differ.
        squares: Names of the layers of A's square weights that may be stored transposed, as others of A are.
    """

    turned: set[int]
    layers: dict[int, str]
    refusals: dict[int, str]
    seen: dict[int, Tensor]
    foreign: dict[int, str]
    squares: dict[int, str]


def _conversion(a: Checkpoint, b: Checkpoint, pairs: Sequence[tuple[Tensor, Tensor]]) -> _Conversion:
    relevant = _relevant_tensors((a, b), pairs)
    layers, layers_of_b = find_layers(a, relevant), find_layers(b, relevant)
    partners = {id(tensor): partner for tensor, partner in pairs}
    owners = {id(layer.weight): layer for layer in layers_of_b}
    counterparts = {id(layer.weight): owners.get(id(partners.get(id(layer.weight)))) for layer in layers}
    turned = {id(layer.weight) for layer in layers if square_turned(layer, counterparts[id(layer.weight)])}
    names = {tensor.key: tensor.key for tensor in a.tensors.values()}
    wanted = {tensor.key: partners[id(tensor)] for tensor in a.tensors.values() if id(tensor) in partners}
    plan = plan_like(layers, names, wanted, layers_of_b)
    converted = {id(edit.tensor): each.layer.name for each in plan.conversions for edit in each.edits}
    foreign = (layer for layer in (*layers, *layers_of_b) if is_turned(layer) and len(layer.weight.shape) > 2)
    seen = {id(layer.weight): in_torch_order(layer).weight for layer in foreign}
    whys = ((id(layer.weight), other_layout(layer, counterparts[id(layer.weight)])) for layer in layers)
    others = {weight: why for weight, why in whys if why}
    doubtful = {refusal.name for refusal in plan.refusals if refusal.maybe_turned}
    squares = {id(layer.weight): layer.name for layer in layers if layer.name in doubtful}
    return _Conversion(turned, converted, _refusals(layers, plan), seen, others, squares)


def _relevant_tensors(
    sides: tuple[Checkpoint, Checkpoint], pairs: Iterable[tuple[Tensor, Tensor]]
) -> Callable[[Tensor], bool]:
    """A test for tensors whose layers can matter to a conversion.

    These are tensors whose shapes differ, square matrices, which may be transposed, and tensors that change together
    with others. Where a hundred thousand are alike, their layers need not be found.
    """
    foreign = sides[0].layout != sides[1].layout
    relevant = {
        id(tensor)
        for a, b in pairs
        if a.shape != b.shape or (len(a.shape) == 2 and a.shape[0] == a.shape[1]) or (foreign and len(a.shape) > 2)
        for tensor in (a, b)
    }
    for side in sides:
        relevant |= {id(tensor) for name, tensor in side.tensors.items() if "lora" in name or side.tie(name)}
    return lambda tensor: id(tensor) in relevant


def _refusals(layers: Sequence[Layer], plan: Plan) -> dict[int, str]:
    """Why `convert` leaves layers unchanged, by the ids of their tensors."""
    reasons = {refusal.name: refusal.reason for refusal in plan.refusals}
    refused = (layer for layer in layers if layer.name in reasons)
    return {id(tensor): reasons[layer.name] for layer in refused for tensor in layer.tensors.values()}


# ------------------------------------------------------------------------------------------------ keys of one side only


def _unpaired(name: str, kind: Kind, tensor: Side, supplied: Mapping[str, str]) -> Difference:
    if isinstance(tensor, Other):
        return others.only_one(name, kind, tensor)
    a, b, where = (tensor, None, "B") if kind == Kind.ONLY_IN_A else (None, tensor, "A")
    if name in supplied:
        return Difference(name, kind, a, b, supplied=supplied[name])
    return Difference(name, kind, a, b, f"is not in {where}")


# ------------------------------------------------------------------------------------------------ one pair of tensors


def _kind(a: Tensor, b: Tensor, turned: bool) -> Kind:
    if a.shape == b.shape and not turned:
        return Kind.SAME if _encoding(a) == _encoding(b) else Kind.DTYPE_DIFFERS
    if follows_a_layer(a.key):
        vectors = as_vector(a), as_vector(b)
        if vectors[0] is not None and vectors[1] is not None:
            return Kind.RANK_DIFFERS if vectors[0].shape == vectors[1].shape else Kind.SHAPE_DIFFERS
    matrix_a, matrix_b = out_in(a.shape), out_in(b.shape)
    if matrix_a is None or matrix_b is None:
        return Kind.SHAPE_DIFFERS
    if matrix_a == matrix_b and not turned:
        return Kind.RANK_DIFFERS
    if turned or (matrix_a == matrix_b[::-1] and 2 in (len(a.shape), len(b.shape))):
        return Kind.TRANSPOSED
    return Kind.SHAPE_DIFFERS


def _encoding(tensor: Tensor) -> tuple[str, str]:
    """How a tensor's numbers are stored, apart from its shape: dtype and layout."""
    return tensor.dtype, tensor.layout


def loading_effect(difference: Difference, layer: str | None, refusal: str) -> Difference:
    """Add to a difference what it means for loading.

    Args:
        difference: As compared.
        layer: The layer that `convert` would convert for it.
        refusal: Why `convert` would leave it unchanged.
    """
    a, b = difference.a, difference.b
    if a is None or b is None or others.is_extra_state(b.key):
        return difference
    if layer is not None:
        difference = replace(difference, layer=layer)
    elif a.shape != b.shape and not _loads_as_scalar(a, b):
        return _unloadable_shape(difference, a, b, refusal)
    if a.layout == "meta" != b.layout:
        return replace(difference, obstacle="has no numbers in A, only its shape (meta)")
    if _encoding(a) != _encoding(b) and not _can_be_copied(a, b):
        return replace(difference, obstacle=f"is {' '.join(_encoding(a))} in A and {' '.join(_encoding(b))} in B")
    return difference


def _unloadable_shape(difference: Difference, a: Tensor, b: Tensor, refusal: str) -> Difference:
    shapes = f"is {a.shape} in A and {b.shape} in B"
    if difference.kind != Kind.RANK_DIFFERS or not refusal:
        return replace(difference, obstacle=shapes)
    obstacle = Wording(f"{shapes}, and its layer cannot be converted: ", refusal)
    return replace(difference, obstacle=obstacle, refusal=refusal)


def _loads_as_scalar(a: Tensor, b: Tensor) -> bool:
    """`load_state_dict` takes `(1,)` for `()`, since PyTorch 0.3 had no tensors of shape `()`."""
    return a.shape == (1,) and b.shape == ()


def _can_be_copied(a: Tensor, b: Tensor) -> bool:
    """Whether PyTorch copies a tensor into one of another dtype or layout, as it does between all plain dtypes."""
    packed = any(tensor.dtype.startswith(("bits", "float4_", "float6_")) for tensor in (a, b))
    sparse = [tensor.layout for tensor in (a, b) if tensor.layout.startswith("sparse")]
    return len(sparse) != 1 and len(set(sparse)) < 2 and not packed and not a.dtype.startswith("q")


# ---------------------------------------------------------------------------------------------------------- numbers


def _with_values(difference: Difference, a: Tensor, b: Tensor) -> Difference:
    """Add to a difference how the numbers differ, reshaped as its kind says.

    Args:
        difference: Of two tensors.
        a: The first, in PyTorch's order of axes.
        b: The second, likewise.
    """
    from convinspect.arrays.equality import as_matrix, same_bits

    kind = difference.kind
    if a is b or kind == Kind.SHAPE_DIFFERS:
        return difference
    if a.shape != b.shape and follows_a_layer(a.key):
        a, b = as_vector(a) or a, as_vector(b) or b
    if a.shape != b.shape or kind == Kind.TRANSPOSED:
        a, b = as_matrix(a, kind == Kind.TRANSPOSED), as_matrix(b, transposed=False)
    try:
        if same_bits(a, b):
            return difference
        distance = _distance(a, b)
        if distance is None:
            return difference
        if kind != Kind.TRANSPOSED and _is_square(difference) and _is_transpose(a, b):
            return replace(difference, kind=Kind.TRANSPOSED, unnoticed=True)
    except CannotShow:
        return replace(difference, kind=Kind.NOT_COMPARED if kind == Kind.SAME else kind, unread=True)
    return replace(difference, kind=Kind.VALUES_DIFFER if kind == Kind.SAME else kind, deviation=distance)


def _square(difference: Difference, name: str, layer: str | None, compared: bool) -> tuple[Difference, str | None]:
    """A square weight that may be stored transposed, and the layer to convert, as far as the numbers tell.

    Args:
        difference: Of the weight, with its numbers where they were compared.
        name: Its layer.
        layer: The layer that would be converted without the numbers.
        compared: Whether numbers were compared.
    """
    if difference.unnoticed:
        return replace(difference, unnoticed=False, square=Square.TURNED), name
    equal = compared and difference.deviation is None and not difference.unread
    return replace(difference, square=Square.AS_IT_IS if equal else Square.IN_DOUBT), layer


def _is_square(difference: Difference) -> bool:
    """Whether the weight is square, and a matrix on at least one side, so that no shape shows a transposition."""
    shapes = [tensor.shape for tensor in (difference.a, difference.b) if tensor is not None]
    matrix = out_in(shapes[0])
    return matrix is not None and matrix[0] == matrix[1] and 2 in map(len, shapes)


def _is_transpose(a: Tensor, b: Tensor) -> bool:
    """Whether a square matrix is the transpose of another. Most that are not already differ in the first row."""
    from convinspect.arrays.equality import as_matrix, same_bits

    a, b = as_matrix(a, transposed=True), as_matrix(b, transposed=False)
    heads = [matrix._replace(shape=(min(matrix.shape[0], 1), matrix.shape[1])) for matrix in (a, b)]
    return same_bits(heads[0], heads[1]) and same_bits(a, b)


def _distance(a: Tensor, b: Tensor) -> Deviation | None:
    """How two tensors differ whose bits differ; a count of 0 if their numbers cannot be read."""
    from convinspect.arrays.distance import Deviation, deviation

    try:
        return deviation(a, b)
    except CannotShow:
        if a.dtype != b.dtype:
            raise
        return Deviation(0, a.numel)
