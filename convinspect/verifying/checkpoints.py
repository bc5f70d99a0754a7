"""Two checkpoints, before and after a conversion → whether they hold the same model, how far that is proved, why not.

Stored bits first, then each converted layer's outputs. `verify` adds the whole model's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from convinspect.checkpoint import Checkpoint
from convinspect.kinds import CONVOLUTIONS, GPT2_NAMES, TRANSFORMERS_CONV1D, is_stand_in, last_word
from convinspect.layers.find import find_layers
from convinspect.layers.select import select
from convinspect.records import Layer
from convinspect.text import plural
from convinspect.verifying.findings import Findings, Report, merged
from convinspect.verifying.layer_outputs import Checked, run_layers
from convinspect.verifying.layers import check_layer, keys_of
from convinspect.verifying.metadata import compare_keys, compare_objects, compare_tags, compare_ties
from convinspect.verifying.options import VerifyOptions
from convinspect.verifying.other_roots import compare_copies, compare_roots, expected_edits
from convinspect.verifying.tensors import Pairs, Transposed, pair_up


def compare_checkpoints(
    before: Checkpoint, after: Checkpoint, options: VerifyOptions, progress: Callable[[int], None] = lambda done: None
) -> Report:
    """Compare two checkpoints: bits first, then outputs of each converted layer.

    Args:
        before: The one, under the names of the other.
        after: The other; one that reads the same file was converted in memory, and is the same beside its layers.
        options: How; what they say of a whole model is left to the caller.
        progress: Called with the number of bytes that were compared.

    Raises:
        NotThere: A name matches no layer.
        ConvInspectError: Bytes of one of the files are missing or damaged.
    """
    layers = [_with_positions(layer, before) for layer in find_layers(before)]
    layers_after = _as_converted(layers, {layer.name: _with_positions(layer, after) for layer in find_layers(after)})
    chosen = {layer.name for layer in select(layers, options.layer)} if options.layer else None
    transposed = Transposed(_transposed(layers), _transposed(layers_after.values()))
    pairs = pair_up(before.tensors, after.tensors, transposed, progress, _tensors_of(layers, chosen))
    two_files = before.path != after.path
    edits = expected_edits(before, after, layers, pairs) if two_files else {}
    copies = compare_copies(before, after, edits, pairs)
    checked, excused = _check_layers(layers, layers_after, pairs, chosen, copies.followed)
    shown = [layer for layer in checked if layer.check.cause or chosen is None or layer.before.name in chosen]
    checks = run_layers(shown, options)
    parts = [_of_tensors(pairs, excused)]
    if two_files:
        parts += [copies.findings, compare_roots(before, after, edits, transposed), compare_keys(before, after)]
        parts += [compare_objects(before, after, bool(options.rename))]
        parts += [compare_ties(before, after), compare_tags(before, after)]
    found = merged(parts)
    return Report(
        str(before.path),
        str(after.path),
        tuple(checks),
        found.missing,
        found.unexpected,
        found.changed,
        len(pairs.same),
        found.unread,
        found.notes,
        kinds={layer.before.name: layer.check.after for layer in checked if layer.check.after != layer.check.before},
    )


def _tensors_of(layers: Iterable[Layer], names: Collection[str] | None) -> set[str] | None:
    """Names of all tensors of the named layers; None when none are named."""
    if names is None:
        return None
    return {key for layer in layers if layer.name in names for key in keys_of(layer).values()}


def _check_layers(
    layers: Iterable[Layer],
    layers_after: Mapping[str, Layer],
    pairs: Pairs,
    chosen: Collection[str] | None,
    followed: Collection[str],
) -> tuple[list[Checked], set[str]]:
    """The stored bits of layers that were chosen, or of which a tensor is not the same.

    Args:
        layers: Before.
        layers_after: By name.
        pairs: What became of all tensors.
        chosen: Names of layers that the user asked for; None for all.
        followed: Names of copies that changed with the layer that they belong to, and are none themselves.

    Returns:
        The layers checked, and names of tensors that look wrong in `pairs` and are right.
    """
    checked: list[Checked] = []
    excused: set[str] = set()
    touched = pairs.touched
    for layer in layers:
        if layer.name in followed:
            continue
        after = layers_after.get(layer.name)
        keys = {*keys_of(layer).values(), *(() if after is None else keys_of(after).values())}
        if (chosen is not None and layer.name in chosen) or not keys.isdisjoint(touched):
            check, right = check_layer(layer, after, pairs)
            checked.append(Checked(check, layer, after))
            excused |= right
    return checked, excused


def _of_tensors(pairs: Pairs, excused: Collection[str]) -> Findings:
    """What the pairs of the root in use say, but for what looks wrong and is right."""
    return Findings(
        {name: cause for name, cause in pairs.changed.items() if name not in excused},
        tuple(name for name in pairs.missing if name not in excused),
        tuple(name for name in pairs.unexpected if name not in excused),
        tuple(pairs.unread),
        _note_maybe_left(pairs),
    )


def _note_maybe_left(pairs: Pairs) -> tuple[str, ...]:
    """Says which square weights are as before where others are (out, in) now, which may be meant."""
    if not pairs.maybe_left:
        return ()
    first, more = pairs.maybe_left[0], len(pairs.maybe_left) - 1
    others = f" and {plural(more, 'other square weight')}" if more else ""
    are = "are" if more else "is"
    return (f"{first}{others} {are} unchanged, so (in, out) still; layers that were not to be converted are right so",)


def _with_positions(layer: Layer, checkpoint: Checkpoint) -> Layer:
    """A `PointwiseLinear` with the stride and padding that its module records, which a Linear has not."""
    module = checkpoint.modules.get(layer.name)
    if module is None or not is_stand_in(module.class_name, "PointwiseLinear"):
        return layer
    return layer._replace(stride=module.attributes.get("stride"), padding=module.attributes.get("padding"))


def _as_converted(layers: Iterable[Layer], layers_after: Mapping[str, Layer]) -> dict[str, Layer]:
    """Layers after by name; those that only look like transformers' `Conv1D` are Linear.

    What was a convolution is (out, in) after, whatever it is called. Of what was a Linear, the names of GPT-2 make it a
    `Conv1D`, and others beside these; a bias as long as the wrong side alone is what a Linear has that was transposed
    by mistake.
    """
    kinds = {layer.name: layer.kind for layer in layers}

    def has_its_name(layer: Layer) -> bool:
        return last_word(layer.name) in GPT2_NAMES and kinds.get(layer.name) not in CONVOLUTIONS

    any_named = any(layer.kind == TRANSFORMERS_CONV1D and has_its_name(layer) for layer in layers_after.values())

    def is_conv1d(layer: Layer) -> bool:
        if layer.evidence == "module" or kinds.get(layer.name) == TRANSFORMERS_CONV1D:
            return True
        return any_named and (has_its_name(layer) or kinds.get(layer.name) not in CONVOLUTIONS)

    return {
        name: layer._replace(kind="Linear") if layer.kind == TRANSFORMERS_CONV1D and not is_conv1d(layer) else layer
        for name, layer in layers_after.items()
    }


def _transposed(layers: Iterable[Layer]) -> frozenset[str]:
    """Names of weights that are stored as (in, out)."""
    return frozenset(
        keys_of(layer)["weight"] for layer in layers if layer.kind == TRANSFORMERS_CONV1D and "weight" in layer.tensors
    )
