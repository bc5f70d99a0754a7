"""What `diff` finds between two checkpoints, tensor by tensor, and what follows for loading."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from convinspect.diffing.missing_numbers import Missing, missing_numbers
from convinspect.errors import Wording
from convinspect.keys.pairing import Prefix
from convinspect.text import Word, plural

if TYPE_CHECKING:
    from convinspect.arrays.distance import Deviation
    from convinspect.checkpoint import Checkpoint
    from convinspect.converting.relations import Relation
    from convinspect.keys.others import Other
    from convinspect.records import Tensor


class Kind(Word):
    """How two tensors with the same name compare, or which side has the only one; in the order of the table."""

    RANK_DIFFERS = "rank differs"
    """The shapes are `(O, I)` and `(O, I, 1, …)`, the same numbers in the same order."""
    TRANSPOSED = "transposed"
    """The shapes are `(O, I)` and `(I, O)`; of square ones, their layers' kinds or numbers say so."""
    RESHAPED = "reshaped"
    """`reshape` makes the one of the other: the same numbers in the same order, in any shape but the two above."""
    PERMUTED = "axes permuted"
    """The same sizes in another order; the numbers may say which, or be others."""
    SHAPE_DIFFERS = "shape differs"
    """No order of axes and no joining of neighbours makes one of the other."""
    DTYPE_DIFFERS = "dtype differs"
    """The shape is the same. A tensor whose shape differs too is counted there."""
    VALUES_DIFFER = "values differ"
    """Shape and dtype are the same, the numbers are not."""
    ONLY_IN_A = "only in A"
    ONLY_IN_B = "only in B"
    NO_TENSOR = "no tensor"
    """One value or both are no tensor, and they are of different types."""
    NOT_COMPARED = "not compared"
    """Shape and dtype are the same; numbers were to be compared and are not in the file, or have no reading (sparse,
    quantized, several in a byte)."""
    SAME = "same"


KINDS = tuple(Kind)
"""What converting fixes, then what it does not, then what does not hinder loading."""


class Square(Word):
    """Whether a square matrix is stored transposed, as others beside it are."""

    TURNED = "transposed"
    AS_IT_IS = "not transposed"
    IN_DOUBT = "in doubt"
    """Its numbers were not compared, or are different ones."""


class Verdict(Word):
    """Whether A would load where B does."""

    LOADS = "loads"
    LOADS_AFTER_CONVERTING = "loads after converting"
    DOES_NOT_LOAD = "does not load"
    UNDECIDED = "undecided"
    """Of an error alone: what was read of it can be fixed, and something was not read, or was not said."""


class Difference(NamedTuple):
    """Two tensors with the same name, or one that only one side has.

    Attributes:
        name: What the two keys have in common.
        kind: What they are to each other.
        a: The first checkpoint's tensor, or None.
        b: The second's.
        other_a: What the first checkpoint has instead of a tensor, or None.
        other_b: What the second has.
        obstacle: Why `a` will not load in the place of `b`, whatever is converted; "" when it will.
        refusal: Why `convert` would leave the layer of `a` unchanged; "" where it would not, or nothing asks for it.
        supplied: What PyTorch does by itself, so that a key of one side alone is no obstacle; "" otherwise.
        layer: The layer that must be converted for it to load; None when none must.
        deviation: How the numbers differ after reshaping; None where they are equal or were not compared.
        unnoticed: The numbers are transposed and the shape does not show it: it loads, and computes something else.
        unread: Numbers were to be compared and could not be, whatever else differs.
        square: Of a square matrix beside others that are stored transposed: whether it is too; None of all others.
        relation: Of two tensors: how their shapes are related, or their numbers where these say more.
        call: PyTorch's call on `a` that removes the obstacle; "" where none does, or `convert` does.
    """

    name: str
    kind: Kind
    a: Tensor | None
    b: Tensor | None
    obstacle: str = ""
    refusal: str = ""
    supplied: str = ""
    layer: str | None = None
    deviation: Deviation | None = None
    unnoticed: bool = False
    unread: bool = False
    other_a: Other | None = None
    other_b: Other | None = None
    square: Square | None = None
    relation: Relation | None = None
    call: str = ""

    @property
    def maybe_turned(self) -> bool:
        """It is a square matrix that may be stored transposed; neither shape nor numbers tell."""
        return self.square == Square.IN_DOUBT


_NOTHING_SAID = ("", "", "", None, None, False, False, None, None, None)
"""Fields 4 to 13 of a difference that is none."""


@dataclass(frozen=True)
class DiffReport:
    """How two checkpoints differ.

    Attributes:
        tensors: Every key of either side once, the first's tensors and then what else it has, in its order, then those
            of the second alone.
        prefixes: What makes keys of pairs differ.
        rules: rename rules that give A's tensors B's keys; None where no few rules do.
        compared: Numbers were compared too.
        a: The checkpoint that is to be loaded.
        b: The one that loads.
    """

    tensors: tuple[Difference, ...]
    prefixes: tuple[Prefix, ...] = ()
    rules: tuple[str, ...] | None = ()
    compared: bool = False
    # What was compared is no part of how it differs: two runs that find the same are equal.
    a: Checkpoint = field(kw_only=True, compare=False, repr=False)
    b: Checkpoint = field(kw_only=True, compare=False, repr=False)

    def __repr__(self) -> str:
        tensors = f"{self.counts[Kind.SAME]:,} of {plural(len(self.tensors), 'tensor')} the same"
        return f"<diff report: {self.verdict}, {tensors}, {plural(len(self.obstacles), 'obstacle')}>"

    @cached_property
    def remarkable(self) -> tuple[Difference, ...]:
        """Tensors of which anything is to be said but that they are the same, in order."""
        return tuple(each for each in self.tensors if each.kind is not Kind.SAME or each[4:14] != _NOTHING_SAID)

    @cached_property
    def counts(self) -> Mapping[str, int]:
        """How many tensors there are of each kind, by `Kind` or its text."""
        numbers = Counter(difference.kind for difference in self.tensors)
        return MappingProxyType({kind: numbers[kind] for kind in KINDS})

    @property
    def same(self) -> bool:
        """No difference was found, in keys either, and all was compared that should be."""
        return not self.prefixes and all(difference.kind == Kind.SAME for difference in self.tensors)

    @cached_property
    def converted(self) -> tuple[str, ...]:
        """Layers of A that must be converted and can be."""
        return tuple(dict.fromkeys(each.layer for each in self.remarkable if each.layer is not None))

    @cached_property
    def maybe_turned(self) -> tuple[str, ...]:
        """Square matrices of A that may be stored transposed."""
        return tuple(each.name for each in self.remarkable if each.maybe_turned)

    @cached_property
    def obstacles(self) -> tuple[str, ...]:
        """Why A will still not load where B does, a line each."""
        of_file = (self.a.unloadable,) if self.a.unloadable else ()
        by_hand = ("its keys differ in more ways than a few rules fix",) if self.rules is None else ()
        return (
            of_file
            + by_hand
            + tuple(Wording(f"{each.name or '(root)'} ", each.obstacle) for each in self.remarkable if each.obstacle)
        )

    @cached_property
    def missing(self) -> Missing | None:
        """Numbers that A does not have, of tensors that would be loaded."""
        loaded = (each.a for each in self.tensors if each.a is not None and not each.obstacle)
        return missing_numbers(self.a, loaded)

    @cached_property
    def by_hand(self) -> tuple[Difference, ...]:
        """What a line of PyTorch each mends, and no conversion does."""
        return tuple(each for each in self.remarkable if each.call)

    @property
    def loads_by_hand(self) -> bool:
        """A loads once it is converted as far as it can be and these lines were run; False where it needs none."""
        return bool(self.by_hand) and len(self.obstacles) == len(self.by_hand)

    @property
    def verdict(self) -> Verdict:
        """Whether A would load, strictly, into the model that B was saved from."""
        if self.obstacles:
            return Verdict.DOES_NOT_LOAD
        return Verdict.LOADS_AFTER_CONVERTING if self.converted or self.rules else Verdict.LOADS
