"""Copies of a model's weights that a file keeps beside them, such as an exponential moving average (EMA)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import NamedTuple

from convinspect.checkpoint import Checkpoint
from convinspect.converting.eligibility import Held
from convinspect.converting.moving import followed
from convinspect.converting.plan import Plan
from convinspect.converting.relations import viewed
from convinspect.converting.reshape import channels_last, out_in, reshaped, with_channels_last
from convinspect.dtypes import FLOATING
from convinspect.errors import CannotConvert
from convinspect.formats.torch.wrappers import is_wrapped
from convinspect.keys.wrappers import clean_names
from convinspect.records import Edit, Root, Tensor, bytes_of


class Copies(NamedTuple):
    """Copies of the model's weights in a root.

    Attributes:
        edits: Edits of the copies that change with their weights.
        left: Keys of tensors that may be copies of changed weights, and stay unchanged.
        held: Copies that no edit can change (Tensor subclasses around others), by their weight's stored key.
    """

    edits: list[Edit]
    left: list[str]
    held: dict[str, Held]

    def take(self, tensor: Tensor, edit: Edit) -> None:
        """A copy of a weight that changes is to change too."""
        if is_wrapped(tensor):
            self.held[edit.tensor.key] = Held(tensor, "ema")
        # A root that is saved as plain tensors gives this one its shape all the same.
        self.edits.append(like(tensor, edit))


def copies_in(checkpoint: Checkpoint, plan: Plan, root: Root) -> Copies:
    """Copies in another root of the weights that the plan changes.

    Tensors over the same bytes are copies, and so are an EMA's tensors with the same name; shapes must be equal. An EMA
    that is a list has no names, and is matched by the order of parameters if every shape fits. A root with the same
    names that is not an EMA may be another model.

    Args:
        checkpoint: The file; its root in use is the model.
        plan: The model's conversions.
        root: The other root.
    """
    in_order = _in_order(checkpoint, root)
    if in_order:
        edits = {id(edit.tensor): edit for edit in plan.edits}
        pairs = zip(root.tensors, in_order, strict=True)
        listed = Copies([], [], {})
        for tensor, weight in pairs:
            if id(weight) in edits:
                listed.take(tensor, edits[id(weight)])
        return listed
    names = {tensor.key: name for name, tensor in checkpoint.tensors.items()}
    by_name = {names[edit.tensor.key]: edit for edit in plan.edits}
    by_bytes = {bytes_of(edit.tensor): edit for edit in plan.edits if bytes_of(edit.tensor) is not None}
    shapes = {edit.tensor.shape for edit in plan.edits}
    copies = Copies([], [], {})
    ema = root.role == "ema"
    for name, tensor in zip(clean_names([tensor.key for tensor in root.tensors]), root.tensors, strict=True):
        same = by_bytes.get(bytes_of(tensor))
        named = by_name.get(_bare(name, by_name) if ema else name)
        edit = same or (named if ema else None)
        alike = named is not None and named.tensor.shape == tensor.shape
        if edit is not None and edit.tensor.shape == tensor.shape:
            copies.take(tensor, edit)
        elif same is not None or alike or (ema and name.isdecimal() and tensor.shape in shapes):
            copies.left.append(tensor.key)
    return copies


def _bare(name: str, known: Container[str]) -> str:
    """A name without the levels that an EMA puts before it: `ema_model.conv.weight` → `conv.weight`."""
    while name not in known and "." in name:
        name = name.partition(".")[2]
    return name


def _in_order(checkpoint: Checkpoint, root: Root) -> list[Tensor]:
    """The model's parameters, if the root is an EMA's list of tensors with the same shapes in this order; else []."""
    parameters = [tensor for tensor in checkpoint.parameters() if tensor.dtype in FLOATING]
    listed = [tensor.key for tensor in root.tensors] == [str(number) for number in range(len(parameters))]
    fits = listed and [tensor.shape for tensor in root.tensors] == [tensor.shape for tensor in parameters]
    return parameters if root.role == "ema" and fits else []


def copies_beside(checkpoint: Checkpoint, plan: Plan, staying: Container[str] = ()) -> Copies:
    """Copies in the model's own root of the weights that the plan changes, with or without dots in their names.

    A copy with several candidates, or with another shape than its original, is left unchanged; so is the original of a
    copy that alone was chosen.

    Args:
        checkpoint: The file; its root in use is the model.
        plan: The model's conversions.
        staying: Keys of tensors that are not to change.
    """
    changed = {edit.tensor.key: edit for edit in plan.edits}
    copies = Copies([], [], {})
    owners = own_originals(checkpoint.root.tensors) if changed else {}
    for tensor in checkpoint.root.tensors:
        originals = owners.get(tensor.key, ())
        edits = [edit for owner in originals if (edit := changed.get(owner.key)) is not None]
        if tensor.key in changed:
            copies.left.extend(one.key for one in originals if not edits and one.shape == tensor.shape)
        elif edits and len(originals) == 1 and originals[0].shape == tensor.shape and tensor.key not in staying:
            copies.take(tensor, edits[0])
        elif edits:
            copies.left.append(tensor.key)
    return copies


def own_originals(tensors: Sequence[Tensor]) -> dict[str, list[Tensor]]:
    """Copies among a root's tensors, by key, with the tensors that each may be a copy of."""
    return undotted_copies(tensors) | dotted_copies(tensors)


def like(tensor: Tensor, edit: Edit) -> Edit:
    """The same edit for another tensor of the same shape.

    Raises:
        CannotConvert: Its numbers would have to move.
    """
    if 1 in (len(tensor.shape), len(edit.shape)) and max(tensor.shape, default=0) == tensor.numel:
        # DoRA's magnitudes: only the stride of their one dimension means anything.
        return edit._replace(tensor=tensor)
    if out_in(edit.tensor.shape) is None or out_in(edit.shape) is None:
        seen = viewed(tensor, edit.shape) if edit.moved is None else followed(tensor, edit)
        if seen is None:
            problem = f"the numbers of {tensor.key} lie otherwise than those of {edit.tensor.key}, which changes"
            raise CannotConvert(problem, "save the file again with contiguous tensors")
        return seen if isinstance(seen, Edit) else Edit(tensor, seen.shape, seen.stride)
    changed = reshaped(tensor, len(edit.shape) - 2, edit.transposed)
    return with_channels_last(changed) if channels_last(edit) else changed


def undotted_copies(tensors: Iterable[Tensor]) -> dict[str, list[Tensor]]:
    """The copies that latent diffusion's EMA keeps in the model's own state_dict, with their candidate originals.

    It registers `diffusion_model.out.weight` of the module that it averages as `model_ema.diffusion_modeloutweight`.

    Returns:
        Key of a copy → the tensors whose names, from some level on, are its name once their dots are removed: usually
        one, several if they differ in dots only. Copies without a candidate are left out.
    """
    every = list(tensors)
    copies = [tensor for tensor in every if _is_copy(tensor.key)]
    owners: dict[str, list[Tensor]] = {}
    # Each tensor has many such names; they are needed only if there are copies.
    for tensor in every if copies else ():
        if _is_copy(tensor.key):
            continue
        for name in {below.replace(".", "") for below in _from_each_level(tensor.key)}:
            owners.setdefault(name, []).append(tensor)
    candidates = {copy.key: owners.get(copy.key.rpartition(".")[2], []) for copy in copies}
    return {key: owned for key, owned in candidates.items() if owned}


def _is_copy(key: str) -> bool:
    return "ema" in key.rpartition(".")[0].rpartition(".")[2]


def dotted_copies(tensors: Iterable[Tensor]) -> dict[str, list[Tensor]]:
    """The copies that a module called as an average holds of another module in the same state_dict.

    `ema_model.conv.weight` beside `model.conv.weight`, as ema_pytorch has it, or `swa.module.conv.weight`, as PyTorch's
    `AveragedModel` has it. A module counts as the other if its tensors have the same names and shapes, all of them, and
    it is called so but for that word, or alone has more than one layer with these names and shapes.

    Returns:
        Key of a copy → the tensor with its name in the other module, in a list as of `undotted_copies`.
    """
    averages: dict[str, dict[str, Tensor]] = {}
    others: dict[str, Tensor] = {}
    for tensor in tensors:
        average = _AVERAGE.search(tensor.key) if tensor.shape else None
        if average is not None:
            # `AveragedModel` has the level `module` before every name.
            name = tensor.key[average.end() :].removeprefix("module.")
            averages.setdefault(tensor.key[: average.end() - 1], {})[name] = tensor
        elif tensor.shape:
            others[tensor.key] = tensor
    # Tensors below each prefix, and the prefixes of each name: needed only if there are averages.
    numbers: Counter[str] = Counter()
    prefixes: dict[str, list[str]] = {}
    for key in others if averages else ():
        parts = key.split(".")
        for at in range(len(parts)):
            name = ".".join(parts[at:])
            numbers[key.removesuffix(name)] += 1
            prefixes.setdefault(name, []).append(key.removesuffix(name))
    found: dict[str, list[Tensor]] = {}
    for called, copies in averages.items():
        rarest = min(copies, key=lambda name: len(prefixes.get(name, ())))
        modules = [
            prefix for prefix in prefixes.get(rarest, ())
            if numbers[prefix] == len(copies) and _same_shapes(copies, others, prefix)
        ]  # fmt: skip
        original = _original(called, modules, len({name.rpartition(".")[0] for name in copies}))
        if original is not None:
            found |= {copy.key: [others[original + name]] for name, copy in copies.items()}
    return found


_WORDS = "ema|avg|averaged|shadow|swa"
_AVERAGE = re.compile(rf"(?:^|[._])(?:{_WORDS})(?:_[^.]*)?\.", re.IGNORECASE)
"""Up to the outermost level of a name that says that it holds averages."""
_WORD = re.compile(rf"(?:^|_)(?:{_WORDS})(?=_|$)", re.IGNORECASE)


def _same_shapes(copies: Mapping[str, Tensor], others: Mapping[str, Tensor], prefix: str) -> bool:
    return all(prefix + name in others and others[prefix + name].shape == copy.shape for name, copy in copies.items())


def _original(average: str, modules: Sequence[str], layers: int) -> str | None:
    """The prefix of the module that an average is of, or None.

    Args:
        average: Its name, such as `net.ema_model`.
        modules: Prefixes of those with its names and shapes.
        layers: How many layers it has.
    """
    parent, _, last = average.rpartition(".")
    bare = _WORD.sub("", last).strip("_")
    for called in (f"{parent}.{bare}".strip("."), bare):
        if f"{called}." * bool(called) in modules:
            return f"{called}." * bool(called)
    return modules[0] if len(modules) == 1 and layers > 1 else None


def _from_each_level(key: str) -> list[str]:
    """A key as each level of the model sees it: whole, without its first level, without its first two, …."""
    parts = key.split(".")
    return [".".join(parts[at:]) for at in range(max(1, len(parts) - 1))]
