"""Rename tensors: rules such as `encoder.*=enc.*` → edits of their keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from convinspect.checkpoint import Checkpoint
from convinspect.errors import CannotConvert, NotThere, Option, Wording
from convinspect.formats.safetensors import RESERVED
from convinspect.keys.rules import Rule, apply_rules, parse_rule
from convinspect.keys.wrappers import clean_names
from convinspect.records import Container, Edit, Root
from convinspect.text import closest


@dataclass(frozen=True, slots=True)
class Renaming:
    """Tensors that get another key.

    Attributes:
        edits: Edits of tensors in the root in use.
        copies: Edits of the same names in its EMA copies.
        roots: Paths of the roots that contain these copies.
        parameters: Old → new name, for the parameter names that optimizers store.
        others: Old → new key of what is no tensor (a module's extra state), by the path of its root.
    """

    edits: tuple[Edit, ...] = ()
    copies: tuple[Edit, ...] = ()
    roots: tuple[str, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)
    others: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.edits or self.others)

    def names(self, checkpoint: Checkpoint) -> dict[str, str]:
        """Clean names that the root's tensors will have, by stored key."""
        new = {edit.tensor.key: edit.key or "" for edit in self.edits}
        keys = [tensor.key for tensor in checkpoint.root.tensors]
        return dict(zip(keys, clean_names([new.get(key, key) for key in keys]), strict=True))


def renaming(checkpoint: Checkpoint, texts: Sequence[str]) -> Renaming:
    """The edits for rename rules.

    A rule matches tensors and whole modules, by their names as stored or as shown. The first rule that matches a tensor
    applies, so that two names can be swapped.

    Args:
        checkpoint: The file; its root in use is the model.
        texts: Rules `OLD=NEW`.

    Raises:
        NotThere: A rule matches no tensor.
        CannotConvert: A rule is malformed, or two tensors would get one name.
    """
    if not texts:
        return Renaming()
    if not {tensor for root in checkpoint.roots for tensor in root.tensors}.issuperset(checkpoint.root.tensors):
        problem = Wording(Option("rename", None), " needs one dictionary of tensors, not several as one")
        raise CannotConvert(problem, Wording("choose it with ", Option("root", None)))
    rules = [parse_rule(text) for text in texts]
    edits, others, used = _edits(checkpoint.root, rules)
    if checkpoint.container is Container.SAFETENSORS and any(edit.key == RESERVED for edit in edits):
        raise CannotConvert(f"safetensors keeps the name {RESERVED!r} for itself", "give another")
    for text in texts:
        if text not in used:
            old = text.partition("=")[0]
            raise NotThere(f"no tensor is named {old!r}", closest(old, [*checkpoint.tensors, *checkpoint.others]))
    copies = {
        root.path: _edits(root, rules)[:2]
        for root in checkpoint.roots
        if root is not checkpoint.root and root.role == "ema"
    }
    roots = tuple(path for path, (renamed, _) in copies.items() if renamed)
    in_copies = tuple(edit for renamed, _ in copies.values() for edit in renamed)
    all_others = {checkpoint.root.path: others} | {path: renamed for path, (_, renamed) in copies.items()}
    changed = {path: renamed for path, renamed in all_others.items() if renamed}
    return Renaming(tuple(edits), in_copies, roots, _parameters(checkpoint, edits), changed)


def _parameters(checkpoint: Checkpoint, edits: Iterable[Edit]) -> dict[str, str]:
    """New names for the parameter names that optimizers store; {} if these may be another model's."""
    models = [
        frozenset(tensor.key for tensor in root.tensors)
        for root in checkpoint.roots
        if root is checkpoint.root or root.role == "model"
    ]
    own = frozenset(tensor.key for tensor in checkpoint.root.tensors)
    if checkpoint.container is Container.DISTRIBUTED:
        return _keying(checkpoint, edits)
    new = {edit.tensor.key: edit.key or "" for edit in edits}
    kept = [root.parameter_names for root in checkpoint.roots if root.parameter_names is not None]
    if any(not own.issuperset(names) or sum(keys.issuperset(names) for keys in models) > 1 for names in kept):
        return {}
    return {name: new[name] for names in kept for name in names if name in new}


def _keying(checkpoint: Checkpoint, edits: Iterable[Edit]) -> dict[str, str]:
    """New names for those by which optimizers keep their state, in a distributed checkpoint: keys without the front
    that the model has there.

    Raises:
        CannotConvert: A front changes in a way that leaves it open what the name is.
    """
    kept = {name for root in checkpoint.roots for name in root.keyed_by or ()}
    names: dict[str, str] = {}
    for edit in edits if kept else ():
        old, new = edit.tensor.key, edit.key or ""
        name = old
        while name and name not in kept:
            name = name.partition(".")[2]
        front = old.removesuffix(name)
        if not name or new.endswith(f".{name}") or new == name:
            continue
        if not new.startswith(front):
            problem = f"the optimizer calls {old!r} {name!r}, and of {new!r} it is not known which part is a name"
            raise CannotConvert(problem, f"rename it to what begins with {front!r}")
        names[name] = new.removeprefix(front)
    return names


def _edits(root: Root, rules: Sequence[Rule]) -> tuple[list[Edit], dict[str, str], frozenset[str]]:
    """Edits of the tensors that get another key, new keys of what is no tensor, and texts of the rules that matched."""
    renamed = apply_rules([*(tensor.key for tensor in root.tensors), *(other.key for other in root.others)], rules)
    edits = [
        Edit(tensor, tensor.shape, tensor.stride, key=name)
        for tensor, name in zip(root.tensors, renamed.keys, strict=False)
        if name != tensor.key
    ]
    rest = zip(root.others, renamed.keys[len(root.tensors) :], strict=True)
    return edits, {other.key: name for other, name in rest if name != other.key}, renamed.used


def together(shapes: Iterable[Edit], names: Iterable[Edit]) -> list[Edit]:
    """One edit for each tensor that gets another shape, another name or both."""
    edits = {edit.tensor: edit for edit in shapes}
    for edit in names:
        edits[edit.tensor] = (edits.get(edit.tensor, edit))._replace(key=edit.key)
    return list(edits.values())
