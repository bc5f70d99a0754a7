"""Two tensors of one shape and dtype whose numbers differ → the likeliest reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

from convinspect.arrays.equality import Related, difference, owner_of, relation
from convinspect.converting.relations import viewed
from convinspect.records import Tensor
from convinspect.verifying.causes import Cause, Why, because

MOST_OWNERS = 2_000
"""At most so many tensors are read to find where wrong numbers come from."""


def numbers_cause(before: Tensor, after: Tensor, tensors: Mapping[str, Tensor]) -> Cause:
    """Why two tensors of one shape and dtype differ.

    Raises:
        BrokenFile: One of them is damaged, which then is the cause.
    """
    first = difference(before, after)
    if first is None:
        return because(Why.BYTES)
    place = {"total": first.total, "where": list(first.where), "before": first.before, "after": first.after}
    if first.count == 1:
        return because(Why.ONE_NUMBER, **place)
    if first.count > first.total // 2:
        owner = owner_of(after, _candidates(before, after, tensors))
        if owner is not None:
            return because(Why.OTHER_TENSOR, owner=owner)
        related = relation(before, after)
        if related is not None:
            return because(Why.RELATED, relation=_relation_cause(related), count=first.count, total=first.total)
    return because(Why.NUMBERS, count=first.count, **place)


def _candidates(before: Tensor, after: Tensor, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Tensors whose numbers `after` may hold by mistake; kernels as matrices if `after` is one."""
    for name, tensor in islice(tensors.items(), MOST_OWNERS):
        if tensor.key != before.key:
            more = len(tensor.shape) > len(after.shape) == 2 and tensor.numel == after.numel
            yield name, (viewed(tensor, after.shape) if more else None) or tensor


def _relation_cause(relation: Related) -> Cause:
    if relation.factor is not None:
        return because(Why.FACTOR, factor=relation.factor)
    return because(Why.ROW_ORDER if relation.rows else Why.TRANSPOSED)


def is_matrix(tensor: Tensor) -> bool:
    """Whether a tensor is a matrix, as kernels of size 1 are too."""
    return len(tensor.shape) >= 2 and all(size == 1 for size in tensor.shape[2:])
