"""Two checkpoints → their tensors in pairs: which are the same, which were converted, which differ and why."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from convinspect.arrays.equality import as_matrix, difference, owner_of, relation, same_bits
from convinspect.arrays.threads import map_threads
from convinspect.dtypes import ITEMSIZE
from convinspect.errors import CannotShow
from convinspect.kinds import GPT2_NAMES, last_word
from convinspect.layers.by_shape import is_magnitude
from convinspect.layers.lora import as_vector
from convinspect.records import Tensor

_UNREAD, _TURNED = "unread", "turned"
_LEFT = tuple(
    f"it is transposed: still {held} as before, while the other layers are {wanted} now"
    for held, wanted in (("(in, out)", "(out, in)"), ("(out, in)", "(in, out)"))
)
_LARGE = 64 << 20
LOOKED_THROUGH = 2_000
"""Most tensors that are read in search of a wrong one's true owner."""


@dataclass(slots=True)
class Pairs:
    """What became of each tensor of one root, by clean name.

    Attributes:
        same: Not one bit or size differs.
        converted: Another shape, the same numbers.
        changed: Differs, with the cause.
        missing: In the first checkpoint only.
        unexpected: In the second only.
        perhaps_left: Of `same`, square weights that are (in, out) as before while others are (out, in) now.
        unread: Equal in shape and dtype, but without numbers that can be read (shapes only, packed).
    """

    same: list[str] = field(default_factory=list)
    # Looked up for every layer, in stored order: dictionaries without values.
    converted: dict[str, None] = field(default_factory=dict)
    changed: dict[str, str] = field(default_factory=dict)
    missing: dict[str, None] = field(default_factory=dict)
    unexpected: dict[str, None] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    perhaps_left: list[str] = field(default_factory=list)


def pair_up(
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    turned: tuple[frozenset[str], frozenset[str]],
    progress: Callable[[int], None] = lambda done: None,
    asked: Collection[str] | None = None,
) -> Pairs:
    """Hold every tensor of `before` against that of the same name in `after`.

    Args:
        before: By clean name.
        after: By clean name.
        turned: Names of weights that are stored transposed, as transformers' `Conv1D` does, in either.
        progress: Told of bytes that were compared.
        asked: Names of the tensors that the conversion was about, where the user said so.

    Raises:
        ConvInspectError: Bytes of one of the files are missing or damaged.
    """
    found = Pairs(
        missing={name: None for name in before if name not in after},
        unexpected={name: None for name in after if name not in before},
    )
    common = [(name, tensor, after[name]) for name, tensor in before.items() if name in after]

    def fate(one: tuple[str, Tensor, Tensor]) -> tuple[str, str | None]:
        name, tensor, other = one
        try:
            return name, _compare(tensor, other, (name in turned[0], name in turned[1]), before)
        except CannotShow:
            # Without numbers, a conversion is seen by its shape alone.
            facts = [(_without_ones(it.shape), it.dtype, it.layout) for it in (tensor, other)]
            return name, _UNREAD if facts[0] == facts[1] else f"{_facts(tensor)} became {_facts(other)}"
        finally:
            progress(tensor.nbytes)

    squares: list[str] = []
    left: dict[str, str] = {}
    # Reading and comparing bytes leave the interpreter free, so large files are read from several threads.
    workers = min(os.cpu_count() or 1, 4) if sum(tensor.nbytes for _, tensor, _ in common) > _LARGE else 1
    for name, cause in map_threads(fate, common, workers):
        if cause is None:
            found.same.append(name)
        elif cause == _UNREAD:
            found.unread.append(name)
        elif cause == "":
            found.converted[name] = None
        elif cause == _TURNED:
            squares.append(name)
        elif cause in _LEFT:
            left[name] = cause
        else:
            found.changed[name] = cause
    # A square weight does not tell by itself whether it was turned on purpose; others that were turned do.
    if any(name in turned[0] for name in found.converted):
        found.converted |= dict.fromkeys(squares)
    else:
        meant = [name for name in squares if asked is not None and name in asked]
        found.converted |= dict.fromkeys(meant)
        alone = (name for name in squares if name not in meant)
        found.changed |= dict.fromkeys(alone, "it is transposed, and no other layer is that would show it is meant")
    # Nor does it tell whether it was left on purpose, unless all were turned that show it by their shape.
    forgotten = left and _all_turned(found.converted, common, turned)
    for name, cause in left.items():
        if forgotten and (asked is None or name in asked):
            found.changed[name] = cause
        else:
            found.same.append(name)
            found.perhaps_left.append(name)
    return found


def _all_turned(
    converted: Collection[str], common: list[tuple[str, Tensor, Tensor]], turned: tuple[frozenset[str], frozenset[str]]
) -> bool:
    """Whether layers were turned, and none left that is not square: of GPT-2's names, where there are any."""
    matrices = [name for name, one, _ in common if len(one.shape) == 2 and one.shape[0] != one.shape[1]]
    either = [name for name in matrices if name in turned[0] or name in turned[1]]
    named = [name for name in matrices if name.endswith(".weight") and last_word(name[:-7]) in GPT2_NAMES]
    shown = any(name in turned[0] or name in turned[1] for name in converted)
    return shown and all(name in converted for name in named or either)


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:2] if all(size == 1 for size in shape[2:]) else shape


def _facts(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tensor.shape}" + ("" if tensor.layout == "strided" else f" ({tensor.layout})")


def _compare(before: Tensor, after: Tensor, turned: tuple[bool, bool], others: Mapping[str, Tensor]) -> str | None:
    """None when nothing differs, "" when only the shape does as a conversion may, and otherwise the cause."""
    if before.dtype != after.dtype:
        return _narrowed(before, after)
    if before.layout == after.layout == "quantized":
        return _quantized(before, after, turned, others)
    if before.layout == after.layout and before.layout in ("conjugated", "negated"):
        return _compare(before._replace(layout="strided"), after._replace(layout="strided"), turned, others)
    if before.parts and after.parts and before.shape == after.shape and before.layout == after.layout:
        return None if _same_parts(before, after) else f"the indices or values of the {before.layout} tensor differ"
    if before.shape == after.shape:
        return _same_shape(before, after, turned, others)
    vectors = [as_vector(one) if is_magnitude(one.key) else None for one in (before, after)]
    if vectors[0] is not None and vectors[1] is not None and same_bits(vectors[0], vectors[1]):
        return ""
    if not (_is_matrix(before) and _is_matrix(after)):
        return f"its shape {before.shape} became {after.shape}"
    one, other = as_matrix(before, turned[0]), as_matrix(after, turned[1])
    if one.shape == other.shape and same_bits(one, other):
        return ""
    if not one.numel:
        return f"its shape {before.shape} became {after.shape}"
    if one.shape == other.shape[::-1] and same_bits(one, as_matrix(other, turned=True)):
        if before.shape[:2] == before.shape[1::-1]:
            return "it is transposed"
        return f"it is transposed: {one.shape} is wanted, and {other.shape} is there"
    if before.shape[:2] == after.shape[1::-1] and _same_order(before, after):
        return f"its numbers are as before under the turned shape {after.shape}, so rows are mixed up"
    if one.shape == other.shape:
        return _cause(one, other, others)
    return f"its shape {before.shape} became {after.shape}, which no reshaping explains"


_STORED_AS = {"quint8": "uint8", "qint8": "int8", "qint32": "int32"}


def _quantized(before: Tensor, after: Tensor, turned: tuple[bool, bool], others: Mapping[str, Tensor]) -> str | None:
    """As `_compare`: the integers that two quantized tensors store, and how these are to be read."""
    if before.dtype not in _STORED_AS:
        raise CannotShow(f"numbers of {before.dtype} have no reading")
    if before.quantizer != after.quantizer:
        return f"its quantizer ({before.quantizer}) became ({after.quantizer})"
    if not _same_parts(before, after):
        return "its quantizer's scales or zero points differ"
    stored = _STORED_AS[before.dtype]
    plain = [one._replace(layout="strided", dtype=stored, parts=(), quantizer="") for one in (before, after)]
    return _compare(plain[0], plain[1], turned, others)


def _same_parts(before: Tensor, after: Tensor) -> bool:
    pairs = zip(before.parts, after.parts, strict=False)
    return len(before.parts) == len(after.parts) and all(same_bits(one, other) for one, other in pairs)


def _same_shape(before: Tensor, after: Tensor, turned: tuple[bool, bool], others: Mapping[str, Tensor]) -> str | None:
    square = len(before.shape) == 2 and before.shape[0] == before.shape[1]
    if same_bits(before, after):
        if turned[0] != turned[1] and square and not _symmetric(before):
            return _LEFT[0] if turned[0] else _LEFT[1]
        return None
    if square and any(turned) and same_bits(as_matrix(before, turned=True), after):
        return _TURNED if all(turned) else ""
    return _cause(before, after, others)


def _symmetric(tensor: Tensor) -> bool:
    return same_bits(tensor, as_matrix(tensor, turned=True))


def _is_matrix(tensor: Tensor) -> bool:
    return len(tensor.shape) >= 2 and all(size == 1 for size in tensor.shape[2:])


def _same_order(before: Tensor, after: Tensor) -> bool:
    """Whether two matrices are the same run of numbers, row after row."""
    flat = [one._replace(shape=(one.numel,), stride=(1,)) for one in (before, after)]
    in_rows = all(one.stride[:2] == (one.shape[1], 1) for one in (before, after))
    return in_rows and same_bits(*flat)


def _narrowed(before: Tensor, after: Tensor) -> str:
    sizes = [ITEMSIZE.get(one.dtype, 0) for one in (before, after)]
    how = "narrowed" if sizes[1] < sizes[0] else "changed"
    return f"its dtype was {how} from {before.dtype} to {after.dtype}"


def _cause(before: Tensor, after: Tensor, others: Mapping[str, Tensor]) -> str:
    """Why two tensors of one shape and dtype differ, in a few words.

    Raises:
        BrokenFile: One of them is damaged, which then is the cause.
    """
    found = difference(before, after)
    if found is None:
        return "its bytes differ where none of its numbers do"
    place = f"{list(found.where)}: {found.before} became {found.after}"
    if found.count == 1:
        return f"1 of {found.total:,} numbers differs, at {place}"
    same_kind = (
        (name, as_matrix(one, turned=False) if _is_matrix(one) and len(one.shape) > len(after.shape) else one)
        for name, one in list(others.items())[:LOOKED_THROUGH]
        if one is not before
    )
    owner = owner_of(after, same_kind) if found.count > found.total // 2 else None
    if owner is not None:
        return f"it holds the numbers of {owner}"
    named = relation(before, after) if found.count > found.total // 2 else ""
    if named:
        return f"{named}; {found.count:,} of {found.total:,} numbers differ"
    return f"{found.count:,} of {found.total:,} numbers differ, first at {place}"
