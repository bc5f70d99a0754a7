"""Two checkpoints, before and after a conversion → whether they hold the same model, how far that is proved, why not.

Three strengths, each beyond the one before: the stored bits, each layer's outputs, the whole model's outputs (which
`whole_model` adds). The report names the strength it reached.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from convinspect.arrays.threads import map_threads
from convinspect.checkpoint import Checkpoint
from convinspect.converting.plan import Conversion, Plan
from convinspect.converting.training_state import followers, parts_of
from convinspect.errors import CannotConvert
from convinspect.keys.wrappers import clean_names
from convinspect.kinds import CONVOLUTIONS, GPT2_NAMES, KINDS, TRANSFORMERS_CONV1D, last_word
from convinspect.layers.find import find_layers
from convinspect.layers.select import select
from convinspect.records import Edit, Layer, Root, Tensor
from convinspect.text import plural
from convinspect.verifying.layers import LayerCheck, VerifyOptions, check_layer, keys_of, run
from convinspect.verifying.metadata import changed_keys, compare_objects, compare_tags, compare_ties
from convinspect.verifying.tensors import Pairs, pair_up

if TYPE_CHECKING:
    from convinspect.verifying.model import ModelCheck

MOST_WORKERS = 8
WORKING_BYTES = 512 << 20
"""What layers that run side by side may hold together."""

Strength = Literal["bits", "layer", "model"]


@dataclass(frozen=True, slots=True)
class Report:
    """What was found.

    Attributes:
        before: What was opened.
        after: What it was held against.
        layers: Layers that were converted or differ, in stored order.
        missing: Tensors of `before` that are not in `after`.
        unexpected: Tensors of `after` that are not in `before`.
        changed: Tensors and objects that should be as they were, with the cause.
        unchanged: Number of tensors that are the same to the bit and in shape.
        unread: Tensors whose numbers are not in the file or have no reading; of these no more than shape and dtype is
            known to be equal.
        notes: What was not compared, and what else a user should know.
        model: The whole model, when it was run.
        kinds: All layers that were converted, also those that were not asked for, with their kind after.
    """

    before: str
    after: str
    layers: tuple[LayerCheck, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    changed: Mapping[str, str] = field(default_factory=dict)
    unchanged: int = 0
    unread: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    model: ModelCheck | None = None
    kinds: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """No difference was found."""
        differs = self.missing or self.unexpected or self.changed or not all(one.ok for one in self.layers)
        return not differs and (self.model is None or not self.model.cause)

    @property
    def strength(self) -> Strength:
        """The strongest proof that covers all that was converted."""
        if self.model is not None and not self.model.cause:
            return "model"
        return "layer" if self.layers and all(one.outputs is not None for one in self.layers) else "bits"

    @property
    def cause(self) -> str:
        """The first thing that is wrong, with its name; "" when all is well."""
        for one in self.layers:
            if one.cause:
                return f"layer {one.name or '(root)'}: {one.cause}"
        for name, cause in self.changed.items():
            return f"{name}: {cause}"
        for names, what in ((self.missing, "is missing"), (self.unexpected, "was not there before")):
            for name in names:
                return f"{name} {what}"
        return self.model.cause if self.model is not None else ""


def verify(
    before: Checkpoint, after: Checkpoint, wish: VerifyOptions, progress: Callable[[int], None] = lambda done: None
) -> Report:
    """Hold two checkpoints against each other: bits first, then outputs of each converted layer.

    Args:
        before: The one.
        after: The other.
        wish: How layers are to be run.
        progress: Told of bytes that were compared.

    Raises:
        NotThere: A name matches no layer.
        ConvInspectError: Bytes of one of the files are missing or damaged.
    """
    layers = tuple(_with_positions(layer, before) for layer in find_layers(before))
    found = {layer.name: _with_positions(layer, after) for layer in find_layers(after)}
    others = _as_wanted(layers, found)
    asked = {layer.name for layer in select(layers, wish.names)} if wish.names else None
    turned = (_turned(layers), _turned(others.values()))
    named = None if asked is None else {key for one in layers if one.name in asked for key in keys_of(one).values()}
    pairs = pair_up(before.tensors, after.tensors, turned, progress, named)
    wanted = _followers(before, after, layers, pairs) if before.path != after.path else {}
    copies = {name: wanted[id(tensor)] for name, tensor in before.tensors.items() if id(tensor) in wanted}
    followed = [
        name for name, edit in copies.items() if name in after.tensors and after.tensors[name].shape == edit.shape
    ]
    touched = pairs.converted.keys() | pairs.changed.keys() | pairs.missing.keys() | pairs.unexpected.keys()
    judged = []
    for layer in layers:
        if layer.name in followed:
            continue
        other = others.get(layer.name)
        keys = {key for one in (layer, other) if one is not None for key in keys_of(one).values()}
        if (asked is not None and layer.name in asked) or not keys.isdisjoint(touched):
            check, forgiven = check_layer(layer, other, pairs)
            judged.append((check, layer, other, forgiven))
    excused = {name for *_, forgiven in judged for name in forgiven}
    shown = [one for one in judged if one[0].cause or asked is None or one[0].name in asked]
    checks = _run_all([(check, layer, other) for check, layer, other, _ in shown], wish)
    notes = _perhaps_left(pairs)
    unread = list(pairs.unread)
    changed = {name: cause for name, cause in pairs.changed.items() if name not in excused}
    missing = [name for name in pairs.missing if name not in excused]
    unexpected = [name for name in pairs.unexpected if name not in excused]
    if before.path != after.path:
        changed |= {name: _still(edit) for name, edit in copies.items() if name in pairs.same}
        notes += _converted_too(Counter(name.rpartition(".")[0] for name in followed))
        _other_roots(before, after, wanted, turned, (changed, missing, unexpected, unread, notes))
        changed |= changed_keys(before, after)
        compare_objects(before, after, wish.renamed, changed, notes)
        compare_ties(before, after, notes)
        compare_tags(before, after, notes)
    return Report(
        str(before.path), str(after.path), tuple(checks), tuple(missing), tuple(unexpected), changed, len(pairs.same),
        tuple(unread), tuple(notes), kinds={one.name: one.after for one, *_ in judged if one.after != one.before},
    )  # fmt: skip


def _perhaps_left(pairs: Pairs) -> list[str]:
    """Says which square weights are as before where others are (out, in) now, which may be meant."""
    if not pairs.perhaps_left:
        return []
    first, more = pairs.perhaps_left[0], len(pairs.perhaps_left) - 1
    others = f" and {plural(more, 'other square weight')}" if more else ""
    are = "are" if more else "is"
    return [f"{first}{others} {are} unchanged, so (in, out) still; layers that were not to be converted are right so"]


def _run_all(judged: list[tuple[LayerCheck, Layer, Layer | None]], wish: VerifyOptions) -> list[LayerCheck]:
    """The checks with outputs. Layers run side by side, each on one thread, as many as fit in `WORKING_BYTES`."""
    if wish.inputs is None or not judged:
        return [check for check, _, _ in judged]
    from convinspect.arrays.devices import full_float32, threads

    largest = max(layer.nbytes for _, layer, _ in judged)
    workers = min(os.cpu_count() or 1, MOST_WORKERS, max(1, WORKING_BYTES // max(1, 4 * largest)))
    if wish.inputs.device != "cpu":
        workers = 1
    # On one thread a chunk takes less time than waking another does.
    with threads(1), full_float32():
        return list(map_threads(lambda one: run(one[0], one[1], one[2], wish), judged, workers))


def _with_positions(layer: Layer, checkpoint: Checkpoint) -> Layer:
    """A `PointwiseLinear` with the stride and padding that its module records, which a Linear has not."""
    module = checkpoint.modules.get(layer.name)
    if module is None or module.class_name != "convinspect.pointwise.PointwiseLinear":
        return layer
    return layer._replace(stride=module.attributes.get("stride"), padding=module.attributes.get("padding"))


def _as_wanted(layers: Iterable[Layer], found: Mapping[str, Layer]) -> dict[str, Layer]:
    """Layers after by name; those that only look like transformers' `Conv1D` are Linear.

    What was a convolution is (out, in) after, whatever it is called. Of what was a Linear, the names of GPT-2 make it a
    `Conv1D`, and others beside these; a bias as long as the wrong side alone is what a Linear has that was transposed
    by mistake.
    """
    before = {layer.name: layer.kind for layer in layers}

    def is_named(one: Layer) -> bool:
        return last_word(one.name) in GPT2_NAMES and before.get(one.name) not in CONVOLUTIONS

    any_named = any(one.kind == TRANSFORMERS_CONV1D and is_named(one) for one in found.values())

    def is_meant(one: Layer) -> bool:
        if one.evidence == "module" or before.get(one.name) == TRANSFORMERS_CONV1D:
            return True
        return any_named and (is_named(one) or before.get(one.name) not in CONVOLUTIONS)

    return {
        name: one._replace(kind="Linear") if one.kind == TRANSFORMERS_CONV1D and not is_meant(one) else one
        for name, one in found.items()
    }


def _turned(layers: Iterable[Layer]) -> frozenset[str]:
    """Names of weights that are stored as (in, out)."""
    return frozenset(
        keys_of(one)["weight"] for one in layers if one.kind == TRANSFORMERS_CONV1D and "weight" in one.tensors
    )


def _other_roots(
    before: Checkpoint,
    after: Checkpoint,
    wanted: Mapping[int, Edit],
    turned: tuple[frozenset[str], frozenset[str]],
    told: tuple[dict[str, str], list[str], list[str], list[str], list[str]],
) -> None:
    """Holds EMA copies, optimizer state and other models against each other. Adds to all five."""
    changed, missing, unexpected, unread, notes = told
    there = {root.path: root for root in after.roots}
    held = [before.root.path, *(root.path for root in parts_of(before))]
    for root in before.roots:
        if root.path in held:
            continue
        other = there.get(root.path)
        if other is None and len(after.roots) == 1:
            plain = f"{after.path.name}, a plain state_dict"
            notes.append(f"root {root.path} ({plural(len(root.tensors), 'tensor')}) is not in {plain}")
        elif other is None:
            missing.append(f"root {root.path}")
        else:
            here, beyond = _named(root), _named(other)
            found = pair_up(here, beyond, turned if root.role == "ema" else (frozenset(), frozenset()))
            changed |= {f"{root.path}.{name}": cause for name, cause in found.changed.items()}
            missing += [f"{root.path}.{name}" for name in found.missing]
            unexpected += [f"{root.path}.{name}" for name in found.unexpected]
            unread += [f"{root.path}.{name}" for name in found.unread]
            changed |= {f"{root.path}.{name}": cause for name, cause in _stayed(root, other, wanted).items()}
            notes += _converted_too({root.path: len(found.converted)})


def _converted_too(numbers: Mapping[str, int]) -> list[str]:
    """Says how many tensors of each root changed with the model's."""
    return [
        f"{plural(number, 'tensor')} of {where} {'was' if number == 1 else 'were'} converted too"
        for where, number in numbers.items()
        if number
    ]


def _named(root: Root) -> dict[str, Tensor]:
    return dict(zip(clean_names([tensor.key for tensor in root.tensors]), root.tensors, strict=True))


def _followers(before: Checkpoint, after: Checkpoint, layers: Iterable[Layer], pairs: Pairs) -> dict[int, Edit]:
    """What must change with the layers that got another rank, by the tensor's id: copies in an EMA, optimizer state.

    Empty where which state belongs to which weight cannot be told.
    """
    conversions = []
    for layer in (one for one in layers if one.kind in KINDS):
        keys = keys_of(layer)
        changed = [
            (one, after.tensors[keys[leaf]]) for leaf, one in layer.tensors.items() if keys[leaf] in pairs.converted
        ]
        edits = tuple(Edit(one, new.shape, new.stride) for one, new in changed if len(one.shape) != len(new.shape))
        if edits:
            conversions.append(Conversion(layer, "Linear", edits))
    try:
        found = followers(before, Plan(tuple(conversions)), keep_optimizer=False)
    except CannotConvert:
        return {}
    return {id(edit.tensor): edit for edit in (*found.copies, *found.optimizer)}


def _stayed(root: Root, after: Root, wanted: Mapping[int, Edit]) -> dict[str, str]:
    """Copies and optimizer state that did not follow the weights that they belong to."""
    if root.role not in ("ema", "optimizer"):
        return {}
    shapes = {tensor.key: tensor.shape for tensor in after.tensors}
    edits = [wanted[id(tensor)] for tensor in root.tensors if id(tensor) in wanted]
    return {
        edit.tensor.key: _still(edit)
        for edit in edits
        if shapes.get(edit.tensor.key) == edit.tensor.shape != edit.shape
    }


def _still(edit: Edit) -> str:
    return f"it did not follow its weight: still {edit.tensor.shape}"
