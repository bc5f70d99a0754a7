"""What became of a tensor, and why two things are not the same: as data, of which `report.verify` makes sentences."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import NamedTuple


class Fate(Enum):
    """What became of a tensor."""

    SAME = auto()
    """Not one bit or size differs."""
    CONVERTED = auto()
    """Another shape, the same numbers."""
    RESHAPED = auto()
    """The same numbers in the same order, in a shape that no conversion of a layer gives."""
    UNREAD = auto()
    """Equal in shape and dtype, but without numbers that can be read."""
    UNPROVED = auto()
    """Another shape, as a conversion gives, and no numbers that can be read."""
    TURNED = auto()
    """A square matrix that is (in, out) in both files, with its numbers transposed: only other layers show whether
    that was meant."""
    LEFT = auto()
    """A square matrix that is unchanged, where its layer has it in the other order after: other layers show whether
    that was meant."""
    CHANGED = auto()
    """It differs; the cause says how."""


class Why(Enum):
    """How two tensors, layers, keys or objects differ. Behind each, the facts that its sentence names."""

    # Tensors.
    DTYPE_NARROWED = auto()  # before, after
    DTYPE_CHANGED = auto()  # before, after
    TYPE_CHANGED = auto()  # before, after: dtype, shape and layout as text
    QUANTIZER = auto()  # before, after
    QUANTIZER_PARTS = auto()
    SPARSE_PARTS = auto()  # layout
    WRAPPED_PARTS = auto()  # subclass
    WRAPPED_SHAPE = auto()  # before, after, subclass, inner: shape of a tensor within it
    STORED_BYTES = auto()
    SHAPE = auto()  # before, after
    RESHAPED = auto()  # before, after
    NO_RESHAPE = auto()  # before, after
    TRANSPOSED = auto()
    TRANSPOSED_SHAPE = auto()  # expected, actual
    TRANSPOSED_ALONE = auto()
    TURNED_UNSURE = auto()
    TRANSPOSED_UNSURE = auto()
    LEFT_IN_OUT = auto()
    LEFT_OUT_IN = auto()
    ROWS_MIXED = auto()  # after
    BYTES = auto()
    ONE_NUMBER = auto()  # total, where, before, after
    NUMBERS = auto()  # count, total, where, before, after
    OTHER_TENSOR = auto()  # owner
    RELATED = auto()  # relation: a Cause; count, total
    ROW_ORDER = auto()
    FACTOR = auto()  # factor
    NOT_FOLLOWED = auto()  # shape
    OTHER_ORDER = auto()
    CHANGED_ALONE = auto()  # before, after
    TIE_SPLIT = auto()  # shape, other, other_shape

    # Layers.
    NOT_COMPARED = auto()
    GONE = auto()
    MUST_KEEP_SHAPE = auto()  # kind, shape
    NORM_FUSED = auto()  # norm
    GROUPS_ONE_NUMBER = auto()  # total, where
    GROUPS_NUMBERS = auto()  # count, total, where
    IGNORED = auto()  # setting, before
    SETTING = auto()  # setting, before, after
    NO_PATCHES = auto()  # setting, value, kernel
    LAYER_TENSOR = auto()  # leaf; cause: a Cause
    BIAS_DROPPED = auto()
    TENSOR_DROPPED = auto()  # leaf
    BIAS_ADDED = auto()
    TENSOR_ADDED = auto()  # leaf
    CHANNELS = auto()  # before, after
    RESULT_SHAPES = auto()  # before, after
    RESULTS = auto()  # what, difference, bound

    # What lies beside tensors.
    PREFIXES = auto()  # prefixes: Causes
    PREFIX_LOST = auto()  # keys, before
    PREFIX_ADDED = auto()  # keys, after
    PREFIX_REPLACED = auto()  # keys, before, after
    METADATA = auto()  # keys: names of the metadata, as text
    OBJECT = auto()  # what

    # Of which thing it is the cause.
    OF_LAYER = auto()  # name; cause: a Cause
    OF_NAME = auto()  # name; cause: a Cause
    MISSING = auto()  # name
    UNEXPECTED = auto()  # name
    MODEL = auto()  # problem


class Cause(NamedTuple):
    """Why something is not the same.

    Attributes:
        why: Which kind of difference.
        facts: What its sentence names: sizes, shapes, places, further causes.
    """

    why: Why
    facts: Mapping[str, object]


def because(why: Why, **facts: object) -> Cause:
    """A cause with its facts."""
    return Cause(why, facts)
