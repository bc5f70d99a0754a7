"""Find in a pickle the keys of tensors, and the items that an optimizer keeps for its parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pickletools import genops
from typing import Any

from convinspect.errors import CannotWrite, Option, Wording
from convinspect.formats.pickle.values import Batch, Call, Dict, Persistent, Set, Tuple
from convinspect.formats.torch.objects import node_at
from convinspect.formats.torch.storage_ids import storage_dtype
from convinspect.formats.torch.tensors import no_storage, tensor_of
from convinspect.formats.torch.tree import state_of
from convinspect.records import Span

Names = Mapping[tuple[int, str], str]
"""(offset of a tensor's size tuple, its key) → its new key."""


def places_of_keys(tree: Any, names: Names, others: Mapping[str, Mapping[str, str]]) -> dict[int, str]:
    """Offset where each renamed key is pushed → the new key, also for the modules in a state_dict's `_metadata`.

    Args:
        tree: The parsed pickle.
        names: New keys of tensors.
        others: New keys of what is no tensor, by old key and by the path of the dictionary.

    Raises:
        CannotWrite: A tensor's name is not one key of a dictionary.
    """
    places: dict[int, str] = {}
    left = set(names)
    others_of = {id(node_at(tree, path)): renamed for path, renamed in others.items()}
    for node in _containers(tree):
        renamed: dict[str, str] = {}
        own_others = others_of.get(id(node), {})
        for start, key, value in _placed_items(node):
            new = names.get((_size_at(value), key)) if isinstance(value, Call) else None
            if new is not None:
                left.discard((_size_at(value), key))
            elif left and isinstance(value, (Tuple, list)):
                inside = {name: names[name] for name in _named_within(value, key, left)}
                new = _key_of_all(key, inside)
                left -= set(inside) if new is not None else set()
            new = own_others.get(key) if new is None else new
            if new is not None:
                renamed[key] = new
                places[start] = new
        if renamed:
            keys = [key for _, key, _ in _placed_items(node)]
            places |= _metadata(node, {key: renamed.get(key, key) for key in keys})
    if left:
        name = min(key for _, key in left)
        raise CannotWrite(f"tensor {name!r}: its name is not one key of a dictionary in the file, so it stays")
    return places


def _named_within(value: Tuple | list[Any], key: str, names: Iterable[tuple[int, str]]) -> list[tuple[int, str]]:
    """Of tensors to rename, those in a tuple or list under one key, as quantized modules keep weight and bias."""
    sizes = {_size_at(node) for node in _containers(value) if isinstance(node, Call)}
    return [(size, name) for size, name in names if size in sizes and name.startswith(f"{key}.")]


def _key_of_all(key: str, renamed: Names) -> str | None:
    """The new key of a tuple or list whose tensors are renamed alike; None if only names within it would change."""
    fronts = {
        new.removesuffix(name[len(key) :]) for (_, name), new in renamed.items() if new.endswith(name[len(key) :])
    }
    whole = len(fronts) == 1 and all(new.endswith(name[len(key) :]) for (_, name), new in renamed.items())
    return fronts.pop() if whole else None


def _containers(tree: Any) -> Iterator[Any]:
    """Every container in the tree, once each, without those in a call's function, keyword arguments or in keys."""
    yield from _reached(tree, _contents)


def _reached(tree: Any, contents: Callable[[Any], list[Any]]) -> Iterator[Any]:
    seen: set[int] = set()
    todo = [tree]
    while todo:
        node = todo.pop()
        if id(node) not in seen and isinstance(node, (Dict, Call, Tuple, Set, Persistent, list)):
            seen.add(id(node))
            yield node
            todo += contents(node)


def _contents(node: Any) -> list[Any]:
    if isinstance(node, Persistent):
        return [node.id]
    if isinstance(node, list):
        return node
    if isinstance(node, (Tuple, Set)):
        return list(node.items)
    values = [value for _, value in node.pairs]
    return [*values, node.args, *node.states, *node.items] if isinstance(node, Call) else values


def _placed_items(node: Any) -> Iterator[tuple[int, str, Any]]:
    """For each string key of a dictionary: the offset where it is pushed, the key, and its value."""
    if isinstance(node, (Dict, Call)) and node.pairs:
        starts = [start for _, _, places in node.places for start in places[::2]]
        if len(starts) == len(node.pairs):
            for start, (key, value) in zip(starts, node.pairs, strict=True):
                if isinstance(key, str):
                    yield start, key, value


def _size_at(node: Any) -> int:
    """Offset where the size of the tensor that a call rebuilds is pushed; -1 if it rebuilds none."""
    tensor = tensor_of(node, "", no_storage)
    return -1 if tensor is None or tensor.shape_span is None else tensor.shape_span.start


def _metadata(node: Any, names: Mapping[str, str]) -> dict[int, str]:
    """Offset → new key, for the module paths in a state_dict's `_metadata`; {} if two would become equal."""
    listed = list(_placed_items(state_of(node).get("_metadata")))
    paths = moved_paths((key for _, key, _ in listed), names)
    if len(set(paths.values())) != len(paths):
        return {}
    return {start: paths[key] for start, key, _ in listed if paths[key] != key}


def moved_paths(paths: Iterable[str], names: Mapping[str, str]) -> dict[str, str]:
    """The new path of each module in `paths`, given the new keys of all tensors."""
    moved = _moved_modules(names)
    return {path: _moved(path, moved) for path in paths}


def _moved_modules(names: Mapping[str, str]) -> dict[str, str]:
    """Each module that has tensors → its new path, or its old one if its tensors imply different paths."""
    paths: dict[str, str] = {}
    for old, new in names.items():
        parts = old.split(".")
        for depth in range(1, len(parts)):
            path, rest = ".".join(parts[:depth]), "." + ".".join(parts[depth:])
            moved = new.removesuffix(rest) if new.endswith(rest) else path
            paths[path] = moved if paths.get(path, moved) == moved else path
    return paths


def _moved(path: str, moved: Mapping[str, str]) -> str:
    """New path of a module; one without tensors (an activation) follows its parent."""
    above = path
    while above and above not in moved:
        above = above.rpartition(".")[0]
    return moved[above] + path[len(above) :] if above else path


def optimizer_states(tree: Any) -> list[Dict | Call]:
    """The `state` of every optimizer in the tree."""
    states: dict[int, Dict | Call] = {}
    for node in _containers(tree):
        values = {key: value for _, key, value in _placed_items(node)}
        state = values.get("state")
        if "param_groups" in values and isinstance(state, (Dict, Call)):
            states[id(state)] = state
    return list(states.values())


def items_of(state: Dict | Call) -> list[Span]:
    """Spans of the instructions that fill a dictionary, which is empty without them.

    Raises:
        CannotWrite: It is not filled the way picklers fill a dictionary.
    """
    batches: list[Batch] = list(state.places)
    if sum(len(places) for _, _, places in batches) != 2 * len(state.pairs):
        remedy = Wording(Option("keep_optimizer"), " leaves it")
        raise CannotWrite("an optimizer's state is stored in an unusual way", remedy)
    return [Span(start, end) for start, end, _ in batches]


def storages(tree: Any, emptied: Iterable[Dict | Call] = ()) -> set[str]:
    """Keys of the storages that tensors in the tree are views of.

    Args:
        tree: The parsed pickle.
        emptied: Dictionaries to treat as empty.
    """
    empty = frozenset(id(node) for node in emptied)

    def contents(node: Any) -> list[Any]:
        if not isinstance(node, (Dict, Call)):
            return _contents(node)
        items = [] if id(node) in empty else [part for pair in node.pairs for part in pair]
        more = [node.function, node.args, node.kwargs, *node.states, *node.items] if isinstance(node, Call) else []
        return items + more

    ids = [node.id for node in _reached(tree, contents) if isinstance(node, Persistent)]
    return {parts.items[2] for parts in ids if isinstance(parts, Tuple) and storage_dtype(parts.items) is not None}


def places_of_parameter_names(tree: Any, data: bytes, base: int, names: Mapping[str, str]) -> dict[int, str]:
    """Offset where an optimizer's name of each renamed parameter is pushed → the new name.

    Args:
        tree: The parsed pickle.
        data: The pickle's bytes.
        base: Offset of the pickle's first byte, as counted in the tree.
        names: Old names → new names.

    Raises:
        CannotWrite: They are not pushed the way picklers push a list of strings.
    """
    places: dict[int, str] = {}
    for node in _containers(tree) if names else ():
        values = {key: value for _, key, value in _placed_items(node)}
        listed = values.get("param_names")
        if "params" not in values or not isinstance(listed, list):
            continue
        start, end = _place_of_value(node, "param_names")
        starts = pushed_strings(data[start - base : end - base])
        if len(starts) != len(listed):
            raise CannotWrite("an optimizer's param_names are stored in an unusual way, so they cannot be renamed")
        places |= {start + at: names[name] for at, name in zip(starts, listed, strict=True) if name in names}
    return places


def _place_of_value(node: Dict | Call, wanted: str) -> tuple[int, int]:
    """Start and end of the instructions that push the value of a key."""
    keys = [key for key, _ in node.pairs]
    ranges = (
        (starts[at + 1], starts[at + 2] if at + 2 < len(starts) else end - 1)
        for _, end, starts in node.places
        for at in range(0, len(starts), 2)
    )
    return next(place for key, place in zip(keys, ranges, strict=True) if key == wanted)


_STRINGS_AND_GETS = frozenset("UTVXS\x8c\x8dhjg")
_OF_LISTS = frozenset("](eaqrp\x94\x95.")


def pushed_strings(data: bytes) -> list[int]:
    """Offsets at which a list's strings are pushed; [] if the list holds anything else."""
    starts: list[int] = []
    for opcode, _, at in genops(data + b"."):
        if opcode.code in _STRINGS_AND_GETS:
            starts.append(at or 0)
        elif opcode.code not in _OF_LISTS:
            return []
    return starts
