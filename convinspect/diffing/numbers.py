"""One pair of tensors whose numbers are compared: how far apart they are, and what their order proves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from convinspect.converting.relations import (
    MOST_ORDERS,
    How,
    Order,
    Relation,
    in_one_shape,
    merging_orders,
    orders,
    permuted,
    viewed,
)
from convinspect.converting.reshape import out_in
from convinspect.diffing.differences import Difference, Kind
from convinspect.errors import CannotShow
from convinspect.formats.pieces import LAYOUT
from convinspect.layers.lora import as_vector, follows_a_layer
from convinspect.records import Tensor

if TYPE_CHECKING:
    from convinspect.arrays.distance import Deviation


class Comparison(NamedTuple):
    """The numbers of two tensors of one shape.

    Attributes:
        equal: They are the same bits.
        deviation: Where they are not, how they differ as numbers; None where no number does.
    """

    equal: bool
    deviation: Deviation | None = None


Compare: TypeAlias = "Callable[[Tensor, Tensor], Comparison]"


def compare_numbers(a: Tensor, b: Tensor) -> Comparison:
    """Compare the numbers of two tensors of one shape: bits first, then how far apart they are.

    Raises:
        CannotShow: There are no numbers to read.
        ConvInspectError: Bytes are missing or damaged.
    """
    from convinspect.arrays.equality import same_bits

    return Comparison(True) if same_bits(a, b) else Comparison(False, _distance(a, b))


def with_values(difference: Difference, a: Tensor, b: Tensor, compare: Compare = compare_numbers) -> Difference:
    """Add to a difference how the numbers differ, reshaped as its kind says.

    Args:
        difference: Of two tensors.
        a: The first, in PyTorch's order of axes.
        b: The second, likewise.
        compare: Compares the numbers of two tensors of one shape, and may do more with them.
    """
    kind = difference.kind
    if a is b or kind == Kind.SHAPE_DIFFERS:
        return difference
    if kind in (Kind.RESHAPED, Kind.PERMUTED):
        try:
            return (_reshaped if kind == Kind.RESHAPED else _permuted)(difference, a, b)
        except CannotShow:
            return difference._replace(unread=True)
    return _alike(difference, *_as_one_shape(difference, a, b), compare)


def _as_one_shape(difference: Difference, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both as the matrix that a kernel of size 1 is, where they are of different ranks or transposed."""
    from convinspect.arrays.equality import as_matrix

    if a.shape != b.shape and follows_a_layer(a.key):
        a, b = as_vector(a) or a, as_vector(b) or b
    turned = difference.kind == Kind.TRANSPOSED
    if a.shape != b.shape or turned:
        a, b = as_matrix(a, turned), as_matrix(b, transposed=False)
    return a, b


def _alike(difference: Difference, a: Tensor, b: Tensor, compare: Compare) -> Difference:
    """Of two tensors of one shape; axes of one size may have changed places, which no shape shows."""
    kind = difference.kind
    try:
        equal, distance = compare(a, b)
        if equal:
            return _proved(difference)
        if distance is None:
            return difference
        if kind != Kind.TRANSPOSED and _is_square(difference) and _is_transpose(a, b):
            turned = Relation(How.PERMUTE, ((1, 0),), proved=True)
            return difference._replace(kind=Kind.TRANSPOSED, unnoticed=True, relation=turned)
        if (
            kind == Kind.SAME
            and len(a.shape) > 2
            and (found := _holding(a, b, islice(orders(a.shape, b.shape), 1, 24)))
        ):
            moved = Relation(How.PERMUTE, found, proved=True)
            return difference._replace(kind=Kind.PERMUTED, unnoticed=True, relation=moved)
    except CannotShow:
        return difference._replace(kind=Kind.NOT_COMPARED if kind == Kind.SAME else kind, unread=True)
    return difference._replace(kind=Kind.VALUES_DIFFER if kind == Kind.SAME else kind, deviation=distance)


def _proved(difference: Difference) -> Difference:
    relation = difference.relation
    if relation is None or relation.how is How.EQUAL:
        return difference
    return difference._replace(relation=relation._replace(proved=True))


def _reshaped(difference: Difference, a: Tensor, b: Tensor) -> Difference:
    """Of two tensors that a reshape makes alike. Where flattening does not, another order of the flattened axes may.

    Raises:
        CannotShow: There are no numbers to read.
    """
    from convinspect.arrays.equality import same_bits

    relation = difference.relation
    flat = relation is not None and relation.how is How.FLATTEN
    both = in_one_shape(a, b)
    if both is None:
        raise CannotShow("it has no strides")
    if same_bits(*both):
        return _proved(difference)
    found = _holding(a, b, merging_orders(a.shape, b.shape)) if flat else ()
    if found:
        moved = Relation(How.PERMUTE, found, proved=True)
        return difference._replace(kind=Kind.PERMUTED, relation=moved)
    return difference._replace(deviation=_distance(*both))


def _permuted(difference: Difference, a: Tensor, b: Tensor) -> Difference:
    """Of two tensors whose axes may be in different orders: which orders their numbers allow.

    Raises:
        CannotShow: There are no numbers to read.
    """
    relation = difference.relation
    assert relation is not None
    found = _holding(a, b, relation.orders)
    if found:
        return difference._replace(relation=relation._replace(orders=found, proved=True))
    one = permuted(a, relation.orders[0])
    other = viewed(b, one.shape)
    return difference._replace(deviation=None if other is None else _distance(one, other))


def _holding(a: Tensor, b: Tensor, tried: Iterable[Order]) -> tuple[Order, ...]:
    """Of orders of the axes of `a`, those after which its numbers are those of `b`.

    Its first and its last number stay where they are in each of them: most tensors that differ already differ there.
    """
    from convinspect.arrays.equality import same_bits

    # The axes of a tensor in pieces are those of its pieces, too.
    if LAYOUT in (a.layout, b.layout) or a.dtype != b.dtype or not a.numel:
        return ()
    if not same_bits(_corner(a, last=False), _corner(b, last=False)):
        return ()
    if not same_bits(_corner(a, last=True), _corner(b, last=True)):
        return ()
    found = []
    for order in islice(tried, MOST_ORDERS):
        one = permuted(a, order)
        other = viewed(b, one.shape)
        if other is None:
            continue
        heads = [each._replace(shape=(1, *each.shape[1:])) for each in (one, other)]
        if same_bits(heads[0], heads[1]) and same_bits(one, other):
            found.append(order)
    return tuple(found)


def _corner(tensor: Tensor, last: bool) -> Tensor:
    """The first or the last element."""
    steps = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride, strict=True)) if last else 0
    return tensor._replace(shape=(1,), stride=(1,), offset=tensor.offset + steps)


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
