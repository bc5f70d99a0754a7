"""Whether every state of an optimizer has the shape of a weight that it may belong to, after as before.

Where names tell whose state it is, each is held against its weight. Else the states of one shape are counted: no more
of them may have a shape after than weights do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from convinspect.checkpoint import Checkpoint
from convinspect.converting.owners import Owners, shapeless
from convinspect.converting.plan import Plan
from convinspect.converting.training_state import claimed
from convinspect.errors import CannotConvert
from convinspect.keys.wrappers import clean_names
from convinspect.records import Root, Tensor
from convinspect.verifying.causes import Cause, Why, because
from convinspect.verifying.findings import Findings

Shape = tuple[int, ...]


def compare_states(before: Checkpoint, after: Checkpoint, planned: Plan) -> Findings:
    """Find state whose shape no longer fits its weight's.

    Args:
        before: The first checkpoint.
        after: The second.
        planned: The conversions that were found in the root in use.
    """
    roots_after = {root.path: root for root in after.roots}
    changed: dict[str, Cause] = {}
    for root in before.roots if planned.edits else ():
        if root.role != "optimizer" or root.path not in roots_after:
            continue
        try:
            owners = claimed(before, planned, root)
        except CannotConvert:
            continue
        if owners is not None and not owners.flat:
            weights = {id(tensor): after.tensors[name].shape for name, tensor in before.tensors.items()
                       if name in after.tensors}  # fmt: skip
            found = _misfits(owners, _shapes_after(root, roots_after[root.path]), weights)
            changed |= {f"{root.path}.{key}": cause for key, cause in found.items()}
    return Findings(changed)


def _shapes_after(before: Root, after: Root) -> dict[str, Shape]:
    """Each tensor's shape after, by its stored key before."""
    names = [clean_names([tensor.key for tensor in root.tensors]) for root in (before, after)]
    shapes = {name: tensor.shape for name, tensor in zip(names[1], after.tensors, strict=True)}
    return {tensor.key: shapes[name] for name, tensor in zip(names[0], before.tensors, strict=True) if name in shapes}


def _misfits(owners: Owners, shapes: Mapping[str, Shape], weights: Mapping[int, Shape]) -> dict[str, Cause]:
    """State that does not fit, by its stored key.

    Args:
        owners: The states, and the parameters that they may belong to.
        shapes: Of the states after, by stored key.
        weights: Shapes of the parameters after, by the tensor's id.
    """
    found: dict[str, Cause] = {}
    alike: dict[tuple[int, ...], list[tuple[Sequence[Tensor], Shape]]] = {}
    for number, candidates in owners.candidates.items():
        own = candidates[0].shape
        states = [one for one in owners.states.get(number, ()) if one.shape == own and not shapeless(one)]
        if not states or not all(one.key in shapes for one in states):
            continue
        shape = shapes[states[0].key]
        found |= {one.key: _cause(own, shapes[one.key]) for one in states if shapes[one.key] != shape}
        alike.setdefault(tuple(map(id, candidates)), []).append((states, shape))
    for ids, every in alike.items():
        fitting = Counter(weights[one] for one in ids if one in weights)
        given = Counter(shape for _, shape in every)
        if len(fitting) and all(one in weights for one in ids):
            wrong = {shape for shape, number in given.items() if number > fitting[shape]}
            found |= _all_of((states, shape) for states, shape in every if shape in wrong)
    return found


def _all_of(states: Iterable[tuple[Sequence[Tensor], Shape]]) -> dict[str, Cause]:
    return {one.key: _cause(one.shape, shape) for some, shape in states for one in some}


def _cause(before: Shape, after: Shape) -> Cause:
    if before == after:
        return because(Why.NOT_FOLLOWED, shape=before)
    return because(Why.CHANGED_ALONE, before=before, after=after)
