"""How the shapes of two tensors with one name are related: which call of PyTorch makes the one of the other, with every
number kept. Plain tuples in and out; no tensor is read here.

A dimension of size 1 can stand anywhere without a number changing its place, so it never counts. What is left decides:
the same sizes (`squeeze`, `unsqueeze`), neighbours multiplied (`flatten`), or the same sizes in another order
(`permute`). Shapes say what is possible. Only the numbers say that it is so, and of equal sizes which is which.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice, permutations, product
from typing import NamedTuple, TypeAlias

from convinspect.arrays.views import Shape, view_stride
from convinspect.records import Edit, Tensor
from convinspect.text import Word

Order: TypeAlias = tuple[int, ...]
"""Of which axis of the one each axis of the other is made, as `Tensor.permute` takes it."""

MOST_ORDERS = 120
"""So many orders of axes are looked at: those of five axes of one size. A kernel of more has none that is likely."""


class How(Word):
    """What makes the second shape of the first; the values are what JSON has."""

    EQUAL = "equal"
    SQUEEZE = "squeeze"
    """Dimensions of size 1 go."""
    UNSQUEEZE = "unsqueeze"
    """Dimensions of size 1 are added."""
    RESHAPE = "reshape"
    """As many dimensions, and those of size 1 stand elsewhere: (O, 1, I) and (O, I, 1)."""
    FLATTEN = "flatten"
    """Neighbouring dimensions become one: (O, I, k, k) and (O, I·k·k)."""
    UNFLATTEN = "unflatten"
    PERMUTE = "permute"
    UNPACK = "unpack"
    """Two numbers of four bits in a byte become two elements: (…, n) and (…, 2n)."""
    PACK = "pack"
    SAME_COUNT = "same count"
    """As many numbers, and none of the above."""
    DIFFERENT = "different"
    """Another number of numbers."""


PURE = frozenset({How.SQUEEZE, How.UNSQUEEZE, How.RESHAPE, How.FLATTEN, How.UNFLATTEN})
"""`reshape` alone does it: the same numbers in the same order."""


class Relation(NamedTuple):
    """How two shapes are related.

    Attributes:
        how: What makes the second of the first.
        orders: Of `PERMUTE`: the orders of axes that fit, the likeliest first.
        proved: The numbers are the same, bit for bit; of `orders` those are left of which that is so.
        more: There are more orders than `MOST_ORDERS`.
    """

    how: How
    orders: tuple[Order, ...] = ()
    proved: bool = False
    more: bool = False

    @property
    def ambiguous(self) -> bool:
        """Several orders of axes fit, and the numbers were not asked or do not tell them apart."""
        return len(self.orders) > 1 and not self.proved


@lru_cache(4096)
def relate(a: Shape, b: Shape) -> Relation:
    """The relation of two shapes, by their sizes alone."""
    if a == b:
        return Relation(How.EQUAL)
    if math.prod(a) != math.prod(b):
        return Relation(How.DIFFERENT)
    if 0 in a or 0 in b:
        # No numbers: any reshape does it.
        return Relation(How.RESHAPE)
    wide_a, wide_b = _wide(a), _wide(b)
    if wide_a == wide_b:
        return Relation(How.RESHAPE if len(a) == len(b) else How.SQUEEZE if len(a) > len(b) else How.UNSQUEEZE)
    if _merged(wide_a, wide_b):
        return Relation(How.FLATTEN)
    if _merged(wide_b, wide_a):
        return Relation(How.UNFLATTEN)
    if sorted(wide_a) == sorted(wide_b):
        found = tuple(islice(orders(a, b), MOST_ORDERS + 1))
        return Relation(How.PERMUTE, found[:MOST_ORDERS], more=len(found) > MOST_ORDERS)
    return Relation(How.SAME_COUNT)


def relate_tensors(a: Tensor, b: Tensor) -> Relation:
    """The relation of two tensors' shapes, where float4 may be packed two to a byte on one side."""
    found = relate(a.shape, b.shape)
    if found.how is How.DIFFERENT and a.shape and b.shape and a.shape[:-1] == b.shape[:-1]:
        if a.dtype == PACKED and b.shape[-1] == 2 * a.shape[-1]:
            return Relation(How.UNPACK)
        if b.dtype == PACKED and a.shape[-1] == 2 * b.shape[-1]:
            return Relation(How.PACK)
    return found


PACKED = "float4_e2m1fn_x2"
"""PyTorch's dtype of two float4 numbers in a byte."""


def _wide(shape: Shape) -> Shape:
    return tuple(size for size in shape if size != 1)


def _merged(fine: Shape, coarse: Shape) -> bool:
    """Whether each size of `coarse` is the product of neighbours in `fine`; neither has a size of 1 or 0."""
    place = 0
    for size in coarse:
        made = 1
        while made < size and place < len(fine):
            made *= fine[place]
            place += 1
        if made != size:
            return False
    return place == len(fine)


def orders(a: Shape, b: Shape) -> Iterator[Order]:
    """Orders of all axes of `a` after which `b` is a reshape that moves dimensions of size 1 only.

    The first keeps axes of one size in the order that they have, as a layout does with its kernel's dimensions. An
    order that gives `b` itself is preferred to one that needs dimensions of size 1 moved.
    """
    ones = [axis for axis, size in enumerate(a) if size == 1]
    places: dict[int, list[int]] = {}
    for axis, size in enumerate(a):
        if size != 1:
            places.setdefault(size, []).append(axis)
    whole = sorted(a) == sorted(b)
    for chosen in product(*(permutations(axes) for axes in places.values())):
        left = {size: iter(axes) for size, axes in zip(places, chosen, strict=True)}
        if whole:
            left[1] = iter(ones)
            yield tuple(next(left[size]) for size in b)
        else:
            yield (*(next(left[size]) for size in b if size != 1), *ones)


def merging_orders(a: Shape, b: Shape) -> Iterator[Order]:
    """Other orders of the axes of `a` within those that flattening to `b` joins: patches whose channels are last are
    (O, k, k, I) in (O, k·k·I).
    """
    wide = [axis for axis, size in enumerate(a) if size != 1]
    groups: list[tuple[int, ...]] = []
    place = 0
    for size in _wide(b):
        begin, made = place, 1
        while made < size:
            made *= a[wide[place]]
            place += 1
        groups.append(tuple(wide[begin:place]))
    ones = [axis for axis, size in enumerate(a) if size == 1]
    for chosen in islice(product(*map(permutations, groups)), 1, MOST_ORDERS):
        yield (*(axis for group in chosen for axis in group), *ones)


def by_agreement(relations: Iterable[Relation]) -> dict[int, Order]:
    """Of relations by permutation that leave several orders, the one that most tensors of their rank could have.

    A square layer's order is that of the others in its file. By the id of the relation's `orders`.
    """
    every = [relation.orders for relation in relations if relation.orders]
    counts = Counter(order for found in set(every) for order in found)
    weights = Counter(order for found in every for order in found)
    return {id(found): max(found, key=lambda order: (counts[order], weights[order])) for found in every}


# ------------------------------------------------------------------------------------- the same numbers, seen so


def viewed(tensor: Tensor, shape: Shape) -> Tensor | None:
    """The tensor in another shape of as many elements, over the same bytes; None where numbers would have to move."""
    if len(tensor.stride) != len(tensor.shape):
        return None
    stride = view_stride(tensor.shape, tensor.stride, shape)
    return None if stride is None else tensor._replace(shape=shape, stride=stride)


def in_one_shape(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor] | None:
    """Two tensors that a reshape makes alike, in the shape of the one with the finer dimensions, over the same bytes.

    To cut a dimension in parts never moves a number; to join dimensions may.
    """
    joined = relate(a.shape, b.shape).how is How.FLATTEN
    one, other = (a, viewed(b, a.shape)) if joined else (viewed(a, b.shape), b)
    return None if one is None or other is None else (one, other)


def by_hand(name: str, words: str) -> str:
    """A line of PyTorch that gives an entry of a state_dict another shape, whose call is in `words`."""
    key = repr(name)
    return f"sd[{key}] = sd[{key}]{words}"


def reshaping(tensor: Tensor, shape: Shape) -> Edit | None:
    """The edit that reshapes a tensor, where that alone does it and no number moves; else None."""
    if tensor.layout != "strided" or relate(tensor.shape, shape).how not in PURE:
        return None
    seen = viewed(tensor, shape)
    return None if seen is None else Edit(tensor, seen.shape, seen.stride)


def permuted(tensor: Tensor, order: Sequence[int]) -> Tensor:
    """The tensor with its axes in another order, over the same bytes."""
    return tensor._replace(
        shape=tuple(tensor.shape[axis] for axis in order), stride=tuple(tensor.stride[axis] for axis in order)
    )


def call(relation: Relation, shape: Shape, wanted: Shape, order: Order | None = None) -> str:
    """PyTorch's call that makes the wanted shape: ".permute(4, 0, 1, 2, 3).contiguous()"; "" where none does.

    Args:
        relation: Of the two shapes.
        shape: That it has.
        wanted: That it is to have.
        order: The order of axes to take, in place of the relation's first.
    """
    reshape = f".reshape({', '.join(map(str, wanted)) if wanted else '()'})"
    if relation.how in PURE:
        return reshape
    if relation.how is not How.PERMUTE or not relation.orders:
        return ""
    order = order or relation.orders[0]
    moved = tuple(shape[axis] for axis in order)
    turned = ".T" if order == (1, 0) else f".permute({', '.join(map(str, order))})"
    return turned + (".contiguous()" if moved == wanted else reshape)
