"""What a `torch.save` file holds beside its tensors: values, names, versions. Nothing is run."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from convinspect.errors import ConvInspectError
from convinspect.formats.files import File
from convinspect.formats.pickle.machine import Read, reader
from convinspect.formats.pickle.record import Pickle
from convinspect.formats.pickle.values import Call, Dict, Global, Tuple
from convinspect.formats.torch.archive import walked
from convinspect.formats.torch.legacy import is_legacy, pickles
from convinspect.formats.torch.tensors import no_storage, pairs_of, tensor_of
from convinspect.formats.zip.archive import Archive
from convinspect.formats.zip.structures import is_zip

# How deep a value may stand in others and still be told as a plain one.
_DEEPEST = 4


class Objects(NamedTuple):
    """A file's tree, and what reads the stream that it was made of."""

    tree: Any
    read: Read


def read_objects(path: Path, pickle: Pickle | None = None) -> Objects | None:
    """The tree of a `torch.save` file of either age; None for containers that keep no objects beside tensors.

    Args:
        path: The file.
        pickle: Its pickle, where it was kept when the file was opened, which is then not read again.

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
            tree = walked(archive) if pickle is None else pickle.tree
            return Objects(tree.value, reader(archive.read("data.pkl")))
        if not is_legacy(file):
            return None
        return Objects((pickle or pickles(file)).tree.value, _stream_of(path))


def _stream_of(path: Path) -> Read:
    def read(offset: int, size: int) -> bytes:
        with File(path) as file:
            return file.read(offset, size)

    return read


def is_tensor(node: Any) -> bool:
    if not isinstance(node, Call):
        return False
    try:
        return tensor_of(node, "", no_storage) is not None
    except ConvInspectError:
        return False


def is_dict(node: Any) -> bool:
    """A dict, or an OrderedDict, with or without the attributes that `state_dict()` gives it."""
    if isinstance(node, Call):
        return isinstance(node.function, Global) and node.function.qualified == "collections.OrderedDict"
    return isinstance(node, Dict)


def pairs(node: Any) -> list[tuple[Any, Any]]:
    """A dictionary's items, also those that Python 2 gave the call that makes an OrderedDict."""
    return pairs_of(node) or []


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
    while is_dict(node):
        inner = None
        for key, value in pairs(node):
            place = f"{path}.{key}" if path else str(key)
            if place == root or root.startswith(f"{place}."):
                inner = (place, value)
            elif not (is_tensor(value) or any(way.startswith(f"{place}.") for way in ways)):
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
        if is_dict(node):
            todo += [value for key, value in pairs(node) if key != "param_names"]
            listed = next((value for key, value in pairs(node) if key == "param_names"), None)
            found |= {one for one in listed if isinstance(one, str)} if isinstance(listed, list) else set()
        elif isinstance(node, list):
            todo += node
    return found


def versions(objects: Objects, root: str) -> dict[str, dict[str, Any]] | None:
    """`_metadata` of a root's state_dict, by module; None where there is none, or it holds more than plain values."""
    node = _at(objects.tree, root)
    states = node.states if isinstance(node, Call) and is_dict(node) else ()
    attributes = [pair for state in states if is_dict(state) for pair in pairs(state)]
    kept: Any = next((value for key, value in attributes if key == "_metadata"), None)
    if not is_dict(kept):
        return None
    found: dict[str, dict[str, Any]] = {}
    for name, facts in pairs(kept):
        if not isinstance(name, str) or not is_dict(facts):
            return None
        try:
            found[name] = _plain(facts, 0)
        except TypeError:
            return None
    return found


def plain_values(objects: Objects, root: str) -> dict[str, Any]:
    """Numbers, text, None, and lists, tuples and dictionaries of these, that stand in a root's dictionary, by key."""
    node, found = _at(objects.tree, root), dict[str, Any]()
    for key, value in pairs(node) if is_dict(node) else []:
        with suppress(TypeError):
            found[str(key)] = _plain(value, 0)
    return found


def _plain(node: Any, depth: int) -> Any:
    if isinstance(node, bool | int | float | str | None):
        return node
    if depth < _DEEPEST and isinstance(node, list | Tuple):
        kind, parts = (list, node) if isinstance(node, list) else (tuple, node.items)
        return kind(_plain(one, depth + 1) for one in parts)
    if depth < _DEEPEST and is_dict(node):
        return {_plain(key, depth + 1): _plain(value, depth + 1) for key, value in pairs(node)}
    raise TypeError("not a plain value")


def _at(node: Any, root: str) -> Any:
    """The node at dotted keys; None where there is none."""
    while root and is_dict(node):
        step = next((key for key, _ in pairs(node) if root == str(key) or root.startswith(f"{key}.")), None)
        if step is None:
            return None
        node = next(value for key, value in pairs(node) if key == step)
        root = root[len(str(step)) + 1 :]
    return node
