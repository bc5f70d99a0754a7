"""The lines below the table of `shapes`: what its words mean, and what it leaves out or takes for granted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from convinspect.checkpoint import Checkpoint
from convinspect.kinds import MULTIPLIED
from convinspect.layers.parameters import notes_on_packed
from convinspect.layers.reading import may_be_transposed
from convinspect.layouts import is_turned, same_order
from convinspect.records import Doubt, Layer
from convinspect.render.cells import count
from convinspect.showing.flags import by_reader
from convinspect.showing.tensorless import notes_on_tensorless
from convinspect.text import first_few, one_line, plural

NO_LAYER = "no layer to show"
ASSUMED = "assumed: a state_dict does not record stride, padding and groups; taken as 1, 0 and 1"
ASSUMED_GROUPS = "assumed: a state_dict does not record stride, padding and groups; inputs are counted for groups 1"
_ASSUMED_DIRECTION = (
    "pointwise, assumed: a ConvTranspose without a bias, or of as many inputs as outputs, has the same shapes"
)
_PATCH = "patch: the stride is the kernel size, so the layer is a Linear over patches that do not overlap"
_ASSUMED_PATCH = "patch, assumed: the stride is taken as the kernel size, as the layer's name says"
_EXPLAINED = {
    "depthwise?": "depthwise?: a depthwise convolution has the shape (C, 1, …), and so has one from 1 channel to C",
    "stride 2?": "stride 2?: layers of this name usually have stride 2",
    "ambiguous": "ambiguous: more than one kind of layer fits these shapes",
    "by name": "by name: without a bias, a Linear and an Embedding look alike; the name says that it is a Linear",
    MULTIPLIED: "in × out: a Linear whose weight lies as (in, out); the code multiplies with it as it lies",
    "view": "view: the tensor shares its storage with others, or is part of a larger one that the file holds whole",
    "wrapped": "wrapped: a Tensor subclass around other tensors; the shape is the whole's; a file may hold a part",
    "empty": "empty: the weight has shape (0,) and no numbers, as ZeRO-3 saves parts that were not gathered",
    "padded": "padded: the layer pads its input before the convolution, by how much the graph does not tell",
    "padded?": "padded?: the input is padded just before the convolution, by the layer itself or by another",
    "calls differ": "calls differ: the weight is given to several calls with different settings",
    "incomplete": "incomplete: half of a pair of tensors is missing, so the kernel cannot be computed",
    "out-of-band": "out-of-band: its numbers are in a buffer beside the file, as pickle's buffer_callback has it",
    "compressed": "compressed: its numbers lie in a compressed pickle as escaped text, and are not read",
    "cut": "cut: the file ends before the layer's last byte",
}

LEGEND = (ASSUMED, ASSUMED_GROUPS, _ASSUMED_DIRECTION, _PATCH, _ASSUMED_PATCH, *_EXPLAINED.values())
"""Every meaning of a word in the notes column, for a legend of the whole table."""


def layer_name(layer: Layer) -> str:
    """The name to show; the root module has no name of its own."""
    return layer.name or "(root)"


def footnotes(
    checkpoint: Checkpoint,
    layers: Sequence[Layer],
    shown: Sequence[Layer],
    everything: bool,
    beyond: Sequence[Layer] = (),
) -> list[str]:
    """All lines below the table, in order.

    Args:
        checkpoint: The checkpoint.
        layers: All of its layers.
        shown: Those with a row.
        everything: Whether all kinds were asked for, so that no note on omitted ones is needed.
        beyond: Those that have no row for there being too many.
    """
    return [
        *([] if shown else [NO_LAYER]),
        *_notes_on_layers(shown),
        *notes_on_packed(checkpoint, layers),
        *notes_on_tensorless(checkpoint),
        *_notes_on_names(checkpoint),
        *([] if everything else note_on_left_out(layers, [*shown, *beyond], _all())),
        *(_notes_on_foreign_names(checkpoint) if everything else []),
        *_notes_on_dangers(checkpoint),
        *checkpoint.notes,
    ]


def note_on_more(rows: int, limit: int) -> str:
    """How many rows `--limit` leaves out."""
    them = "it" if rows == 1 else "them"
    return f"{plural(rows, 'more row')} not shown{by_reader(f'; --limit {limit} leaves {them} out')}"


def _notes_on_layers(shown: Sequence[Layer]) -> Iterator[str]:
    """The meaning of the tags that appear, and biases that do not fit."""
    used = {tag for tags in {layer.tags for layer in shown} for tag in tags}
    yield from _notes_on_layouts(shown)
    if "assumed" in used:
        pointwise_alone = all(layer.pointwise for layer in shown if "assumed" in layer.tags)
        yield ASSUMED if pointwise_alone else ASSUMED_GROUPS
        if any(map(may_be_transposed, shown)):
            yield _ASSUMED_DIRECTION
    if any(layer.patch for layer in shown):
        yield _PATCH
        if any(layer.patch and "assumed" in layer.tags for layer in shown):
            yield _ASSUMED_PATCH
    for tag, text in _EXPLAINED.items():
        if tag in used:
            yield f"{text}{_which()}" if tag == "ambiguous" else text
    misfit = Doubt.BIAS_DOES_NOT_FIT
    for layer in (layer for layer in shown if misfit in layer.doubts):
        yield f"{layer_name(layer)}: {misfit.sentence(layer.weight, layer.bias)}"


def _which() -> str:
    """Where the kinds of an ambiguous layer are told."""
    return by_reader(
        " (--format json says which)", " (the layer's notes say which)", " (open the layer's row to see which)"
    )


def _notes_on_layouts(shown: Sequence[Layer]) -> Iterator[str]:
    """Whose layout the weights have, and where that is known from."""
    for maker, known_from in dict.fromkeys(
        layer.layout for layer in shown if layer.layout is not None and is_turned(layer)
    ):
        then = "converted only where you name the layer" if same_order(maker) else "not converted"
        doubt = "" if known_from.sure else f"; taken so, and {then}"
        yield f"{maker.value} layout: {maker.axes}, {known_from.value}{doubt}"


def _notes_on_names(checkpoint: Checkpoint) -> Iterator[str]:
    """Prefixes that are not shown, and roots that were not opened."""
    for prefix, keys in checkpoint.prefixes.items():
        have = "has" if keys == 1 else "have"
        yield f"{count(keys)} of {plural(len(checkpoint.tensors), 'key')} {have} {prefix!r}, which is not shown"
    others = [f"{root.path or '.'} ({plural(len(root.tensors), 'tensor')})" for root in _others(checkpoint)]
    if others:
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        choosing = by_reader("--root chooses", "open(path, root=…) chooses")
        yield f"other roots: {', '.join(others[:5])}{more}; {choosing}"


def note_on_left_out(layers: Sequence[Layer], shown: Sequence[Layer], way: str) -> Iterator[str]:
    """Of which kinds the layers are that are not shown, if there are any, and the way to see them."""
    left_out = {layer.name for layer in layers} - {layer.name for layer in shown}
    if left_out:
        yield f"not shown: {_kinds([layer for layer in layers if layer.name in left_out])}{way}"


def _all() -> str:
    return by_reader("; --all shows all", "; find_layers lists all")


def _notes_on_foreign_names(checkpoint: Checkpoint) -> Iterator[str]:
    """Other names in the pickle."""
    classes = {module.class_name for module in checkpoint.modules.values()}
    foreign = [name for name in checkpoint.foreign if name not in classes]
    if foreign:
        more = f" and {len(foreign) - 8} more" if len(foreign) > 8 else ""
        yield f"the pickle also names {', '.join(foreign[:8])}{more}; nothing of it was imported or run"


def _notes_on_dangers(checkpoint: Checkpoint) -> Iterator[str]:
    """A line on what the pickle asks for that is known to be harmful."""
    if not checkpoint.foreign:
        return
    # Imported here, as all that most checkpoints do not need.
    from convinspect.formats.pickle.safe_globals import classify_global

    classes = {module.class_name for module in checkpoint.modules.values()}
    reasons = {name: classify_global(name).reason for name in checkpoint.foreign if name not in classes}
    harmful = [f"{one_line(name, 60)} ({reason})" for name, reason in reasons.items() if reason]
    if harmful:
        yield f"loading its pickle may call {first_few(harmful, 3)}; convinspect check FILE shows where"


def _others(checkpoint: Checkpoint) -> list[Any]:
    chosen = checkpoint.root
    others = [root for root in checkpoint.roots if root.path != chosen.path and root.role != "other"]
    if not any(root is chosen for root in checkpoint.roots):
        # All roots below a path were opened as one.
        others = [root for root in others if chosen.path and not root.path.startswith(f"{chosen.path}.")]
    return others


def _kinds(layers: Sequence[Layer]) -> str:
    kinds: dict[str, int] = {}
    for layer in layers:
        kinds[layer.kind] = kinds.get(layer.kind, 0) + 1
    return ", ".join(f"{kind} ×{number}" if number > 1 else kind for kind, number in kinds.items())
