"""What two checkpoints hold besides numbers: stored keys, objects, modules' settings, ties and tags."""

from __future__ import annotations

from pathlib import Path

from convinspect.checkpoint import Checkpoint
from convinspect.converting.training_state import parts_of
from convinspect.errors import ConvInspectError
from convinspect.formats.pieces import SHARDING, begins_in
from convinspect.formats.sources import short_name
from convinspect.formats.torch.objects import Objects, read_objects
from convinspect.formats.torch.saved_arrays import are_arrays
from convinspect.keys.pairing import Prefix, pair_keys
from convinspect.keys.wrappers import clean_names
from convinspect.records import Container, Module, Root
from convinspect.text import first_few, plural, quoted
from convinspect.verifying.causes import Cause, Why, because
from convinspect.verifying.findings import Findings
from convinspect.verifying.objects import differences
from convinspect.verifying.same_pickles import same_but_sizes

_MOST_OBJECTS = 20
"""Objects beside the tensors that are named when they differ; the rest are counted."""
_FORMAT = "format"
"""The metadata of safetensors that says whose tensors they are."""


def compare_keys(before: Checkpoint, after: Checkpoint) -> Findings:
    """Wrappers' prefixes that only one file's keys have, in the model and its EMA copies, by root.

    Clean names leave such prefixes out; `load_state_dict` does not, so they make strict loading fail.
    """
    if parts_of(before) or parts_of(after):
        # With `root="."` keys begin with the names of their roots, which are no prefixes of wrappers.
        return Findings()
    roots_after = {root.path: root for root in after.roots}
    copies = [root for root in before.roots if root.role == "ema" and root is not before.root]
    pairs = [(before.root, after.root)]
    pairs += [(root, roots_after[root.path]) for root in copies if root.path in roots_after]
    changed = {}
    for root, root_after in pairs:
        prefixes = tuple(map(_prefix_cause, _prefixes(root, root_after)))
        if prefixes:
            place = "keys" if root is before.root else f"keys of {root.path}"
            changed[place] = because(Why.PREFIXES, prefixes=prefixes)
    return Findings(changed)


def _prefixes(before: Root, after: Root) -> tuple[Prefix, ...]:
    keys = [[tensor.key for tensor in root.tensors] for root in (before, after)]
    stored, stored_after = (dict(zip(clean_names(names), names, strict=True)) for names in keys)
    common = [name for name in stored if name in stored_after]
    pairing = ([stored[name] for name in common], [stored_after[name] for name in common])
    return pair_keys(pairing, (common, common)).prefixes


def _prefix_cause(prefix: Prefix) -> Cause:
    if not prefix.b:
        return because(Why.PREFIX_LOST, keys=prefix.keys, before=prefix.a)
    if not prefix.a:
        return because(Why.PREFIX_ADDED, keys=prefix.keys, after=prefix.b)
    return because(Why.PREFIX_REPLACED, keys=prefix.keys, before=prefix.a, after=prefix.b)


def _settings(before: Checkpoint, after: Checkpoint) -> dict[str, Cause]:
    """Recorded settings that changed, by module: all settings where the class stayed, else only how it pads."""
    changed = {}
    for name, module in before.modules.items():
        module_after = after.modules.get(name)
        if module_after is None:
            continue
        for setting in _comparable(module, module_after):
            # As text, so that NaN equals itself and 1 is not True.
            values = [repr(of.attributes[setting]) for of in (module, module_after)]
            if values[0] != values[1]:
                place = name or "the top"
                changed[place] = because(Why.SETTING, setting=setting, before=values[0], after=values[1])
                break
    return changed


def _comparable(before: Module, after: Module) -> list[str]:
    """Names of the settings to compare: those that must be equal before and after."""
    both = [setting for setting in before.attributes if setting in after.attributes]
    if before.class_name == after.class_name:
        return both
    return ["padding_mode"] if "padding_mode" in both and _pads(before) else []


def _pads(module: Module) -> bool:
    padding = module.attributes.get("padding")
    return any(padding) if isinstance(padding, tuple) else padding not in (None, 0, "valid")


def compare_objects(before: Checkpoint, after: Checkpoint, renamed: bool) -> Findings:
    """Compare what the files hold besides tensors: metadata and other objects.

    Args:
        before: The first checkpoint.
        after: The second.
        renamed: Tensors of `before` were renamed for the comparison. Its objects were not, so they are not compared.
    """
    metadata = {}
    if {before.container, after.container} == {Container.SAFETENSORS}:
        keys = _metadata_differences(before, after)
        if keys:
            named = first_few([quoted(key) for key in keys], 3)
            metadata = {"__metadata__": because(Why.METADATA, keys=named)}
        # Nothing else stands beside safetensors' tensors, however many files there are.
        return Findings(metadata)
    if before.root.path != after.root.path or _keeping(before) != _keeping(after):
        return Findings(metadata, notes=("the files are of different kinds, so objects beside the tensors were not"
                                         " compared",))  # fmt: skip
    if not (renamed or before.root.modules) and same_but_sizes(before, after):
        return Findings(metadata)
    objects, objects_after = (_objects(checkpoint.path) for checkpoint in (before, after))
    if objects is None or objects_after is None:
        return Findings(metadata)
    if renamed:
        return Findings(metadata, notes=("names changed, so objects beside the tensors were not compared",))
    if before.root.modules and _classes(before) != _classes(after):
        note = "classes changed, so of objects beside the tensors only what modules record was compared"
        return Findings({**metadata, **_settings(before, after)}, notes=(note,))
    findings = _compare_trees(objects, objects_after)
    # State that is gone as a whole is said once, beside the roots.
    gone = tuple(f"{path}.state." if path else "state." for path in emptied_optimizers(before, after))
    changed = {name: cause for name, cause in findings.changed.items() if not (gone and name.startswith(gone))}
    return Findings({**metadata, **changed}, notes=findings.notes)


def _objects(path: Path) -> Objects | None:
    """As `read_objects`; its errors name the file."""
    try:
        return read_objects(path)
    except ConvInspectError as error:
        raise error.at(path) from None


def emptied_optimizers(before: Checkpoint, after: Checkpoint) -> frozenset[str]:
    """Paths of optimizers of which no state is left, though the file still has what stands beside it."""
    if _keeping(before) != _keeping(after):
        return frozenset()
    left = {root.path for root in after.roots}
    return frozenset(
        root.path for root in before.roots if root.role == "optimizer" and root.tensors and root.path not in left
    )


def _metadata_differences(before: Checkpoint, after: Checkpoint) -> tuple[str, ...]:
    """Names of the metadata that were lost, added or changed, sorted.

    `{"format": "pt"}` may be added: whatever writes safetensors from PyTorch's tensors adds it, and it says nothing of
    the numbers. It may not be lost, since there are loaders that refuse a file without it, and no other `format` may
    be added, since "mlx" says in what order the axes are.
    """
    first, second = dict(before.metadata), dict(after.metadata)
    if _FORMAT not in first and second.get(_FORMAT) == "pt":
        del second[_FORMAT]
    if SHARDING in first and SHARDING in second:
        # It has a number for each dimension, which `convert` brings to the new ranks; names are compared elsewhere.
        begins = [begins_in(str(one.pop(SHARDING))) for one in (first, second)]
        places = [None if one is None else sorted(one.values()) for one in begins]
        if None in places or places[0] != places[1]:
            return (SHARDING,)
    return tuple(sorted(key for key in {**first, **second} if first.get(key) != second.get(key)))


def _compare_trees(before: Objects, after: Objects) -> Findings:
    first, number, versions = differences(before, after, _MOST_OBJECTS)
    changed: dict[str, Cause] = {}
    for difference in first:
        changed.setdefault(difference.place, because(Why.OBJECT, what=difference.what))
    notes = []
    if number > len(first):
        notes.append(f"{number:,} objects beside the tensors differ; the first {_MOST_OBJECTS} are named")
    if versions is not None:
        where = f" of {versions}" if versions else ""
        notes.append(f"_metadata{where} (each module's version, for load_state_dict) is not the same")
    return Findings(changed, notes=tuple(notes))


def _classes(checkpoint: Checkpoint) -> dict[str, str]:
    return {name: module.class_name for name, module in checkpoint.modules.items()}


def _keeping(checkpoint: Checkpoint) -> tuple[Container, bool, bool, bool]:
    """What decides how objects are stored: the container, whether it has an index, modules or arrays."""
    container = Container.TORCH_ZIP if checkpoint.container.torch_save else checkpoint.container
    indexed = container is Container.SAFETENSORS and checkpoint.shards > 0
    arrays = container is Container.TORCH_ZIP and are_arrays(checkpoint.root.tensors)
    return container, indexed, bool(checkpoint.root.modules), arrays


def note_lost_state(*checkpoints: Checkpoint) -> Findings:
    """Note optimizers whose state `load_state_dict` does not find, since its keys became text."""
    lost = [(one, root) for one in checkpoints for root in one.roots if root.lost_state]
    return Findings(
        notes=tuple(
            f"{short_name(one.path)}: the state of the optimizer at {root.path!r} is keyed by text ('0'), its"
            " parameters by numbers (0), as dcp_to_torch_save leaves them: load_state_dict finds none of it, without an"
            " error"
            for one, root in lost
        )
    )


def compare_ties(before: Checkpoint, after: Checkpoint) -> Findings:
    """Note tensors that shared their bytes before and no longer do; such of one shape must keep one shape."""
    split = _split(before, after)
    lost = [name for name in before.tensors if before.tie(name) and name in after.tensors and not after.tie(name)]
    if not lost or after.container is Container.SAFETENSORS:
        return Findings(split)
    return Findings(split, notes=(f"tied before and separate now: {', '.join(lost[:4])}",))


def _split(before: Checkpoint, after: Checkpoint) -> dict[str, Cause]:
    """Tensors that were one weight and have several shapes now, so that no model can tie them again."""
    changed = {}
    for name, tensor in before.tensors.items():
        tie = before.tie(name)
        if not tie or name not in after.tensors or after.tensors[name].shape == tensor.shape:
            continue
        shape = after.tensors[name].shape
        others = (other for other in tie if other in after.tensors and before.tensors[other].shape == tensor.shape)
        other = next((other for other in others if after.tensors[other].shape != shape), None)
        if other is not None:
            changed[name] = because(Why.TIE_SPLIT, shape=shape, other=other, other_shape=after.tensors[other].shape)
    return changed


def compare_tags(before: Checkpoint, after: Checkpoint) -> Findings:
    """Note tensors whose recorded device or `requires_grad` changed."""
    common = [(tensor, after.tensors[name]) for name, tensor in before.tensors.items() if name in after.tensors]
    notes = []
    for tag in ("device", "requires_grad"):
        pairs = ((getattr(old, tag), getattr(new, tag)) for old, new in common)
        # None: the format does not record it.
        differing = [pair for pair in pairs if None not in pair and pair[0] != pair[1]]
        if differing:
            tensors = plural(len(differing), "tensor")
            notes.append(f"{tag} is not the same on {tensors}: {differing[0][0]} became {differing[0][1]}")
    return Findings(notes=tuple(notes))
