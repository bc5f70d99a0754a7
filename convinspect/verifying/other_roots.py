"""What changes together with the model's layers: EMA copies and optimizer state; and the roots of other models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from convinspect.checkpoint import Checkpoint
from convinspect.converting.ema import own_originals
from convinspect.converting.moving import channels_last_edit
from convinspect.converting.plan import Conversion, Plan
from convinspect.converting.training_state import in_root, own_copies, parts_of, roots_beside
from convinspect.errors import CannotConvert, CannotShow
from convinspect.formats.sources import short_name
from convinspect.keys.wrappers import clean_names
from convinspect.kinds import may_change
from convinspect.records import Edit, Layer, Moved, Root, Tensor
from convinspect.text import plural
from convinspect.verifying.causes import Cause, Why, because
from convinspect.verifying.findings import Findings, merged
from convinspect.verifying.layers import keys_of
from convinspect.verifying.metadata import emptied_optimizers
from convinspect.verifying.same_numbers import same_as_patches
from convinspect.verifying.tensors import Pairs, Transposed, pair_up
from convinspect.verifying.told import Bar, no_bar

if TYPE_CHECKING:
    from convinspect.ranks.group import Group


def expected_edits(
    before: Checkpoint, after: Checkpoint, layers: Iterable[Layer], pairs: Pairs, transposed: Transposed
) -> dict[int, Edit]:
    """Edits that must follow the converted layers, by the tensor's id: EMA copies and optimizer state.

    Empty where it is not certain which state belongs to which weight.
    """
    planned = plan_of(layers, after, pairs, transposed)
    if not planned.edits:
        return {}
    following = [own_copies(before, planned)]
    for root in roots_beside(before):
        # What is uncertain of one optimizer hides no copy, and no other optimizer's state.
        with suppress(CannotConvert):
            following.append(in_root(before, planned, root))
    return {id(edit.tensor): edit for one in following for edit in (*one.copies, *one.optimizer)}


def plan_of(layers: Iterable[Layer], after: Checkpoint, pairs: Pairs, transposed: Transposed) -> Plan:
    """The conversions that were found, as far as copies and state must change with them."""
    conversions = []
    for layer in layers:
        # Of what is no layer by itself, such as a copy, only what no layer's conversion explains.
        by_itself = may_change(layer.kind, layer.pointwise) or not pairs.reshaped.keys().isdisjoint(
            keys_of(layer).values()
        )
        edits = _edits_of(layer, after, pairs, transposed) if by_itself else ()
        if edits:
            conversions.append(Conversion(layer, "Linear", edits))
    return Plan(tuple(conversions))


def changed_alone(before: Checkpoint, after: Checkpoint, edits: Mapping[int, Edit], pairs: Pairs) -> Findings:
    """Optimizer state and EMA copies that have another number of dimensions, though their weight does not.

    Where it is not certain which weight they belong to, one that changed in the same way will do.

    Args:
        before: The first checkpoint.
        after: The second.
        edits: What must change with the model, by the tensor's id.
        pairs: What became of the tensors of the root in use.
    """
    moved = (*pairs.converted, *pairs.unproved, *pairs.reshaped)
    reshaped = [name for name in moved if name in before.tensors and name in after.tensors]
    changes = {(before.tensors[name].shape, after.tensors[name].shape) for name in reshaped}
    roots_after = _beside(before, after)
    changed = {}
    for root in before.roots:
        if root.role not in ("ema", "optimizer") or root.path == before.root.path or root.path not in roots_after:
            continue
        state_after = _by_name(roots_after[root.path])
        kept = set(pairs.same) if root.role == "ema" else set()
        for name, state in _by_name(root).items():
            shape = state_after[name].shape if name in state_after else state.shape
            if len(shape) == len(state.shape):
                continue
            expected = edits[id(state)].shape == shape if id(state) in edits else (state.shape, shape) in changes
            if name in kept or not expected:
                changed[f"{root.path}.{name}"] = because(Why.CHANGED_ALONE, before=state.shape, after=shape)
    return Findings(changed)


def copies_changed_alone(before: Checkpoint, after: Checkpoint, pairs: Pairs) -> Findings:
    """Copies inside the root in use that have another shape, though the weight that each is a copy of has not.

    Args:
        before: The first checkpoint.
        after: The second.
        pairs: What became of the tensors of the root in use.
    """
    moved = {
        before.tensors[name].key: name
        for name in (*pairs.converted, *pairs.unproved, *pairs.reshaped)
        if before.tensors[name].shape != after.tensors[name].shape
    }
    originals = own_originals(before.root.tensors) if moved else {}
    return Findings(
        {
            (name := moved[key]): because(
                Why.CHANGED_ALONE, before=before.tensors[name].shape, after=after.tensors[name].shape
            )
            for key, owners in originals.items()
            if key in moved
            and not any(owner.key in moved for owner in owners)
            and all(owner.shape == before.tensors[moved[key]].shape for owner in owners)
        }
    )


def _edits_of(layer: Layer, after: Checkpoint, pairs: Pairs, transposed: Transposed) -> tuple[Edit, ...]:
    """The edits of a layer's converted tensors that were transposed, or whose number of dimensions changed."""
    keys = keys_of(layer)
    converted = [
        (name, tensor, after.tensors[name], transposed.of(name))
        for leaf, tensor in layer.tensors.items()
        if (name := keys[leaf]) in pairs.converted or name in pairs.unproved or name in pairs.reshaped
    ]
    return tuple(
        Edit(old, new.shape, new.stride, in_out[0] != in_out[1], moved=_moved(old, new) if name in pairs.last else None)
        for name, old, new, in_out in converted
        if old.shape != new.shape or in_out[0] != in_out[1]
    )


def _moved(old: Tensor, new: Tensor) -> Moved | None:
    edit = channels_last_edit(old, old.shape[2:] or new.shape[2:], len(new.shape) == 2)
    return None if edit is None else edit.moved


class Copies(NamedTuple):
    """Copies of the model's tensors inside the root in use, as with `root="."`, which takes in all roots.

    Attributes:
        followed: Names of those that changed with their weight.
        findings: Those that did not, and how many did.
    """

    followed: Collection[str]
    findings: Findings


def compare_copies(before: Checkpoint, after: Checkpoint, edits: Mapping[int, Edit], pairs: Pairs) -> Copies:
    """Check that copies inside the root in use changed together with their weights.

    Args:
        before: The first checkpoint.
        after: The second.
        edits: What must change, by the tensor's id.
        pairs: What became of the root's tensors.
    """
    expected = {name: edits[id(tensor)] for name, tensor in before.tensors.items() if id(tensor) in edits}
    followed = {
        name: None for name, edit in expected.items()
        if name in after.tensors and after.tensors[name].shape == edit.shape
    }  # fmt: skip
    same = set(pairs.same) if expected else set()
    return Copies(
        followed,
        Findings(
            {name: _not_followed(edit) for name, edit in expected.items() if name in same}
            | _in_other_order(
                {name: (edit, after.tensors[name]) for name, edit in expected.items() if name in followed}
            ),
            notes=_note_converted(Counter(name.rpartition(".")[0] for name in followed)),
        ),
    )


def compare_roots(
    before: Checkpoint,
    after: Checkpoint,
    edits: Mapping[int, Edit],
    transposed: Transposed,
    bar: Bar = no_bar,
    group: Group | None = None,
) -> Findings:
    """Compare EMA copies, optimizer state and other models: every root beside the one in use.

    Args:
        before: The first checkpoint.
        after: The second.
        edits: What must change with the model, by the tensor's id.
        transposed: Which of the model's weights are stored as (in, out).
        bar: Told of what is compared, for each root.
        group: The ranks that compare them together.
    """
    roots_after = _beside(before, after)
    emptied = emptied_optimizers(before, after)
    in_use = {before.root.path, *(root.path for root in parts_of(before))}
    parts = []
    for root in before.roots:
        if root.path in in_use:
            continue
        if root.path in roots_after:
            parts.append(_compare_root(root, roots_after[root.path], edits, transposed, bar, group))
        elif root.path in emptied:
            size = plural(len(root.tensors), "tensor")
            gone = f"all state of the optimizer at {root.path!r} ({size}) is gone, left out on purpose or lost"
            parts.append(Findings(notes=(f"{gone}: a resumed run starts with empty state",)))
        elif len(after.roots) == 1:
            where = f"{short_name(after.path)}, a plain state_dict"
            what = f"root {root.path or '.'} ({plural(len(root.tensors), 'tensor')})"
            parts.append(Findings(notes=(f"{what} is not in {where}",)))
        else:
            parts.append(Findings(missing=(f"root {root.path or '.'}",)))
    return merged(parts)


def _beside(before: Checkpoint, after: Checkpoint) -> dict[str, Root]:
    """The second file's roots by path, without the one in use where that is another than the first file's.

    What lay at `model` is a plain state_dict then, and not what lay beside `model` at the top.
    """
    in_use = after.root.path if after.root.path != before.root.path else None
    return {root.path: root for root in after.roots if root.path != in_use}


def not_followed(before: Checkpoint, after: Checkpoint, edits: Mapping[int, Edit]) -> Findings:
    """Copies and optimizer state in other roots that did not change together with their weights."""
    roots_after = _beside(before, after)
    pairs = [(root, roots_after[root.path]) for root in before.roots if root.path in roots_after]
    return Findings(
        {
            f"{root.path}.{key}": cause
            for root, other in pairs
            for key, cause in _not_following(root, other, edits).items()
        }
    )


def _compare_root(
    before: Root, after: Root, edits: Mapping[int, Edit], transposed: Transposed, bar: Bar, group: Group | None
) -> Findings:
    """Compare one root of both files; names in the findings begin with the root's path."""
    state = _by_name(before)
    turned = {name for name, tensor in state.items() if id(tensor) in edits and edits[id(tensor)].transposed}
    stored = transposed if before.role == "ema" else Transposed(turned)
    pairs = pair_up(state, _by_name(after), stored, bar, group=group)
    left = {name: _not_followed(edits[id(state[name])]) for name in pairs.maybe_left if name in turned}
    after_by_name = _by_name(after)
    moved = {
        name: (edits[id(state[name])], after_by_name[name]) for name in pairs.converted if id(state[name]) in edits
    }
    reshaped = {name: cause for name, cause in pairs.reshaped.items() if not _is_meant(state[name], cause, edits)}
    changed = pairs.changed | reshaped | left | _not_following(before, after, edits) | _in_other_order(moved)
    return Findings(
        {f"{before.path}.{name}": cause for name, cause in changed.items()},
        tuple(f"{before.path}.{name}" for name in pairs.missing),
        tuple(f"{before.path}.{name}" for name in pairs.unexpected),
        tuple(f"{before.path}.{name}" for name in pairs.unread),
        _note_converted({before.path: len(pairs.converted)}),
        tuple(f"{before.path}.{name}" for name in pairs.unproved),
    )


def _is_meant(state: Tensor, cause: Cause, edits: Mapping[int, Edit]) -> bool:
    """Whether what was only reshaped has the shape that its weight's conversion asks for."""
    return id(state) in edits and edits[id(state)].shape == cause.facts["after"]


def _by_name(root: Root) -> dict[str, Tensor]:
    return dict(zip(clean_names([tensor.key for tensor in root.tensors]), root.tensors, strict=True))


def _not_following(before: Root, after: Root, edits: Mapping[int, Edit]) -> dict[str, Cause]:
    """Copies and optimizer state that did not change together with their weights."""
    if before.role not in ("ema", "optimizer"):
        return {}
    shapes = {tensor.key: tensor.shape for tensor in after.tensors}
    expected = [edits[id(tensor)] for tensor in before.tensors if id(tensor) in edits]
    return {
        edit.tensor.key: _not_followed(edit)
        for edit in expected
        if shapes.get(edit.tensor.key) == edit.tensor.shape != edit.shape
    }


def _in_other_order(pairs: Mapping[str, tuple[Edit, Tensor]]) -> dict[str, Cause]:
    """Copies and state whose numbers have another order than those of their weight, where patches are flattened.

    Args:
        pairs: What must change, and the tensor after, by name.
    """
    wrong = {}
    for name, (edit, after) in pairs.items():
        dims = {len(edit.tensor.shape), len(after.shape)}
        if len(dims) == 2 and 2 in dims and max(edit.tensor.shape[2:] or after.shape[2:], default=1) > 1:
            with suppress(CannotShow):
                if not same_as_patches(edit.tensor, after, edit.moved is not None):
                    wrong[name] = because(Why.OTHER_ORDER)
    return wrong


def _not_followed(edit: Edit) -> Cause:
    return because(Why.NOT_FOLLOWED, shape=edit.tensor.shape)


def _note_converted(numbers: Mapping[str, int]) -> tuple[str, ...]:
    """Note how many tensors of each root were converted together with the model's."""
    return tuple(
        f"{plural(number, 'tensor')} of {where} {'was' if number == 1 else 'were'} converted too"
        for where, number in numbers.items()
        if number
    )
