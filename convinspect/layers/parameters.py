"""How many parameters layers have: their stored elements, or what a packed weight stands for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

from convinspect.checkpoint import Checkpoint
from convinspect.layers.packing import is_packed, logical_parameters
from convinspect.records import Layer
from convinspect.text import plural


def counted_in(checkpoint: Checkpoint) -> set[int]:
    """Identities of the tensors that the column counts, which are the total's parameters."""
    optimizer = checkpoint.root.role == "optimizer"
    return {id(tensor) for name, tensor in checkpoint.tensors.items() if optimizer or checkpoint.is_parameter(name)}


def parameters_of(layers: Sequence[Layer], counted: set[int]) -> int:
    """Number of elements of the layers' parameters, without buffers such as batch statistics and masks."""
    if any(map(is_packed, layers)):
        return sum([_parameters(layer, counted) for layer in layers])
    return sum([prod(tensor.shape) for layer in layers for tensor in layer.tensors.values() if id(tensor) in counted])


def _parameters(layer: Layer, counted: set[int]) -> int:
    logical = logical_parameters(layer) if is_packed(layer) else None
    return _stored(layer, counted) if logical is None else logical


def _stored(layer: Layer, counted: set[int]) -> int:
    return sum([prod(tensor.shape) for tensor in layer.tensors.values() if id(tensor) in counted])


def packed_more(checkpoint: Checkpoint, layers: Sequence[Layer]) -> tuple[int, int]:
    """Parameters that packed weights stand for beyond their stored elements, and how many layers' are not known."""
    packed = [layer for layer in layers if is_packed(layer)] if checkpoint.root.role != "optimizer" else []
    if not packed:
        return 0, 0
    counted = counted_in(checkpoint)
    known = [beyond_stored(layer, counted) for layer in packed]
    return sum(more for more in known if more is not None), known.count(None)


def beyond_stored(layer: Layer, counted: set[int]) -> int | None:
    """Parameters that a packed layer stands for beyond its stored elements; None where the packing does not tell."""
    logical = logical_parameters(layer)
    return None if logical is None else logical - _stored(layer, counted)


def notes_on_packed(checkpoint: Checkpoint, layers: Sequence[Layer]) -> Iterator[str]:
    """How many packed layers are counted by what is stored of them."""
    unknown = packed_more(checkpoint, layers)[1]
    if unknown:
        yield (
            f"parameters: of {plural(unknown, 'quantized layer')} the stored elements are counted, since nothing in the"
            " file tells how many numbers they stand for"
        )
