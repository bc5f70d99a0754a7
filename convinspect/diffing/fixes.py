"""What a `load_state_dict` error says → whether converting or renaming fixes it, and which calls of `convert` do it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from convinspect.checkpoint import Checkpoint
from convinspect.converting.relations import How, call, relate
from convinspect.converting.reshape import edit_to
from convinspect.diffing.differences import Verdict
from convinspect.diffing.load_error import LoadError, LoadErrorItem, Shape, Trouble
from convinspect.diffing.missing_numbers import EMPTIED, EMPTIED_SHAPE, Missing, missing_numbers
from convinspect.diffing.names import in_full, without_adapter
from convinspect.diffing.steps import Step, aim_of, is_flattened, planned_steps
from convinspect.diffing.supplied import Side, made_after_renaming
from convinspect.errors import Option, Wording
from convinspect.formats.torch.objects import beside, read_objects
from convinspect.formats.torch.wrappers import is_wrapped
from convinspect.keys.others import Other, Value
from convinspect.keys.pairing import COUNT, Prefix, pair_keys
from convinspect.keys.rules import new_keys
from convinspect.keys.wrappers import clean_names
from convinspect.layers.find import find_layers
from convinspect.records import Layer, Tensor
from convinspect.text import Word, plural


class Fix(Word):
    """What makes a line of the error go away."""

    CONVERT = "convert"
    """`convert` to another kind gives the wanted shape."""
    RENAME = "rename"
    """The key has its partner under another prefix."""
    LIKE = "like"
    """The shape can be had, but only `convert` like a checkpoint that has it makes it."""
    PYTORCH = "pytorch"
    """A line of PyTorch makes it, and no conversion does."""
    NONE = "none"
    """Nothing that keeps the numbers fixes it."""
    ALREADY = "already"
    """The checkpoint at hand does not have the trouble."""
    OTHER_CHECKPOINT = "other checkpoint"
    """The error is not about the checkpoint at hand."""
    PASS_ITS_ROOT = "pass its root"
    """The file's whole dictionary was passed, and the weights are one of its entries."""
    WHICH = "which"
    """The error does not tell which of several keys it means."""


_OBSTACLES = (Fix.NONE, Fix.OTHER_CHECKPOINT, Fix.LIKE, Fix.PYTORCH)
_OF_KEYS = (Trouble.MISSING, Trouble.UNEXPECTED)


@dataclass(frozen=True, slots=True)
class Answer:
    """What can be done about one thing that an error says.

    Attributes:
        item: What the error says.
        fix: What makes it go away.
        reason: A few words to go with it.
        shape: The shape in the checkpoint at hand; None where it has no such key.
        layer: The layer to convert; "" is the root module.
        call: PyTorch's call that makes the wanted shape, where no conversion does.
        key: Its stored key.
    """

    item: LoadErrorItem
    fix: Fix
    reason: str
    shape: Shape | None = None
    layer: str = ""
    call: str = ""
    key: str = ""

    @property
    def obstacle(self) -> str:
        """Why this line stays; "" where it goes away."""
        if self.fix not in _OBSTACLES:
            return ""
        if self.fix in (Fix.NONE, Fix.PYTORCH) and self.item.trouble == Trouble.SIZE_MISMATCH:
            return f"{self.item.key} is {self.shape} in A and {self.item.model} in the model"
        return Wording(f"{self.item.key}: ", self.reason)


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """What can be done about an error.

    Attributes:
        answers: One for each thing that the error says, in its order.
        steps: Calls of `convert` that do all that converting can.
        rules: rename rules that fix keys; None where no few rules do.
        prefixes: What makes unexpected keys differ from missing ones.
        extra: What the checkpoint's keys carry beyond those that the error speaks of.
        root: Path of the weights in the file, where its whole dictionary was passed; "" elsewhere.
        unread: Lines of the text that look like complaints and were not understood.
        stops: The loader that wrote it, if it stops at the first thing that it does not like; "" of one that tells all.
        headless: The beginning of the error is missing.
        endless: The end of a table is missing, it seems.
        checkpoint: The checkpoint at hand.
    """

    answers: tuple[Answer, ...]
    steps: tuple[Step, ...]
    rules: tuple[str, ...] | None
    prefixes: tuple[Prefix, ...]
    extra: tuple[Prefix, ...]
    root: str = ""
    unread: tuple[str, ...] = ()
    stops: str = ""
    headless: bool = False
    endless: bool = False
    checkpoint: Checkpoint = field(kw_only=True, compare=False, repr=False)

    def __repr__(self) -> str:
        answers, obstacles = plural(len(self.answers), "answer"), plural(len(self.obstacles), "obstacle")
        return f"<load error report: {self.verdict}, {answers}, {obstacles}>"

    @property
    def obstacles(self) -> tuple[str, ...]:
        """Why it will still not load, a line each."""
        of_file = (self.checkpoint.unloadable,) if self.checkpoint.unloadable else ()
        return of_file + tuple(answer.obstacle for answer in self.answers if answer.fix in _OBSTACLES)

    @property
    def missing(self) -> Missing | None:
        """Numbers that the checkpoint at hand does not have, of tensors that no answer gives as emptied already."""
        told = {one.item.key for one in self.answers if one.fix == Fix.NONE and one.shape == EMPTIED_SHAPE}
        tensors = self.checkpoint.tensors.items()
        return missing_numbers(self.checkpoint, (tensor for key, tensor in tensors if key not in told))

    @property
    def loads_by_hand(self) -> bool:
        """It loads once it is converted as far as it can be and lines of PyTorch did the rest; False without any."""
        return self.mended_by_hand and not (self.hidden or self.unseen)

    @property
    def mended_by_hand(self) -> bool:
        """Lines of PyTorch do all that nothing else does, of what was read; False without any."""
        lines = sum(answer.fix == Fix.PYTORCH for answer in self.answers)
        return lines > 0 and lines == len(self.obstacles)

    @property
    def same(self) -> bool:
        """The checkpoint at hand has none of the troubles, and there are no others that the text hides."""
        return self.clear and not (self.hidden or self.unseen)

    @property
    def clear(self) -> bool:
        """The checkpoint at hand has none of the troubles that were read."""
        return not self.checkpoint.unloadable and all(answer.fix == Fix.ALREADY for answer in self.answers)

    @property
    def hidden(self) -> bool:
        """There may be other troubles than those that were read, so that nothing can be promised."""
        doubtful = any(answer.item.folded or answer.fix == Fix.WHICH for answer in self.answers)
        return bool(self.unread or self.stops or self.headless or self.endless or doubtful)

    @property
    def unseen(self) -> bool:
        """Shapes may differ that were not compared: loaders compare those of keys alone that both sides have."""
        gone = {Fix.RENAME, Fix.ALREADY}
        keys = (answer.fix in gone and answer.item.trouble in _OF_KEYS for answer in self.answers)
        return bool(self.root) or any(keys)

    @property
    def verdict(self) -> Verdict:
        """Whether the checkpoint at hand would load, as far as the error tells."""
        if self.obstacles and not (self.mended_by_hand and (self.hidden or self.unseen)):
            return Verdict.DOES_NOT_LOAD
        if self.hidden or self.unseen:
            return Verdict.UNDECIDED
        return Verdict.LOADS if self.same else Verdict.LOADS_AFTER_CONVERTING


# ---------------------------------------------------------------------------------------------- answering each line


def suggest_fixes(checkpoint: Checkpoint, error: LoadError) -> ErrorReport:
    """What can be done with `checkpoint` about an error that loading it gave."""
    items = in_full(error.items, checkpoint)
    held, extra = _held(checkpoint, [item.key for item in items if item.trouble != Trouble.MISSING])
    items = _without_guesses(items, held)
    tensors = {key: side for key, side in held.items() if isinstance(side, Tensor)}
    layers = find_layers(checkpoint)
    steps, refusals = planned_steps(layers, _wanted_shapes(items, tensors))
    outer = _keys_beside_weights(checkpoint, items, held)
    owners = {id(tensor): layer for layer in layers for tensor in layer.tensors.values()}
    sides: list[Side] = [*checkpoint.tensors.values(), *checkpoint.others.values()]
    stored = {side.key: None for side in sides}
    partners = _Partners.of(
        list(stored) if outer else [item.key for item in items if item.trouble == Trouble.UNEXPECTED],
        [item.key for item in items if item.trouble == Trouble.MISSING],
    )
    answers = []
    for item in items:
        side = held.get(item.key)
        if item.partial:
            answers.append(Answer(item, Fix.WHICH, "the error gives the end of the key alone", item.checkpoint))
        elif item.key in outer and item.trouble == Trouble.UNEXPECTED:
            answers.append(Answer(item, Fix.PASS_ITS_ROOT, "an entry of the file, not of the weights"))
        elif item.trouble in (Trouble.MISSING, Trouble.UNEXPECTED):
            answers.append(_answer_key(item, side, stored.keys(), partners))
        elif isinstance(side, Other):
            answers.append(Answer(item, Fix.NONE, f"it is no tensor there ({side.what})"))
        else:
            answers.append(_answer_shape(item, side, owners.get(id(side)), refusals))
    renames = any(answer.fix == Fix.RENAME for answer in answers)
    rules, prefixes = (partners.rules, partners.prefixes) if renames or partners.rules is None else ((), ())
    root = checkpoint.root.path if outer else ""
    said = (error.unread, error.stops, error.headless, error.endless)
    return ErrorReport(tuple(answers), steps, rules, prefixes, extra, root, *said, checkpoint=checkpoint)


def _keys_beside_weights(
    checkpoint: Checkpoint, items: Iterable[LoadErrorItem], held: Mapping[str, Side]
) -> frozenset[str]:
    """Unexpected keys that are other entries of the file: it was passed to `load_state_dict` as a whole."""
    unknown = {item.key for item in items if item.trouble == Trouble.UNEXPECTED and item.key not in held}
    root = checkpoint.root.path
    if not root or root.partition(".")[0] not in unknown:
        return frozenset()
    objects = read_objects(checkpoint.path)
    above = {each.path.partition(".")[0] for each in checkpoint.roots}
    return frozenset(unknown & (above | set(beside(objects, root) if objects is not None else ())))


def _held(checkpoint: Checkpoint, keys: Iterable[str]) -> tuple[dict[str, Side], tuple[Prefix, ...]]:
    """What the checkpoint has under the error's keys, and prefixes that its own keys have in addition."""
    sides: dict[str, Side] = {**checkpoint.tensors, **checkpoint.others}
    stored = [side.key for side in sides.values()]
    known = frozenset(stored)
    said = {key: without_adapter(key, known) for key in keys}
    wanted = list(dict.fromkeys(said.values()))
    pairing = pair_keys((stored, wanted), (list(sides), clean_names(wanted)))
    values = list(sides.values())
    held = {wanted[j]: values[i] for _, i, j in pairing.pairs}
    return {key: held[bare] for key, bare in said.items() if bare in held}, pairing.prefixes


def _without_guesses(items: list[LoadErrorItem], held: Collection[str]) -> list[LoadErrorItem]:
    """Items without those of folded names that the checkpoint does not have, if it has any of them."""
    kept = [item for item in items if not item.folded or item.trouble == Trouble.MISSING or item.key in held]
    return kept or items


_MEAN = "running_mean"


@dataclass(frozen=True, slots=True)
class _Partners:
    """Unexpected and missing keys that differ in a prefix only.

    Attributes:
        keys: Each key's partner, in both directions.
        rules: Rename rules that turn the unexpected keys into the missing ones; None where there are none.
        prefixes: The prefixes that differ.
        made: Missing keys that PyTorch makes itself once the others are renamed, and what it makes them of.
    """

    keys: Mapping[str, str]
    rules: tuple[str, ...] | None
    prefixes: tuple[Prefix, ...]
    made: frozenset[str]

    @classmethod
    def of(cls, unexpected: list[str], missing: Sequence[str]) -> _Partners:
        # PyTorch supplies missing counts itself, so an error never names them.
        counts = [f"{key.removesuffix(_MEAN)}{COUNT}" for key in missing if key.endswith(_MEAN)]
        wanted = list(dict.fromkeys([*missing, *counts]))
        pairing = pair_keys((unexpected, wanted), (clean_names(unexpected), clean_names(wanted)))
        keys = {unexpected[i]: wanted[j] for _, i, j in pairing.pairs}
        renamed = dict(zip(unexpected, new_keys(unexpected, pairing.rules or ()), strict=True))
        made = made_after_renaming([key for key in missing if key not in keys.values()], renamed.values())
        old = frozenset(key for key, new in renamed.items() if new in made)
        return cls(keys | {new: old for old, new in keys.items()}, pairing.rules, pairing.prefixes, made | old)


def _answer_key(item: LoadErrorItem, side: Side | None, stored: Collection[str], partners: _Partners) -> Answer:
    missing = item.trouble == Trouble.MISSING
    if missing and item.key in stored:
        return Answer(item, Fix.ALREADY, "it has this key")
    if not missing and item.key not in stored and partners.keys.get(item.key) in stored:
        return Answer(item, Fix.ALREADY, "it has the model's key for it")
    if not missing and side is None:
        return Answer(item, Fix.OTHER_CHECKPOINT, "it has no such key")
    shape = side.shape if isinstance(side, Tensor) else None
    if isinstance(side, Other) and side.value is Value.UNINITIALIZED and item.key in partners.keys:
        return Answer(item, Fix.WHICH, "it has no shape yet there (uninitialized), which a lazy module alone takes")
    if item.key in partners.made:
        return Answer(item, Fix.RENAME, "PyTorch makes the one of the other once it is renamed", shape)
    if item.key not in partners.keys:
        return Answer(item, Fix.NONE, "no conversion makes it" if missing else "the model has no such key", shape)
    if partners.rules is None:
        no_rules = Wording("it is there under another key, and no few ", Option("rename", None), " rules do it")
        return Answer(item, Fix.NONE, no_rules, shape)
    reason = "it is there under another prefix" if missing else "its prefix is not the model's"
    return Answer(item, Fix.RENAME, reason, shape)


def _wanted_shapes(items: Sequence[LoadErrorItem], tensors: Mapping[str, Tensor]) -> dict[int, Shape]:
    """Shapes that the model wants and that reshaping can give, by the tensor's id."""
    return {
        id(tensors[item.key]): item.model
        for item in items
        if item.trouble == Trouble.SIZE_MISMATCH and item.model is not None and item.key in tensors
        if tensors[item.key].shape != item.model and _convertible(tensors[item.key], item.model)
    }


def _convertible(tensor: Tensor, shape: Shape) -> bool:
    return edit_to(tensor, shape) is not None or is_flattened(tensor.shape, shape)


def _answer_shape(
    item: LoadErrorItem, tensor: Tensor | None, layer: Layer | None, refusals: Mapping[int, str]
) -> Answer:
    if tensor is None or layer is None:
        return Answer(item, Fix.OTHER_CHECKPOINT, "it has no such key")
    shape, wanted = tensor.shape, item.model
    if item.trouble == Trouble.NOT_COPIED or wanted is None:
        return Answer(item, Fix.NONE, "PyTorch could not copy it, whatever its shape", shape)
    if shape == wanted:
        return Answer(item, Fix.ALREADY, "it has the wanted shape", shape)
    if item.folded and item.checkpoint != shape:
        return Answer(item, Fix.WHICH, "the error gives the shapes of one of several keys", shape)
    if item.checkpoint != shape:
        reason = f"it has {shape}, and the error says {item.checkpoint}"
        return Answer(item, Fix.OTHER_CHECKPOINT, reason, shape)
    if shape == EMPTIED_SHAPE:
        return Answer(item, Fix.NONE, EMPTIED, shape)
    if edit_to(tensor, wanted) is None and (id(tensor) in refusals or not is_flattened(shape, wanted)):
        return _by_hand(item, tensor, wanted)
    if id(tensor) in refusals and wanted == shape[::-1] != shape:
        return _by_hand(item, tensor, wanted, ", if it is the same matrix transposed")
    if id(tensor) in refusals:
        return Answer(item, Fix.LIKE, refusals[id(tensor)], shape, layer.name)
    return Answer(item, Fix.CONVERT, f"{layer.kind} → {aim_of(layer, shape, wanted).to}", shape, layer.name)


def _by_hand(item: LoadErrorItem, tensor: Tensor, wanted: Shape, doubt: str = "") -> Answer:
    """The answer to a shape that no kind of layer explains; `doubt` is said of what the shape alone suggests."""
    relation = relate(tensor.shape, wanted)
    line = call(relation, tensor.shape, wanted) if tensor.layout == "strided" and not is_wrapped(tensor) else ""
    if not line:
        return Answer(
            item, Fix.NONE, "no reshaping fixes it" if relation.how is How.DIFFERENT else _UNORDERED, tensor.shape
        )
    sure = "" if not relation.ambiguous else f", or {plural(len(relation.orders) - 1, 'other order')} of axes"
    return Answer(item, Fix.PYTORCH, f"{line.removeprefix('.')}{sure}{doubt}", tensor.shape, call=line, key=tensor.key)


_UNORDERED = "as many numbers, but no order of axes makes it"
