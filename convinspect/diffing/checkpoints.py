"""Two checkpoints → where they differ, and whether A would load where B does, unchanged or converted."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TypeAlias

from convinspect.checkpoint import Checkpoint
from convinspect.converting.plan import Refusal
from convinspect.converting.relations import PACKED, PURE, How, Order, Relation, by_agreement, call, relate_tensors
from convinspect.converting.reshape import out_in
from convinspect.diffing import others
from convinspect.diffing.conversion import ByLayer, conversion_of
from convinspect.diffing.differences import Difference, DiffReport, Kind, Square
from convinspect.diffing.numbers import Compare, compare_numbers, with_values
from convinspect.diffing.supplied import Side, unversioned, what_pytorch_supplies
from convinspect.errors import Wording
from convinspect.formats import pieces
from convinspect.formats.torch.wrappers import is_torchao, is_wrapped, settings_apart, settings_of
from convinspect.keys.others import Other, Value
from convinspect.keys.pairing import pair_keys
from convinspect.layers.lora import as_vector, follows_a_layer
from convinspect.records import Tensor, contiguous


def diff(
    a: Checkpoint,
    b: Checkpoint,
    values: bool = False,
    progress: Callable[[int], None] = lambda done: None,
    compare: Compare = compare_numbers,
    threads: int = 1,
) -> DiffReport:
    """Compare the roots in use of two checkpoints.

    Args:
        a: The checkpoint that is to be loaded.
        b: A checkpoint that loads.
        values: Compare numbers too, one tensor at a time.
        progress: Called with the number of bytes that were compared, of both sides.
        compare: What compares the numbers of two tensors of one shape, and may do more with them.
        threads: How many pairs are compared at a time.

    Raises:
        ConvInspectError: With `values`: bytes of one of the files are missing or damaged.
    """
    sides: tuple[list[Side], list[Side]] = (_values(a), _values(b))
    keys = ([side.key for side in sides[0]], [side.key for side in sides[1]])
    pairing = pair_keys(keys, ([*a.tensors, *a.others], [*b.tensors, *b.others]))
    partners = {i: (name, sides[1][j]) for name, i, j in pairing.pairs}
    only_a = {place: name for name, place in pairing.only_a}
    conversion = conversion_of(a, b, _both_tensors((sides[0][i], partner) for i, (_, partner) in partners.items()))
    supplied = what_pytorch_supplies(a, pairing, sides)
    touched = conversion.touched
    # Half of what calling the class takes, and most tensors of two large files are the same.
    make = tuple.__new__
    differences: list[Difference] = []
    open_pairs: list[_OpenPair] = []
    for place, side in enumerate(sides[0]):
        if place in only_a:
            differences.append(_unpaired(only_a[place], Kind.ONLY_IN_A, side, supplied))
            continue
        name, partner = partners[place]
        if isinstance(side, Other) or isinstance(partner, Other):
            differences.append(_into_lazy(others.both(name, side, partner, values, b)))
        elif not values and _plainly_alike(side, partner) and id(side) not in touched:
            differences.append(make(Difference, (name, Kind.SAME, side, partner, *_NOTHING_ELSE)))
        else:
            open_pairs.append((len(differences), name, side, partner))
            differences.append(_TO_COMPARE)
    found = _mapped(lambda pair: _compared(*pair[1:], conversion, compare if values else None), open_pairs, threads)
    for (at, _, side, partner), difference in zip(open_pairs, found, strict=True):
        differences[at] = difference
        if values:
            progress(side.nbytes + partner.nbytes)
    if unknown := unversioned(a):
        differences = [_of_unknown_version(each, unknown) for each in differences]
    differences += [_unpaired(name, Kind.ONLY_IN_B, sides[1][place], supplied) for name, place in pairing.only_b]
    return DiffReport(tuple(_agreeing(differences)), pairing.prefixes, pairing.rules, values, a=a, b=b)


def _plainly_alike(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are alike in all that counts, as most of two large files are."""
    return (
        a.shape == b.shape
        and a.dtype == b.dtype
        and a.layout == b.layout == "strided"
        and a.subclass is None
        and b.subclass is None
    )


_OpenPair: TypeAlias = tuple[int, str, Tensor, Tensor]
"""The place of a difference, what the two keys have in common, and both tensors."""


def _mapped(work: Callable[[_OpenPair], Difference], pairs: Sequence[_OpenPair], threads: int) -> Iterable[Difference]:
    if threads == 1:
        return map(work, pairs)
    # Imported here, as what headers alone do not need.
    from convinspect.arrays.threads import map_threads

    return map_threads(work, pairs, threads)


def _compared(name: str, a: Tensor, b: Tensor, conversion: ByLayer, compare: Compare | None) -> Difference:
    """The difference of two tensors, with what it means for loading; without `compare` by their headers alone."""
    layer = conversion.layers.get(id(a))
    seen = conversion.seen.get(id(a), a), conversion.seen.get(id(b), b)
    difference = _pair(name, a, b, seen, id(a) in conversion.turned)
    if compare is not None:
        difference = with_values(difference, *seen, compare)
    refusal = conversion.refusals.get(id(a))
    if (square := conversion.squares.get(id(a))) is not None:
        difference, layer = _square(difference, square, layer, compare is not None)
    if (why := conversion.foreign.get(id(a))) is not None:
        return _foreign(difference, conversion.orders.get(id(a)), why)
    return loading_effect(difference, layer, refusal)


def _values(checkpoint: Checkpoint) -> list[Side]:
    return [*checkpoint.tensors.values(), *checkpoint.others.values()]


def _both_tensors(pairs: Iterable[tuple[Side, Side]]) -> list[tuple[Tensor, Tensor]]:
    return [(a, b) for a, b in pairs if isinstance(a, Tensor) and isinstance(b, Tensor)]


# ------------------------------------------------------------------------------------------------ keys of one side only


def _unpaired(name: str, kind: Kind, tensor: Side, supplied: Mapping[str, str]) -> Difference:
    if isinstance(tensor, Other):
        return others.only_one(name, kind, tensor)
    a, b, where = (tensor, None, "B") if kind == Kind.ONLY_IN_A else (None, tensor, "A")
    if name in supplied:
        return Difference(name, kind, a, b, supplied=supplied[name])
    return Difference(name, kind, a, b, f"is not in {where}")


def _into_lazy(difference: Difference) -> Difference:
    """What a lazy module takes is copied into a plain tensor, whose shape it is."""
    a, b = difference.a, difference.other_b
    if a is None or b is None or difference.obstacle or b.value is not Value.UNINITIALIZED:
        return difference
    plain = Tensor(b.key, "float32", a.shape, contiguous(a.shape))
    return loading_effect(difference._replace(b=plain), None, None)._replace(b=None)


def _of_unknown_version(difference: Difference, keys: Collection[str]) -> Difference:
    """The difference of a quantized Linear that PyTorch does not load, whatever else it is."""
    if difference.a is None or difference.b is None or difference.obstacle or difference.a.key not in keys:
        return difference
    why = "is of a quantized Linear whose version A does not record (_metadata), so that PyTorch looks for other keys"
    return difference._replace(obstacle=why)


# ------------------------------------------------------------------------------------------------ one pair of tensors


def _pair(name: str, a: Tensor, b: Tensor, seen: tuple[Tensor, Tensor], turned: bool) -> Difference:
    """How two tensors differ by what their headers say.

    Args:
        name: What the two keys have in common.
        a: The first.
        b: The second.
        seen: Both in PyTorch's order of axes.
        turned: A square matrix that is stored transposed on one side.
    """
    if a.shape == b.shape and not turned:
        return Difference(name, _KIND_OF_ALIKE[_encoding(a) == _encoding(b)], a, b, relation=_EQUAL)
    if turned:
        return Difference(name, Kind.TRANSPOSED, a, b, relation=_TURNED)
    relation = relate_tensors(a, b)
    return Difference(name, _kind(*seen, relation), a, b, relation=relation)


_EQUAL, _TURNED = Relation(How.EQUAL), Relation(How.PERMUTE, ((1, 0),))
_NOTHING_ELSE = Difference("", Kind.SAME, None, None, relation=_EQUAL)[4:]
"""What is said of two tensors that are alike, after their names and themselves."""
_TO_COMPARE = Difference("", Kind.SAME, None, None)
"""In the place of a difference that is not known yet."""
_KIND_OF_ALIKE = {True: Kind.SAME, False: Kind.DTYPE_DIFFERS}


def _kind(a: Tensor, b: Tensor, relation: Relation) -> Kind:
    """The kind of two tensors whose shapes differ."""
    if a.shape == b.shape:
        return Kind.SAME if _encoding(a) == _encoding(b) else Kind.DTYPE_DIFFERS
    kind = _kind_of_shapes(a.shape, b.shape)
    if kind is not None:
        return kind
    if follows_a_layer(a.key):
        vectors = as_vector(a), as_vector(b)
        if vectors[0] is not None and vectors[1] is not None and vectors[0].shape == vectors[1].shape:
            return Kind.RANK_DIFFERS
    if relation.how in PURE:
        return Kind.RESHAPED
    return Kind.PERMUTED if relation.how is How.PERMUTE else Kind.SHAPE_DIFFERS


@lru_cache(4096)
def _kind_of_shapes(a: tuple[int, ...], b: tuple[int, ...]) -> Kind | None:
    """The kind of two matrices, which kernels of size 1 are too; None of others."""
    matrix_a, matrix_b = out_in(a), out_in(b)
    if matrix_a is None or matrix_b is None:
        return None
    if matrix_a == matrix_b:
        return Kind.RANK_DIFFERS
    return Kind.TRANSPOSED if matrix_a == matrix_b[::-1] and 2 in (len(a), len(b)) else None


def _foreign(difference: Difference, order: Order | None, why: str) -> Difference:
    """Of a weight whose layout is not the other's: its axes are in another order, which the layouts tell."""
    a, b = difference.a, difference.b
    assert a is not None
    assert b is not None
    obstacle = f"is {a.shape} in A and {b.shape} in B: {why}, so that the axes would have to be moved"
    if order is None:
        return difference._replace(kind=Kind.SHAPE_DIFFERS, obstacle=obstacle, refusal=why)
    proved = difference.deviation is None and difference.relation is not None and difference.relation.proved
    relation = Relation(How.PERMUTE, (order,), proved)
    line = call(relation, a.shape, b.shape) if _is_plain(a, b) else ""
    return difference._replace(kind=Kind.PERMUTED, obstacle=obstacle, refusal=why, relation=relation, call=line)


def _agreeing(differences: list[Difference]) -> list[Difference]:
    """The differences, of whose orders of axes the one that most tensors have in common comes first."""
    open_ones = [
        each.relation
        for each in differences
        if each.kind == Kind.PERMUTED and each.relation is not None and each.relation.ambiguous
    ]
    if not open_ones:
        return differences
    likely = by_agreement(each.relation for each in differences if each.relation is not None)
    return [
        _with_order(each, likely[id(each.relation.orders)])
        if each.relation is not None and each.kind == Kind.PERMUTED and each.relation.ambiguous
        else each
        for each in differences
    ]


def _with_order(difference: Difference, order: Order) -> Difference:
    relation, a, b = difference.relation, difference.a, difference.b
    assert relation is not None
    assert a is not None
    assert b is not None
    first = relation._replace(orders=(order, *(other for other in relation.orders if other != order)))
    line = call(first, a.shape, b.shape) if difference.call else ""
    return difference._replace(relation=first, call=line)


def _encoding(tensor: Tensor) -> tuple[str, str]:
    """How a tensor's numbers are stored, apart from its shape: dtype and layout.

    Pieces are of a plain tensor, and so are numbers that are not read where they lie.
    """
    return tensor.dtype, "strided" if tensor.layout in _PLAIN else tensor.layout


_PLAIN = (pieces.LAYOUT, "compressed", "out-of-band")


def loading_effect(difference: Difference, layer: str | None, refusal: Refusal | None) -> Difference:
    """Add to a difference what it means for loading.

    Args:
        difference: As compared.
        layer: The layer that `convert` would convert for it.
        refusal: That of `convert`, which would leave it unchanged.
    """
    a, b = difference.a, difference.b
    if a is None or b is None or others.is_extra_state(b.key):
        return difference
    moved = difference.kind == Kind.PERMUTED
    if a.shape != b.shape and _loads_as_scalar(a, b):
        pass
    elif layer is not None and not moved:
        difference = difference._replace(layer=layer)
    elif a.shape != b.shape:
        return _unloadable_shape(difference, a, b, refusal)
    if a.layout == "meta" != b.layout:
        return difference._replace(obstacle="has no numbers in A, only its shape (meta)")
    if a.layout == "out-of-band" != b.layout:
        return difference._replace(obstacle="has no numbers in A: they were pickled out of band, into a buffer")
    if not _can_be_copied(a, b):
        kind = Kind.DTYPE_DIFFERS if difference.kind == Kind.SAME else difference.kind
        said = f"is {_described(a, b)} in A and {_described(b, a)} in B"
        return difference._replace(kind=kind, obstacle=said, call=_as_bytes(a, b))
    return difference


def _as_bytes(a: Tensor, b: Tensor) -> str:
    """PyTorch's call that sees packed float4 as bytes or bytes as float4, which it does not copy; "" for all others."""
    plain = a.shape == b.shape and a.layout == b.layout == "strided" and not (is_wrapped(a) or is_wrapped(b))
    return f".view(torch.{b.dtype})" if plain and {a.dtype, b.dtype} in _SAME_BYTES else ""


_SAME_BYTES = ({PACKED, "uint8"}, {PACKED, "int8"})


def _unloadable_shape(difference: Difference, a: Tensor, b: Tensor, refusal: Refusal | None) -> Difference:
    obstacle, reason = f"is {a.shape} in A and {b.shape} in B", ""
    held_back = refusal is not None and not refusal.moves
    if held_back and refusal is not None and difference.kind in (Kind.RANK_DIFFERS, Kind.RESHAPED):
        reason = refusal.reason
        obstacle = Wording(f"{obstacle}, and its layer cannot be converted: ", reason)
    line = ""
    if difference.relation is not None and not held_back and _is_plain(a, b):
        line = call(difference.relation, a.shape, b.shape)
    return difference._replace(obstacle=obstacle, refusal=reason, call=line)


def _is_plain(a: Tensor, b: Tensor) -> bool:
    """Whether PyTorch reshapes the one and copies the result into the other."""
    return a.layout == "strided" and not is_wrapped(a) and _can_be_copied(a, b)


def _loads_as_scalar(a: Tensor, b: Tensor) -> bool:
    """`load_state_dict` takes `(1,)` for `()`, since PyTorch 0.3 had no tensors of shape `()`."""
    return a.shape == (1,) and b.shape == ()


_MASKED = "torch.masked.maskedtensor.core.MaskedTensor"


def _can_be_copied(a: Tensor, b: Tensor) -> bool:
    """Whether PyTorch copies a tensor into another, as it does between all plain dtypes.

    A subclass around other tensors (DTensor, torchao's) takes its own kind alone, but for MaskedTensor, which is copied
    like a plain one; a quantized one takes its own dtype and scheme, and where it has one scale for all, float32.
    """
    if a.subclass is b.subclass is None and a.layout == b.layout == "strided" and a.dtype == b.dtype:
        return True
    classes = {each.subclass for each in (a, b) if is_wrapped(each)} - {_MASKED}
    if classes and (a.subclass != b.subclass or (is_torchao(a) and settings_of(a) != settings_of(b))):
        return False
    if a.dtype.startswith("q") or b.dtype.startswith("q"):
        alike = a.dtype == b.dtype and bool(a.parts) == bool(b.parts)
        return alike or (a.dtype == "float32" and not a.layout.startswith("sparse") and not b.parts)
    if _encoding(a) == _encoding(b):
        return True
    packed = any(tensor.dtype.startswith(("bits", "float4_", "float6_")) for tensor in (a, b))
    sparse = [tensor.layout for tensor in (a, b) if tensor.layout.startswith("sparse")]
    return len(sparse) != 1 and len(set(sparse)) < 2 and not packed


def _described(tensor: Tensor, other: Tensor) -> str:
    """What a tensor is, as far as it hinders copying it into another."""
    words = [*_encoding(tensor)]
    if tensor.subclass != other.subclass and (is_wrapped(tensor) or is_wrapped(other)):
        words.append(f"({tensor.subclass.rpartition('.')[2]})" if is_wrapped(tensor) and tensor.subclass else "(plain)")
    elif is_torchao(tensor):
        words.append(f"(torchao, {settings_apart(tensor, other)})")
    elif tensor.dtype.startswith("q") and bool(tensor.parts) != bool(other.parts):
        words.append("per channel" if tensor.parts else "per tensor")
    return " ".join(words)


def _square(difference: Difference, name: str, layer: str | None, compared: bool) -> tuple[Difference, str | None]:
    """A square weight that may be stored transposed, and the layer to convert, as far as the numbers tell.

    Args:
        difference: Of the weight, with its numbers where they were compared.
        name: Its layer.
        layer: The layer that would be converted without the numbers.
        compared: Whether numbers were compared.
    """
    if difference.unnoticed:
        return difference._replace(unnoticed=False, square=Square.TURNED), name
    equal = compared and difference.deviation is None and not difference.unread
    return difference._replace(square=Square.AS_IT_IS if equal else Square.IN_DOUBT), layer
