"""Keys of a state_dict whose values are no tensors with numbers: plain data."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Value(Enum):
    """What a state_dict's value is that is no tensor with numbers, as far as `load_state_dict` tells them apart."""

    UNINITIALIZED = "uninitialized"
    """`UninitializedParameter` or `UninitializedBuffer` of a lazy module: it has no shape yet."""
    NESTED = "nested tensor"
    """A nested tensor of either layout: it has no single shape."""
    OBJECT = "object"
    """Anything else: a number, a dictionary, `None`, …"""


EXTRA_STATE = "_extra_state"
"""Last part of the key under which `state_dict()` keeps what a module's `get_extra_state()` gives, of any type."""


UNREAD = "pickled value"
"""What a value is called whose type is not known, since it lies in another file that is not read."""


class Other(NamedTuple):
    """A key of a state_dict whose value is no tensor with numbers.

    Attributes:
        key: Below the root, prefixes included.
        value: What `load_state_dict` would take it for.
        what: Its type, for people: "int", "None", "BytesIO", ….
        text: The value as Python writes it, where it is a short plain one; else "".
    """

    key: str
    value: Value
    what: str
    text: str = ""

    @property
    def stray(self) -> bool:
        """Whether no module puts it into its state_dict: `{"epoch": 3}` beside the tensors."""
        return self.value is Value.OBJECT and "." not in self.key and self.key != EXTRA_STATE
