"""Matrices whose rows and columns were exchanged though neither file says that it is stored as (in, out).

A bias tells how an oblong matrix lies, and so does a class or a name that a file records. Without any of them a Linear
(in, out) looks like one (out, in) of other widths, and a square matrix looks the same either way. `convert` turns such
matrices where another checkpoint shows that it is meant; here it is seen by the numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from convinspect.arrays.equality import as_matrix, same_bits
from convinspect.errors import CannotShow
from convinspect.kinds import TRANSFORMERS_CONV1D
from convinspect.records import Layer, Tensor
from convinspect.verifying.tensors import Pairs


@dataclass(frozen=True, slots=True)
class Turned:
    """Layers of which no shape tells how they lie, by name.

    Attributes:
        names: Those whose matrix holds the same numbers with rows and columns exchanged.
        unsure: Of these, those where nothing else in the files shows that this was meant.
        left: Square ones that are as before, while others were turned.
    """

    names: frozenset[str] = frozenset()
    unsure: frozenset[str] = frozenset()
    left: tuple[str, ...] = ()


def find_turned(
    layers: Sequence[Layer], layers_after: Mapping[str, Layer], chosen: Collection[str] | None = None
) -> Turned:
    """Find layers that were turned, or may have been forgotten, where other layers of the file were turned.

    Args:
        layers: Before.
        layers_after: By name.
        chosen: Names of layers of which the user says that they were converted; None where nothing was said.
    """
    pairs = [(layer, layers_after[layer.name]) for layer in layers if layer.name in layers_after]
    pairs = [(layer, after) for layer, after in pairs if len(layer.weight.shape) == len(after.weight.shape) == 2]
    shown = any(_is_turned_for_sure(layer, after) for layer, after in pairs)
    doubtful = [(layer, after) for layer, after in pairs if _in_doubt(layer) and _in_doubt(after)]
    oblong = [pair for pair in doubtful if pair[0].weight.shape[0] != pair[0].weight.shape[1]]
    exchanged = [(layer, after) for layer, after in oblong if layer.weight.shape == after.weight.shape[::-1]]
    if not (shown or exchanged):
        return Turned()
    all_exchanged = len(exchanged) == len(oblong)
    named = chosen or ()
    turned = [
        layer.name
        for layer, after in exchanged
        if (shown or all_exchanged or layer.name in named) and _holds_exchanged(layer.weight, after.weight)
    ]
    if not (shown or turned):
        return Turned()
    squares = [(layer, after) for layer, after in doubtful if _is_square(layer.weight) and _is_square(after.weight)]
    differing = {layer.name for layer, after in squares if not _same(layer.weight, after.weight)}
    turned += [
        layer.name
        for layer, after in squares
        if layer.name in differing and _holds_exchanged(layer.weight, after.weight)
    ]
    left = [
        layer.name
        for layer, after in squares
        if layer.name not in differing
        and (chosen is None or layer.name in chosen)
        and not _holds_exchanged(layer.weight, after.weight)
    ]
    unsure = () if shown else [name for name in turned if name not in named]
    return Turned(frozenset(turned), frozenset(unsure), tuple(left))


def as_in_out(layers: Sequence[Layer], turned: Turned) -> list[Layer]:
    """The layers, of which those that were turned are read as (in, out)."""
    if not turned.names:
        return list(layers)
    return [layer._replace(kind=TRANSFORMERS_CONV1D) if layer.name in turned.names else layer for layer in layers]


def _is_turned_for_sure(layer: Layer, after: Layer) -> bool:
    """Whether one side is known to be (in, out) and the other to be (out, in)."""
    kinds = {layer.kind, after.kind}
    return kinds == {TRANSFORMERS_CONV1D, "Linear"} and layer.weight.shape == after.weight.shape[::-1]


def _in_doubt(layer: Layer) -> bool:
    """Whether nothing that is recorded tells how the matrix lies; a bias does where it is not square."""
    if layer.kind != "Linear" or layer.evidence == "module" or layer.layout is not None or layer.norm is not None:
        return False
    return layer.bias is None or _is_square(layer.weight)


def _is_square(weight: Tensor) -> bool:
    return weight.shape[0] == weight.shape[1] > 1


def _same(before: Tensor, after: Tensor) -> bool:
    try:
        return before.shape == after.shape and before.dtype == after.dtype and same_bits(before, after)
    except CannotShow:
        return True


def _holds_exchanged(before: Tensor, after: Tensor) -> bool:
    """Whether the second holds the first's numbers with rows and columns exchanged, to the bit."""
    if before.shape != after.shape[::-1] or before.dtype != after.dtype:
        return False
    try:
        return same_bits(as_matrix(before, transposed=True), after)
    except CannotShow:
        return False


def moved(
    pairs: Pairs,
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    seen_before: Mapping[str, Tensor],
    seen_after: Mapping[str, Tensor],
) -> Pairs:
    """Count as converted what is the same only in PyTorch's order of axes, and lies in another order since.

    Args:
        pairs: What became of the tensors as they are seen.
        before: As stored, by clean name.
        after: As stored, by clean name.
        seen_before: The same in PyTorch's order of axes.
        seen_after: The same in PyTorch's order of axes.
    """
    if seen_before is before and seen_after is after:
        return pairs
    other = [name for name in pairs.same if (seen_before[name] is before[name]) != (seen_after[name] is after[name])]
    names = set(other)
    same = [name for name in pairs.same if name not in names]
    return replace(pairs, same=same, converted={**pairs.converted, **dict.fromkeys(other)})
