"""What a `torch.save` file holds besides its tensors: values, names and versions, read without running anything."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from convinspect.errors import ConvInspectError
from convinspect.formats.files import File
from convinspect.formats.pickle.machine import Read, Walk, reader
from convinspect.formats.pickle.record import Pickle
from convinspect.formats.pickle.values import Call, Dict, Global, Tuple
from convinspect.formats.places import is_folder
from convinspect.formats.torch.archive import walked
from convinspect.formats.torch.arrays import is_of_numbers
from convinspect.formats.torch.legacy import is_legacy, pickles
from convinspect.formats.torch.nodes import function_name, pairs_of
from convinspect.formats.torch.paddle import without_parts
from convinspect.formats.torch.plain_pickle import is_pickle, walked_plain
from convinspect.formats.torch.saved_arrays import holds_arrays
from convinspect.formats.torch.tensors import no_storage, tensor_of
from convinspect.formats.zip.archive import Archive
from convinspect.formats.zip.structures import is_zip

# Levels of nesting at most in a plain value.
_DEEPEST = 4


class Objects(NamedTuple):
    """A file's tree, a reader of the stream that it was built from, and whether arrays are tensors too.

    They are in a pickle of its own, where storages lie in byte strings, and in what `torch.save` wrote of arrays alone.
    """

    tree: Any
    read: Read
    arrays: bool = False

    def is_tensor(self, node: Any) -> bool:
        """Whether a node is listed as a tensor."""
        if not self.arrays or not isinstance(node, Call):
            return is_tensor(node)
        return is_of_numbers(node) or (function_name(node) or "").startswith("torch._utils._rebuild_")


def read_objects(path: Path, pickle: Pickle | None = None) -> Objects | None:
    """The tree of a pickle, alone or in a `torch.save` file; None for formats that store no objects besides tensors.

    Args:
        path: The file.
        pickle: Its pickle, if it was kept when the file was opened. It is then not read again.

    Raises:
        ConvInspectError: The file cannot be read.
    """
    if is_folder(path) or path.suffix == ".distcp":
        # Of a distributed checkpoint a file has pieces, each like a file of its own.
        return None
    with File(path) as file:
        if is_zip(file.read(0, 64)):
            archive = Archive(file)
            if "data.pkl" not in archive.records:
                return None
            tree = walked(archive) if pickle is None else pickle.tree
            return Objects(tree.value, reader(archive.read("data.pkl")), _is_of_arrays(tree))
        if is_legacy(file):
            tree = (pickle or pickles(file)).tree
            return Objects(tree.value, _stream_of(path), _is_of_arrays(tree))
        if not is_pickle(file):
            return None
        tree = walked_plain(file) if pickle is None else pickle.tree
        return Objects(without_parts(tree.value), _stream_of(path), True)


def _is_of_arrays(tree: Walk) -> bool:
    """Whether a pickle of `torch.save` holds arrays, and no tensor."""
    return not tree.persistent and holds_arrays(tree)


def _stream_of(path: Path) -> Read:
    def read(offset: int, size: int) -> bytes:
        with File(path) as file:
            return file.read(offset, size)

    return read


def is_tensor(node: Any) -> bool:
    """Whether a call rebuilds a tensor."""
    if not isinstance(node, Call):
        return False
    try:
        return tensor_of(node, "", no_storage) is not None
    except ConvInspectError:
        return False


def is_dict(node: Any) -> bool:
    """True for a dict or an OrderedDict, with or without the attributes that `state_dict()` sets."""
    if isinstance(node, Call):
        return isinstance(node.function, Global) and node.function.qualified == "collections.OrderedDict"
    return isinstance(node, Dict)


def pairs(node: Any) -> list[tuple[Any, Any]]:
    """A dictionary's items, including those that Python 2 passed to the call of OrderedDict."""
    return pairs_of(node) or []


def beside(objects: Objects, root: str, others: Iterable[str] = (), listed: Iterable[str] = ()) -> list[str]:
    """Dotted keys of the entries besides the tensors of a root, such as epochs and settings.

    Only the root's dictionary, those that enclose it, and those in it that hold some of its tensors are searched.

    Args:
        objects: The file's tree.
        root: Path of the root.
        others: Paths of other roots, which are not listed.
        listed: Dotted keys of the root's tensors, which may lie in dictionaries within its own.
    """
    found: list[tuple[str, Any]] = []
    node, path = objects.tree, ""
    prefixes = [f"{other_root}." for other_root in others]
    while is_dict(node):
        inner = None
        for key, value in pairs(node):
            place = f"{path}.{key}" if path else str(key)
            if place == root or root.startswith(f"{place}."):
                inner = (place, value)
            elif not (objects.is_tensor(value) or any(prefix.startswith(f"{place}.") for prefix in prefixes)):
                found.append((place, value))
        if inner is None:
            break
        path, node = inner
    return _without(found, set(listed), objects)


def _without(found: list[tuple[str, Any]], listed: set[str], objects: Objects) -> list[str]:
    """The keys that are not of tensors; of a dictionary that holds some of these, those of what else is in it."""
    dictionaries = any(is_dict(node) for _, node in found)
    holders = {key[:at] for key in listed for at, sign in enumerate(key) if sign == "."} if dictionaries else set()
    left, todo = [], found[::-1]
    while todo:
        key, node = todo.pop()
        if key in holders and is_dict(node):
            inner = [(f"{key}.{name}", value) for name, value in pairs(node) if not objects.is_tensor(value)]
            todo += reversed(inner)
        elif key not in listed:
            left.append(key)
    return left


def parameter_names(objects: Objects) -> set[str]:
    """Parameter names stored by optimizers (`param_names`, which an optimizer built of `named_parameters()` has)."""
    names: set[str] = set()
    seen: set[int] = set()
    todo = [objects.tree]
    while todo:
        node = todo.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if is_dict(node):
            todo += [value for key, value in pairs(node) if key != "param_names"]
            listed = next((value for key, value in pairs(node) if key == "param_names"), None)
            names |= {name for name in listed if isinstance(name, str)} if isinstance(listed, list) else set()
        elif isinstance(node, list):
            todo += node
    return names


def versions(objects: Objects, root: str) -> dict[str, dict[str, Any]] | None:
    """`_metadata` of a root's state_dict, by module; None if it is absent or holds anything but plain values."""
    node = node_at(objects.tree, root)
    states = node.states if isinstance(node, Call) and is_dict(node) else ()
    attributes = [pair for state in states if is_dict(state) for pair in pairs(state)]
    metadata: Any = next((value for key, value in attributes if key == "_metadata"), None)
    if not is_dict(metadata):
        return None
    by_module: dict[str, dict[str, Any]] = {}
    for name, facts in pairs(metadata):
        if not isinstance(name, str) or not is_dict(facts):
            return None
        try:
            by_module[name] = _plain(facts, 0)
        except TypeError:
            return None
    return by_module


def plain_values(objects: Objects, root: str) -> dict[str, Any]:
    """Plain values in a root's dictionary, by key: numbers, text, None, and lists, tuples and dictionaries of these."""
    node, values = node_at(objects.tree, root), dict[str, Any]()
    for key, value in pairs(node) if is_dict(node) else []:
        with suppress(TypeError):
            values[str(key)] = _plain(value, 0)
    return values


def _plain(node: Any, depth: int) -> Any:
    if isinstance(node, bool | int | float | str | None):
        return node
    if depth < _DEEPEST and isinstance(node, list | Tuple):
        kind, parts = (list, node) if isinstance(node, list) else (tuple, node.items)
        return kind(_plain(part, depth + 1) for part in parts)
    if depth < _DEEPEST and is_dict(node):
        return {_plain(key, depth + 1): _plain(value, depth + 1) for key, value in pairs(node)}
    raise TypeError("not a plain value")


def node_at(node: Any, root: str) -> Any:
    """The node of a tree at a dotted path; None if there is no such node."""
    while root and is_dict(node):
        step = next((key for key, _ in pairs(node) if root == str(key) or root.startswith(f"{key}.")), None)
        if step is None:
            return None
        node = next(value for key, value in pairs(node) if key == step)
        root = root[len(str(step)) + 1 :]
    return node
