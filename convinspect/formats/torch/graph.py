"""What the graph of a `.pt2` says of its modules: an operator's literal arguments are its layer's hyperparameters.

A node's `nn_module_stack` names the modules in whose `forward` it was recorded. It tells which of several layers that
share a weight a call belongs to (the graph passes one of their names to all calls), and whether a pad before a
convolution is the layer's own. Operator defaults are those of PyTorch's `native_functions.yaml`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from convinspect.formats.torch.calls import PADS, Call, merged, same_kind, with_pad
from convinspect.records import Module, Tensor, bytes_of

_CONVOLUTION_DEFAULTS = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
_TRANSPOSED_DEFAULTS = {**_CONVOLUTION_DEFAULTS, "output_padding": 0}
_KINDS = {
    "linear": "Linear", "embedding": "Embedding", "batch_norm": "BatchNorm", "layer_norm": "LayerNorm",
    "group_norm": "GroupNorm", "native_layer_norm": "LayerNorm", "native_group_norm": "GroupNorm",
    "conv1d": "Conv1d", "conv2d": "Conv2d", "conv3d": "Conv3d",
    "conv_transpose1d": "ConvTranspose1d", "conv_transpose2d": "ConvTranspose2d",
    "conv_transpose3d": "ConvTranspose3d", "_native_batch_norm_legit_no_training": "BatchNorm",
}  # fmt: skip
_LINEAR = "torch.nn.modules.linear.Linear"
_CONV = "torch.nn.modules.conv."
_TURNS = frozenset({"permute", "t", "transpose", "numpy_T", "mT"})
"""How a decomposed Linear begins: it turns its weight over, to multiply with it."""
_SAME_NUMBERS = frozenset({"_to_copy", "to", "alias", "clone", "contiguous", "detach", "squeeze", "unsqueeze", "view"})
"""What may stand between a layer's input and its convolution, such as the unsqueezing of an unbatched input."""
_MOST_STEPS = 16
_PUTS_TOGETHER = frozenset({"index", "_unsafe_index", "slice_scatter", "select_scatter", "cat", "copy"})
"""Of what decomposed pads consist; in a class that is not PyTorch's they may be anything else too."""


class _Place(NamedTuple):
    """Where a node was recorded.

    Attributes:
        stack: The innermost module's entry in the stack, which differs for each call of that module.
        path: The module's name; None if the graph does not tell.
        class_name: The module's class.
    """

    stack: str
    path: str | None
    class_name: str


class _Graph(NamedTuple):
    """A graph's names.

    Attributes:
        keys: Graph input name → state_dict key.
        tensors: Weights by state_dict key.
        ties: Owners of all weights over the same bytes, by key, for those that share them.
        makers: The node that makes each value, by the value's name.
        values: What the graph says of each tensor, such as its sizes, by its name.
    """

    keys: Mapping[str, str]
    tensors: Mapping[str, Tensor]
    ties: Mapping[str, tuple[str, ...]]
    makers: Mapping[str, dict[str, Any]]
    values: Mapping[str, Any]

    def owners(self, key: str) -> tuple[str, ...]:
        return self.ties.get(key) or (key.rpartition(".")[0],)


def graph_modules(graph: dict[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Module]:
    """The modules whose weights the graph's operators use, by name; empty if the graph is malformed.

    Args:
        graph: The parsed JSON.
        tensors: The archive's weights by state_dict key.
    """
    try:
        module = graph["graph_module"]
        nodes = module["graph"]["nodes"]
        found = _Graph(
            _parameter_keys(module["signature"]["input_specs"]),
            tensors,
            _ties(tensors),
            dict(_made_by(nodes)),
            module["graph"].get("tensor_values") or {},
        )
        return _modules(nodes, found)
    except (KeyError, TypeError, ValueError, AttributeError):
        # The tensors can still be listed by their shapes.
        return {}


def _parameter_keys(specs: list[dict[str, Any]]) -> dict[str, str]:
    """Graph input name → state_dict key."""
    keys: dict[str, str] = {}
    for spec in specs:
        for kind, name in (("parameter", "parameter_name"), ("buffer", "buffer_name")):
            if kind in spec:
                keys[spec[kind]["arg"]["name"]] = spec[kind][name]
    return keys


def _ties(tensors: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
    same: dict[tuple[object, ...], list[str]] = defaultdict(list)
    for key, tensor in tensors.items():
        where = bytes_of(tensor)
        if where is not None and key.rpartition(".")[2] == "weight":
            same[where].append(key)
    tied = (keys for keys in same.values() if len(keys) > 1)
    return {key: tuple(one.rpartition(".")[0] for one in keys) for keys in tied for key in keys}


def _made_by(nodes: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for node in nodes:
        for output in node.get("outputs") or ():
            if isinstance(output, dict) and isinstance(output.get("as_tensor"), dict):
                yield output["as_tensor"]["name"], node


def _modules(nodes: list[dict[str, Any]], graph: _Graph) -> dict[str, Module]:
    calls: dict[tuple[str, ...], list[tuple[str | None, Call]]] = defaultdict(list)
    for node in nodes:
        used = _call(node, graph)
        if used is not None:
            owners, path, call = used
            calls[owners].append((path, call))
    modules = (_module(owner, owners, found) for owners, found in calls.items() for owner in owners)
    return {module.name: module for module in modules if module is not None}


def _module(owner: str, owners: tuple[str, ...], calls: list[tuple[str | None, Call]]) -> Module | None:
    """A module by the calls with its weight.

    Args:
        owner: Its name.
        owners: Names of all modules that share the weight.
        calls: All calls with that weight, each with the module in which it was recorded.
    """
    mine = [call for path, call in calls if path == owner]
    outside = [call for path, call in calls if path not in owners]
    of = mine or outside or [call for _, call in calls]
    if not same_kind(of):
        return None
    settings, differ = merged(of)
    if differ or any((call.kind, call.settings) != (of[0].kind, of[0].settings) for call in outside):
        settings["calls"] = "differ"
    return Module(owner, of[0].class_name, settings)


def _call(node: dict[str, Any], graph: _Graph) -> tuple[tuple[str, ...], str | None, Call] | None:
    """The layers whose weight an operator is given, the module in which it was recorded, and the call; None for other
    operators and tensors.
    """
    operator = _operator(node)
    values = {argument["name"]: argument["arg"] for argument in node["inputs"]}
    place = _place(node)
    if operator in _TURNS:
        weight = graph.keys.get(_tensor_name(values.get("self")), "")
        linear = place.class_name == _LINEAR and weight in graph.tensors and weight.endswith("weight")
        return (graph.owners(weight), place.path, Call("Linear", {}, _LINEAR)) if linear else None
    key = graph.keys.get(_tensor_name(values.get("weight")), "")
    if key not in graph.tensors or not key.endswith("weight"):
        return None
    kind = _KINDS.get(operator)
    dims = len(graph.tensors[key].shape) - 2
    if operator == "convolution" and 1 <= dims <= 3:
        transposed = bool(values.get("transposed", {}).get("as_bool"))
        kind = f"Conv{'Transpose' if transposed else ''}{dims}d"
    if kind is None:
        return None
    settings: dict[str, Any] = {}
    if kind.startswith("Conv"):
        defaults = _TRANSPOSED_DEFAULTS if "Transpose" in kind else _CONVOLUTION_DEFAULTS
        for name, default in defaults.items():
            value = _literal(values.get(name), default)
            settings[name] = value if name == "groups" or isinstance(value, str) else _per_dimension(value, dims)
        settings = _padded(settings, _tensor_name(values.get("input")), place, dims, graph)
    known = place.class_name.startswith("torch.nn.") and place.class_name.rpartition(".")[2].startswith(kind)
    return graph.owners(key), place.path, Call(kind, settings, place.class_name if known else f"torch.ops.aten.{kind}")


def _padded(settings: dict[str, Any], name: str, place: _Place, dims: int, graph: _Graph) -> dict[str, Any]:
    """A convolution's settings with the padding of its input, where that is part of the same module or may be.

    Args:
        settings: Of the convolution's call.
        name: Its input.
        place: Where the call was recorded.
        dims: Dimensions of its kernel.
        graph: The graph's names.
    """
    for _ in range(_MOST_STEPS):
        node = graph.makers.get(name)
        if node is None or _place(node).stack != place.stack:
            return settings
        operator = _operator(node)
        values = {argument["name"]: argument["arg"] for argument in node["inputs"]}
        if operator in PADS:
            amounts = next((value for key, value in values.items() if key in ("pad", "padding")), None)
            mode = _literal(values.get("mode"), 0) or None
            return with_pad(settings, _literal(amounts, 0), mode, dims, place.path is not None)
        if operator not in _SAME_NUMBERS:
            # PyTorch's own convolutions do nothing to their input but pad it.
            known = place.class_name.startswith(_CONV)
            pads = operator in _PUTS_TOGETHER or (known and operator not in ("convolution", *_KINDS))
            amounts = _growth(name, place, dims, graph) if known and pads else None
            return with_pad(settings, amounts, None, dims, known) if pads else settings
        name = _tensor_name(values.get("self"))
    return settings


def _growth(name: str, place: _Place, dims: int, graph: _Graph) -> tuple[int, ...] | None:
    """How much is padded in front and behind, the last dimension first, by what a pad was decomposed to.

    The sizes before and after tell their sum, and PyTorch's own convolutions pad as much in front as behind.

    Args:
        name: The convolution's input.
        place: Where the convolution was recorded.
        dims: Dimensions of its kernel.
        graph: The graph's names.

    Returns:
        None if the sizes are not fixed, do not tell, or the module takes more than one tensor.
    """
    outside: dict[str, None] = {}
    seen, todo = {name}, [name]
    while todo and len(seen) < _MOST_VALUES:
        node = graph.makers.get(last := todo.pop())
        if node is None or _place(node).stack != place.stack:
            outside[last] = None
            continue
        found = [_tensor_name(argument["arg"]) for argument in node["inputs"]]
        todo += [one for one in found if one and one not in seen]
        seen.update(found)
    if todo or len(outside) != 1:
        return None
    before, after = (_sizes(graph.values.get(one), dims) for one in (*outside, name))
    if before is None or after is None or any((new - old) % 2 for old, new in zip(before, after, strict=True)):
        return None
    halves = [(new - old) // 2 for old, new in zip(before, after, strict=True)]
    return tuple(half for half in reversed(halves) for _ in range(2))


_MOST_VALUES = 200


def _sizes(value: Any, dims: int) -> list[int] | None:
    """A tensor's last sizes; None if they are not all fixed."""
    sizes = [size.get("as_int") for size in value["sizes"]][-dims:] if isinstance(value, dict) else []
    return sizes if len(sizes) == dims and all(type(size) is int for size in sizes) else None


def _operator(node: dict[str, Any]) -> str:
    return str(node["target"]).removeprefix("torch.ops.aten.").partition(".")[0]


def _tensor_name(argument: Any) -> str:
    tensor = argument.get("as_tensor") if isinstance(argument, dict) else None
    return str(tensor["name"]) if isinstance(tensor, dict) else ""


def _place(node: dict[str, Any]) -> _Place:
    """Where a node was recorded; `nn_module_stack` is a text: "key,path,class" for each level, joined by ";"."""
    stack = str((node.get("metadata") or {}).get("nn_module_stack") or "").rpartition(";")[2]
    parts = stack.split(",")
    if len(parts) < 3:
        return _Place("", None, "")
    return _Place(stack, parts[1], parts[-1])


def _literal(argument: dict[str, Any] | None, default: int) -> Any:
    if argument is None:
        return default
    kind, value = next(iter(argument.items()))
    return tuple(value) if kind == "as_ints" else value


def _per_dimension(value: Any, dims: int) -> tuple[int, ...]:
    values = value if isinstance(value, tuple) else (value,)
    return values * dims if len(values) == 1 else values
