"""Instructions of a pickle, written by hand: each pushes one value, and takes what is already pushed as bytes."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from pathlib import Path

Builder = Callable[[Path, Path], Path]
"""From an empty folder and the marker to what was written in it."""

Value = Callable[[Path], bytes]
"""From the marker to opcodes that push one value."""

SAMPLES = 24
PAYLOAD = struct.pack("<24f", *range(SAMPLES))
"""The bytes of the one storage that every checkpoint here has."""


def text(value: str) -> bytes:
    """Push a string; lone surrogates are let through, as pickle does."""
    encoded = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def octets(value: bytes) -> bytes:
    """Push bytes."""
    return b"B" + struct.pack("<I", len(value)) + value


def integer(value: int) -> bytes:
    """Push an integer of any size."""
    encoded = pickle.encode_long(value)
    if len(encoded) < 256:
        return b"\x8a" + bytes([len(encoded)]) + encoded
    return b"\x8b" + struct.pack("<i", len(encoded)) + encoded


def tuple_of(*items: bytes) -> bytes:
    """Push a tuple of pushed items."""
    return b"(" + b"".join(items) + b"t"


def dict_of(*pairs: tuple[bytes, bytes]) -> bytes:
    """Push a dict of pushed keys and values."""
    return b"}(" + b"".join(key + value for key, value in pairs) + b"u"


def named(module: str, name: str) -> bytes:
    """Push whatever `module` calls `name`."""
    return f"c{module}\n{name}\n".encode()


def call(function: bytes, *arguments: bytes) -> bytes:
    """Push the result of a call."""
    return function + tuple_of(*arguments) + b"R"


def instance(module: str, name: str, *state: tuple[str, bytes]) -> bytes:
    """Push a new object with the given attributes."""
    return named(module, name) + b")\x81" + dict_of(*((text(key), value) for key, value in state)) + b"b"


def put(slot: int) -> bytes:
    """Remember the top of the stack."""
    return b"r" + struct.pack("<I", slot)


def get(slot: int) -> bytes:
    """Push what was remembered."""
    return b"j" + struct.pack("<I", slot)


def pickled(value: bytes) -> bytes:
    """A whole pickle of one pushed value."""
    return b"\x80\x02" + value + b"."


def integers(*values: int) -> bytes:
    """Push a tuple of integers."""
    return tuple_of(*map(integer, values))


def storage(
    numel: bytes = integer(SAMPLES),
    kind: bytes = named("torch", "FloatStorage"),
    key: bytes = text("0"),
    device: bytes = text("cpu"),
) -> bytes:
    """Push a storage; the defaults are the one that is in the file."""
    return tuple_of(text("storage"), kind, key, device, numel) + b"Q"


def tensor(
    size: bytes = integers(4, 6, 1),
    stride: bytes = integers(6, 1, 1),
    offset: bytes = integer(0),
    held_in: bytes | None = None,
) -> bytes:
    """Push a tensor; the defaults are a sound one."""
    hooks = call(named("collections", "OrderedDict"))
    held_in = storage() if held_in is None else held_in
    return call(named("torch._utils", "_rebuild_tensor_v2"), held_in, offset, size, stride, b"\x89", hooks)


def beside_a_layer(value: bytes) -> bytes:
    """A pickle of a state_dict with one sound kernel and `value`."""
    return pickled(dict_of((text("conv.weight"), tensor()), (text("evil.weight"), value)))
