"""Select layers by names, globs and kinds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from convinspect.errors import CannotShow, NotThere, Option, Wording
from convinspect.keys.wrappers import join_key
from convinspect.kinds import CONV_TRANSPOSES, CONVOLUTIONS, LISTED
from convinspect.records import Doubt, Layer
from convinspect.text import closest, first_few, plural


def select(
    layers: Sequence[Layer],
    names: str | Iterable[str] = (),
    kinds: str | Iterable[str] = (),
    pointwise: bool = False,
    everything: bool = False,
) -> list[Layer]:
    """The layers that a user asked for, in stored order.

    Args:
        layers: All layers of a checkpoint.
        names: Names or globs, one or several; with or without a wrapper's prefix; a tensor's key means its layer. None:
            all.
        kinds: One or several kinds, case-insensitive, globs allowed ("conv*").
        pointwise: Only convolutions of kernel size 1.
        everything: Also layers that are neither convolution nor Linear.

    Raises:
        NotThere: A name or kind matches nothing; the message gives the closest ones.
    """
    names, kinds = ([each] if isinstance(each, str) else list(each) for each in (names, kinds))
    chosen = _named(layers, names)
    wanted = [kind.lower() for kind in kinds]
    for kind in wanted:
        if not any(fnmatchcase(layer.kind.lower(), kind) for layer in layers):
            held = ", ".join(dict.fromkeys(layer.kind for layer in layers))
            raise NotThere(f"no layer is of kind {kind!r}", f"the kinds are: {held}")
    if wanted:
        chosen = [layer for layer in chosen if any(fnmatchcase(layer.kind.lower(), kind) for kind in wanted)]
    elif not everything and not names:
        chosen = [layer for layer in chosen if layer.kind in LISTED]
    return [layer for layer in chosen if layer.pointwise] if pointwise else chosen


def as_transposed(layer: Layer, kinds: Sequence[str], to: str = "Linear") -> Layer:
    """A pointwise convolution by its shape as the transposed one of the same shape, if one of these kinds is it.

    Args:
        layer: One that the user named.
        kinds: Kinds that the user named.
        to: The kind that it is to become. One that has it already is turned only where no other kinds are named.
    """
    if layer.kind == to and not set(kinds) <= set(CONV_TRANSPOSES):
        return layer
    kind = layer.kind.replace("Conv", "ConvTranspose", 1)
    first, second = layer.weight.shape[:2] if len(layer.weight.shape) > 2 else (0, 1)
    alike = layer.bias is None or first == second
    known = layer.evidence == "module" or layer.layout is not None or layer.kind in kinds
    if kind not in kinds or layer.kind not in CONVOLUTIONS or known or not alike:
        return layer
    doubts = tuple(doubt for doubt in layer.doubts if doubt is not Doubt.MAY_BE_CONV_TRANSPOSE)
    return layer._replace(kind=kind, in_width=first, out_width=second, doubts=doubts)


def _named(layers: Sequence[Layer], patterns: list[str]) -> list[Layer]:
    if not patterns:
        return list(layers)
    called: dict[str, list[int]] = {}
    for index, layer in enumerate(layers):
        for name in _names(layer):
            called.setdefault(name, []).append(index)
    chosen: set[int] = set()
    for pattern in patterns:
        # A name may contain glob characters, and then matches only itself.
        found = called.get(pattern) or [index for index, layer in enumerate(layers) if _matches(layer, pattern)]
        if not found:
            raise NotThere(f"no layer matches {pattern!r}", _what_would(layers, pattern))
        chosen.update(found)
    return [layers[index] for index in sorted(chosen)]


def _what_would(layers: Sequence[Layer], pattern: str) -> str:
    """What matches instead of a pattern that nothing does: the names that hold it, else those like it."""
    holding = f"*{pattern}*"
    found = [] if _GLOB.search(pattern) else [layer.name for layer in layers if _matches(layer, holding)]
    if not found:
        return _like(layers, pattern)
    return Wording(Option("layer", holding), f" matches {plural(len(found), 'layer')}: {first_few(found, 3)}")


def _like(layers: Sequence[Layer], name: str) -> str:
    return closest(name, [layer.name or "(root)" for layer in layers])


_GLOB = re.compile(r"[*?\[]")


def select_one(layers: Sequence[Layer], name: str) -> Layer:
    """The one layer that a name or glob means.

    Raises:
        NotThere: It matches nothing.
        CannotShow: It matches several.
    """
    try:
        chosen = select(layers, [name])
    except NotThere as error:
        raise NotThere(error.problem, _like(layers, name)) from None
    if len(chosen) > 1:
        raise CannotShow(f"{name!r} means {len(chosen)} layers", f"name one, such as {chosen[0].name}")
    return chosen[0]


def exactly_named(layers: Iterable[Layer], names: Iterable[str]) -> frozenset[str]:
    """Names of the layers that the user gave by name, and not by a glob that matches them."""
    given = frozenset(names)
    return frozenset(layer.name for layer in layers if given and not given.isdisjoint(_names(layer)))


def as_linear(layer: Layer) -> Layer:
    """A layer that the user gives by name: what only its name calls an Embedding (N, D) is then a Linear.

    Its class, where the file records it, is not overruled.
    """
    is_guess = layer.kind == "Embedding" and layer.evidence != "module"
    return layer._replace(kind="Linear") if is_guess else layer


def _names(layer: Layer) -> set[str]:
    """All names of a layer: its name and its tensors' keys, each as shown and as stored."""
    names = {layer.name, _stored_name(layer)}
    for leaf, tensor in layer.tensors.items():
        names |= {tensor.key, join_key(layer.name, leaf) if leaf else layer.name}
    return names if layer.name else names | {"(root)", "."}


def _matches(layer: Layer, pattern: str) -> bool:
    return fnmatchcase(layer.name, pattern) or fnmatchcase(_stored_name(layer), pattern)


def _stored_name(layer: Layer) -> str:
    """The name with the wrappers' prefixes in the file, so that patterns may be copied from there."""
    leaf, tensor = next(iter(layer.tensors.items()))
    return tensor.key.removesuffix(f".{leaf}" if leaf else "")
