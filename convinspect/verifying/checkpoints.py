"""Two checkpoints, before and after a conversion → what their stored bits say of whether they hold the same model.

`verify` adds each converted layer's outputs, and the whole model's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from convinspect.checkpoint import Checkpoint
from convinspect.kinds import (
    CONVOLUTIONS,
    GPT2_NAMES,
    TRANSFORMERS_CONV1D,
    is_in_out,
    is_stand_in,
    last_word,
    may_change,
)
from convinspect.layers.find import find_layers
from convinspect.layers.select import as_linear, exactly_named, select
from convinspect.layouts import in_torch_order, is_turned
from convinspect.records import Layer, Tensor
from convinspect.text import first_few, plural
from convinspect.verifying.causes import Why, because
from convinspect.verifying.findings import Findings, Report, merged
from convinspect.verifying.layers import LayerCheck, check_layer, keys_of, unsure_of_shape
from convinspect.verifying.metadata import compare_keys, compare_objects, compare_tags, compare_ties, note_lost_state
from convinspect.verifying.options import VerifyOptions
from convinspect.verifying.other_roots import (
    changed_alone,
    compare_copies,
    compare_roots,
    copies_changed_alone,
    expected_edits,
    plan_of,
)
from convinspect.verifying.parts_apart import parts_apart
from convinspect.verifying.runnable import Checked
from convinspect.verifying.state_fits import compare_states
from convinspect.verifying.tensors import Pairs, Transposed, pair_up
from convinspect.verifying.told import Bar, no_bar
from convinspect.verifying.turned import Turned, as_in_out, find_turned, moved
from convinspect.verifying.turned_kernels import as_transposed_kernels, find_turned_kernels

if TYPE_CHECKING:
    from convinspect.ranks.group import Group


class Compared(NamedTuple):
    """What two checkpoints' stored bits say.

    Attributes:
        paths: What was opened, before and after.
        shown: The layers that the report lists, which may be run.
        findings: What else was found.
        unchanged: Number of tensors that are the same to the bit and in shape.
        kinds: All layers that were converted, with their kind after.
    """

    paths: tuple[str, str]
    shown: list[Checked]
    findings: Findings
    unchanged: int
    kinds: Mapping[str, str]

    def report(self, checks: Sequence[LayerCheck]) -> Report:
        """The report, with the checks of the layers that were shown."""
        findings = self.findings
        return Report(
            *self.paths,
            tuple(checks),
            findings.missing,
            findings.unexpected,
            findings.changed,
            self.unchanged,
            findings.unread,
            findings.notes,
            kinds=self.kinds,
            unproved=findings.unproved,
        )


def compare_stored(
    before: Checkpoint,
    after: Checkpoint,
    options: VerifyOptions,
    bar: Bar = no_bar,
    group: Group | None = None,
    meanwhile: Callable[[], None] | None = None,
) -> Compared:
    """Compare all that two checkpoints store.

    Args:
        before: The first checkpoint, under the names of the second.
        after: The second. With the path of `before` it was converted in memory, and only its layers are compared.
        options: How to compare; options about a whole model are left to the caller.
        bar: Told of what is compared, for each of their roots.
        group: The ranks that do so together: each compares a part, and has the whole result.
        meanwhile: Begins what this process does while a child compares, where there is such work.

    Raises:
        NotThere: A name matches no layer.
        ConvInspectError: Bytes of one of the files are missing or damaged.
    """
    two_files = before.path != after.path
    # First, since the memory that both trees take is used again by the layers.
    objects = compare_objects(before, after, bool(options.rename)) if two_files else Findings()
    found = find_layers(before)
    named = exactly_named(found, options.layer)
    layers = [_with_positions(as_linear(layer) if layer.name in named else layer, before) for layer in found]
    found_after = {layer.name: _with_positions(layer, after) for layer in find_layers(after)}
    chosen = {layer.name for layer in select(layers, options.layer)} if options.layer else None
    layers_after = _as_converted(layers, found_after, chosen or ())
    turned = find_turned(layers, layers_after, chosen)
    kernels = find_turned_kernels(layers, layers_after, chosen)
    layers = as_transposed_kernels(as_in_out(layers, turned), kernels)
    layers_after = {layer.name: layer for layer in as_transposed_kernels(layers_after.values(), kernels)}
    transposed = Transposed(_transposed(layers), _transposed(layers_after.values()))
    seen = _in_torch_order(before, layers), _in_torch_order(after, layers_after.values())
    pairs = pair_up(*seen, transposed, bar, _tensors_of(layers, chosen), group, meanwhile)
    pairs = moved(pairs, before.tensors, after.tensors, *seen)
    edits = expected_edits(before, after, layers, pairs, transposed) if two_files else {}
    copies = compare_copies(before, after, edits, pairs)
    apart = parts_apart(before, after) if two_files else []
    followed = {*copies.followed, *(name for part in apart for name in part.followed)}
    checked, excused = _check_layers(layers, layers_after, pairs, chosen, followed)
    checked = [_of_turned(layer, turned) for layer in checked] if turned.names else checked
    checked = [_of_kernel(layer, kernels) for layer in checked] if kernels.names else checked
    checked = [_of_reshaped(layer, chosen or ()) if layer.check.reshaped else layer for layer in checked]
    parts = [_of_tensors(pairs, excused), Findings(notes=_note_left_square(turned))]
    if two_files:
        roots = compare_roots(before, after, edits, transposed, bar, group)
        parts += [copies.findings, roots, compare_keys(before, after)]
        parts += [changed_alone(before, after, edits, pairs), *(part.findings for part in apart)]
        planned = plan_of(layers, after, pairs, transposed)
        parts += [compare_states(before, after, planned), copies_changed_alone(before, after, pairs)]
        parts += [objects, compare_ties(before, after), compare_tags(before, after), note_lost_state(before, after)]
    kinds = {layer.before.name: layer.check.after for layer in checked if layer.check.after != layer.check.before}
    paths = str(before.path), str(after.path)
    return Compared(paths, _shown(checked, chosen), merged(parts), len(pairs.same), kinds)


def _in_torch_order(checkpoint: Checkpoint, layers: Iterable[Layer]) -> Mapping[str, Tensor]:
    """A checkpoint's tensors by name, in which kernels in other libraries' layouts have PyTorch's order of axes."""
    turned = [layer for layer in layers if is_turned(layer)]
    if not turned:
        return checkpoint.tensors
    kernels = {
        keys_of(layer)[leaf]: kernel for layer in turned for leaf, kernel in in_torch_order(layer).tensors.items()
    }
    return {**checkpoint.tensors, **kernels}


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
    """Compare the stored bits of layers that were chosen, or of which a tensor changed.

    Args:
        layers: Before.
        layers_after: By name.
        pairs: What became of all tensors.
        chosen: Names of layers that the user asked for; None for all.
        followed: Names of copies that changed together with their layer; they are not checked as layers.

    Returns:
        The checked layers, and names of tensors whose change in `pairs` is correct.
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
            seen = in_torch_order(layer), None if after is None else in_torch_order(after)
            check, correct = check_layer(*seen, pairs)
            checked.append(Checked(check, *seen))
            excused |= correct
    return checked, excused


def _shown(checked: list[Checked], chosen: Collection[str] | None) -> list[Checked]:
    """The layers that the user asked for, and those of which there is something to say."""
    return [
        layer
        for layer in checked
        if layer.check.cause or layer.check.reshaped or chosen is None or layer.before.name in chosen
    ]


def _of_tensors(pairs: Pairs, excused: Collection[str]) -> Findings:
    """The findings of the root in use, without the changes that are correct."""
    return Findings(
        {name: cause for name, cause in pairs.changed.items() if name not in excused},
        tuple(name for name in pairs.missing if name not in excused),
        tuple(name for name in pairs.unexpected if name not in excused),
        tuple(pairs.unread),
        _note_maybe_left(pairs),
        tuple(pairs.unproved),
    )


def _note_maybe_left(pairs: Pairs) -> tuple[str, ...]:
    """Note square weights that stayed (in, out) where others are (out, in) now; that may be intended."""
    if not pairs.maybe_left:
        return ()
    first, more = pairs.maybe_left[0], len(pairs.maybe_left) - 1
    others = f" and {plural(more, 'other square weight')}" if more else ""
    are, it = ("are", "they were") if more else ("is", "it was")
    return (f"{first}{others} {are} unchanged and {are} still (in, out); right if {it} not to be converted",)


def _note_left_square(turned: Turned) -> tuple[str, ...]:
    """Note square matrices that are as before beside others that were turned."""
    if not turned.left:
        return ()
    which = "is square and unchanged" if len(turned.left) == 1 else "are square and unchanged"
    why = "while others were transposed: no shape tells whether it should be too"
    why = why if len(turned.left) == 1 else why.replace("it should", "they should")
    return (f"{first_few(turned.left, 4)} {which}, {why}",)


def _of_turned(checked: Checked, turned: Turned) -> Checked:
    """What is said of a layer that is taken for one that was (in, out)."""
    check = checked.check
    if check.name not in turned.names or check.cause is not None:
        return checked
    unsure = because(Why.TURNED_UNSURE) if check.name in turned.unsure else None
    note = "same, its rows and columns exchanged"
    return checked._replace(check=replace(check, before="Linear", unsure=unsure, note=note))


def _of_reshaped(checked: Checked, named: Collection[str]) -> Checked:
    """What is said of a layer with tensors that were only reshaped; who names it says that it was to be."""
    check = checked.check
    unsure = None if check.name in named else unsure_of_shape(checked.before, check)
    return checked._replace(check=replace(check.with_note("same numbers, another shape"), unsure=unsure))


def _of_kernel(checked: Checked, kernels: Turned) -> Checked:
    """What is said of a kernel that is taken for a transposed convolution's."""
    if checked.check.name not in kernels.unsure or checked.check.cause is not None:
        return checked
    return checked._replace(check=replace(checked.check, unsure=because(Why.TRANSPOSED_UNSURE)))


def _with_positions(layer: Layer, checkpoint: Checkpoint) -> Layer:
    """Give a `PointwiseLinear` the stride and padding that its module records; other layers are unchanged."""
    module = checkpoint.modules.get(layer.name)
    if module is None or not is_stand_in(module.class_name, "PointwiseLinear"):
        return layer
    return layer._replace(stride=module.attributes.get("stride"), padding=module.attributes.get("padding"))


def _as_converted(
    layers: Iterable[Layer], layers_after: Mapping[str, Layer], named: Collection[str] = ()
) -> dict[str, Layer]:
    """Layers after, by name, in which those that only look like transformers' `Conv1D` are Linear.

    A converted convolution is (out, in), whatever its name. A layer that was Linear counts as `Conv1D` only if some
    layer has one of GPT-2's names, or if it is `named`. Otherwise a bias that fits the other side means a Linear
    transposed by mistake.
    """
    kinds = {layer.name: layer.kind for layer in layers}
    kernels = {layer.name: layer.weight.shape[:2] for layer in layers if layer.kind in CONVOLUTIONS}

    def has_its_name(layer: Layer) -> bool:
        return last_word(layer.name) in GPT2_NAMES and kinds.get(layer.name) not in CONVOLUTIONS

    any_named = any(layer.kind == TRANSFORMERS_CONV1D and has_its_name(layer) for layer in layers_after.values())

    def is_conv1d(layer: Layer) -> bool:
        if layer.evidence != "module" and kernels.get(layer.name) == layer.weight.shape:
            return False
        if layer.evidence == "module" or layer.name in named or kinds.get(layer.name) == TRANSFORMERS_CONV1D:
            return True
        return any_named and (has_its_name(layer) or kinds.get(layer.name) not in CONVOLUTIONS)

    return {
        name: layer._replace(kind="Linear") if layer.kind == TRANSFORMERS_CONV1D and not is_conv1d(layer) else layer
        for name, layer in layers_after.items()
    }


def _transposed(layers: Iterable[Layer]) -> frozenset[str]:
    """Names of weights that are stored as (in, out)."""
    return frozenset(
        keys_of(layer)["weight"]
        for layer in layers
        if is_in_out(layer.kind) and may_change(layer.kind, layer.pointwise) and "weight" in layer.tensors
    )
