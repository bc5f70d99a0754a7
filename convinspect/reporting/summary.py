"""A checkpoint as a report shows it: its layers in order, their numbers, its tree, and what layers could become."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from convinspect.checkpoint import Checkpoint
from convinspect.converting.possible import Possible, possible
from convinspect.errors import ConvInspectError
from convinspect.layers.find import find_layers
from convinspect.layers.order import listed
from convinspect.layers.tree import Node, module_tree
from convinspect.records import Layer
from convinspect.reporting.numbers import Numbers, numbers_of_layers
from convinspect.reporting.room import PAGE, Room, room_for


@dataclass(frozen=True)
class Summary:
    """What is known of one checkpoint.

    Attributes:
        checkpoint: The checkpoint.
        layers: All of its layers, in the order of a listing.
        tree: Its modules, repeated ones folded.
        possible: What its layers could become.
        room: How much of it fits in a page.
        numbers: By a layer's place, what its numbers are, or why they cannot be read.
        values: Numbers were asked for.
    """

    checkpoint: Checkpoint
    layers: tuple[Layer, ...]
    tree: Node
    possible: Possible
    room: Room
    numbers: Mapping[int, Numbers | ConvInspectError]
    values: bool


def summarize(
    checkpoint: Checkpoint,
    values: bool = True,
    nbytes: int = PAGE,
    progress: Callable[[int], None] = lambda done: None,
) -> Summary:
    """All that a page shows of a checkpoint.

    Args:
        checkpoint: The checkpoint.
        values: Read the numbers of its weights, in blocks; else headers alone are read.
        nbytes: Bytes of the page that it may fill.
        progress: Called with the number of bytes that were read.
    """
    return with_numbers(outline(checkpoint, values, nbytes), lambda layer: progress(layer.weight.nbytes))


def outline(checkpoint: Checkpoint, values: bool, nbytes: int) -> Summary:
    """What headers alone tell; `room` says whose numbers there is room for.

    Args:
        checkpoint: The checkpoint.
        values: Whether numbers are wanted.
        nbytes: Bytes of the page that it may fill.
    """
    every = find_layers(checkpoint)
    layers = tuple(listed(checkpoint, every))
    room = room_for(layers, nbytes, values)
    tree = module_tree(checkpoint, every)
    return Summary(checkpoint, layers, tree, possible(checkpoint, layers[: room.rows]), room, {}, values)


def with_numbers(
    summary: Summary,
    progress: Callable[[Layer], None] = lambda layer: None,
    known: Mapping[int, Numbers | ConvInspectError] = MappingProxyType({}),
) -> Summary:
    """The summary with the numbers of all layers that there is room for.

    Args:
        summary: By headers alone.
        progress: Called with each layer that was read.
        known: Numbers by a layer's place; these layers are not read.
    """
    layers = summary.layers
    places = sorted(place for place in summary.room.numbers if place not in known)
    numbers = dict(known)
    found = numbers_of_layers([(layers[place], summary.room.cells) for place in places])
    for place, each in zip(places, found, strict=True):
        numbers[place] = each
        progress(layers[place])
    return replace(summary, numbers=numbers)
