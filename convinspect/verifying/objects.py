"""Whether two `torch.save` files hold the same objects besides their tensors. Nothing is run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from convinspect.formats.pickle.machine import Read
from convinspect.formats.pickle.values import Blob, Call, Dict, Global, OutOfBand, Persistent, Set, Tuple
from convinspect.formats.torch.objects import Objects, is_dict, is_tensor, pairs

_PIECE = 1 << 20
_MOST = 5_000_000
"""Most nodes that are compared; a file that nests the same containers without end has more."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two trees differ in anything but tensors.

    Attributes:
        place: Dotted keys.
        what: What differs there, in a few words.
    """

    place: str
    what: str


def differences(before: Objects, after: Objects, most: int) -> tuple[list[Difference], int, str | None]:
    """Where two trees differ in anything but tensors.

    Tensors are skipped, and so are keys whose tensor is in one tree only: both are compared elsewhere, by name. An
    OrderedDict that became a dict with the same items is no difference. Below a difference nothing more is compared.

    Args:
        before: The first tree.
        after: The second.
        most: How many differences to return.

    Returns:
        The first differences; the number of all; and the first place where the attributes differ that `state_dict()`
        gives its OrderedDict (`_metadata`, each module's version), or None.
    """
    first: list[Difference] = []
    attributed: list[_Attributed] = []
    number = 0
    for item in _walk([("", before.tree, after.tree)], before, after):
        if isinstance(item, _Attributed):
            attributed.append(item)
            continue
        number += 1
        if len(first) < most:
            first.append(item)
    for place, a, b in attributed:
        states = [node.states if isinstance(node, Call) else [] for node in (a, b)]
        parts = _in_order("", *states) if len(states[0]) == len(states[1]) else None
        if parts is None or any(isinstance(item, Difference) for item in _walk(parts, before, after)):
            return first, number, place
    return first, number, None


class _Attributed(NamedTuple):
    """Two dictionaries of which one has attributes of its own."""

    place: str
    a: Any
    b: Any


def _walk(pairs: Iterable[tuple[str, Any, Any]], before: Objects, after: Objects) -> Iterator[Difference | _Attributed]:
    """The differences below these pairs, and the dictionaries with attributes, which are left to the caller."""
    todo = list(pairs)
    arrays = before.arrays and after.arrays
    seen: set[tuple[int, int]] = set()
    # `_arguments` makes sets that nothing else refers to. They are kept here, since a freed set's id could be given to
    # another node, which would then count as seen.
    made: list[tuple[Any, Any]] = []
    for _ in range(_MOST):
        if not todo:
            return
        path, a, b = todo.pop()
        if isinstance(a, _NODES) and (id(a), id(b)) in seen:
            continue
        seen.add((id(a), id(b)))
        if isinstance(a, Set) or isinstance(b, Set):
            made.append((a, b))
        if (is_tensor(a) and is_tensor(b)) or (arrays and before.is_tensor(a) and before.is_tensor(b)):
            continue
        what = _differs(a, b) or _blobs_differ(a, b, before.read, after.read)
        if what is not None:
            yield Difference(path or "the top", what)
            continue
        if is_dict(a) and any(isinstance(node, Call) and node.states for node in (a, b)):
            yield _Attributed(path, a, b)
        todo += reversed([(f"{path}.{name}" if path else name, x, y) for name, x, y in _parts(a, b)])
    yield Difference("the top", "it holds too much to be looked through")


_NODES = (Call, Tuple, Dict, Set, Persistent, list)
_ABSENT = object()
"""Stands for the value of a key that one of the trees does not have."""


def _differs(a: Any, b: Any) -> str | None:
    """How two nodes differ by themselves, without their parts; None when they do not."""
    if is_dict(a) and is_dict(b):
        return None
    if a is _ABSENT or b is _ABSENT:
        return "it is not there any more" if b is _ABSENT else "it was not there before"
    if type(a) is not type(b):
        return f"{_kind(a)} became {_kind(b)}"
    if isinstance(a, Global):
        return None if a.qualified == b.qualified else f"{a.qualified} became {b.qualified}"
    if isinstance(a, Blob):
        return None if a.length == b.length else f"{a.length:,} bytes became {b.length:,}"
    if isinstance(a, OutOfBand):
        return _describe_difference(a.what, b.what)
    if isinstance(a, Call) and _function(a) != _function(b):
        # Arguments and attributes belong to a function, and are not compared with another's.
        return f"{_kind(a)} became {_kind(b)}"
    if isinstance(a, Set) and a.frozen != b.frozen:
        return f"{_kind(a)} became {_kind(b)}"
    if isinstance(a, _NODES):
        lengths = [[len(part) for part in _sequences(node)] for node in (a, b)]
        return None if lengths[0] == lengths[1] else "it has other parts"
    # Equal text rather than equal value, so that NaN equals itself and neither 1 is True nor 0 is -0.
    return _describe_difference(repr(a), repr(b))


_LONG = 60
_AROUND = 20
"""Characters that are shown on either side of the first that differs in a long text."""


def _describe_difference(a: str, b: str) -> str | None:
    """How two texts differ; None when they do not."""
    if a == b:
        return None
    if max(len(a), len(b)) < _LONG:
        return f"{a} became {b}"
    at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    shown = [f"…{text[max(0, at - _AROUND) : at + _AROUND]}…" for text in (a, b)]
    return f"at character {at} of {len(a):,}, {shown[0]} became {shown[1]}"


def _blobs_differ(a: Any, b: Any, read_a: Read, read_b: Read) -> str | None:
    """How two long strings that were left in their streams differ; None when they do not."""
    if isinstance(a, Blob):
        for done in range(0, a.length, _PIECE):
            size = min(_PIECE, a.length - done)
            if read_a(a.start + done, size) != read_b(b.start + done, size):
                return f"{a.length:,} bytes differ"
    return None


def _function(node: Call) -> str | None:
    return node.function.qualified if isinstance(node.function, Global) else None


_KINDS = {
    type(None): "None",
    Blob: "a long text or bytes",
    Global: "a class or function",
    OutOfBand: "what has no value in the file",
    Persistent: "a persistent id",
}


def _kind(node: Any) -> str:
    if isinstance(node, Call):
        return _function(node) or "a call"
    if isinstance(node, Set) and node.frozen:
        return "a frozenset"
    return _KINDS.get(type(node)) or f"a value of type {type(node).__name__.lower()}"


_DEEPEST_KEY = 4
_MOST_OF_KEY = 100
"""Parts of a key that its text is made of; a few bytes of a pickle can ask for any number."""


def _text(node: Any) -> str:
    """A key, or a member of a set, as text that identifies it; deeply nested parts as their kind only."""
    return _text_within(node, 0, [_MOST_OF_KEY])


def _text_within(node: Any, depth: int, left: list[int]) -> str:
    left[0] -= 1
    if not isinstance(node, _NODES):
        return repr(node)
    if depth == _DEEPEST_KEY or isinstance(node, Dict | Persistent):
        return f"<{_kind(node)}>"
    if isinstance(node, Call):
        return f"{_kind(node)}{_text_within(node.args, depth + 1, left)}"
    ends = {Tuple: "()", list: "[]", Set: "{}"}[type(node)]
    parts: list[str] = []
    for part in _sequences(node)[0]:
        if left[0] <= 0:
            parts.append("…")
            break
        parts.append(_text_within(part, depth + 1, left))
    return ends[0] + ", ".join(parts) + ends[1]


def _by_text(pairs: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
    """Values by the texts of their keys; keys that are objects with equal texts are numbered."""
    by_text: dict[str, Any] = {}
    alike: Counter[str] = Counter()
    for key, value in pairs:
        text = _text(key)
        if isinstance(key, _NODES):
            alike[text] += 1
            text += f" ({alike[text]})" if alike[text] > 1 else ""
        by_text[text] = value
    return by_text


def _is_set(node: Any) -> bool:
    """Whether a call builds a set from a list, as pickle protocols below 4 do."""
    call = isinstance(node, Call) and isinstance(node.function, Global) and isinstance(node.args, Tuple)
    return call and node.function.qualified in ("builtins.set", "builtins.frozenset")


def _sequences(node: Any) -> list[Sequence[Any]]:
    if isinstance(node, Call):
        return [node.states, node.items]
    if isinstance(node, Tuple):
        return [node.items]
    if isinstance(node, Set):
        # Sorted, since a set has no order: hashes of strings differ between processes.
        return [sorted(node.items, key=_text)]
    return [node] if isinstance(node, list) else []


def _parts(a: Any, b: Any) -> Iterator[tuple[str, Any, Any]]:
    """Pairs of corresponding parts of two nodes, by name."""
    if is_dict(a) and is_dict(b):
        yield from _by_key(pairs(a), pairs(b))
    elif isinstance(a, Persistent):
        yield "id", a.id, b.id
    elif isinstance(a, Call):
        yield "()", a.function, b.function
        yield "()", _arguments(a), _arguments(b)
        yield "()", a.kwargs, b.kwargs
        yield from _by_key(a.pairs, b.pairs)
        yield from _in_order("state", a.states, b.states)
        yield from _in_order("", a.items, b.items)
    else:
        for x, y in zip(_sequences(a), _sequences(b), strict=True):
            yield from _in_order("", x, y)


def _in_order(name: str, a: Iterable[Any], b: Iterable[Any]) -> Iterator[tuple[str, Any, Any]]:
    return ((name or str(index), x, y) for index, (x, y) in enumerate(zip(a, b, strict=True)))


def _arguments(node: Call) -> Any:
    """A call's arguments; for one that builds a set, the set."""
    if not _is_set(node) or [type(argument) for argument in node.args.items] != [list]:
        return node.args
    return Set(node.args.items[0])


def _by_key(a: Iterable[tuple[Any, Any]], b: Iterable[tuple[Any, Any]]) -> Iterator[tuple[str, Any, Any]]:
    """Pairs of values with equal keys; a key in one tree only is paired with `_ABSENT`, unless it is a tensor's."""
    values_a, values_b = (_by_text(pairs) for pairs in (a, b))
    for key in dict.fromkeys((*values_a, *values_b)):
        x, y = values_a.get(key, _ABSENT), values_b.get(key, _ABSENT)
        if not ((y is _ABSENT and is_tensor(x)) or (x is _ABSENT and is_tensor(y))):
            yield key.strip("'") if len(key) < _LONG else f"{key[:_LONG]}…", x, y
