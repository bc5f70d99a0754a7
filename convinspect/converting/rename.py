"""Other names for tensors: rules such as `encoder.*=enc.*` → edits of their keys."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from convinspect.checkpoint import Checkpoint, clean_names
from convinspect.errors import CannotConvert, NotThere
from convinspect.layers.find import closest
from convinspect.records import Edit, Tensor

RESERVED = "__metadata__"
"""The one name that no tensor of a safetensors file can have."""


@dataclass(frozen=True, slots=True)
class Renaming:
    """Tensors that get another key.

    Attributes:
        edits: Of the root in use.
        copies: Of the same names in its EMA copies.
        roots: Paths of the roots that these are in.
        parameters: Old names → new ones, of what optimizers keep of their parameters' names.
    """

    edits: tuple[Edit, ...] = ()
    copies: tuple[Edit, ...] = ()
    roots: tuple[str, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)

    def names(self, checkpoint: Checkpoint) -> dict[str, str]:
        """Clean names that the root's tensors will have, by stored key."""
        new = {edit.tensor.key: edit.key or "" for edit in self.edits}
        keys = [tensor.key for tensor in checkpoint.root.tensors]
        return dict(zip(keys, clean_names([new.get(key, key) for key in keys]), strict=True))


@dataclass(frozen=True, slots=True)
class _Rule:
    text: str
    pattern: re.Pattern[str]
    new: tuple[str, ...]
    """What stands between the parts that are carried over."""

    def apply(self, name: str) -> str | None:
        """The new name, or None when the rule does not mean this one."""
        match = self.pattern.fullmatch(name)
        if match is None:
            return None
        *carried, below = match.groups()
        return "".join(text + part for text, part in zip(self.new, [*carried, below or ""], strict=True))


def renaming(checkpoint: Checkpoint, texts: Sequence[str]) -> Renaming:
    """What `--rename` asks for.

    A rule means tensors and whole modules, by the names as stored or as shown; of several rules the first that fits
    a tensor counts, so that two names can be exchanged.

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
        raise CannotConvert("--rename needs one dictionary of tensors, not several as one", "choose it with --root")
    rules = [_rule(text) for text in texts]
    used: set[str] = set()
    edits = _edits(checkpoint.root.tensors, rules, used)
    if checkpoint.format.startswith("safetensors") and any(edit.key == RESERVED for edit in edits):
        raise CannotConvert(f"safetensors keeps the name {RESERVED!r} for itself", "give another")
    for text in texts:
        if text not in used:
            old = text.partition("=")[0]
            raise NotThere(f"no tensor is named {old!r}", closest(old, list(checkpoint.tensors)))
    copies = {
        root.path: _edits(root.tensors, rules, used)
        for root in checkpoint.roots
        if root is not checkpoint.root and root.role == "ema"
    }
    roots = tuple(path for path, found in copies.items() if found)
    in_copies = tuple(edit for found in copies.values() for edit in found)
    return Renaming(tuple(edits), in_copies, roots, _parameters(checkpoint, edits))


def _parameters(checkpoint: Checkpoint, edits: Iterable[Edit]) -> dict[str, str]:
    """New names for what optimizers keep of their parameters' names; none where these may be another model's."""
    models = [
        frozenset(tensor.key for tensor in root.tensors)
        for root in checkpoint.roots
        if root is checkpoint.root or root.role == "model"
    ]
    own = frozenset(tensor.key for tensor in checkpoint.root.tensors)
    new = {edit.tensor.key: edit.key or "" for edit in edits}
    kept = [root.parameter_names for root in checkpoint.roots if root.parameter_names is not None]
    if any(not own.issuperset(names) or sum(one.issuperset(names) for one in models) > 1 for names in kept):
        return {}
    return {name: new[name] for names in kept for name in names if name in new}


def _rule(text: str) -> _Rule:
    old, equals, new = text.partition("=")
    if not equals or not old or not new or "=" in new:
        raise CannotConvert(f"--rename {text!r} is not OLD=NEW", "write --rename 'encoder.*=enc.*'")
    if old.count("*") != new.count("*"):
        raise CannotConvert(
            f"--rename {text!r}: what each * stands for is carried over, so both sides need as many of them",
            "write --rename 'encoder.*=enc.*'",
        )
    pattern = "(.*)".join(re.escape(part) for part in old.split("*"))
    return _Rule(text, re.compile(pattern + r"(\..*)?", re.DOTALL), tuple(new.split("*")))


def new_keys(keys: Sequence[str], texts: Sequence[str]) -> list[str]:
    """The keys that `--rename` with these rules gives, in order.

    Raises:
        CannotConvert: A rule is malformed, or two keys would become one.
    """
    return _new_keys(list(keys), [_rule(text) for text in texts], set())


def _edits(tensors: Sequence[Tensor], rules: Sequence[_Rule], used: set[str]) -> list[Edit]:
    new = _new_keys([tensor.key for tensor in tensors], rules, used)
    return [
        Edit(tensor, tensor.shape, tensor.stride, key=name)
        for tensor, name in zip(tensors, new, strict=True)
        if name != tensor.key
    ]


def _new_keys(keys: list[str], rules: Sequence[_Rule], used: set[str]) -> list[str]:
    new = [_renamed(key, name, rules, used) for key, name in zip(keys, clean_names(keys), strict=True)]
    if len(set(new)) != len(new):
        seen: dict[str, str] = {}
        for key, name in zip(keys, new, strict=True):
            if name in seen:
                raise CannotConvert(
                    f"{seen[name]!r} and {key!r} would both be named {name!r}", "rename one differently"
                )
            seen[name] = key
    return new


def _renamed(key: str, name: str, rules: Iterable[_Rule], used: set[str]) -> str:
    """The new key of a tensor that is stored as `key` and shown as `name`."""
    for rule in rules:
        new = rule.apply(key)
        if new is None and key.endswith(name) and (shown := rule.apply(name)) is not None:
            new = key.removesuffix(name) + shown
        if new is not None:
            used.add(rule.text)
            return new
    return key


def together(shapes: Iterable[Edit], names: Iterable[Edit]) -> list[Edit]:
    """One edit for each tensor that gets another shape, another name or both."""
    edits = {edit.tensor: edit for edit in shapes}
    for edit in names:
        edits[edit.tensor] = replace(edits.get(edit.tensor, edit), key=edit.key)
    return list(edits.values())
