"""Finds the roots in a pickle's tree: dictionaries of tensors and modules, at any depth.

A root is a dictionary that holds tensors directly, or a module. Dictionaries of a single layer each
(`{"conv1": {"weight": …, "bias": …}, …}`) are not roots; their parent is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from convinspect.errors import RefusedFile
from convinspect.formats.pickle.machine import Walk
from convinspect.formats.pickle.values import Call, Dict, Set, Tuple
from convinspect.formats.torch.attributes import built_class, plain_attributes, plain_or_none, state_dicts
from convinspect.formats.torch.attributes import state_of as state_of
from convinspect.formats.torch.native import convolution_state, is_native, stored_in
from convinspect.formats.torch.nodes import arguments, function_name, pairs_of
from convinspect.formats.torch.others import is_nested, other_of, others_beside, without_tensors
from convinspect.formats.torch.param_groups import Groups, flattened, groups_of
from convinspect.formats.torch.tensors import StorageOf, tensor_of
from convinspect.keys.others import Other, Value
from convinspect.records import Module, Root, Tensor

Path = tuple[str, ...]

_DEEPEST = 200
_SCRIPT = "__torch__."
_FX = {"torch.fx.graph_module.reduce_graph_module", "torch.fx.graph_module.reduce_package_graph_module"}


class _Scan(NamedTuple):
    """The result of a scan.

    Attributes:
        tensors: Tensors by the path of their container, in stored order.
        modules: Modules by their name, by the path of the outermost module.
        optimizers: What the `param_groups` say, by the optimizer's path.
        nodes: Every container that was searched, by its path.
        shapeless: What modules keep that has no shape yet, by the path of the outermost module.
    """

    tensors: dict[Path, list[Tensor]]
    modules: dict[Path, dict[str, Module]]
    optimizers: dict[Path, Groups]
    nodes: dict[Path, Any]
    shapeless: dict[Path, list[Other]]


def find_roots(walked: Walk, storage_of: StorageOf) -> tuple[Root, ...]:
    """All roots of the tree, in stored order.

    Args:
        walked: The pickle.
        storage_of: Returns the storage of a key.

    Raises:
        RefusedFile: Containers are referred to so often that following all references could take forever.
        BrokenFile: A tensor's description is malformed.
    """
    # Two models may share containers, so that a tree refers to some of them twice. A hostile tree does so thousands
    # of times; the limits allow the former only.
    scan = _scan(walked.value, storage_of, 10_000 + 4 * walked.steps, 20_000 + 4 * len(walked.persistent))
    return tuple(_roots(scan))


def _scan(tree: Any, storage_of: StorageOf, budget: int, most_tensors: int) -> _Scan:
    """Search the tree depth first, in stored order, without recursion.

    A container inside itself is skipped, and so is one that was searched before without finding a tensor.

    Args:
        tree: The pickle's value.
        storage_of: Returns the storage of a key.
        budget: Nodes to visit at most.
        most_tensors: Tensors to list at most.

    Raises:
        RefusedFile: A limit is exceeded.
    """
    scan = _Scan({}, {}, {}, {}, {})
    above: set[int] = set()
    barren: set[int] = set()
    tensors = 0
    levels: list[tuple[Path, Any, Iterator[tuple[str, Any]], int]] = [((), None, iter([("", tree)]), 0)]
    while levels:
        holder_path, holder, children, before = levels[-1]
        item = next(children, None)
        if item is None:
            levels.pop()
            above.discard(id(holder))
            if tensors == before and len(levels) < _DEEPEST:
                barren.add(id(holder))
            continue
        budget -= 1
        name, node = item
        if budget < 0 or tensors > most_tensors:
            raise RefusedFile(
                "its pickle refers to the same parts over and over, more often than any checkpoint does",
                "do not load it elsewhere either",
            )
        if id(node) in above or id(node) in barren or len(levels) > _DEEPEST or is_nested(node):
            continue
        container = holder_path
        if isinstance(holder, Tuple) and holder_path:
            # A tuple is one value of several parts, such as weight and bias of a quantized layer. It adds no level.
            container, name = holder_path[:-1], f"{holder_path[-1]}.{name}"
        tensor = tensor_of(node, name, storage_of)
        if tensor is not None:
            scan.tensors.setdefault(container, []).append(tensor)
            tensors += 1
            continue
        if is_native(node):
            found = [tensor_of(part, key, storage_of) for key, part in stored_in(name, node)]
            scan.tensors.setdefault(container, []).extend(tensor for tensor in found if tensor is not None)
            tensors += len(found)
            continue
        path = (*container, name) if len(levels) > 1 else ()
        parts = module_parts(node)
        if parts is not None:
            module_tensors, modules, shapeless = _flattened(parts, storage_of)
            scan.tensors.setdefault(path, []).extend(module_tensors)
            scan.modules.setdefault(path, {}).update(modules)
            if shapeless:
                scan.shapeless.setdefault(path, []).extend(shapeless)
            tensors += len(module_tensors)
            continue
        groups = _param_groups(node)
        if groups is not None:
            scan.optimizers[path] = groups_of(*groups)
        above.add(id(node))
        scan.nodes.setdefault(path, node)
        pairs = pairs_of(node)
        plain = _plain_tensors(pairs or (), storage_of) if type(node) is Dict else []
        if plain:
            scan.tensors.setdefault(path, []).extend(plain)
        levels.append((path, node, _children(node, pairs, len(plain)), tensors))
        tensors, budget = tensors + len(plain), budget - len(plain)
    return scan


def _plain_tensors(pairs: Iterable[tuple[Any, Any]], storage_of: StorageOf) -> list[Tensor]:
    """The tensors that a dictionary begins with, as long as each is rebuilt by the usual instructions.

    That is nearly all there is in a large file, and nothing that would have to be followed.
    """
    tensors: list[Tensor] = []
    for key, value in pairs:
        if type(value) is not Call or value.plain is None or not isinstance(key, str):
            break
        tensor = tensor_of(value, key, storage_of)
        if tensor is None:
            break
        tensors.append(tensor)
    return tensors


_MOST_OF_AN_OPTIMIZER = 100
"""Keys of an optimizer's state_dict, of which PyTorch has two."""


def _param_groups(node: Any) -> tuple[Any, Any] | None:
    """`param_groups` and `state` of an optimizer's state_dict, or of an optimizer pickled whole; None for all else."""
    if type(node) is Dict and len(node.pairs) >= _MOST_OF_AN_OPTIMIZER:
        return None
    mappings = [pairs_of(node) or [], *state_dicts(node)] if isinstance(node, Call) else [pairs_of(node) or []]
    for pairs in mappings:
        named = (
            dict(pair for pair in pairs if pair[0] in ("state", "param_groups"))
            if len(pairs) < _MOST_OF_AN_OPTIMIZER
            else {}
        )
        if len(named) == 2:
            return named["param_groups"], named["state"]
    return None


_CONTAINERS = {Dict, Call, Tuple, Set, list}


def _children(node: Any, pairs: Sequence[tuple[Any, Any]] | None, first: int) -> Iterator[tuple[str, Any]]:
    """The containers in a container, each with its name in a path; of its pairs those from `first` on."""
    for index, (key, value) in islice(enumerate(pairs or ()), first, None):
        if _may_hold(value):
            yield (str(key) if isinstance(key, (str, int)) else str(index)), value
    if isinstance(node, (list, Tuple, Set)):
        yield from _numbered(node if isinstance(node, list) else node.items)
    elif isinstance(node, Call):
        if pairs is None:
            yield from _numbered(arguments(node))
        yield from _numbered(node.items)
        for state in state_dicts(node):
            yield from ((str(key), value) for key, value in state if key != "_metadata" and _may_hold(value))


def _numbered(items: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    return ((str(index), item) for index, item in enumerate(items) if _may_hold(item))


def _may_hold(node: Any) -> bool:
    """Whether the node may hold a tensor: it is a call, or a container that is not empty."""
    kind = type(node)
    if kind is Call:
        return True
    if kind is Dict:
        return bool(node.pairs)
    return bool(node if kind is list else node.items) if kind in _CONTAINERS else False


class Parts(NamedTuple):
    """A module's own tensors and children, as the pickle stores them."""

    class_name: str
    tensors: tuple[tuple[str, Any], ...]
    modules: tuple[tuple[str, Any], ...]
    attributes: dict[str, Any]


def module_parts(node: Any) -> Parts | None:
    """The parts of a pickled `nn.Module`, a TorchScript object or an FX graph module; None for anything else."""
    if not isinstance(node, Call):
        return None
    name = function_name(node) or ""
    state = state_of(node)
    if name in _FX:
        body = pairs_of(arguments(node)[0]) if arguments(node) else None
        state = {str(key): value for key, value in body or ()} | state
    if not state:
        state = convolution_state(node)
        if state:
            return _script_parts(built_class(node), state)
    if name.startswith(_SCRIPT):
        return _script_parts(name, state)
    if "_modules" not in state or not ("_parameters" in state or "_buffers" in state):
        return None
    hidden = {plain_or_none(item) for item in _listed(state.get("_non_persistent_buffers_set"))}
    tensors = [*_named(state.get("_parameters")), *_named(state.get("_buffers"))]
    for key, value in state.items():
        if is_native(value):
            tensors += stored_in(key, value)
    return Parts(
        built_class(node),
        tuple((key, value) for key, value in tensors if value is not None and key not in hidden),
        tuple((key, value) for key, value in _named(state.get("_modules")) if value is not None),
        plain_attributes(state),
    )


def _script_parts(name: str, state: dict[str, Any]) -> Parts:
    """The parts of a TorchScript object, which keeps tensors, children and other attributes in one dictionary."""
    modules: list[tuple[str, Any]] = []
    tensors: list[tuple[str, Any]] = []
    for key, value in state.items():
        called = function_name(value) or ""
        if is_native(value):
            tensors += stored_in(key, value)
        elif called.startswith(_SCRIPT):
            modules.append((key, value))
        elif isinstance(value, Call):
            tensors.append((key, value))
    return Parts(name, tuple(tensors), tuple(modules), plain_attributes(state))


def _named(node: Any) -> list[tuple[str, Any]]:
    return [(str(key), value) for key, value in pairs_of(node) or []]


def _listed(node: Any) -> list[Any]:
    """Members of a set. Protocol 2 writes a set as the call `set([…])`."""
    if isinstance(node, Set):
        return node.items
    first = arguments(node)[:1] if isinstance(node, Call) else []
    return first[0] if first and isinstance(first[0], list) else []


def _flattened(parts: Parts, storage_of: StorageOf) -> tuple[list[Tensor], dict[str, Module], list[Other]]:
    """All tensors of a module tree with dotted keys, all its modules by their dotted names, and what has no shape."""
    tensors: list[Tensor] = []
    shapeless: list[Other] = []
    modules: dict[str, Module] = {}
    todo: list[tuple[str, Parts, int]] = [("", parts, 0)]
    while todo:
        name, part, depth = todo.pop()
        modules[name] = Module(name, part.class_name, part.attributes)
        prefix = f"{name}." if name else ""
        for key, node in part.tensors:
            tensor = tensor_of(node, prefix + key, storage_of)
            if tensor is not None:
                tensors.append(tensor)
            elif (other := other_of(prefix + key, node)).value is not Value.OBJECT:
                shapeless.append(other)
        children = []
        for key, node in part.modules:
            child = module_parts(node)
            # A module registered under two names is listed under both. The limits stop at a module inside itself.
            if child is not None and depth < _DEEPEST and len(modules) < 100_000:
                children.append((prefix + key, child, depth + 1))
        todo.extend(reversed(children))
    return tensors, modules, shapeless


def _roots(scan: _Scan) -> Iterator[Root]:
    merged = _merge_single_layers(scan)
    done: set[Path] = set()
    for path in merged:
        optimizer = next((o for o in scan.optimizers if path[: len(o)] == o), None)
        at = optimizer if optimizer is not None else path
        if at in done:
            continue
        done.add(at)
        tensors = _below(merged, at) if optimizer is not None else merged[path]
        # Dictionaries that were merged are together no state_dict.
        others = others_beside(scan.nodes.get(path), tensors) if tensors == scan.tensors.get(path) else ()
        others = (*others, *scan.shapeless.get(path, ()))
        groups = scan.optimizers.get(at) or flattened(tensors, others)
        yield Root(
            ".".join(at),
            _role(at, tensors, groups is not None),
            tuple(tensors),
            scan.modules.get(path, {}),
            groups.ids if groups else None,
            groups.names if groups else None,
            others,
            groups.keyed_by if groups else None,
            groups.keys if groups else frozenset(),
            groups.lost if groups else False,
        )
    if not merged:
        for path, shapeless in scan.shapeless.items():
            yield Root(".".join(path), "model", (), scan.modules[path], others=tuple(shapeless))
        yield from without_tensors(scan.nodes)


def _below(containers: dict[Path, list[Tensor]], at: Path) -> list[Tensor]:
    """All tensors below `at`, with keys relative to it."""
    return [
        tensor._replace(key=".".join((*path[len(at) :], tensor.key)))
        for path, tensors in containers.items()
        if path[: len(at)] == at
        for tensor in tensors
    ]


_WHOLE_NAMES = ("state_dict", "model", "net", "ema", "generator", "discriminator", "module")
_LAYER_PARTS = {
    "weight", "bias", "running_mean", "running_var", "num_batches_tracked", "weight_g", "weight_v",
}  # fmt: skip


def _merge_single_layers(scan: _Scan) -> dict[Path, list[Tensor]]:
    """The tensors by container, with single-layer containers merged into a parent that has at least two of them."""
    counts: dict[Path, int] = {}
    for path, tensors in scan.tensors.items():
        if _is_single_layer(path, tensors, scan):
            counts[path[:-1]] = counts.get(path[:-1], 0) + 1
    merged: dict[Path, list[Tensor]] = {}
    for path, tensors in scan.tensors.items():
        if counts.get(path[:-1], 0) > 1 and _is_single_layer(path, tensors, scan):
            moved = [tensor._replace(key=f"{path[-1]}.{tensor.key}") for tensor in tensors]
            merged.setdefault(path[:-1], []).extend(moved)
        else:
            merged.setdefault(path, []).extend(tensors)
    return merged


def _is_single_layer(path: Path, tensors: list[Tensor], scan: _Scan) -> bool:
    return (
        bool(path)
        and path not in scan.modules
        and not any(path[: len(o)] == o for o in scan.optimizers)
        and not path[-1].lower().startswith(_WHOLE_NAMES)
        and all(tensor.key in _LAYER_PARTS for tensor in tensors)
    )


def _role(path: Path, tensors: list[Tensor], optimizer: bool) -> str:
    """The role of a root, guessed from its path; "other" if none of its tensors could be a weight."""
    if optimizer or any("optimizer" in part.lower() for part in path):
        return "optimizer"
    if not any(len(tensor.shape) >= 2 for tensor in tensors) and path:
        return "other"
    named_ema = any("ema" in part.lower().split("_") or "shadow" in part.lower() for part in path)
    # Lightning's weight averaging saves the average as `state_dict`, and the current weights under this name.
    named_ema = named_ema or path[-1:] == ("current_model_state",)
    # torch.optim.swa_utils.AveragedModel keeps it beside the averaged module.
    named_ema = named_ema or (bool(path) and any(tensor.key == "n_averaged" for tensor in tensors))
    return "ema" if named_ema or (path and path[-1].lower().endswith("ema")) else "model"
