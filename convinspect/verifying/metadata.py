"""What stands around two checkpoints' numbers: keys as stored, objects, modules' settings, ties and tags."""

from __future__ import annotations

from convinspect.checkpoint import Checkpoint
from convinspect.converting.training_state import parts_of
from convinspect.formats.torch.objects import read_objects
from convinspect.keys.pairing import Prefix, pair_keys
from convinspect.keys.wrappers import clean_names
from convinspect.records import Container, Module, Root
from convinspect.text import plural
from convinspect.verifying.objects import differences

_MOST_OBJECTS = 20
"""Objects beside the tensors that are named when they differ; of more the number is told."""


def changed_keys(before: Checkpoint, after: Checkpoint) -> dict[str, str]:
    """Wrappers' prefixes that keys of the model or its EMA copies have in one file alone, by root: what became of them.

    Clean names leave such prefixes out, and `load_state_dict` does not.
    """
    if parts_of(before) or parts_of(after):
        # Keys of several roots as one begin with the roots' own names.
        return {}
    there = {root.path: root for root in after.roots}
    copies = [(root, there[root.path]) for root in before.roots if root.role == "ema" and root.path in there]
    found = {}
    for one, other in [(before.root, after.root), *(pair for pair in copies if pair[0] is not before.root)]:
        prefixes = _prefixes(one, other)
        if prefixes:
            place = "keys" if one is before.root else f"keys of {one.path}"
            found[place] = f"{', '.join(map(_told, prefixes))}, and load_state_dict takes none off"
    return found


def _prefixes(one: Root, other: Root) -> tuple[Prefix, ...]:
    keys = [[tensor.key for tensor in root.tensors] for root in (one, other)]
    here, there = (dict(zip(clean_names(found), found, strict=True)) for found in keys)
    common = [name for name in here if name in there]
    return pair_keys(([here[name] for name in common], [there[name] for name in common]), (common, common)).prefixes


def _told(prefix: Prefix) -> str:
    if not prefix.b:
        return f"{prefix.keys:,} lost the prefix {prefix.a!r}"
    return f"{prefix.keys:,} begin with {prefix.b!r}" + (f" instead of {prefix.a!r}" if prefix.a else " now")


def _settings(before: Checkpoint, after: Checkpoint) -> dict[str, str]:
    """What modules record that has not the same value any more: all of one class, and how a convolution pads of any."""
    found = {}
    for name, one in before.modules.items():
        other = after.modules.get(name)
        for what in _comparable(one, other):
            values = one.attributes[what], other.attributes[what] if other is not None else None
            if repr(values[0]) != repr(values[1]):
                found[name or "the top"] = f"its {what}={values[0]!r} became {values[1]!r}"
                break
    return found


def _comparable(one: Module, other: Module | None) -> list[str]:
    if other is None:
        return []
    both = [what for what in one.attributes if what in other.attributes]
    if one.class_name == other.class_name:
        return both
    return ["padding_mode"] if "padding_mode" in both and _pads(one) else []


def _pads(module: Module) -> bool:
    padding = module.attributes.get("padding")
    return any(padding) if isinstance(padding, tuple) else padding not in (None, 0, "valid")


def compare_objects(
    before: Checkpoint, after: Checkpoint, new_names: bool, changed: dict[str, str], notes: list[str]
) -> None:
    """What lies in the files beside tensors: metadata and other objects. Adds to the last two."""
    containers = {before.container, after.container}
    if before.metadata != after.metadata and containers == {Container.SAFETENSORS}:
        changed["__metadata__"] = "the file's metadata differs"
    if before.root.path != after.root.path or _keeping(before) != _keeping(after):
        notes.append("the files are of different kinds, so objects beside the tensors were not compared")
        return
    objects = [read_objects(one.path) for one in (before, after)]
    if objects[0] is None or objects[1] is None:
        return
    if new_names:
        notes.append("names changed, so objects beside the tensors were not compared")
        return
    if before.root.modules and _classes(before) != _classes(after):
        notes.append("classes changed, so of objects beside the tensors only what modules record was compared")
        changed |= {name: what for name, what in _settings(before, after).items() if name not in changed}
        return
    found, number, versions = differences(objects[0], objects[1], _MOST_OBJECTS)
    for one in found:
        changed.setdefault(one.place, f"an object beside the tensors differs: {one.what}")
    if number > len(found):
        notes.append(f"{number:,} objects beside the tensors differ; the first {_MOST_OBJECTS} are named")
    if versions is not None:
        where = f" of {versions}" if versions else ""
        notes.append(f"_metadata{where} (each module's version, for load_state_dict) is not the same")


def _classes(checkpoint: Checkpoint) -> dict[str, str]:
    return {name: module.class_name for name, module in checkpoint.modules.items()}


def _keeping(checkpoint: Checkpoint) -> tuple[Container, bool, bool]:
    """What keeps objects in its own way: the container, an index of safetensors, modules instead of dictionaries."""
    container = Container.TORCH_ZIP if checkpoint.container.torch_save else checkpoint.container
    indexed = container is Container.SAFETENSORS and checkpoint.shards > 0
    return container, indexed, bool(checkpoint.root.modules)


def compare_ties(before: Checkpoint, after: Checkpoint, notes: list[str]) -> None:
    """Says which tensors shared their bytes and do not any more."""
    lost = [name for name in before.tensors if before.tie(name) and name in after.tensors and not after.tie(name)]
    if lost and after.container is not Container.SAFETENSORS:
        notes.append(f"tied before and separate now: {', '.join(lost[:4])}")


def compare_tags(before: Checkpoint, after: Checkpoint, notes: list[str]) -> None:
    """Says where tensors are tagged with another device, or with another wish for gradients, than before."""
    common = [(one, after.tensors[name]) for name, one in before.tensors.items() if name in after.tensors]
    for tag in ("device", "requires_grad"):
        pairs = [(getattr(one, tag), getattr(other, tag)) for one, other in common]
        # A format that keeps no tags says nothing of them.
        differing = [pair for pair in pairs if None not in pair and pair[0] != pair[1]]
        if differing:
            tensors = plural(len(differing), "tensor")
            notes.append(f"{tag} is not the same on {tensors}: {differing[0][0]} became {differing[0][1]}")
