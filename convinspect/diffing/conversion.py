"""What `convert` with `like=B` would do to A, tensor by tensor, without a look at every layer."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from convinspect.checkpoint import Checkpoint
from convinspect.converting.like import other_layout, plan_like, square_turned
from convinspect.converting.plan import Plan, Refusal
from convinspect.converting.relations import Order
from convinspect.layers.context import Group, may_lie_in_out
from convinspect.layers.find import find_layers, grouped
from convinspect.layouts import in_torch_order, is_turned, torch_order
from convinspect.records import Layer, Tensor


class ByLayer(NamedTuple):
    """What `convert` with `like=B` would do to A; keys are the ids of A's tensors.

    Attributes:
        turned: Square weights that are stored transposed in B.
        layers: Names of the layers that would be converted.
        refusals: Of layers that would be left unchanged.
        orders: Of those in other layouts, the order of A's axes that gives B's, where it is known.
        seen: Convolutions' weights of both in other libraries' layouts, in PyTorch's order of axes.
        foreign: Of A's weights whose layout is not B's, how they differ.
        squares: Names of the layers of A's square weights that may be stored transposed, as others of A are.
    """

    turned: set[int]
    layers: dict[int, str]
    refusals: dict[int, Refusal]
    orders: dict[int, Order]
    seen: dict[int, Tensor]
    foreign: dict[int, str]
    squares: dict[int, str]

    @property
    def touched(self) -> set[int]:
        """Tensors that are more than alike or different."""
        return {*self.turned, *self.layers, *self.refusals, *self.seen, *self.foreign, *self.squares}


Pairs: TypeAlias = Sequence[tuple[Tensor, Tensor]]

MANY = 1_000
"""From so many modules on, of those that are alike one is looked at."""


def conversion_of(a: Checkpoint, b: Checkpoint, pairs: Pairs) -> ByLayer:
    """What `convert` with `like=b` would do to `a`.

    Args:
        a: The checkpoint that is to be loaded.
        b: One that loads.
        pairs: Their tensors of one name.
    """
    relevant = _relevant_tensors((a, b), pairs)
    if not relevant:
        return ByLayer(set(), {}, {}, {}, {}, {}, {})
    sides = _Sides(a, b, pairs, grouped(a.tensors), grouped(b.tensors))
    classes = _alike_groups(sides, relevant) if len(relevant) > 2 * MANY else []
    if not classes:
        return _planned(sides, relevant)
    # The first of each class stands for all, as long as nothing but a conversion comes of it: reasons have names.
    firsts = {id(tensor) for groups in classes for tensor in groups[0].tensors.values()}
    partners = {id(tensor): partner for tensor, partner in pairs}
    sample = _planned(sides, _with_partners(firsts, partners))
    odd = {*sample.turned, *sample.refusals, *sample.seen, *sample.foreign, *sample.squares}
    plain = [groups for groups in classes if not any(id(tensor) in odd for tensor in groups[0].tensors.values())]
    if len(plain) < len(classes):
        spread = {id(tensor) for groups in plain for group in groups[1:] for tensor in group.tensors.values()}
        whole = {id(tensor) for groups in classes for group in groups for tensor in group.tensors.values()}
        sample = _planned(sides, _with_partners(whole - spread, partners))
    layers = dict(sample.layers)
    for first, *rest in plain:
        converted = [leaf for leaf, tensor in first.tensors.items() if id(tensor) in sample.layers]
        own = [sample.layers[id(first.tensors[leaf])] == first.name for leaf in converted]
        for group in rest:
            for leaf, of_group in zip(converted, own, strict=True):
                layers[id(group.tensors[leaf])] = group.name if of_group else group.key(leaf)
    return sample._replace(layers=layers)


class _Sides(NamedTuple):
    """Two checkpoints, their tensors of one name, and the tensors of each by module."""

    a: Checkpoint
    b: Checkpoint
    pairs: Pairs
    groups_a: Sequence[Group]
    groups_b: Sequence[Group]


def _with_partners(ours: set[int], partners: Mapping[int, Tensor]) -> set[int]:
    return ours | {id(partners[tensor]) for tensor in ours if tensor in partners}


_DIGITS = re.compile("[0-9]+")
_COUPLED = ("lora", "ia3_", "boft_", "lokr_", "hada_", "oft_", "hra_")
"""Names of adapters' parts, whose layers are decided together with others."""


def _alike_groups(sides: _Sides, relevant: set[int]) -> list[list[Group]]:
    """Modules of A with a relevant tensor, in classes of which every member is decided like the first.

    Members differ in numbers in their names alone, and so do their partners. [] where layers may depend on one another
    (ties, adapters), or on what the file says of each.
    """
    a, b = sides.a, sides.b
    if not (a.sharing.distinct and b.sharing.distinct) or a.modules or b.modules:
        return []
    names = "\n".join((*a.tensors, *b.tensors))
    if any(part in names for part in _COUPLED):
        return []
    wanted = {id(tensor): partner for tensor, partner in sides.pairs}
    homes = {at: group for group in sides.groups_b for at in relevant.intersection(map(id, group.tensors.values()))}
    classes: dict[Hashable, list[Group]] = {}
    for group in sides.groups_a:
        tensors = group.tensors.values()
        if relevant.isdisjoint(map(id, tensors)):
            continue
        name, own = _DIGITS.sub("0", group.name), _pattern(group)
        partners = [wanted.get(id(tensor)) for tensor in tensors]
        beside = {id(home): home for each in partners if (home := homes.get(id(each))) is not None}
        others = tuple([
            (name if home.name == group.name else _DIGITS.sub("0", home.name), _pattern(home))
            for home in beside.values()
        ])  # fmt: skip
        kind = (name, own, tuple([each and each[1:4] for each in partners]), others)
        classes.setdefault(kind, []).append(group)
    return list(classes.values())


def _pattern(group: Group) -> tuple[object, ...]:
    """All that a layer is read from, but for its name."""
    return tuple([(leaf, one[1:4], one.layout, one.subclass) for leaf, one in group.tensors.items()])


def _planned(sides: _Sides, relevant: set[int]) -> ByLayer:
    """As `conversion_of`, of the layers that hold tensors whose ids are in `relevant`."""

    pairs = sides.pairs
    layers = find_layers(sides.a, relevant, sides.groups_a)
    layers_of_b = find_layers(sides.b, relevant, sides.groups_b)
    partners = {id(tensor): partner for tensor, partner in pairs}
    owners = {id(layer.weight): layer for layer in layers_of_b}
    counterparts = {id(layer.weight): owners.get(id(partners.get(id(layer.weight)))) for layer in layers}
    turned = {id(layer.weight) for layer in layers if square_turned(layer, counterparts[id(layer.weight)])}
    held = [tensor for layer in layers for tensor in layer.tensors.values()]
    names = {tensor.key: tensor.key for tensor in held}
    wanted = {tensor.key: partners[id(tensor)] for tensor in held if id(tensor) in partners}
    plan = plan_like(layers, names, wanted, layers_of_b)
    converted = {id(edit.tensor): each.layer.name for each in plan.conversions for edit in each.edits}
    foreign = (layer for layer in (*layers, *layers_of_b) if is_turned(layer) and len(layer.weight.shape) > 2)
    seen = {id(layer.weight): in_torch_order(layer).weight for layer in foreign}
    whys = ((id(layer.weight), other_layout(layer, counterparts[id(layer.weight)])) for layer in layers)
    others = {weight: why for weight, why in whys if why}
    moves = ((layer, counterparts[id(layer.weight)]) for layer in layers if id(layer.weight) in others)
    orders = {id(layer.weight): order for layer, there in moves if (order := _order(layer, there)) is not None}
    doubtful = {refusal.name for refusal in plan.refusals if refusal.maybe_turned}
    squares = {id(layer.weight): layer.name for layer in layers if layer.name in doubtful}
    return ByLayer(turned, converted, _refusals(layers, plan), orders, seen, others, squares)


def _relevant_tensors(sides: tuple[Checkpoint, Checkpoint], pairs: Iterable[tuple[Tensor, Tensor]]) -> set[int]:
    """Ids of the tensors whose layers can matter to a conversion.

    These are tensors whose shapes differ, square matrices, which may be transposed, and tensors that change together
    with others. Where a hundred thousand are alike, their layers need not be found.
    """
    foreign = sides[0].layout != sides[1].layout
    # A square matrix is turned where others are, whose shapes differ, or where it lies otherwise on one side.
    squares = any(a.shape != b.shape for a, b in pairs) or any(map(may_lie_in_out, sides))
    relevant = {
        id(tensor)
        for a, b in pairs
        if a.shape != b.shape
        or (squares and len(a.shape) == 2 and a.shape[0] == a.shape[1])
        or (foreign and len(a.shape) > 2)
        for tensor in (a, b)
    }
    for side in sides:
        shared = not side.sharing.distinct
        relevant |= {id(one) for name, one in side.tensors.items() if "lora" in name or (shared and side.tie(name))}
    return relevant


def _order(layer: Layer, counterpart: Layer | None) -> Order | None:
    """The order of the weight's axes that gives its counterpart's, by the layouts of both."""
    if counterpart is None or len(layer.weight.shape) != len(counterpart.weight.shape):
        return None
    dims = len(layer.weight.shape)
    here, there = (
        tuple(range(dims)) if each.layout is None else torch_order(each.layout.maker, dims)
        for each in (layer, counterpart)
    )
    order = tuple(here[there.index(axis)] for axis in range(dims))
    fits = tuple(layer.weight.shape[axis] for axis in order) == counterpart.weight.shape
    return order if fits else None


def _refusals(layers: Sequence[Layer], plan: Plan) -> dict[int, Refusal]:
    """Refusals of layers that `convert` leaves unchanged, by the ids of their tensors."""
    reasons = {refusal.name: refusal for refusal in plan.refusals}
    refused = (layer for layer in layers if layer.name in reasons)
    return {id(tensor): reasons[layer.name] for layer in refused for tensor in layer.tensors.values()}
