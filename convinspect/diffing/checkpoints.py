"""Two checkpoints → where they differ, and whether the one would load where the other does, as it is or converted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from convinspect.checkpoint import Checkpoint
from convinspect.converting.like import out_in, plan_like, square_turned
from convinspect.converting.plan import Plan
from convinspect.errors import CannotShow
from convinspect.formats.torch.objects import read_objects, versions
from convinspect.keys.pairing import COUNT, Pairing, Prefix, pair_keys
from convinspect.layers.by_shape import is_magnitude
from convinspect.layers.find import find_layers
from convinspect.layers.lora import as_vector
from convinspect.records import Layer, Tensor

if TYPE_CHECKING:
    from convinspect.arrays.distance import Deviation

Kind = Literal[
    "rank differs", "transposed", "shape differs", "dtype differs", "values differ", "only in A", "only in B",
    "not compared", "same",
]  # fmt: skip
KINDS: tuple[Kind, ...] = Kind.__args__  # type: ignore[attr-defined]
"""In the order that they are listed in: what converting mends, what it does not, what does not hinder loading."""

Verdict = Literal["loads", "loads after converting", "does not load"]


@dataclass(frozen=True, slots=True)
class Difference:
    """What two tensors of one name, or one tensor without another, are to each other.

    Attributes:
        name: What the two keys have in common.
        kind: - "rank differs": the shapes are `(O, I)` and `(O, I, 1, …)`, the same numbers in the same order.
            - "transposed": the shapes are `(O, I)` and `(I, O)`; of square ones, their layers' kinds or numbers say so.
            - "shape differs": no reshaping makes one of the other.
            - "dtype differs": the shape is the same. A tensor whose shape differs too is counted there.
            - "values differ": shape and dtype are the same, the numbers are not.
            - "only in A", "only in B".
            - "not compared": shape and dtype are the same; numbers were to be compared and are not in the file, or have
              no reading (sparse, quantized, several in a byte).
            - "same".
        a: The first checkpoint's tensor, or None.
        b: The second's.
        obstacle: Why `a` will not load in the place of `b`, whatever is converted; "" when it will.
        supplied: What PyTorch does by itself, so that a key of one side alone is no obstacle; "" otherwise.
        layer: The layer that must be converted for it to load; None when none must.
        deviation: How far the numbers are apart, under the reshaping; None where they agree or were not compared.
        unnoticed: The numbers are transposed and the shape does not show it: it loads, and computes something else.
        unread: Numbers were to be compared and could not be, whatever else differs.
    """

    name: str
    kind: Kind
    a: Tensor | None
    b: Tensor | None
    obstacle: str = ""
    supplied: str = ""
    layer: str | None = None
    deviation: Deviation | None = None
    unnoticed: bool = False
    unread: bool = False


@dataclass(frozen=True, slots=True)
class DiffReport:
    """What was found.

    Attributes:
        tensors: Every tensor of either side once, in the first's order, then those of the second alone.
        prefixes: What makes keys of pairs differ.
        rules: `--rename` rules that give A's tensors B's keys; None where no few rules do.
        compared: Numbers were compared too.
    """

    tensors: tuple[Difference, ...]
    prefixes: tuple[Prefix, ...] = ()
    rules: tuple[str, ...] | None = ()
    compared: bool = False

    @property
    def counts(self) -> Mapping[Kind, int]:
        """How many tensors there are of each kind."""
        found = Counter(one.kind for one in self.tensors)
        return {kind: found[kind] for kind in KINDS}

    @property
    def same(self) -> bool:
        """No difference was found, in keys either, and all was compared that should be."""
        return not self.prefixes and all(one.kind == "same" for one in self.tensors)

    @property
    def converted(self) -> tuple[str, ...]:
        """Layers of A that must be converted and can be."""
        return tuple(dict.fromkeys(one.layer for one in self.tensors if one.layer is not None))

    @property
    def obstacles(self) -> tuple[str, ...]:
        """Why A will still not load where B does, a line each."""
        by_hand = ("its keys differ in more ways than a few rules mend",) if self.rules is None else ()
        return by_hand + tuple(f"{one.name or '(root)'} {one.obstacle}" for one in self.tensors if one.obstacle)

    @property
    def verdict(self) -> Verdict:
        """Whether A would load, strictly, into the model that B was saved from."""
        if self.obstacles:
            return "does not load"
        return "loads after converting" if self.converted or self.rules else "loads"


def diff(
    a: Checkpoint, b: Checkpoint, values: bool = False, progress: Callable[[int], None] = lambda done: None
) -> DiffReport:
    """Hold two checkpoints' roots in use against each other.

    Args:
        a: The one that is to be loaded.
        b: The one that loads.
        values: Compare numbers too, one tensor at a time.
        progress: Told of bytes that were compared, of both sides.

    Raises:
        ConvInspectError: With `values`: bytes of one of the files are missing or damaged.
    """
    tensors = tuple(list(one.tensors.values()) for one in (a, b))
    names = tuple(list(one.tensors) for one in (a, b))
    keys = tuple([tensor.key for tensor in one] for one in tensors)
    found = pair_keys((keys[0], keys[1]), (names[0], names[1]))
    theirs = {i: (name, tensors[1][j]) for name, i, j in found.pairs}
    alone = {place: name for name, place in found.only_a}
    telling = _telling((a, b), [(tensors[0][i], other) for i, (_, other) in theirs.items()])
    layers = find_layers(a, telling)
    others = find_layers(b, telling)
    plan, turned = _plan(a, layers, others, {id(tensors[0][i]): other for i, (_, other) in theirs.items()})
    edits = {id(edit.tensor): one.layer.name for one in plan.conversions for edit in one.edits}
    left = _left(layers, plan)
    listed: list[Difference] = []
    known = _supplied(a, found, tensors)
    for place, tensor in enumerate(tensors[0]):
        if place in alone:
            listed.append(_alone(alone[place], "only in A", tensor, known))
            continue
        name, other = theirs[place]
        one = Difference(name, _kind(tensor, other, id(tensor) in turned), tensor, other)
        if values:
            one = _compared(one)
            progress(tensor.nbytes + other.nbytes)
        listed.append(loading_effect(one, edits.get(id(tensor)), left.get(id(tensor), "")))
    listed += [_alone(name, "only in B", tensors[1][place], known) for name, place in found.only_b]
    return DiffReport(tuple(listed), found.prefixes, found.rules, values)


def _telling(sides: tuple[Checkpoint, Checkpoint], pairs: Iterable[tuple[Tensor, Tensor]]) -> Callable[[Tensor], bool]:
    """Which tensors' layers can say something of a conversion: shapes that differ, square matrices, which may be
    turned, and what changes together with others. The layers of a hundred thousand that are alike need not be read.
    """
    told = {
        id(one)
        for a, b in pairs
        if a.shape != b.shape or (len(a.shape) == 2 and a.shape[0] == a.shape[1])
        for one in (a, b)
    }
    for side in sides:
        told |= {id(tensor) for name, tensor in side.tensors.items() if "lora" in name or side.tie(name)}
    return lambda tensor: id(tensor) in told


def _plan(
    a: Checkpoint, layers: Sequence[Layer], others: Sequence[Layer], pairs: Mapping[int, Tensor]
) -> tuple[Plan, set[int]]:
    """What `convert --like` would do, and which of A's square weights are stored the other way round in B."""
    owners = {id(layer.weight): layer for layer in others}
    counterparts = {id(layer.weight): owners.get(id(pairs.get(id(layer.weight)))) for layer in layers}
    turned = {id(layer.weight) for layer in layers if square_turned(layer, counterparts[id(layer.weight)])}
    names = {tensor.key: tensor.key for tensor in a.tensors.values()}
    wanted = {tensor.key: pairs[id(tensor)] for tensor in a.tensors.values() if id(tensor) in pairs}
    return plan_like(layers, names, wanted, others), turned


def _left(layers: Sequence[Layer], plan: Plan) -> dict[int, str]:
    """Why `convert` leaves tensors as they are, by their identity."""
    reasons = {one.name: one.reason for one in plan.refusals}
    left = (layer for layer in layers if layer.name in reasons)
    return {id(tensor): reasons[layer.name] for layer in left for tensor in layer.tensors.values()}


# ----------------------------------------------------------------------------------------------- keys of one side alone


def _alone(name: str, kind: Kind, tensor: Tensor, supplied: Mapping[str, str]) -> Difference:
    a, b, other = (tensor, None, "B") if kind == "only in A" else (None, tensor, "A")
    if name in supplied:
        return Difference(name, kind, a, b, supplied=supplied[name])
    return Difference(name, kind, a, b, f"is not in {other}")


def _supplied(a: Checkpoint, found: Pairing, tensors: tuple[Sequence[Tensor], ...]) -> dict[str, str]:
    """What PyTorch makes up for of keys that one side alone has, by name."""
    only_a = {name: tensors[0][place] for name, place in found.only_a}
    only_b = {name: tensors[1][place] for name, place in found.only_b}
    pairs = {name: tensors[0][place].key for name, place, _ in found.pairs}
    return _counts(a, only_b, pairs) | _norms(only_a, only_b)


_COUNTING = 2
"""Version of batch norms from which on they keep a count (`_NormBase._load_from_state_dict` in PyTorch's
torch/nn/modules/batchnorm.py, which supplies it for older ones and where no version is recorded)."""


def _counts(a: Checkpoint, only_b: Iterable[str], pairs: Mapping[str, str]) -> dict[str, str]:
    """Counts of batches that A lacks, of batch norms whose statistics it has."""
    beside = {name: name.removesuffix(COUNT) + "running_mean" for name in only_b if name.endswith(COUNT)}
    homes = {name: pairs[one].rpartition(".")[0] for name, one in beside.items() if one in pairs}
    if not homes or a.holds_modules:
        return {}
    objects = read_objects(a.path)
    recorded = (versions(objects, a.root.path) if objects is not None else None) or {}
    return {
        name: "PyTorch supplies it"
        for name, home in homes.items()
        if (recorded.get(home, {}).get("version") or 0) < _COUNTING
    }


_PARTS = {"_g": "original0", "_v": "original1"}


def _norms(only_a: Mapping[str, Tensor], only_b: Mapping[str, Tensor]) -> dict[str, str]:
    """Halves of an old weight norm that its new form takes (`_weight_norm_compat_hook` in PyTorch's
    torch/nn/utils/parametrizations.py).
    """
    found: dict[str, str] = {}
    for name in (name.removesuffix("_g") for name in only_a if name.endswith("_g")):
        module, dot, leaf = name.rpartition(".")
        new = {end: f"{module}{dot}parametrizations.{leaf}.{part}" for end, part in _PARTS.items()}
        old = {end: only_a.get(name + end) for end in _PARTS}
        if all(
            one is not None and new[end] in only_b and only_b[new[end]].shape == one.shape for end, one in old.items()
        ):
            for end, part in new.items():
                found |= {name + end: f"PyTorch loads it as {part}", part: f"PyTorch takes {name + end} for it"}
    return found


# ------------------------------------------------------------------------------------------------ one pair of tensors


def _kind(a: Tensor, b: Tensor, turned: bool) -> Kind:
    if a.shape == b.shape and not turned:
        return "same" if _facts(a) == _facts(b) else "dtype differs"
    if is_magnitude(a.key):
        vectors = as_vector(a), as_vector(b)
        if vectors[0] is not None and vectors[1] is not None:
            return "rank differs" if vectors[0].shape == vectors[1].shape else "shape differs"
    ours, theirs = out_in(a.shape), out_in(b.shape)
    if ours is None or theirs is None:
        return "shape differs"
    if ours == theirs and not turned:
        return "rank differs"
    if turned or (ours == theirs[::-1] and 2 in (len(a.shape), len(b.shape))):
        return "transposed"
    return "shape differs"


def _facts(tensor: Tensor) -> tuple[str, str]:
    return tensor.dtype, tensor.layout


def loading_effect(one: Difference, layer: str | None, reason: str) -> Difference:
    """The difference with what it means for loading.

    Args:
        one: As compared.
        layer: The layer that `convert` would convert for it.
        reason: Why `convert` would leave it.
    """
    a, b = one.a, one.b
    if a is None or b is None:
        return one
    if layer is not None:
        one = replace(one, layer=layer)
    elif a.shape != b.shape and not _taken_all_the_same(a, b):
        why = f", and its layer cannot be converted: {reason}" if reason and one.kind == "rank differs" else ""
        return replace(one, obstacle=f"is {a.shape} in A and {b.shape} in B{why}")
    if a.layout == "meta" != b.layout:
        return replace(one, obstacle="has no numbers in A, only its shape (meta)")
    if _facts(a) != _facts(b) and not _can_be_copied(a, b):
        return replace(one, obstacle=f"is {' '.join(_facts(a))} in A and {' '.join(_facts(b))} in B")
    return one


def _taken_all_the_same(a: Tensor, b: Tensor) -> bool:
    """`load_state_dict` takes `(1,)` for `()`: files of PyTorch 0.3 have no other."""
    return a.shape == (1,) and b.shape == ()


def _can_be_copied(a: Tensor, b: Tensor) -> bool:
    """Whether PyTorch copies a tensor into one of another dtype or layout, as it does between all plain dtypes."""
    packed = any(one.dtype.startswith(("bits", "float4_", "float6_")) for one in (a, b))
    sparse = [one.layout for one in (a, b) if one.layout.startswith("sparse")]
    return len(sparse) != 1 and len(set(sparse)) < 2 and not packed and not a.dtype.startswith("q")


def _compared(one: Difference) -> Difference:
    """The difference with its numbers, each pair under the reshaping that its kind names."""
    from convinspect.arrays.equality import as_matrix, same_bits

    a, b = one.a, one.b
    if a is None or b is None or a is b or one.kind == "shape differs":
        return one
    if a.shape != b.shape and is_magnitude(a.key):
        a, b = as_vector(a) or a, as_vector(b) or b
    if a.shape != b.shape or one.kind == "transposed":
        a, b = as_matrix(a, one.kind == "transposed"), as_matrix(b, transposed=False)
    try:
        if same_bits(a, b):
            return one
        found = _apart(a, b)
        if found is None:
            return one
        if one.kind != "transposed" and _is_square(one) and _turned(a, b):
            return replace(one, kind="transposed", unnoticed=True)
    except CannotShow:
        return replace(one, kind="not compared" if one.kind == "same" else one.kind, unread=True)
    return replace(one, kind="values differ" if one.kind == "same" else one.kind, deviation=found)


def _is_square(one: Difference) -> bool:
    """Whether a transposition would leave the shape as it is, of matrices that are one on either side at least."""
    shapes = [it.shape for it in (one.a, one.b) if it is not None]
    matrix = out_in(shapes[0])
    return matrix is not None and matrix[0] == matrix[1] and 2 in map(len, shapes)


def _turned(a: Tensor, b: Tensor) -> bool:
    """Whether a square matrix is the other, transposed. The first row alone tells most that are not."""
    from convinspect.arrays.equality import as_matrix, same_bits

    a, b = as_matrix(a, transposed=True), as_matrix(b, transposed=False)
    heads = [replace(it, shape=(min(it.shape[0], 1), it.shape[1])) for it in (a, b)]
    return same_bits(heads[0], heads[1]) and same_bits(a, b)


def _apart(a: Tensor, b: Tensor) -> Deviation | None:
    """How far two tensors are apart whose bits differ; without figures where their numbers have no reading."""
    from convinspect.arrays.distance import Deviation, deviation

    try:
        return deviation(a, b)
    except CannotShow:
        if a.dtype != b.dtype:
            raise
        return Deviation(0, a.numel)
