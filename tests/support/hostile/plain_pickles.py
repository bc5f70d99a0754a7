"""Pickles that `torch.save` did not write, whose byte strings lie.

PICKLES     name → value(marker): a whole pickle
"""

from __future__ import annotations

import struct
from pathlib import Path

from support.hostile.calls import bomb
from support.hostile.joblib_streams import dtype
from support.hostile.opcodes import (
    PAYLOAD,
    SAMPLES,
    Value,
    call,
    dict_of,
    get,
    integer,
    integers,
    named,
    octets,
    pickled,
    put,
    storage,
    tensor,
    text,
    tuple_of,
)

_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"


def stream(
    held: bytes | None = None, info: bytes = b"}", keys: bytes = b"](" + text("0") + b"e", count: int = SAMPLES
) -> bytes:
    """A stream of one storage, as `_load_from_bytes` loads it; the defaults are a sound one of PAYLOAD."""
    parts = (_MAGIC, integer(1001), info, storage() if held is None else held, keys)
    return b"".join(map(pickled, parts)) + struct.pack("<q", count) + PAYLOAD


def loaded(content: bytes) -> bytes:
    """Push a storage that is loaded from a byte string."""
    return call(named("torch.storage", "_load_from_bytes"), octets(content))


def array(
    shape: bytes = integers(4, 6, 1), of: bytes | None = None, data: bytes | None = None, order: bytes = b"\x89"
) -> bytes:
    """Push an array; the defaults are a sound one of PAYLOAD."""
    made = call(named("numpy.core.multiarray", "_reconstruct"), named("numpy", "ndarray"), integers(0), octets(b"b"))
    state = tuple_of(integer(1), shape, dtype() if of is None else of, order, octets(PAYLOAD) if data is None else data)
    return made + state + b"b"


def buffer(*arguments: bytes) -> bytes:
    """Push an array as protocol 5 does."""
    return call(named("numpy._core.numeric", "_frombuffer"), *arguments)


def beside(value: bytes) -> bytes:
    """A state_dict with a sound tensor, a sound array, and a value."""
    sound = tensor(held_in=loaded(stream()))
    return pickled(dict_of((text("conv.weight"), sound), (text("a"), array()), (text("x.weight"), value)))


def text_of(content: str) -> bytes:
    """Push bytes as protocols below 3 write them."""
    return call(named("_codecs", "encode"), text(content), text("latin1"))


def _in(content: bytes) -> Value:
    return lambda marker: beside(tensor(held_in=loaded(content)))


def _array(value: bytes) -> Value:
    return lambda marker: beside(value)


def cut(parameters: bytes) -> Value:
    """Arrays of 24 numbers, `w@@.0` and 1,000 empty ones, and what is said of parameters that were cut into parts."""
    empty = array(integer(0), data=octets(b""))
    names = b"](" + b"".join(text(f"w@@.{number}") for number in range(1_000)) + b"e" + put(9) + b"0"
    parts = [(text("w@@.0"), array(integer(24)))]
    parts += [(text(f"w@@.{number}"), empty) for number in range(1, 1_000)]
    return lambda marker: pickled(names + dict_of(*parts, (text("UnpackBigParamInfor@@"), parameters)))


def said(shape: bytes, parts: bytes) -> bytes:
    """What Paddle says of a parameter that it cut."""
    return dict_of((text("OriginShape"), shape), (text("slices"), parts))


PICKLES: dict[str, Value] = {
    "sound": lambda marker: beside(array()),
    "bomb_beside": lambda marker: beside(bomb(marker)),
    "bomb_in_stream": lambda marker: beside(tensor(held_in=loaded(stream(info=bomb(marker))))),
    "bomb_as_storage": lambda marker: beside(tensor(held_in=loaded(stream(held=bomb(marker))))),
    "bomb_as_keys": lambda marker: beside(tensor(held_in=loaded(stream(keys=bomb(marker))))),
    "bomb_as_dtype": lambda marker: beside(array(of=bomb(marker))),
    "bomb_as_shape": lambda marker: beside(array(shape=bomb(marker))),
    "bomb_as_bytes": lambda marker: beside(array(data=bomb(marker))),
    "bomb_in_array": lambda marker: beside(array(of=dtype("O8"), data=b"](" + bomb(marker) + b"e")),
    "bomb_in_bytes": lambda marker: beside(
        array(integer(len(pickled(bomb(marker)))), dtype("u1"), octets(pickled(bomb(marker))))
    ),
    "bomb_popped": lambda marker: beside(loaded(pickled(bomb(marker))) + b"0" + array()),
    "loader_handed_over": lambda marker: beside(
        call(named("builtins", "map"), named("torch.storage", "_load_from_bytes"), octets(pickled(bomb(marker))))
    ),
    "stream_2_60": _in(stream(held=storage(numel=integer(2**60)), count=2**60)),
    "stream_count": _in(stream(count=SAMPLES + 1)),
    "stream_cut": _in(stream()[:-1]),
    "stream_longer": _in(stream() + b"\0"),
    "stream_of_stream": _in(stream(held=loaded(stream()))),
    "stream_of_tensor": _in(stream(held=tensor())),
    "stream_empty": _in(b""),
    "stream_zip": _in(b"PK\3\4" + bytes(99)),
    "stream_itself": lambda marker: beside(
        named("torch.storage", "_load_from_bytes") + put(1) + tuple_of(get(1)) + b"R"
    ),
    "stream_thousands": lambda marker: beside(
        octets(stream()) + put(5) + b"0](" + call(named("torch.storage", "_load_from_bytes"), get(5)) * 3_000 + b"e"
    ),
    "text_wide": lambda marker: beside(array(data=text_of("й" * 48))),
    "text_short": lambda marker: beside(array(data=text_of("ä" * 95))),
    "text_stream": lambda marker: beside(
        tensor(held_in=call(named("torch.storage", "_load_from_bytes"), text_of(stream().decode("latin-1"))))
    ),
    "array_2_60": _array(array(integer(2**60))),
    "array_product": _array(array(integers(*[2**21] * 6))),
    "array_negative": _array(array(integers(-4, 6))),
    "array_short": _array(array(data=octets(PAYLOAD[:-1]))),
    "array_of_axes": _array(array(integers(*[1] * 200))),
    "array_of_nothing": _array(array(data=b"N")),
    "array_of_list": _array(array(data=b"](K\1K\2e")),
    "array_dtype_none": _array(array(of=b"N")),
    "array_dtype_huge": _array(array(of=dtype(f"f{10**11}"))),
    "array_dtype_deep": _array(array(of=b"(" * 5_000 + b"N" + b"t" * 5_000)),
    "array_state_twice": _array(array() + tuple_of(integer(1), integers(9), dtype(), b"\x89", octets(b"")) + b"b"),
    "array_state_itself": _array(array()[:-1] + put(3) + b"0" + get(3) + get(3) + b"b"),
    "array_thousands": _array(b"](" + array(integers(1), dtype("u1"), octets(b"\7")) * 1_000 + b"e"),
    "array_byte_again": _array(octets(b"\7") + put(4) + b"0" + array(integers(1), dtype("u1"), get(4))),
    "buffer_sound": _array(buffer(octets(PAYLOAD), dtype(), integers(4, 6), text("C"))),
    "buffer_axes": _array(buffer(octets(PAYLOAD), dtype(), integers(4, 6), text("K"), integers(0, 0))),
    "buffer_axes_huge": _array(buffer(octets(PAYLOAD), dtype(), integers(4, 6), text("K"), integers(2**62, 1))),
    "buffer_outside": _array(buffer(b"\x97", dtype(), integers(4, 6), text("C"))),
    "buffer_few": _array(buffer(octets(PAYLOAD))),
    "jax_without_state": _array(call(named("jax._src.array", "_reconstruct_array"), b"N", b")")),
    "xla_of_nothing": _array(call(named("torch._utils", "_rebuild_xla_tensor"), b"N", b"N", b"N", b"N")),
    "paddle_pair": _array(call(named("builtins", "tuple"), tuple_of(text("w"), array(integer(-1))))),
    "paddle_parts_sound": cut(dict_of((text("w"), said(integers(4, 6), get(9))))),
    "paddle_parts_of_many": cut(dict_of(*((text(f"w{at}"), said(integers(5), get(9))) for at in range(1_000)))),
    "paddle_parts_again": cut(dict_of((text("w"), said(integers(48), b"](" + text("w@@.0") * 2 + b"e")))),
    "paddle_parts_huge": cut(dict_of((text("w"), said(integers(*[2**61] * 60), get(9))))),
    "paddle_parts_itself": cut(b"}" + put(8) + b"(" + text("w") + get(8) + b"u"),
    "paddle_parts_of_lists": cut(b"}(](K\1e" + said(integers(24), get(9)) + b"u"),
    "paddle_parts_bomb": lambda marker: cut(dict_of((text("w"), said(bomb(marker), get(9)))))(marker),
    "flax_itself": _array(
        call(named("flax.core.frozen_dict", "FrozenDict"), b"}" + put(6) + text("a") + get(6) + b"s")
    ),
}


def plain_pickle(tmp_path: Path, marker: Path, make: Value) -> Path:
    """Such a pickle as a file."""
    path = tmp_path / "model.pkl"
    path.write_bytes(make(marker))
    return path
