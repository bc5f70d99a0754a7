"""Two checkpoints → their tensors in pairs: which are the same, which were converted, which differ and why."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from convinspect.arrays.equality import as_matrix, difference, same_bits
from convinspect.arrays.storage import Files
from convinspect.arrays.threads import in_turns, map_threads
from convinspect.dtypes import ITEMSIZE
from convinspect.errors import CannotShow
from convinspect.formats.pieces import LAYOUT
from convinspect.kinds import GPT2_NAMES, last_word
from convinspect.records import Tensor
from convinspect.verifying.by_child import TURN, same_by_child
from convinspect.verifying.causes import Cause, Fate, Why, because
from convinspect.verifying.same_numbers import (
    patch_forms,
    same_as_patches,
    same_in_order,
    same_magnitudes,
    same_order,
)
from convinspect.verifying.told import COMPARING, Bar, no_bar
from convinspect.verifying.wrong_numbers import is_matrix, numbers_cause

if TYPE_CHECKING:
    from convinspect.ranks.group import Group

_LARGE = 64 << 20
_MOST_WORKERS = 8


@dataclass(frozen=True, slots=True)
class Pairs:
    """What became of each tensor of one root, by clean name.

    Attributes:
        same: Not one bit or size differs.
        converted: Another shape, the same numbers.
        changed: Different, with the cause.
        missing: In the first checkpoint only.
        unexpected: In the second only.
        unread: Equal in shape and dtype, but without numbers that can be read (shapes only, packed).
        unproved: The same, under another shape, as a conversion gives it.
        last: Of `converted`, kernels whose patches have their channels last in the matrix, or had.
        reshaped: Another shape than a conversion of a layer gives, the same numbers in the same order.
        maybe_left: Of `same`, square weights that are (in, out) as before while others are (out, in) now.
    """

    same: list[str] = field(default_factory=list)
    # Looked up for every layer, in stored order: dictionaries without values.
    converted: dict[str, None] = field(default_factory=dict)
    changed: dict[str, Cause] = field(default_factory=dict)
    missing: dict[str, None] = field(default_factory=dict)
    unexpected: dict[str, None] = field(default_factory=dict)
    unread: dict[str, None] = field(default_factory=dict)
    maybe_left: list[str] = field(default_factory=list)
    unproved: dict[str, None] = field(default_factory=dict)
    last: frozenset[str] = frozenset()
    reshaped: dict[str, Cause] = field(default_factory=dict)

    @property
    def touched(self) -> set[str]:
        """Names of all tensors that are not in `same`."""
        return {*self.converted, *self.changed, *self.missing, *self.unexpected, *self.unproved, *self.reshaped}


class Transposed(NamedTuple):
    """Names of weights that are stored as (in, out), as transformers' `Conv1D` does, in either checkpoint."""

    before: Collection[str] = frozenset()
    after: Collection[str] = frozenset()

    def of(self, name: str) -> tuple[bool, bool]:
        """Whether a weight is stored as (in, out), before and after."""
        return name in self.before, name in self.after


class _Outcome(NamedTuple):
    """What became of a tensor, for `CHANGED`, `LEFT` and `RESHAPED` why; whether its patches' channels are last."""

    fate: Fate
    cause: Cause | None = None
    last: bool = False


_SAME, _CONVERTED = _Outcome(Fate.SAME), _Outcome(Fate.CONVERTED)


def _changed(why: Why, **facts: object) -> _Outcome:
    return _Outcome(Fate.CHANGED, because(why, **facts))


def pair_up(
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    transposed: Transposed,
    bar: Bar = no_bar,
    asked: Collection[str] | None = None,
    group: Group | None = None,
    meanwhile: Callable[[], None] | None = None,
) -> Pairs:
    """Compare every tensor of `before` with that of the same name in `after`.

    Args:
        before: By clean name.
        after: By clean name.
        transposed: Which weights are stored as (in, out).
        bar: Told of the bytes of all tensors that are compared, and then of each.
        asked: Names of the tensors that the conversion was about, where the user said so.
        group: The ranks that compare them together.
        meanwhile: Begins what this process does while a child compares, where there is such work.

    Raises:
        ConvInspectError: Bytes of one of the files are missing or damaged.
    """
    common = [(name, tensor, after[name]) for name, tensor in before.items() if name in after]
    if group is None:
        outcomes = _outcomes(common, before, transposed, bar, meanwhile)
    else:
        from convinspect.verifying.shares import compared_by_ranks

        outcomes = compared_by_ranks(group, common, lambda some: _outcomes(some, before, transposed, bar))
    names: dict[Fate, list[str]] = {fate: [] for fate in Fate}
    for name, outcome in outcomes.items():
        names[outcome.fate].append(name)
    changed = {name: outcome.cause for name, outcome in outcomes.items() if outcome.cause is not None}
    converted = [*names[Fate.CONVERTED], *_meant(names, transposed, asked)]
    alone = [name for name in names[Fate.TURNED] if name not in converted]
    forgotten = _forgotten(names[Fate.LEFT], converted, common, transposed, asked)
    maybe_left = [name for name in names[Fate.LEFT] if name not in forgotten]
    return Pairs(
        same=names[Fate.SAME] + maybe_left,
        converted=dict.fromkeys(converted),
        changed={name: changed[name] for name in names[Fate.CHANGED]}
        | dict.fromkeys(alone, because(Why.TRANSPOSED_ALONE))
        | {name: changed[name] for name in forgotten},
        missing={name: None for name in before if name not in after},
        unexpected={name: None for name in after if name not in before},
        unread=dict.fromkeys(names[Fate.UNREAD]),
        maybe_left=maybe_left,
        unproved=dict.fromkeys(names[Fate.UNPROVED]),
        last=frozenset(name for name, outcome in outcomes.items() if outcome.last),
        reshaped={name: changed[name] for name in names[Fate.RESHAPED]},
    )


def _outcomes(
    common: list[tuple[str, Tensor, Tensor]],
    tensors: Mapping[str, Tensor],
    transposed: Transposed,
    bar: Bar,
    meanwhile: Callable[[], None] | None = None,
) -> dict[str, _Outcome]:
    """What became of each tensor that both checkpoints have, in order."""

    def outcomes(pairs: list[tuple[str, Tensor, Tensor]]) -> list[tuple[str, _Outcome]]:
        with Files() as files:
            return [outcome(files, *pair) for pair in pairs]

    def outcome(files: Files, name: str, before: Tensor, after: Tensor) -> tuple[str, _Outcome]:
        try:
            return name, _compare(before, after, transposed.of(name), tensors, files)
        except CannotShow:
            return name, _by_type(before, after)
        finally:
            progress(before.nbytes)

    progress = bar(nbytes := sum(tensor.nbytes for _, tensor, _ in common), COMPARING)
    # Reading and comparing bytes leave the interpreter free, so large files are read from several threads.
    workers = min(os.cpu_count() or 1, _MOST_WORKERS) if nbytes > _LARGE else 1
    known: dict[str, _Outcome] = {}
    if meanwhile is not None:
        plain = [pair for pair in common if not any(transposed.of(pair[0]))]
        same = same_by_child(plain, workers, meanwhile, progress)
        known = {name: _SAME if a.shape == b.shape else _CONVERTED for name, a, b in plain if name in same}
    rest = [pair for pair in common if pair[0] not in known]
    turns = in_turns(rest, lambda pair: pair[1].nbytes, TURN)
    found = known | dict(chain.from_iterable(map_threads(outcomes, turns, workers)))
    return {name: found[name] for name, _, _ in common}


def _meant(names: Mapping[Fate, list[str]], transposed: Transposed, asked: Collection[str] | None) -> list[str]:
    """Square weights that were transposed on purpose.

    A single square weight does not show that; it counts if other layers were transposed, or if the user asked for it.
    """
    if any(name in transposed.before for name in names[Fate.CONVERTED]):
        return names[Fate.TURNED]
    return [name for name in names[Fate.TURNED] if asked is not None and name in asked]


def _forgotten(
    left: list[str],
    converted: Collection[str],
    common: list[tuple[str, Tensor, Tensor]],
    transposed: Transposed,
    asked: Collection[str] | None,
) -> list[str]:
    """Square weights that should have been transposed and were not.

    Leaving one may be intended, unless every non-square weight was transposed.
    """
    if not left or not _all_turned(set(converted), common, transposed):
        return []
    return [name for name in left if asked is None or name in asked]


def _all_turned(converted: set[str], common: list[tuple[str, Tensor, Tensor]], transposed: Transposed) -> bool:
    """Whether every non-square weight was transposed; only those with GPT-2's names count, if there are any."""
    matrices = [name for name, tensor, _ in common if len(tensor.shape) == 2 and tensor.shape[0] != tensor.shape[1]]
    either = [name for name in matrices if any(transposed.of(name))]
    named = [name for name in matrices if name.endswith(".weight") and last_word(name[:-7]) in GPT2_NAMES]
    shown = any(any(transposed.of(name)) for name in converted)
    return shown and converted.issuperset(named or either)


def _by_type(before: Tensor, after: Tensor) -> _Outcome:
    """Compare tensors whose numbers cannot be read: by shape, dtype and layout, and by their bytes if they have any."""
    types = [(_without_ones(tensor.shape), tensor.dtype, tensor.layout) for tensor in (before, after)]
    if types[0] == types[1]:
        if before.shape != after.shape:
            return _Outcome(Fate.UNPROVED)
        same = _same_stored(before, after)
        if same is None:
            return _Outcome(Fate.UNREAD)
        return _SAME if same else _changed(Why.STORED_BYTES)
    return _changed(Why.TYPE_CHANGED, before=_type_text(before), after=_type_text(after))


def _same_stored(before: Tensor, after: Tensor) -> bool | None:
    """Whether two quantized tensors without a reading, alike in all that describes them, have the same bytes.

    None where that does not settle it: there are no bytes, or they are those of another pickle.
    """
    if before.layout != "quantized" or before.storage is None or after.storage is None:
        return None
    if (before.stride, before.offset, before.quantizer) != (after.stride, after.offset, after.quantizer):
        return None
    stored = [
        Tensor(tensor.key, "uint8", (storage.nbytes,), (1,), 0, storage)
        for tensor, storage in ((before, before.storage), (after, after.storage))
    ]
    return same_bits(stored[0], stored[1]) and _same_parts(before, after)


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:2] if all(size == 1 for size in shape[2:]) else shape


def _type_text(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tensor.shape}" + ("" if tensor.layout == "strided" else f" ({tensor.layout})")


# ------------------------------------------------------------------------------------------------ one pair


def _compare(
    before: Tensor, after: Tensor, transposed: tuple[bool, bool], tensors: Mapping[str, Tensor], files: Files
) -> _Outcome:
    """What became of one tensor.

    Args:
        before: The tensor.
        after: The tensor with the same name after.
        transposed: Whether it is stored as (in, out), before and after.
        tensors: All tensors of the first checkpoint, among which the origin of wrong numbers is searched.
        files: What they are read from stays open in it.
    """
    if before.dtype != after.dtype:
        return _dtype_changed(before, after)
    if before.layout == after.layout == "quantized":
        return _compare_quantized(before, after, transposed, tensors, files)
    if before.layout == after.layout and before.layout in ("conjugated", "negated"):
        plain = before._replace(layout="strided"), after._replace(layout="strided")
        return _compare(*plain, transposed, tensors, files)
    if before.layout == after.layout == "wrapped" and before.parts and after.parts:
        return _compare_wrapped(before, after)
    of_parts = before.layout == after.layout not in ("strided", LAYOUT)
    if before.parts and after.parts and before.shape == after.shape and of_parts:
        return _SAME if _same_parts(before, after) else _changed(Why.SPARSE_PARTS, layout=before.layout)
    if before.shape == after.shape:
        return _compare_alike(before, after, transposed, tensors, files)
    return _compare_reshaped(before, after, transposed, tensors, files)


def _compare_wrapped(before: Tensor, after: Tensor) -> _Outcome:
    """As `_compare`, for Tensor subclasses around other tensors, of which only those can be read."""
    name = (before.subclass or "").rpartition(".")[2]
    if before.subclass != after.subclass:
        return _changed(Why.TYPE_CHANGED, before=before.subclass, after=after.subclass)
    inner = [part.shape for part in before.parts]
    if before.shape == after.shape:
        return _SAME if _same_parts(before, after) else _changed(Why.WRAPPED_PARTS, subclass=name)
    if inner == [part.shape for part in after.parts]:
        shapes = {"before": before.shape, "after": after.shape, "inner": inner[0]}
        return _changed(Why.WRAPPED_SHAPE, subclass=name, **shapes)
    raise CannotShow("only its own library reads it")


def _dtype_changed(before: Tensor, after: Tensor) -> _Outcome:
    sizes = [ITEMSIZE.get(tensor.dtype, 0) for tensor in (before, after)]
    why = Why.DTYPE_NARROWED if sizes[1] < sizes[0] else Why.DTYPE_CHANGED
    return _changed(why, before=before.dtype, after=after.dtype)


_STORED_AS = {"quint8": "uint8", "qint8": "int8", "qint32": "int32"}


def _compare_quantized(
    before: Tensor, after: Tensor, transposed: tuple[bool, bool], tensors: Mapping[str, Tensor], files: Files
) -> _Outcome:
    """As `_compare`, for the integers that two quantized tensors store, and their scales."""
    if before.dtype not in _STORED_AS:
        raise CannotShow(f"numbers of {before.dtype} have no reading")
    if before.quantizer != after.quantizer:
        return _changed(Why.QUANTIZER, before=before.quantizer, after=after.quantizer)
    if not _same_parts(before, after):
        return _changed(Why.QUANTIZER_PARTS)
    stored = _STORED_AS[before.dtype]
    integers = [tensor._replace(layout="strided", dtype=stored, parts=(), quantizer="") for tensor in (before, after)]
    return _compare(integers[0], integers[1], transposed, tensors, files)


def _same_parts(before: Tensor, after: Tensor) -> bool:
    pairs = zip(before.parts, after.parts, strict=False)
    return len(before.parts) == len(after.parts) and all(same_bits(a, b) for a, b in pairs)


def _compare_alike(
    before: Tensor, after: Tensor, transposed: tuple[bool, bool], tensors: Mapping[str, Tensor], files: Files
) -> _Outcome:
    """As `_compare`, for tensors of one shape and dtype."""
    square = len(before.shape) == 2 and before.shape[0] == before.shape[1]
    if same_bits(before, after, files):
        if transposed[0] != transposed[1] and square and not same_bits(before, as_matrix(before, transposed=True)):
            return _Outcome(Fate.LEFT, because(Why.LEFT_IN_OUT if transposed[0] else Why.LEFT_OUT_IN))
        return _SAME
    if square and any(transposed) and same_bits(as_matrix(before, transposed=True), after):
        return _Outcome(Fate.TURNED) if all(transposed) else _CONVERTED
    return _Outcome(Fate.CHANGED, numbers_cause(before, after, tensors))


def _compare_reshaped(
    before: Tensor, after: Tensor, transposed: tuple[bool, bool], tensors: Mapping[str, Tensor], files: Files
) -> _Outcome:
    """As `_compare`, for tensors of one dtype and different shapes."""
    if same_magnitudes(before, after):
        return _CONVERTED
    if not (is_matrix(before) and is_matrix(after)):
        if same_as_patches(before, after):
            return _CONVERTED
        if same_as_patches(before, after, last=True):
            return _Outcome(Fate.CONVERTED, last=True)
        return _reshaped(before, after) or _wrong_patches(before, after, tensors)
    a, b = as_matrix(before, transposed[0]), as_matrix(after, transposed[1])
    if a.shape == b.shape and same_bits(a, b, files):
        return _CONVERTED
    if not a.numel:
        return _changed(Why.SHAPE, before=before.shape, after=after.shape)
    if 1 in before.shape[:2] and not any(transposed) and (reshaped := _reshaped(before, after)) is not None:
        return reshaped
    if a.shape == b.shape[::-1] and same_bits(a, as_matrix(b, transposed=True)):
        if before.shape[:2] == before.shape[1::-1]:
            return _changed(Why.TRANSPOSED)
        return _changed(Why.TRANSPOSED_SHAPE, expected=a.shape, actual=b.shape)
    if before.shape[:2] == after.shape[1::-1] and same_order(before, after):
        return _changed(Why.ROWS_MIXED, after=after.shape)
    if a.shape == b.shape:
        return _Outcome(Fate.CHANGED, numbers_cause(a, b, tensors))
    return _changed(Why.NO_RESHAPE, before=before.shape, after=after.shape)


def _wrong_patches(before: Tensor, after: Tensor, tensors: Mapping[str, Tensor]) -> _Outcome:
    """What became of a kernel over patches that has other numbers as a matrix, or the reverse, or of any two shapes."""
    forms = patch_forms(before, after)
    if forms is None:
        return _changed(Why.SHAPE, before=before.shape, after=after.shape)
    # The order in which fewer numbers differ is the one that was meant.
    last = patch_forms(before, after, last=True)
    if last is not None and _differing(*last) < _differing(*forms):
        forms = last
    return _Outcome(Fate.CHANGED, numbers_cause(*forms, tensors))


def _differing(before: Tensor, after: Tensor) -> int:
    first = difference(before, after)
    return first.count if first is not None else 0


def _reshaped(before: Tensor, after: Tensor) -> _Outcome | None:
    """What became of a tensor that has the same numbers in the same order, and another shape; None of others."""
    if not same_in_order(before, after):
        return None
    return _Outcome(Fate.RESHAPED, because(Why.RESHAPED, before=before.shape, after=after.shape))
