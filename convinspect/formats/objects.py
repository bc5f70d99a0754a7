"""What a `torch.save` file holds beside its tensors, and whether another file holds the same. Nothing is run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from convinspect.errors import ConvInspectError
from convinspect.formats.files import File
from convinspect.formats.pickle_values import Blob, Call, Dict, Global, OutOfBand, Persistent, Set, Tuple
from convinspect.formats.pickle_walk import Read, reader
from convinspect.formats.torch_legacy import is_legacy, pickles
from convinspect.formats.torch_tensors import pairs_of, tensor_of
from convinspect.formats.torch_zip import walked
from convinspect.formats.zip_records import Archive, is_zip
from convinspect.records import Storage

_PIECE = 1 << 20
_MOST = 5_000_000
"""Nodes that are looked at; a file that nests the same containers without end has more."""


@dataclass(frozen=True, slots=True)
class Objects:
    """A file's tree, and what reads the stream that it was made of."""

    tree: Any
    read: Read


def read_objects(path: Path) -> Objects | None:
    """The tree of a `torch.save` file of either age; None for containers that keep no objects beside tensors.

    Raises:
        ConvInspectError: The file cannot be read.
    """
    if path.is_dir():
        return None
    with File(path) as file:
        if is_zip(file.read(0, 64)):
            archive = Archive(file)
            if "data.pkl" not in archive.records:
                return None
            return Objects(walked(archive).value, reader(archive.read("data.pkl")))
        return Objects(pickles(file)[1].value, _stream_of(path)) if is_legacy(file) else None


def _stream_of(path: Path) -> Read:
    def read(offset: int, size: int) -> bytes:
        with File(path) as file:
            return file.read(offset, size)

    return read


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
    """Where two trees differ: at most so many places, the number of all, and where the attributes differ that
    `state_dict()` gives its OrderedDict (`_metadata`, each module's version); None for nowhere.

    Tensors are passed over, and so are keys whose tensor stands in one tree alone: both are held against each other
    elsewhere, by name. An OrderedDict that became a dict of the same items is no difference. Below a place that
    differs by itself nothing more is told.
    """
    attributes: list[tuple[str, Any, Any]] = []
    walk = _walk([("", before.tree, after.tree)], (before.read, after.read), attributes)
    found = list(islice(walk, most))
    number = len(found) + sum(1 for _ in walk)
    for place, a, b in attributes:
        states = [one.states if isinstance(one, Call) else [] for one in (a, b)]
        parts = _in_order("", *states) if len(states[0]) == len(states[1]) else None
        if parts is None or next(_walk(list(parts), (before.read, after.read), []), None) is not None:
            return found, number, place
    return found, number, None


def _walk(
    todo: list[tuple[str, Any, Any]], reads: tuple[Read, Read], attributes: list[tuple[str, Any, Any]]
) -> Iterator[Difference]:
    """The differences below these pairs; dictionaries with attributes of their own are added to the last."""
    seen: set[tuple[int, int]] = set()
    for _ in range(_MOST):
        if not todo:
            return
        path, a, b = todo.pop()
        if isinstance(a, _NODES) and (id(a), id(b)) in seen:
            continue
        seen.add((id(a), id(b)))
        if _is_tensor(a) and _is_tensor(b):
            continue
        what = _differs(a, b) or _blobs_differ(a, b, *reads)
        if what is not None:
            yield Difference(path or "the top", what)
            continue
        if _is_dict(a) and any(isinstance(one, Call) and one.states for one in (a, b)):
            attributes.append((path, a, b))
        todo += reversed([(f"{path}.{name}" if path else name, one, other) for name, one, other in _parts(a, b)])
    yield Difference("the top", "it holds too much to be looked through")


_NODES = (Call, Tuple, Dict, Set, Persistent, list)
_ABSENT = object()
"""In the place of a value whose key one of the trees does not have."""


def _is_tensor(node: Any) -> bool:
    if not isinstance(node, Call):
        return False
    try:
        return tensor_of(node, "", lambda key, nbytes: Storage(Path(), key, nbytes, 0, None)) is not None
    except ConvInspectError:
        return False


def _is_dict(node: Any) -> bool:
    """A dict, or an OrderedDict, with or without the attributes that `state_dict()` gives it."""
    if isinstance(node, Call):
        return isinstance(node.function, Global) and node.function.qualified == "collections.OrderedDict"
    return isinstance(node, Dict)


def _pairs(node: Any) -> list[tuple[Any, Any]]:
    """A dictionary's items, also those that Python 2 gave the call that makes an OrderedDict."""
    return pairs_of(node) or []


def _differs(a: Any, b: Any) -> str | None:
    """What sets two nodes apart by themselves, without their parts."""
    if _is_dict(a) and _is_dict(b):
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
        return _told_apart(a.what, b.what)
    if isinstance(a, Call) and _function(a) != _function(b):
        # Arguments and attributes are each one's own, and are not held against another's.
        return f"{_kind(a)} became {_kind(b)}"
    if isinstance(a, _NODES):
        lengths = [[len(part) for part in _sequences(one)] for one in (a, b)]
        return None if lengths[0] == lengths[1] else "it has other parts"
    # Equal text rather than equal value, so that NaN equals itself and neither 1 is True nor 0 is -0.
    return _told_apart(repr(a), repr(b))


_LONG = 60
_AROUND = 20
"""Characters that are shown on either side of the first that differs in a long text."""


def _told_apart(a: str, b: str) -> str | None:
    """What sets two texts apart; None when nothing does."""
    if a == b:
        return None
    if max(len(a), len(b)) < _LONG:
        return f"{a} became {b}"
    at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    shown = [f"…{one[max(0, at - _AROUND) : at + _AROUND]}…" for one in (a, b)]
    return f"at character {at} of {len(a):,}, {shown[0]} became {shown[1]}"


def _blobs_differ(a: Any, b: Any, read_a: Read, read_b: Read) -> str | None:
    """Whether two long strings that were left in their streams differ."""
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
    return _KINDS.get(type(node)) or f"a value of type {type(node).__name__.lower()}"


_DEEPEST_KEY = 4
_MOST_OF_KEY = 100
"""Parts of a key that its text is made of; a few bytes of a pickle can ask for any number."""


def _text(node: Any) -> str:
    """A key, or what a set holds, as text that tells it from its like; of what nests deeply, its kind."""
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
    for one in _sequences(node)[0]:
        if left[0] <= 0:
            parts.append("…")
            break
        parts.append(_text_within(one, depth + 1, left))
    return ends[0] + ", ".join(parts) + ends[1]


def _by_text(pairs: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
    """Values by their keys' texts; of keys that are no plain values and read the same, each is numbered."""
    found: dict[str, Any] = {}
    alike: Counter[str] = Counter()
    for key, value in pairs:
        text = _text(key)
        if isinstance(key, _NODES):
            alike[text] += 1
            text += f" ({alike[text]})" if alike[text] > 1 else ""
        found[text] = value
    return found


def _is_set(node: Any) -> bool:
    """The call that makes a set of a list, which is how protocols below 4 keep one."""
    made = isinstance(node, Call) and isinstance(node.function, Global) and isinstance(node.args, Tuple)
    return made and node.function.qualified in ("builtins.set", "builtins.frozenset")


def _sequences(node: Any) -> list[Sequence[Any]]:
    if isinstance(node, Call):
        return [node.states, node.items]
    if isinstance(node, Tuple):
        return [node.items]
    if isinstance(node, Set):
        # In whatever order they came: a set has none, and text hashes otherwise in each process.
        return [sorted(node.items, key=_text)]
    return [node] if isinstance(node, list) else []


def _parts(a: Any, b: Any) -> Iterator[tuple[str, Any, Any]]:
    """Parts of two nodes that belong together, by name."""
    if _is_dict(a) and _is_dict(b):
        yield from _by_key(_pairs(a), _pairs(b))
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
        for one, other in zip(_sequences(a), _sequences(b), strict=True):
            yield from _in_order("", one, other)


def _in_order(name: str, a: Iterable[Any], b: Iterable[Any]) -> Iterator[tuple[str, Any, Any]]:
    return ((name or str(index), one, other) for index, (one, other) in enumerate(zip(a, b, strict=True)))


def _arguments(node: Call) -> Any:
    """A call's arguments; of one that makes a set, its list as the set that it becomes."""
    if not _is_set(node) or [type(one) for one in node.args.items] != [list]:
        return node.args
    return Set(node.args.items[0])


def _by_key(a: Iterable[tuple[Any, Any]], b: Iterable[tuple[Any, Any]]) -> Iterator[tuple[str, Any, Any]]:
    """Values of equal keys; of a key in one alone, the value against `_ABSENT`, unless it is a tensor."""
    here, there = (_by_text(pairs) for pairs in (a, b))
    for key in dict.fromkeys((*here, *there)):
        one, other = here.get(key, _ABSENT), there.get(key, _ABSENT)
        if not ((key not in there and _is_tensor(one)) or (key not in here and _is_tensor(other))):
            yield key.strip("'") if len(key) < _LONG else f"{key[:_LONG]}…", one, other


def beside(objects: Objects, root: str, others: Iterable[str] = ()) -> list[str]:
    """Dotted keys of what stands in a file's dictionaries beside the tensors of one root: epochs, settings, loops.

    Args:
        objects: The file's tree.
        root: Path of that root.
        others: Paths of other roots, which are not listed.

    Only the dictionaries on the way to the root, and its own, are looked into.
    """
    found: list[str] = []
    node, path = objects.tree, ""
    ways = [f"{one}." for one in others]
    while _is_dict(node):
        inner = None
        for key, value in _pairs(node):
            place = f"{path}.{key}" if path else str(key)
            if place == root or root.startswith(f"{place}."):
                inner = (place, value)
            elif not (_is_tensor(value) or any(way.startswith(f"{place}.") for way in ways)):
                found.append(place)
        if inner is None:
            break
        path, node = inner
    return found


def parameter_names(objects: Objects) -> set[str]:
    """Names that optimizers keep of their parameters (`param_names`, where they were made of `named_parameters()`)."""
    found: set[str] = set()
    seen: set[int] = set()
    todo = [objects.tree]
    while todo:
        node = todo.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if _is_dict(node):
            todo += [value for key, value in _pairs(node) if key != "param_names"]
            listed = next((value for key, value in _pairs(node) if key == "param_names"), None)
            found |= {one for one in listed if isinstance(one, str)} if isinstance(listed, list) else set()
        elif isinstance(node, list):
            todo += node
    return found


def versions(objects: Objects, root: str) -> dict[str, dict[str, Any]] | None:
    """`_metadata` of a root's state_dict, by module; None where there is none, or it holds more than plain values."""
    node = _at(objects.tree, root)
    states = node.states if isinstance(node, Call) and _is_dict(node) else ()
    attributes = [pair for state in states if _is_dict(state) for pair in _pairs(state)]
    kept: Any = next((value for key, value in attributes if key == "_metadata"), None)
    if not _is_dict(kept):
        return None
    found: dict[str, dict[str, Any]] = {}
    for name, facts in _pairs(kept):
        if not isinstance(name, str) or not _is_dict(facts):
            return None
        try:
            found[name] = _plain(facts, 0)
        except TypeError:
            return None
    return found


def _at(node: Any, root: str) -> Any:
    """The node at dotted keys; None where there is none."""
    while root and _is_dict(node):
        step = next((key for key, _ in _pairs(node) if root == str(key) or root.startswith(f"{key}.")), None)
        if step is None:
            return None
        node = next(value for key, value in _pairs(node) if key == step)
        root = root[len(str(step)) + 1 :]
    return node


def plain_values(objects: Objects, root: str) -> dict[str, Any]:
    """Numbers, text, None, and lists, tuples and dictionaries of these, that stand in a root's dictionary, by key."""
    node, found = _at(objects.tree, root), dict[str, Any]()
    for key, value in _pairs(node) if _is_dict(node) else []:
        with suppress(TypeError):
            found[str(key)] = _plain(value, 0)
    return found


def _plain(node: Any, depth: int) -> Any:
    if isinstance(node, bool | int | float | str | None):
        return node
    if depth < _DEEPEST_KEY and isinstance(node, list | Tuple):
        return (list if isinstance(node, list) else tuple)(_plain(one, depth + 1) for one in _sequences(node)[0])
    if depth < _DEEPEST_KEY and _is_dict(node):
        return {_plain(key, depth + 1): _plain(value, depth + 1) for key, value in _pairs(node)}
    raise TypeError("not a plain value")
